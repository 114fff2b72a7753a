"""The step size of APGD beside a float64 loop that is transcribed from the paper, one sample at a time."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack.attacks.stepsize import Halving, checkpoints


def published_checkpoints(steps: int) -> list[int]:
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    return sorted({ceil(x * steps) for x in p[1:] if x <= 1})


def published(steps: int, eta: float, losses: np.ndarray, rho: float):
    """(step sizes after each iteration, restarts) of one sample; losses[k] is f(x_k), k = 0 .. steps."""
    w = [0, *published_checkpoints(steps)]
    f = list(losses)  # f[k]: at the point from which iteration k + 1 starts, so x_max after a restart
    reached = list(losses)
    f_max, eta_at, f_max_at = [losses[0]], {0: eta}, {0: losses[0]}
    etas, restarts = [], []
    for k in range(1, steps + 1):
        f_max.append(max(f_max[-1], reached[k]))
        restart = False
        if k in w:
            j = w.index(k)
            eta_at[k], f_max_at[k] = eta, f_max[k]
            raised = sum(reached[i + 1] > f[i] for i in range(w[j - 1], w[j]))
            condition_1 = raised < rho * (w[j] - w[j - 1])
            condition_2 = eta_at[w[j - 1]] == eta_at[k] and f_max_at[w[j - 1]] == f_max_at[k]
            if condition_1 or condition_2:
                eta, f[k], restart = eta / 2, f_max[k], True
        etas.append(eta)
        restarts.append(restart)
    return etas, restarts


def test_the_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(1) == (1,)
    for steps in range(1, 1200):
        assert list(checkpoints(steps)) == published_checkpoints(steps)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 120), seed=st.integers(0, 9999), rho=st.sampled_from([0.0, 0.25, 0.75, 1.0]),
    kind=st.sampled_from(["noise", "climb", "levels"]),
)  # fmt: skip
def test_it_does_what_the_paper_says(steps, seed, rho, kind):
    g = np.random.default_rng(seed)
    batch = 6
    losses = g.standard_normal((batch, steps + 1))
    if kind == "climb":  # mostly rising, at a rate of its own for each sample
        losses = np.cumsum(losses + np.linspace(-1, 2, batch)[:, None], 1)
    if kind == "levels":  # many ties
        losses = g.integers(0, 3, losses.shape).astype(float)
    first = g.uniform(0.01, 1, batch)
    control = Halving(steps, torch.from_numpy(first), torch.from_numpy(losses[:, 0]), rho=rho)
    got = []
    for k in range(1, steps + 1):
        restart = control.tell(k, torch.from_numpy(losses[:, k]))
        assert restart.dtype is torch.bool
        got.append((control.step.clone(), restart))
    for b in range(batch):
        etas, restarts = published(steps, first[b], losses[b], rho)
        assert [float(step[b]) for step, _ in got] == etas
        assert [bool(restart[b]) for _, restart in got] == restarts
    assert torch.equal(control.best, torch.from_numpy(losses).amax(1))


def test_the_sequences_halve_and_keep():
    """A climber keeps its step, a loser halves it at every checkpoint."""
    up, down = torch.arange(101.0), -torch.arange(101.0)
    losses = torch.stack([up, down])
    control = Halving(100, torch.ones(2), losses[:, 0])
    restarts = torch.stack([control.tell(k, losses[:, k]) for k in range(1, 101)])
    assert control.step.tolist() == [1.0, 2.0**-8]
    assert restarts.sum(0).tolist() == [0, 8]
    assert restarts[:, 1].nonzero().flatten().tolist() == [21, 40, 56, 69, 79, 86, 92, 98]


def test_a_nan_is_never_the_best():
    nan = float("nan")
    control = Halving(4, torch.ones(2), torch.tensor([nan, 1.0]))
    for k in range(1, 5):
        control.tell(k, torch.tensor([2.0 if k == 2 else nan, nan]))
    assert control.best.tolist() == [2.0, 1.0]
    assert control.step.isfinite().all()


def test_nothing_waits_for_the_device():
    """Meta tensors have no values: whatever looked at one would raise."""
    control = Halving(30, torch.ones(3, device="meta"), torch.ones(3, device="meta"))
    for k in range(1, 31):
        assert control.tell(k, torch.ones(3, device="meta")).shape == (3,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(control.step[0])


def test_what_it_is_given_stays_as_it_was():
    step, loss = torch.ones(2), torch.zeros(2)
    control = Halving(10, step, loss)
    before = control.step
    for k in range(1, 11):
        loss.fill_(-k)
        control.tell(k, loss)
    assert torch.equal(step, torch.ones(2))
    assert torch.equal(before, torch.ones(2))
    assert torch.equal(control.best, torch.zeros(2))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0, torch.ones(2), torch.ones(2)), ValueError, ["steps", ">= 1", "0"]),
        ((1.5, torch.ones(2), torch.ones(2)), TypeError, ["steps", "float"]),
        ((5, 0.1, torch.ones(2)), ValueError, ["step", "(B,)", "float"]),
        ((5, torch.ones(2, 1), torch.ones(2)), ValueError, ["step", "(2, 1)"]),
        ((5, torch.ones(2).long(), torch.ones(2)), ValueError, ["step", "int64"]),
        ((5, torch.ones(2), torch.ones(3)), ValueError, ["loss", "(2,)", "(3,)"]),
        ((5, torch.ones(2), torch.ones(2, device="meta")), ValueError, ["loss", "cpu", "meta"]),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    with pytest.raises(error) as caught:
        Halving(*arguments)
    for word in words:
        assert word in str(caught.value)


def test_more_bad_input():
    control = Halving(5, torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="iteration: wanted 1, got 2"):
        control.tell(2, torch.ones(2))
    control.tell(1, torch.ones(2))
    with pytest.raises(ValueError, match="iteration: wanted 2, got 1"):
        control.tell(1, torch.ones(2))
    with pytest.raises(ValueError, match="loss: wanted"):
        control.tell(2, torch.ones(1))
    with pytest.raises(ValueError, match="rho: wanted"):
        Halving(5, torch.ones(2), torch.ones(2), rho=2.0)
