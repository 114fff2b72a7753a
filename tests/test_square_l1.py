"""Square in l1: against the authors' loop in float64 NumPy, and what every search keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastattack as fa
from fastattack.attacks.square import share_at
from tests.test_black_box import curved, images, linear, loss_of, place, total, words_for


def bumps(s: int, standing: bool) -> np.ndarray:
    """The authors' update pattern: hills whose squares fall with the fourth power, of l1 norm 1."""

    def hill(height: int, width: int) -> np.ndarray:
        delta = np.zeros([height, width])
        top, left = height // 2, width // 2
        for k in range(max(height // 2 + 1, width // 2 + 1)):
            delta[max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1] += 1 / (k + 1) ** 4
        return delta / max(np.abs(delta).sum(), 1e-300)

    delta = np.concatenate([hill(s // 2, s), -hill(s - s // 2, s)])
    delta /= np.abs(delta).sum()
    return delta.T if standing else delta


def onto(x: np.ndarray, delta: np.ndarray, eps: float) -> np.ndarray:
    """The nearest point of the l1 ball and [0, 1], by bisection on the threshold."""

    def at(t: float) -> np.ndarray:
        return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - t, 0), -x, 1 - x)

    if np.abs(at(0.0)).sum() <= eps:
        return x + at(0.0)
    low, high = 0.0, np.abs(delta).max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(at(middle)).sum() > eps else (low, middle)
    return x + at(high)


def by_hand(x: np.ndarray, eps: float, words_of, queries: int) -> np.ndarray:
    channels, height, width = x.shape
    s = max(min(height, width) // 5, 1)
    down, across = height // s, width // s
    top, left = (height - down * s) // 2, (width - across * s) // 2
    words = words_of(0, (channels + 1) * down * across)
    coins = (words >> 31).reshape(channels + 1, down, across)
    delta = np.zeros(x.shape)
    for i in range(down):
        for j in range(across):
            for k in range(channels):
                rows, columns = slice(top + i * s, top + i * s + s), slice(left + j * s, left + j * s + s)
                delta[k, rows, columns] = bumps(s, coins[0, i, j]) * (1 if coins[k + 1, i, j] else -1)
    best = onto(x, delta, eps)
    value = loss_of(best)
    for query in range(1, queries):
        words = words_of(query, 5 + channels)
        s = max(round(math.sqrt(share_at(0.8, query - 1, queries) * height * width)), 3)
        s = min(s + (s % 2 == 0), height, width)
        h1, w1, h2, w2 = (place(words, k, n - s + 1) for k, n in enumerate((height, width, height, width)))
        delta = best - x
        first, both = np.zeros(x.shape), np.zeros(x.shape)
        first[:, h1 : h1 + s, w1 : w1 + s] = both[:, h1 : h1 + s, w1 : w1 + s] = 1
        both[:, h2 : h2 + s, w2 : w2 + s] = 1
        in_window = np.abs(delta * first).sum((1, 2), keepdims=True)
        in_both = np.abs(delta * both).sum((1, 2), keepdims=True)
        new = np.ones([channels, s, s]) * bumps(s, words[4] >> 31)
        new *= np.array([1 if w >> 31 else -1 for w in words[5:]])[:, None, None]
        new += delta[:, h1 : h1 + s, w1 : w1 + s] / (1e-10 + in_window)
        new /= np.abs(new).sum((1, 2), keepdims=True)
        new *= (max(eps - np.abs(delta).sum(), 0) / channels + in_both) * channels
        delta[:, h2 : h2 + s, w2 : w2 + s] = 0
        delta[:, h1 : h1 + s, w1 : w1 + s] = new
        x_new = onto(x, delta, eps)
        if loss_of(x_new) > value:
            best, value = x_new, loss_of(x_new)
    return best


@pytest.mark.parametrize("shape", [(3, 11, 13), (1, 10, 10)])
def test_the_loop_of_the_authors(shape):
    x, eps, queries = images(2, *shape).double(), 6.0, 40  # later a tie falls to rounding
    attack = fa.Square(curved, objective=total, eps=eps, norm="l1", bounds=(0, 1), queries=queries, seed=9)
    got = attack(x, None)
    for row in range(2):
        want = by_hand(x[row].numpy(), eps, words_for(row, 9), queries)
        assert np.abs(want - x[row].numpy()).max() > 0.1
        assert np.allclose(got[row].numpy(), want, atol=1e-5)


def test_it_climbs_a_linear_model():
    w, model = linear((1, 6, 6))
    x = images(3, 1, 6, 6)
    result = fa.Square(model, objective=total, eps=0.5, norm="l1", queries=400).run(x, None)
    best = 0.5 * w.abs().max()
    gain = total(model(result.adversarial), None) - total(model(x), None)
    assert (gain > 0.4 * best).all()
    assert (gain < best * (1 + 1e-5)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_query_is_inside_ball_bounds_and_mask(dtype):
    x = images(3, 2, 7, 5).to(dtype).clamp(0, 1)
    eps = torch.tensor([0.0, 1.0, 3.0])
    mask = torch.rand(3, 1, 7, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    seen = []

    def model(v):
        seen.append(v.clone())
        return curved(v)

    attack = fa.Square(model, objective=total, eps=eps, norm="l1", bounds=(0, 1), queries=40, restarts=2)
    adv = attack(x, None, mask=mask)
    assert len(seen) == 80
    for v in [*seen, adv]:
        assert ((v.double() - x.double()).flatten(1).abs().sum(1) <= eps.double() * (1 + 1e-6)).all()
        assert v.min() >= 0
        assert v.max() <= 1
        assert torch.equal(v[~mask.expand_as(x)], x[~mask.expand_as(x)])
    assert (adv != x)[1:].flatten(1).any(1).all()


def test_micro_batches_and_order_change_nothing():
    x = images(5, 1, 8, 8).double()
    eps = torch.linspace(0.5, 2, 5)
    options = {"objective": total, "queries": 40, "restarts": 2, "seed": 3, "norm": "l1"}
    whole = fa.Square(curved, eps=eps, **options).run(x, None)
    parts = fa.Square(curved, eps=eps, max_batch=2, **options).run(x, None)
    turned = torch.tensor([4, 2, 0, 1, 3])
    other = fa.Square(curved, eps=eps[turned], **options).run(x[turned], None, sample_ids=turned)
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=1e-9)
    assert torch.allclose(whole.adversarial[turned], other.adversarial, atol=1e-9)
