"""Square and SimBA: against loops written from the papers, in closed form, and one sample at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastattack as fa
from fastattack.attacks.queries import below, query_words
from fastattack.attacks.simba import cosines
from fastattack.attacks.square import share_at, two_bumps
from fastattack.ops.reference_random import STREAM_QUERY


def total(output: Tensor, target: object) -> Tensor:
    return output.flatten(1).sum(1)


def linear(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, object]:
    """(w, model) with model(x) = w x, which needs its gradient from nobody."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w, lambda x: torch.from_numpy((x.detach().double() * w).flatten(1).numpy())


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def curved(x: Tensor) -> Tensor:
    """A smooth loss with hills, each sample alone, in float64."""
    flat = x.double().flatten(1)
    phase = torch.arange(flat.shape[1], dtype=torch.float64)
    return torch.sin(7 * flat + phase).sum(1, keepdim=True) + (flat * torch.cos(phase)).sum(1, keepdim=True) ** 2


# -- numbers -----------------------------------------------------------------------------------------------------------


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 in Python's integers (Salmon et al., SC 2011)."""
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b % 2**32, (a >> 32) ^ counter[3] ^ key[1], a % 2**32]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def test_the_words_are_philox_of_seed_sample_and_query():
    ids, seed = torch.tensor([3, 5 + (7 << 32)]), 11 + (13 << 32)
    words = query_words(6, ids, seed, first=40, queries=3)
    assert words.shape == (2, 3, 6)
    for row, (low, high) in enumerate([(3, 0), (5, 7)]):
        for query in range(3):
            counter = [STREAM_QUERY + ((40 + query) << 8)]
            want = [w for quad in range(2) for w in philox([quad, low, high, *counter], [11, 13])][:6]
            assert words[row, query].tolist() == want


def test_below_reaches_every_number_evenly():
    words = query_words(4000, torch.tensor([0]), 0, 0, 1)[0, 0]
    counts = below(words, 7).bincount()
    assert len(counts) == 7
    assert ((counts - 4000 / 7).abs() < 5 * math.sqrt(4000 / 7)).all()
    assert below(torch.tensor([0, 2**32 - 1]), 5).tolist() == [0, 4]


def test_the_shares_are_those_of_the_authors():
    """p_selection of the published code, written out."""
    queries = 10_000
    limits = [(10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128), (8000, 256)]
    for query in range(queries):
        divisor = next((d for limit, d in limits if query <= limit), 512)
        assert share_at(0.8, query, queries) == 0.8 / divisor
    assert share_at(0.8, 51, 100) == share_at(0.8, 5100, 10_000)


# -- the papers' loops -------------------------------------------------------------------------------------------------


def place(words: np.ndarray, k: int, count: int) -> int:
    return int(words[k]) * count >> 32


def square_linf(x, loss, eps, bounds, words_of, queries, p):
    """Algorithm 1 and 2 of arXiv 1912.00049 for one image (C, H, W), with explicit draws."""
    channels, height, width = x.shape
    upper, lower = np.clip(x + eps, *bounds), np.clip(x - eps, *bounds)
    signs = (words_of(0, channels * width) >> 31).reshape(channels, 1, width)
    best = np.where(signs == 1, upper, lower)
    value = loss(best)
    for query in range(1, queries):
        words = words_of(query, 3 + channels)
        side = min(max(round(math.sqrt(share_at(p, query - 1, queries) * height * width)), 1), height, width)
        r, c = place(words, 0, height - side + 1), place(words, 1, width - side + 1)
        window = slice(r, r + side), slice(c, c + side)

        def painted(signs, window=window, best=best):
            new = best.copy()
            for k in range(channels):
                new[(k, *window)] = (upper if signs[k] else lower)[(k, *window)]
            return new

        up = [bool(w >> 31) for w in words[3:]]
        new = painted(up)
        if (new == best).all():
            flips = 1 + place(words, 2, 2**channels - 1)
            new = painted([u ^ bool(flips >> k & 1) for k, u in enumerate(up)])
        if loss(new) > value:
            best, value = new, loss(new)
    return best


