"""APGD: closed forms, the authors' loop written down again in float64 NumPy, invariances, and real denoisers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.images import read_image
from tests.shared import SHARED, needs_shared

RADII = {"linf": 0.1, "l2": 0.3, "l1": 0.6}


def total(output: Tensor, target: object) -> Tensor:
    return output.flatten(1).sum(1)


def weights(d: int = 12) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_is_attacked_in_closed_form(norm, targeted):
    w = weights()
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(1))
    eps = torch.tensor([1.0, 0.5, 2.0, 0.0]) * RADII[norm]
    options = {"objective": total, "eps": eps, "norm": norm, "steps": 40, "targeted": targeted}
    result = fa.APGD(lambda v: v * w, **options).run(x, None)
    dual = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm]
    gain = (result.loss - total(x * w, None)) * (-1 if targeted else 1)
    assert torch.allclose(gain.float(), eps * dual, rtol=1e-3, atol=1e-5)
    size = torch.linalg.vector_norm(
        (result.adversarial - x).double(), {"linf": math.inf, "l2": 2, "l1": 1}[norm], dim=1
    )
    assert (size <= eps.double() * (1 + 1e-6)).all()


# -- an oracle of its own: one sample, float64, the maths of the paper -------------------------------------------------


def quartic(x: np.ndarray) -> tuple[float, np.ndarray]:
    """A loss with several hills, so that steps are halved and the walk goes back."""
    k = np.arange(1, x.size + 1)
    return float((np.sin(9 * k * x) + k * x).sum()), 9 * k * np.cos(9 * k * x) + k


def quartic_torch(output: Tensor, target: object) -> Tensor:
    k = torch.arange(1, output.shape[1] + 1)
    return ((9 * k * output).sin() + k * output).sum(1)


def into_ball(d: np.ndarray, eps: float, norm: str) -> np.ndarray:
    if norm == "linf":
        return d.clip(-eps, eps)
    return d * min(1.0, eps / max(np.linalg.norm(d), 1e-300))


def apgd_by_hand(
    x0: np.ndarray, eps: float, norm: str, steps: int, low: float, high: float, late: bool
) -> tuple[float, int]:
    """(best loss, halvings): algorithm 1 of arXiv 2003.01690 with this project's three differences."""
    marks, p = [0, 0.22], []
    while marks[-1] < 1:
        marks.append(marks[-1] + max(marks[-1] - marks[-2] - 0.03, 0.06))
    p = [math.ceil(round(m * steps, 6)) for m in marks[1:] if m <= 1]

    def step_to(d: np.ndarray) -> np.ndarray:
        return (x0 + into_ball(d - x0, eps, norm)).clip(low, high)

    x, before, eta, halvings = x0.copy(), x0.copy(), 2 * eps, 0
    best, best_x, best_g, last_loss, rises, last = -math.inf, x, None, None, 0, 0
    eta_then, best_then = eta, None
    for k in range(steps):
        loss, g = quartic(x)
        rises += last_loss is not None and loss > last_loss
        if loss > best:
            best, best_x, best_g = loss, x.copy(), g
        last_loss = loss
        best_then = best if k == 0 else best_then
        if k in p:
            if rises < 0.75 * (k - last) or (eta == eta_then and best == best_then):
                eta_then, best_then = eta, best
                eta, halvings = eta / 2, halvings + 1
                x, before, g, last_loss = best_x.copy(), best_x.copy(), best_g, best
            else:
                eta_then, best_then = eta, best
            rises, last = 0, k
        a = 0.75 if (eta < 2 * eps if late else k > 0) else 1.0
        direction = np.sign(g) if norm == "linf" else g / np.linalg.norm(g)
        z = step_to(x + eta * direction)
        x, before = step_to(x + a * (z - x) + (1 - a) * (x - before)), x
    return max(best, quartic(x)[0]), halvings


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [7, 20, 50])
def test_the_loop_of_the_paper(norm, steps, late):
    x = torch.rand(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eps, bounds = 0.21, (0.05, 0.97)
    x = x.clamp(*bounds)
    options = {"objective": quartic_torch, "eps": eps, "norm": norm, "steps": steps, "bounds": bounds}
    found = fa.APGD(lambda v: v * 1.0, random_start=False, late_momentum=late, **options).run(x, None)
    want = [apgd_by_hand(row.numpy(), eps, norm, steps, *bounds, late) for row in x]
    assert found.loss.tolist() == pytest.approx([loss for loss, _ in want], rel=1e-5)
    if steps == 50:
        assert min(count for _, count in want) > 0  # the oracle has something to say about halving


def sparse_by_hand(x0: np.ndarray, eps: float, steps: int) -> float:
    """arXiv 2103.01208, algorithm 1 with one radius, without bounds."""
    x, n = x0.copy(), x0.size
    share, used, eta, check = 0.2, n, eps, max(int(0.04 * steps), 1)
    best, best_x, best_g = -math.inf, x, None
    for k in range(steps):
        loss, g = quartic(x)
        if loss > best:
            best, best_x, best_g = loss, x.copy(), g
        if k > 0 and k % check == 0:
            now = int((best_x != x0).sum())
            share = max(now // 1.5, 1) / n
            if now < 0.95 * used:
                eta, x, g = eps, best_x.copy(), best_g
            else:
                eta = max(eta / 1.5, eps / 10)
            used = now
        top = np.argsort(-np.abs(g))[: max(1, math.ceil(share * n - 1e-9))]
        x = x.copy()
        x[top] += eta * np.sign(g[top]) / len(top)
        d = x - x0
        if np.abs(d).sum() > eps:  # onto the l1 ball, by bisection
            low, high = 0.0, np.abs(d).max()
            for _ in range(200):
                mid = (low + high) / 2
                low, high = (mid, high) if np.maximum(np.abs(d) - mid, 0).sum() > eps else (low, mid)
            x = x0 + np.sign(d) * np.maximum(np.abs(d) - high, 0)
    return max(best, quartic(x)[0])


@pytest.mark.parametrize("steps", [5, 12, 30])
def test_the_sparse_loop_of_the_paper(steps):
    x = torch.rand(5, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options = {"objective": quartic_torch, "eps": 0.7, "norm": "l1", "steps": steps}
    found = fa.APGD(lambda v: v * 1.0, random_start=False, **options).run(x, None)
    want = [sparse_by_hand(row.numpy(), 0.7, steps) for row in x]
    assert found.loss.tolist() == pytest.approx(want, rel=1e-4)


# -- invariances -------------------------------------------------------------------------------------------------------


@pytest.fixture
def denoiser() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)).double()


def pair(batch: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, 9, 7, generator=g, dtype=torch.float64)
    return (clean + 0.1 * torch.randn(clean.shape, generator=g, dtype=torch.float64)).clamp(0, 1), clean


@pytest.mark.parametrize("norm", RADII)
def test_micro_batches_and_order_change_nothing(denoiser, norm):
    y, x = pair(5)
    eps = torch.linspace(0.3, 1.5, 5) * RADII[norm]
    mask = torch.rand(5, 1, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    options = {"steps": 12, "norm": norm, "seed": 11, "restarts": 2, "bounds": (0.0, 1.0)}
    ids = torch.arange(5)
    whole = fa.APGD(denoiser, eps=eps, **options).run(y, x, mask=mask, sample_ids=ids)
    parts = fa.APGD(denoiser, eps=eps, **options, max_batch=2).run(y, x, mask=mask, sample_ids=ids)
    turn = fa.APGD(denoiser, eps=eps.flip(0), **options).run(
        y.flip(0), x.flip(0), mask=mask.flip(0), sample_ids=ids.flip(0)
    )
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=1e-9)
    assert torch.allclose(whole.adversarial, turn.adversarial.flip(0), atol=1e-9)
    assert torch.equal(whole.best_step, parts.best_step)
    assert torch.equal(whole.adversarial[~mask], y[~mask])
    assert whole.adversarial.min() >= 0
    assert whole.adversarial.max() <= 1


@pytest.mark.parametrize("norm", RADII)
def test_more_is_never_less(denoiser, norm):
    """The best of two restarts is the better of both alone, and a targeted run goes down."""
    y, x = pair(4)
    options = {"eps": RADII[norm], "norm": norm, "steps": 10}
    one = fa.APGD(denoiser, seed=1, **options).run(y, x)
    two = fa.APGD(denoiser, seed=1, restarts=3, **options).run(y, x)
    down = fa.APGD(denoiser, seed=1, targeted=True, **options).run(y, x)
    still = fa.objectives.mse(denoiser(y), x)
    assert (two.loss >= one.loss).all()
    assert (one.loss > still).all()
    assert (down.loss < still).all()


def test_the_noise_can_be_kept(denoiser):
    y, x = pair(3)
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    kept = fa.APGD(denoiser, eps=0.05, preserve_noise=True, sigma=0.1, steps=8).run(y, x)
    assert (kept.noise_after.mean - kept.noise_before.mean).abs().max() < 1e-5
    assert (kept.noise_after.l2 / kept.noise_before.l2 - 1).abs().max() < 1e-4
    assert (kept.adversarial - y).abs().max() <= 0.05
    assert kept.loss.mean() > fa.objectives.mse(denoiser(y), x).mean()


def test_a_given_step_is_the_first(denoiser):
    y, x = pair(2)
    options = {"eps": 0.1, "steps": 2, "random_start": False, "keep": "last"}
    for step in (0.03, torch.tensor([0.01, 0.03])):
        moved = (fa.APGD(denoiser, step=step, **options)(y, x) - y).abs().flatten(1).amax(1)
        assert torch.allclose(moved, torch.as_tensor(2 * step, dtype=torch.float64).expand(2), rtol=1e-6)
    assert torch.allclose((fa.APGD(denoiser, **options)(y, x) - y).abs().amax(), torch.tensor(0.1).double())


def test_nothing_waits_for_the_device(denoiser, monkeypatch):
    """Inside the walk no tensor is read on the host."""
    from fastattack.attacks import apgd

    y, x = pair(2)

    def refuse(*args: object) -> None:
        raise AssertionError("a tensor was read")

    for name in ("MomentumWalk", "SparseWalk"):
        walk = getattr(apgd, name)
        original = walk.learn

        def learn(self, step, loss, grad, original=original):
            with monkeypatch.context() as m:
                for method in ("item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "cpu", "numpy"):
                    m.setattr(Tensor, method, refuse)
                m.setattr(self.job, "table", QUIET)
                original(self, step, loss, grad)

        monkeypatch.setattr(walk, "learn", learn)
    fa.APGD(denoiser, eps=0.1, steps=12)(y, x)
    fa.APGD(denoiser, eps=0.1, steps=12, norm="l1")(y, x)


class QUIET:
    """A table whose kernels do nothing: what they read is their own affair."""

    apgd_step = l1_step = l1_project = project = staticmethod(lambda *args: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": None}, "eps: wanted a radius"),
        ({"eps": float("inf")}, "eps: wanted a finite"),
        ({"eps": 0.1, "norm": "l0"}, "norm"),
        ({"eps": 0.1, "zero_mean": True}, "zero_mean"),
        ({"eps": 0.1, "preserve_noise": True, "bounds": (0, 1)}, "bounds"),
        ({"eps": 0.1, "preserve_noise": True, "norm": "l1"}, "norm"),
        ({"eps": 0.1, "restarts": 2, "random_start": False}, "restarts"),
        ({"eps": 0.1, "momentum": 0.5}, "momentum"),
        ({"eps": 0.1, "late_momentum": 0}, "late_momentum: wanted True or False"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fa.APGD(lambda v: v, **options)


@needs_shared
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_never_below_pgd_with_a_tuned_step_on_a_published_denoiser(norm):
    """DnCNN, sigma 25: as many gradients for both; the step of PGD is the best of those tried on this model."""
    model = fa.models.load("dncnn", weights=SHARED / "weights" / "kair_dncnn_25.pth", sigma=25)
    x = torch.stack([read_image(SHARED / "data" / "set12" / f"0{k}.png", 1)[:, 64:112, 64:112] for k in (1, 7)])
    y = x + 25 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    eps = 5 / 255 if norm == "linf" else 5 / 255 * 48 * 0.7
    options = {"eps": eps, "norm": norm, "steps": 12, "seed": 1}
    ours = fa.APGD(model, **options).run(y, x).loss
    theirs = fa.PGD(model, step=2 * eps, **options).run(y, x).loss
    default = fa.PGD(model, **options).run(y, x).loss
    assert (ours >= 0.998 * theirs).all()
    assert (ours >= default).all()