def authors_bump(s, standing):
    """meta_pseudo_gaussian_pert of the published code."""

    def rectangles(x, y):
        delta = np.zeros([x, y])
        x_c, y_c = x // 2 + 1, y // 2 + 1
        corner = [x_c - 1, y_c - 1]
        for counter in range(max(x_c, y_c)):
            rows = slice(max(corner[0], 0), min(corner[0] + 2 * counter + 1, x))
            delta[rows, max(0, corner[1]) : min(corner[1] + 2 * counter + 1, y)] += 1.0 / (counter + 1) ** 2
            corner[0] -= 1
            corner[1] -= 1
        return delta / np.sqrt(np.sum(delta**2))

    delta = np.zeros([s, s])
    delta[: s // 2] = rectangles(s // 2, s)
    delta[s // 2 :] = -rectangles(s - s // 2, s)
    delta /= np.sqrt(np.sum(delta**2))
    return delta.T if standing else delta


def square_l2(x, loss, eps, bounds, words_of, queries, p):
    """Algorithm 3 of arXiv 1912.00049 as published, for one image (C, H, W), with explicit draws."""
    channels, height, width = x.shape
    s = height // 5
    tiles = height // s, width // s
    coins = (words_of(0, (channels + 1) * tiles[0] * tiles[1]) >> 31).reshape(channels + 1, *tiles)
    delta = np.zeros_like(x)
    top, left = (height - tiles[0] * s) // 2, (width - tiles[1] * s) // 2
    for i in range(tiles[0]):
        for j in range(tiles[1]):
            bump = authors_bump(s, coins[0, i, j])
            for k in range(channels):
                rows, columns = slice(top + i * s, top + i * s + s), slice(left + j * s, left + j * s + s)
                delta[k, rows, columns] = bump * (1 if coins[k + 1, i, j] else -1)
    best = np.clip(x + delta / np.sqrt(np.sum(delta**2)) * eps, *bounds)
    value = loss(best)
    for query in range(1, queries):
        words = words_of(query, 5 + channels)
        s = max(round(math.sqrt(share_at(p, query - 1, queries) * height * width)), 3)
        s = min(s + (s % 2 == 0), height, width)
        h1, w1, h2, w2 = (place(words, k, n - s + 1) for k, n in enumerate((height, width, height, width)))
        delta = best - x
        first, second = np.zeros(x.shape), np.zeros(x.shape)
        first[:, h1 : h1 + s, w1 : w1 + s] = 1
        second[:, h2 : h2 + s, w2 : w2 + s] = 1
        in_window = np.sqrt(np.sum((delta * first) ** 2, axis=(1, 2), keepdims=True))
        in_image = np.sqrt(np.sum(delta**2))
        in_both = np.sqrt(np.sum((delta * np.maximum(first, second)) ** 2, axis=(1, 2), keepdims=True))
        new = np.ones([channels, s, s]) * authors_bump(s, words[4] >> 31)
        new *= np.array([1 if w >> 31 else -1 for w in words[5:]])[:, None, None]
        new += delta[:, h1 : h1 + s, w1 : w1 + s] / (1e-10 + in_window)
        new = new / np.sqrt(np.sum(new**2, axis=(1, 2), keepdims=True))
        new *= (max(eps**2 - in_image**2, 0) / channels + in_both**2) ** 0.5
        delta[:, h2 : h2 + s, w2 : w2 + s] = 0
        delta[:, h1 : h1 + s, w1 : w1 + s] = new
        x_new = np.clip(x + delta / np.sqrt(np.sum(delta**2)) * eps, *bounds)
        if loss(x_new) > value:
            best, value = x_new, loss(x_new)
    return best


def simba(x, loss, step, order, basis, queries, eps, norm, bounds):
    """Algorithm 1 of arXiv 1905.07121 for one image, with a ball."""

    def inside(v):
        delta = v - x
        if norm == "linf":
            return np.clip(v, np.maximum(x - eps, bounds[0]), np.minimum(x + eps, bounds[1]))
        return np.clip(x + delta * min(1, eps / max(np.sqrt(np.sum(delta**2)), 1e-300)), *bounds)

    best, value, used = x, loss(x), 1
    for k in order:
        for sign in (1, -1):
            if used == queries:
                return best
            new = inside(best + sign * step * basis(k))
            used += 1
            if loss(new) > value:
                best, value = new, loss(new)
                break
    return best


def words_for(sample: int, seed: int):
    return lambda query, count: query_words(count, torch.tensor([sample]), seed, query, 1)[0, 0].numpy()


def loss_of(image: np.ndarray) -> float:
    return curved(torch.from_numpy(image)[None]).item()


@pytest.mark.parametrize(("norm", "oracle"), [("linf", square_linf), ("l2", square_l2)])
@pytest.mark.parametrize("shape", [(3, 11, 13), (1, 10, 10)])
def test_square_is_the_loop_of_the_paper(norm, oracle, shape):
    x, eps, queries = images(2, *shape).double(), 0.3 if norm == "linf" else 1.5, 60
    attack = fa.Square(curved, objective=total, eps=eps, norm=norm, bounds=(0, 1), queries=queries, seed=9)
    got = attack(x, None)
    for row in range(2):
        want = oracle(x[row].numpy(), loss_of, eps, (0, 1), words_for(row, 9), queries, 0.8)
        assert np.abs(want - x[row].numpy()).max() > 0.1
        assert np.allclose(got[row].numpy(), want, atol=1e-6)


@pytest.mark.parametrize(("basis", "norm"), [("pixel", "linf"), ("pixel", "l2"), ("dct", "l2"), ("dct", "linf")])
def test_simba_is_the_loop_of_the_paper(basis, norm):
    x, queries = images(2, 2, 5, 6).double(), 70
    options = {"frequencies": 2, "stride": 2} if basis == "dct" else {}
    eps = 0.1 if norm == "linf" else 0.8
    attack = fa.SimBA(
        curved, objective=total, eps=eps, norm=norm, bounds=(0, 1), queries=queries, seed=4, basis=basis, **options
    )
    got = attack(x, None)

    def direction(k):
        one = np.zeros(60)
        one[k] = 1
        one = one.reshape(2, 5, 6)
        return scipy.fft.idctn(one, axes=(1, 2), norm="ortho") if basis == "dct" else one

    for row in range(2):
        keys = words_for(row, 4)(0, 60).astype(object)
        for k in range(60 if basis == "dct" else 0):
            highest = max(k // 6 % 5, k % 6)
            keys[k] += (0 if highest < 2 else 1 + (highest - 2) // 2) << 32
        order = sorted(range(60), key=lambda k, keys=keys: keys[k])
        want = simba(x[row].numpy(), loss_of, 0.2, order, direction, queries, eps, norm, (0, 1))
        assert np.abs(want - x[row].numpy()).max() > 0.05
        assert np.allclose(got[row].numpy(), want, atol=1e-6)


@pytest.mark.parametrize("side", range(1, 12))
def test_the_bump_is_the_authors(side):
    if side > 1:
        assert np.allclose(two_bumps(side).numpy(), authors_bump(side, False))
    assert two_bumps(side).square().sum().item() == pytest.approx(1)


def test_the_cosines_are_the_orthonormal_dct():
    image = np.random.default_rng(0).normal(size=(5, 8))
    assert np.allclose(cosines(5).numpy() @ image @ cosines(8).numpy().T, scipy.fft.dctn(image, norm="ortho"))


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "least"), [("linf", 0.9), ("l2", 0.45)])
def test_square_climbs_a_linear_model(norm, least, targeted):
    w, model = linear((1, 6, 6))
    x = images(3, 1, 6, 6)
    attack = fa.Square(model, objective=total, eps=0.1, norm=norm, queries=400, targeted=targeted)
    result = attack.run(x, None)
    best = 0.1 * (w.abs().sum() if norm == "linf" else w.norm())
    gain = (total(model(result.adversarial), None) - total(model(x), None)) * (-1 if targeted else 1)
    assert (gain > least * best).all()
    assert (gain < best * (1 + 1e-5)).all()
    assert (result.steps_used == 400).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_simba_reaches_the_optimum_of_a_linear_model_in_the_cube(targeted):
    w, model = linear((2, 9))
    x = images(3, 2, 9)
    adv = fa.SimBA(model, objective=total, eps=0.1, queries=40, targeted=targeted)(x, None)
    assert torch.allclose(adv - x, (w.sign() * (-0.1 if targeted else 0.1)).float().expand_as(x), atol=1e-6)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_simba_grows_by_one_step_a_direction(basis):
    """A linear model, room enough: every coordinate of the perturbation is +-step, and the norm step sqrt(k).

    A direction takes one query where up is right and two where down is.
    """
    w, model = linear((1, 4, 4))
    x = images(2, 1, 4, 4)
    wave = w[0].numpy() if basis == "pixel" else scipy.fft.dctn(w[0].numpy(), norm="ortho")
    queries = int(1 + (wave > 0).sum() + 2 * (wave < 0).sum())
    attack = fa.SimBA(model, objective=total, eps=9.0, norm="l2", step=0.03, queries=queries, basis=basis)
    delta = (attack(x, None) - x).double()[:, 0].numpy()
    if basis == "dct":
        delta = scipy.fft.dctn(delta, axes=(1, 2), norm="ortho")
    assert np.allclose(delta, 0.03 * np.sign(wave), atol=1e-6)
    assert np.allclose(np.linalg.norm(delta.reshape(2, -1), axis=1), 0.03 * 4, atol=1e-5)


# -- what every attack keeps -------------------------------------------------------------------------------------------

ATTACKS = [
    pytest.param(lambda m, **o: fa.Square(m, norm="linf", **o), "linf", id="square-linf"),
    pytest.param(lambda m, **o: fa.Square(m, norm="l2", **o), "l2", id="square-l2"),
    pytest.param(lambda m, **o: fa.SimBA(m, norm="linf", **o), "linf", id="simba-linf"),
    pytest.param(lambda m, **o: fa.SimBA(m, norm="l2", basis="dct", **o), "l2", id="simba-dct-l2"),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_every_query_is_inside_ball_bounds_and_mask(attack, norm, dtype, form):
    x = images(3, 2, 7, 5).to(dtype).clamp(0, 1).to(memory_format=form)
    eps = torch.tensor([0.0, 0.125, 0.5]) * (1 if norm == "linf" else 4)
    mask = torch.rand(3, 1, 7, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    seen = []

    def model(v):
        seen.append(v.clone())
        return curved(v)

    adv = attack(model, objective=total, eps=eps, bounds=(0, 1), queries=40, restarts=2)(x, None, mask=mask)
    assert len(seen) == 80
    keeps = ~mask.expand_as(x)
    for v in [*seen, adv]:
        delta = v.double() - x.double()
        size = delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
        assert (size <= eps.double() * (1 + (1e-15 if norm == "l2" else 0))).all()
        assert v.min() >= 0
        assert v.max() <= 1
        assert torch.equal(v[keeps], x[keeps])
    assert (adv != x)[1:].flatten(1).any(1).all()
    assert any(torch.equal(adv[2], v[2]) for v in seen)


@pytest.mark.parametrize("stop", [None, "success"])
@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_a_sample_alone_a_micro_batch_and_another_order_change_nothing(attack, norm, stop):
    x = images(5, 1, 8, 8).double()
    eps = torch.linspace(0.05, 0.2, 5) * (1 if norm == "linf" else 5)
    options = {"objective": total, "queries": 40, "restarts": 2, "seed": 3}
    if stop is not None:
        some = attack(curved, eps=eps, **options).run(x, None).loss.sort().values
        options |= {"stop": stop, "threshold": some[2].item() - 1e-9}  # about three samples get there
    whole = attack(curved, eps=eps, **options).run(x, None)
    parts = attack(curved, eps=eps, max_batch=2, **options).run(x, None)
    turned = torch.tensor([4, 2, 0, 1, 3])
    other = attack(curved, eps=eps[turned], **options).run(x[turned], None, sample_ids=turned)
    for name in ("adversarial", "loss", "best_step", "best_restart", "steps_used"):
        value = getattr(whole, name)
        assert torch.allclose(value, getattr(parts, name), atol=1e-9), name
        assert torch.allclose(value[turned], getattr(other, name), atol=1e-9), name
    assert len({tuple(row) for row in (whole.adversarial - x).flatten(1).sign().tolist()}) == 5  # draws of their own


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_success_ends_a_sample_with_the_query_that_found_it(attack, norm):
    x = images(4, 1, 8, 8).double()
    eps = 0.1 if norm == "linf" else 0.6
    losses = []

    def spied(output, target):
        losses.append(total(output, target))
        return losses[-1]

    free = attack(curved, objective=spied, eps=eps, queries=50).run(x, None)
    history = torch.stack(losses)
    threshold = free.loss.sort().values[1].item() - 1e-9  # three of four get there
    result = attack(curved, objective=total, eps=eps, queries=50, threshold=threshold, stop="success").run(x, None)
    for row in range(4):
        hits = (history[:, row] > threshold).nonzero()
        want = hits[0].item() + 1 if len(hits) else 50
        assert result.steps_used[row] == want
        assert result.success[row] == (len(hits) > 0)
        if len(hits):
            assert result.best_step[row] == want - 1
            assert result.loss[row] == pytest.approx(history[want - 1, row].item())
    assert 1 <= result.success.sum() <= 3


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_restarts_start_anew_and_never_lose(attack, norm):
    x = images(4, 1, 8, 8).double()
    eps = 0.1 if norm == "linf" else 0.6
    one = attack(curved, objective=total, eps=eps, queries=25).run(x, None)
    many = attack(curved, objective=total, eps=eps, queries=25, restarts=4).run(x, None)
    assert (many.loss >= one.loss).all()
    assert (many.best_restart > 0).any()
    assert (many.steps_used == 100).all()
    assert (one.loss > total(curved(x), None)).all()


class Waits(TorchDispatchMode):
    """Ops that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(
            word in str(func) for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "_unique", "equal.default")
        ):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_a_query_never_waits_for_the_device(attack, norm, monkeypatch):
    from fastattack.attacks.queries import Proposing
    from fastattack.attacks.simba import Pixels
    from fastattack.attacks.square import Squares

    waits = Waits()
    for kind in (Proposing, Pixels, Squares):
        for name in ("point", "learn"):
            if name in vars(kind):
                original = vars(kind)[name]

                def watched(*args, original=original):
                    with waits:
                        return original(*args)

                monkeypatch.setattr(kind, name, watched)
    attack(curved, objective=total, eps=0.1, queries=40, backend="cpu")(images(2, 1, 8, 8), None)
    assert waits.found == []
    with waits:
        torch.ones(1).item()
    assert len(waits.found) == 1  # the check can fail


def test_a_module_is_left_as_it_was_and_never_asked_for_a_gradient():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)).train()
    before = [b.clone() for b in model.buffers()]
    grads = []
    model.register_forward_hook(lambda m, i, o: grads.append(o.requires_grad))
    x = images(2, 1, 6, 6)
    state = torch.get_rng_state()
    fa.Square(model, eps=0.1, queries=5)(x, x)
    assert grads == [False] * 5
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_a_square_that_changes_nothing_is_drawn_again():
    """With one channel every proposal turns some pixels over, all in one square of the start, down to one pixel.

    Were an equal value taken for a better one, the changes would pile up.
    """
    seen = []

    def model(v):
        seen.append(v.clone())
        return torch.zeros(v.shape[0], 1)  # no proposal is better: each differs from the start

    fa.Square(model, objective=total, eps=0.1, queries=200)(images(2, 1, 5, 5), None)
    for query, v in enumerate(seen[1:]):
        turned = (v != seen[0]).flatten(1).sum(1)
        assert (turned > 0).all()
        assert (turned <= max(round(math.sqrt(share_at(0.8, query, 200) * 25)), 1) ** 2).all()


def test_the_l2_search_spends_the_whole_radius_beside_a_mask():
    x, seen = images(2, 2, 9, 9), []
    mask = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.5

    def model(v):
        seen.append((v - x).flatten(1).norm(dim=1))
        return curved(v)

    fa.Square(model, objective=total, eps=0.5, norm="l2", queries=30)(x, None, mask=mask)
    assert torch.allclose(torch.stack(seen), torch.tensor(0.5), rtol=1e-4)


def test_nan_is_reported():
    def model(v):
        return torch.where(v > 0.99, float("nan"), v)

    with pytest.raises(fa.NonFiniteError, match="sample 1"):
        fa.Square(model, eps=0.2, queries=5)(
            torch.stack([images(1, 4, 4) * 0.5, images(1, 4, 4) * 0.01 + 0.9]), images(2, 1, 4, 4)
        )


class Changing:
    """An objective of its step."""

    def at(self, step, steps):
        return total

    def __call__(self, output, target):
        return total(output, target)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (fa.Square, {"queries": 0}, "queries: wanted"),
        (fa.Square, {"queries": 1.5}, "queries: wanted"),
        (fa.Square, {"queries": 2**25}, "queries: wanted"),
        (fa.Square, {"steps": 5}, "Square: steps .* queries="),
        (fa.Square, {"step": 0.1}, "Square: step has no meaning"),
        (fa.Square, {"keep": "last"}, "Square: keep has no meaning"),
        (fa.Square, {"random_start": False}, "Square: random_start has no meaning"),
        (fa.Square, {"preserve_noise": True}, "Square: preserve_noise has no meaning"),
        (fa.Square, {"objective": Changing()}, "objective: wanted one whose losses compare"),
        (fa.SimBA, {"norm": "l1"}, "norm: wanted 'linf' or 'l2'"),
        (fa.Square, {"norm": "l7"}, "norm: wanted"),
        (fa.Square, {"p": 0.0}, "p: wanted a share"),
        (fa.Square, {"p": float("nan")}, "p: wanted a share"),
        (fa.SimBA, {"queries": True}, "queries: wanted"),
        (fa.SimBA, {"basis": "haar"}, "basis: wanted"),
        (fa.SimBA, {"frequencies": 4}, "frequencies has no meaning"),
        (fa.SimBA, {"basis": "dct", "stride": 0}, "stride: wanted"),
        (fa.SimBA, {"step": None}, "step: wanted"),
        (fa.SimBA, {"colour": 1}, "unknown option 'colour'"),
    ],
)
def test_bad_options_are_named(attack, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        attack(lambda v: v, **({"eps": 0.1} | options))


@pytest.mark.parametrize("attack", [fa.Square, lambda m, **o: fa.SimBA(m, basis="dct", **o)])
def test_images_are_asked_for(attack):
    with pytest.raises(ValueError, match=r"input: wanted images \(B, C, H, W\)"):
        attack(lambda v: v, eps=0.1)(torch.rand(2, 5), torch.rand(2, 5))


@pytest.mark.parametrize(("attack", "norm"), ATTACKS)
def test_every_query_of_a_grid_attack_is_on_the_grid(attack, norm):
    x = (images(2, 2, 7, 5) * 255).round() / 255
    eps = 0.05 if norm == "linf" else 0.6
    seen = []

    def model(v):
        seen.append(v.clone())
        return curved(v)

    adv = attack(model, objective=total, eps=eps, bounds=(0, 1), grid=8, queries=30)(x, None)
    for v in [*seen, adv]:
        assert ((v * 255).round() / 255 - v).abs().max() <= 1e-7
        delta = (v.double() - x.double()).flatten(1)
        assert (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)).max() <= eps
    assert (adv != x).flatten(1).any(1).all()
    assert all(any(torch.equal(adv[row], v[row]) for v in seen) for row in range(2))
