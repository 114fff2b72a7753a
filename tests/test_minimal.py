"""CW, FMN and DDN: distances in closed form, the papers' loops in float64 NumPy, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.engine import Schedule
from fastattack.engine import attack as run_engine
from fastattack.threat import Threat
from tests.shared import SHARED, needs_shared

ATTACKS = {
    "CW": lambda model, **o: fa.CW(model, **{"steps": 60, **o}),
    "FMN-linf": lambda model, **o: fa.FMN(model, norm="linf", **o),
    "FMN-l2": lambda model, **o: fa.FMN(model, norm="l2", **o),
    "FMN-l1": lambda model, **o: fa.FMN(model, norm="l1", **o),
    "DDN": lambda model, **o: fa.DDN(model, **o),
}
ORDERS = {"CW": 2, "FMN-linf": math.inf, "FMN-l2": 2, "FMN-l1": 1, "DDN": 2}
DUALS = {"CW": 2, "FMN-linf": 1, "FMN-l2": 2, "FMN-l1": math.inf, "DDN": 2}


def total(output: Tensor, target: object) -> Tensor:
    return output.flatten(1).sum(1)


def weights(d: int = 12) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def inputs(batch: int = 4) -> Tensor:
    return torch.rand(batch, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def lengths(name: str, delta: Tensor) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1), ORDERS[name], dim=1)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_distance_to_a_plane(name, targeted, dtype):
    """A linear loss: the nearest success lies at gap / |w|_dual; the second sample succeeds as it is."""
    w, x = weights().to(dtype), inputs().to(dtype)
    start = total(x * w, None)
    side = -1 if targeted else 1
    threshold = float((start[1] - side * 0.2).item())
    options = {"objective": total, "threshold": threshold, "targeted": targeted}
    found = ATTACKS[name](lambda v: v * w, step=0.01 if name == "CW" else 0.3, **options).run(x, None)
    gap = (side * (threshold - start.double())).clamp(min=0)
    want = gap / torch.linalg.vector_norm(w.double(), DUALS[name])
    got = lengths(name, (found.adversarial - x).double())
    assert found.success.all()
    assert (side * (total(found.adversarial * w, None) - threshold) > 0).all()
    assert (got >= want * (1 - 1e-5)).all()
    assert (got <= want * 1.05 + 1e-6).all()
    assert torch.equal(found.adversarial[1], x[1])
    assert found.best_step[1] == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_where_nothing_succeeds_the_best_loss_comes_back(name):
    """A loss that never passes 1: the hill's top is as good as it gets."""

    def hill(output: Tensor, target: object) -> Tensor:
        return 1 - (output - 0.7).square().flatten(1).sum(1)

    x = inputs()
    found = ATTACKS[name](lambda v: v * 1.0, objective=hill, threshold=1.5, step=0.2).run(x, None)
    assert not found.success.any()
    assert (found.loss > hill(x, None)).all()
    assert torch.allclose(found.loss, hill(found.adversarial, None), rtol=1e-9)
    assert (found.loss > 0.9).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_bounds_mask_and_micro_batches(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)).double()
    g = torch.Generator().manual_seed(1)
    x = torch.rand(5, 1, 7, 9, generator=g, dtype=torch.float64)
    y = (x + 0.1 * torch.randn(x.shape, generator=g, dtype=torch.float64)).clamp(0, 1)
    mask = torch.rand(5, 1, 7, 9, generator=g) > 0.3
    with torch.no_grad():
        x = model(y) + (x - model(y)) / fa.objectives.mse(model(y), x).sqrt().reshape(-1, 1, 1, 1)
    threshold = 1.02  # every sample starts at 1
    options = {"threshold": threshold, "bounds": (0.0, 1.0), "steps": 40, "step": 0.05 if name == "CW" else 1.0}
    whole = ATTACKS[name](model, **options).run(y, x, mask=mask)
    parts = ATTACKS[name](model, max_batch=2, **options).run(y, x, mask=mask)
    turned = ATTACKS[name](model, **options).run(y.flip(0), x.flip(0), mask=mask.flip(0))
    assert whole.success.all()
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=1e-8)
    assert torch.allclose(whole.adversarial, turned.adversarial.flip(0), atol=1e-8)
    assert torch.equal(whole.adversarial[~mask], y[~mask])
    assert whole.adversarial.min() >= 0
    assert whole.adversarial.max() <= 1
    assert (lengths(name, whole.adversarial - y) > 0).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_classes_change_by_little(name):
    """Two classes, a linear model, margin 0: the boundary is a plane."""
    w = weights()
    x = inputs(6) - 0.5
    labels = ((x @ w) > 0).long()

    def model(v: Tensor) -> Tensor:
        return torch.stack([-(v @ w), v @ w], 1)

    step = 0.01 if name == "CW" else 0.3
    found = ATTACKS[name](model, objective=fa.objectives.cw_margin(), threshold=0.0, step=step).run(x, labels)
    want = (x @ w).abs() / torch.linalg.vector_norm(w, DUALS[name])
    got = lengths(name, found.adversarial - x)
    assert found.success.all()
    assert (model(found.adversarial).argmax(1) != labels).all()
    assert (got <= want * 1.06).all()


# -- oracles of their own: one sample, the maths of the papers ---------------------------------------------------------


def curved(x: np.ndarray) -> tuple[float, np.ndarray]:
    k = np.arange(1, x.size + 1) / x.size
    return float((k * x + 0.3 * np.sin(3 * x)).sum()), k + 0.9 * np.cos(3 * x)


def curved_torch(output: Tensor, target: object) -> Tensor:
    k = torch.arange(1, output.shape[1] + 1) / output.shape[1]
    return (k * output + 0.3 * (3 * output).sin()).sum(1)


def into(d: np.ndarray, eps: float, norm: str) -> np.ndarray:
    if norm == "linf":
        return d.clip(-eps, eps)
    if norm == "l2":
        return d * min(1.0, eps / max(np.linalg.norm(d), 1e-300))
    if np.abs(d).sum() <= eps:
        return d
    low, high = 0.0, np.abs(d).max()
    for _ in range(200):
        mid = (low + high) / 2
        low, high = (mid, high) if np.maximum(np.abs(d) - mid, 0).sum() > eps else (low, mid)
    return np.sign(d) * np.maximum(np.abs(d) - high, 0)


def fmn_by_hand(x0: np.ndarray, threshold: float, norm: str, steps: int, alpha: float, gamma: float) -> float:
    """arXiv 2102.12827, algorithm 1, with the factor 1 + gamma on the first radii."""
    order, dual = {"linf": (math.inf, 1), "l2": (2, 2), "l1": (1, math.inf)}[norm]
    d, eps, best, found = np.zeros_like(x0), math.inf, math.inf, False
    for k in range(steps + 1):
        loss, g = curved(x0 + d)
        size = np.linalg.norm(d, order)
        if loss > threshold:
            best, found = min(best, size), True
        if k == steps:
            return best
        cos = (1 + math.cos(math.pi * k / steps)) / 2
        a, c = alpha * (0.01 + 0.99 * cos), gamma * (0.02 + 0.98 * cos)
        if loss > threshold:
            eps = min(eps * (1 - c), best)
        else:
            eps = (eps if found else size + (threshold - loss) / np.linalg.norm(g, dual)) * (1 + c)
        d = into(d + a * g / np.linalg.norm(g), eps, norm)
    return best


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fmn_is_the_loop_of_the_paper(norm):
    x = inputs(5)
    threshold = float(curved_torch(x, None).max()) + 0.4
    options = {"objective": curved_torch, "threshold": threshold, "steps": 30, "step": 0.5, "norm": norm}
    found = fa.FMN(lambda v: v * 1.0, **options).run(x, None)
    want = [fmn_by_hand(row.numpy(), threshold, norm, 30, 0.5, 0.05) for row in x]
    got = torch.linalg.vector_norm(found.adversarial - x, {"linf": math.inf, "l2": 2, "l1": 1}[norm], dim=1)
    assert got.tolist() == pytest.approx(want, rel=3e-4 if norm == "l1" else 1e-5)


def ddn_by_hand(x0: np.ndarray, threshold: float, steps: int, alpha: float, gamma: float) -> float:
    """arXiv 1811.09600, algorithm 1, without rounding to levels."""
    d, eps, best = np.zeros_like(x0), 1.0, math.inf
    for k in range(steps + 1):
        loss, g = curved(x0 + d)
        if loss > threshold:
            best = min(best, np.linalg.norm(d))
        if k == steps:
            return best
        a = alpha * (0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2)
        eps *= 1 - gamma if loss > threshold else 1 + gamma
        d = d + a * g / np.linalg.norm(g)
        d = d * eps / np.linalg.norm(d)
    return best


def test_ddn_is_the_loop_of_the_paper():
    x = inputs(5)
    threshold = float(curved_torch(x, None).max()) + 0.4
    found = fa.DDN(
        lambda v: v * 1.0, objective=curved_torch, threshold=threshold, steps=30, step=0.5
    ).run(x, None)  # fmt: skip
    want = [ddn_by_hand(row.numpy(), threshold, 30, 0.5, 0.05) for row in x]
    assert torch.linalg.vector_norm(found.adversarial - x, dim=1).tolist() == pytest.approx(want, rel=1e-6)


def cw_by_hand(x0: np.ndarray, threshold: float, steps: int, searches: int, rate: float, c: float, box) -> float:
    """arXiv 1608.04644: torch's own Adam for the inner problem, bisection as the authors' code has it."""
    low, high, best = 0.0, math.inf, math.inf
    x = torch.tensor(x0)
    middle, half = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
    for _ in range(searches):
        w = ((x - middle) / half * (1 - 1e-6)).atanh().requires_grad_()
        adam, found = torch.optim.Adam([w], lr=rate), False
        for k in range(steps + 1):
            at = middle + half * w.tanh()
            d = (at - x) if k > 0 else at - at.detach()
            loss = curved_torch((at if k > 0 else d + x)[None], None)[0]
            if float(loss) > threshold:
                best = min(best, float(d.norm()))
                found = found or k < steps
            adam.zero_grad()
            (d.square().sum() + c * (threshold - loss).clamp(min=0)).backward()
            adam.step()
        low, high = (low, min(high, c)) if found else (max(low, c), high)
        c = (low + high) / 2 if high < math.inf else c * 10
    return best


def test_cw_is_the_method_of_the_paper():
    x, box = inputs(3), (-0.1, 2.0)
    threshold = float(curved_torch(x, None).max()) + 0.4
    found = fa.CW(
        lambda v: v * 1.0, objective=curved_torch, threshold=threshold, steps=25, restarts=5, step=0.05, bounds=box,
        initial_c=0.05,
    ).run(x, None)  # fmt: skip
    want = [cw_by_hand(row.numpy(), threshold, 25, 5, 0.05, 0.05, box) for row in x]
    assert torch.linalg.vector_norm(found.adversarial - x, dim=1).tolist() == pytest.approx(want, rel=1e-5)


def test_a_second_value_of_c_finds_less():
    """What the bisection learned in one restart serves the next."""
    x = inputs(3)
    threshold = float(curved_torch(x, None).max()) + 0.4
    options = {"objective": curved_torch, "threshold": threshold, "steps": 40, "step": 0.05, "initial_c": 50.0}
    sizes = [
        (fa.CW(lambda v: v * 1.0, restarts=r, **options)(x, None) - x).norm(dim=1) for r in (1, 4, 9)
    ]  # fmt: skip
    assert (sizes[1] < sizes[0]).all()
    assert (sizes[2] <= sizes[1]).all()
    assert (sizes[2] < 0.97 * sizes[0]).all()


@pytest.mark.parametrize("name", ["CW", "FMN-l2", "FMN-linf", "DDN"])
def test_half_precision_images(name):
    w, x = weights().float(), inputs().to(torch.bfloat16)
    start = total(x.float() * w, None)
    threshold = float(start.max()) + 1.0
    options = {"objective": total, "threshold": threshold, "step": 0.3, "bounds": (-2, 3)}
    found = ATTACKS[name](lambda v: v.float() * w, **options).run(x, None)
    assert found.adversarial.dtype is torch.bfloat16
    assert found.success.all()
    want = (threshold - start.double()) / torch.linalg.vector_norm(w.double(), DUALS[name])
    assert (lengths(name, (found.adversarial - x).double()) <= 1.3 * want).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_model_is_left_as_it_was_found(name):
    model = nn.Sequential(nn.Linear(12, 12), nn.Dropout(0.5), nn.BatchNorm1d(12)).train()
    before = [p.clone() for p in (*model.parameters(), *model.buffers())]
    x = inputs().float()
    ATTACKS[name](model, threshold=10.0, steps=3).run(x, torch.zeros_like(x))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *model.buffers()), strict=True))


BAD = [
    ({}, "threshold: wanted a finite number"),
    ({"threshold": None}, "threshold"),
    ({"threshold": float("nan")}, "threshold"),
    ({"threshold": "0"}, "threshold"),
    ({"threshold": 0.0, "eps": 0.1}, "eps has no place"),
    ({"threshold": 0.0, "random_start": True}, "random_start has no place"),
    ({"threshold": 0.0, "keep": "last"}, "keep has no place"),
    ({"threshold": 0.0, "stop": "success"}, "stop"),
    ({"threshold": 0.0, "grid": 8}, "grid"),
    ({"threshold": 0.0, "step": None}, "step"),
]


@pytest.mark.parametrize("attack", [fa.CW, fa.FMN, fa.DDN])
@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_that_cannot_be(attack, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        attack(lambda v: v, **options).run(inputs(), inputs())


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (fa.CW, {"norm": "linf"}, "norm: wanted 'l2'"),
        (fa.DDN, {"norm": "l1"}, "norm: wanted 'l2'"),
        (fa.CW, {"bounds": (0.0, math.inf)}, "bounds: wanted finite"),
        (fa.CW, {"bounds": (0.5, 0.5)}, "bounds: wanted finite"),
        (fa.CW, {"initial_c": 0.0}, "initial_c"),
        (fa.FMN, {"gamma": 1.0}, "gamma"),
        (fa.DDN, {"gamma": 0.0}, "gamma"),
        (fa.DDN, {"radius": -1.0}, "radius"),
        (fa.FMN, {"restarts": 2}, "restarts"),
        (fa.DDN, {"restarts": 2}, "restarts"),
    ],
)
def test_options_of_one_attack(attack, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        attack(lambda v: v, threshold=0.0, **options)


def test_a_threat_without_a_ball_is_for_these_alone():
    for attack in (fa.PGD, fa.FGSM, fa.BIM, fa.DenoisingPGD, fa.ObsAtk, fa.APGD):
        with pytest.raises((TypeError, ValueError), match="eps"):
            attack(lambda v: v, eps=None)
        with pytest.raises(ValueError, match="eps: wanted a finite"):
            attack(lambda v: v, eps=math.inf)
    for options in ({"preserve_noise": True}, {"zero_mean": True, "norm": "l2"}, {"grid": 8}):
        with pytest.raises(ValueError, match="wanted a radius eps"):
            Threat(eps=None, **options)
    x = inputs()
    for schedule, message in ((Schedule(random_start=False), "step"), (Schedule(step=0.1), "random_start")):
        with pytest.raises(ValueError, match=message):
            run_engine(lambda v: v, x, x, objective=fa.objectives.mse, threat=Threat(eps=None), schedule=schedule)
    free = Schedule(step=0.5, steps=3, random_start=False, keep="last")
    found = run_engine(lambda v: v, x, x - 1, objective=fa.objectives.mse, threat=Threat(eps=None), schedule=free)
    assert torch.allclose(found.adversarial, x + 1.5)


@needs_shared
@pytest.mark.parametrize("name", ["CW", "FMN-l2", "FMN-linf", "DDN"])
def test_one_decibel_on_a_published_denoiser(name):
    """The smallest perturbation that costs DnCNN 1 dB; a ball of that radius is about what PGD needs."""
    from fastattack.images import read_image

    model = fa.models.load("dncnn", weights=SHARED / "weights" / "kair_dncnn_25.pth", sigma=25)
    x = torch.stack([read_image(SHARED / "data" / "set12" / f"0{k}.png", 1)[:, 64:96, 64:96] for k in (1, 7)])
    y = x + 25 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        threshold = float(fa.objectives.mse(model(y), x)[0]) * 10**0.1
    own = {"CW": {"restarts": 3, "step": 0.003}, "DDN": {"steps": 50}}.get(name, {})
    options = {"threshold": threshold, "steps": 15} | own
    found = ATTACKS[name](model, **options).run(y[:1], x[:1])
    size = lengths(name, found.adversarial - y[:1])
    assert found.success.all()
    norm = "linf" if name == "FMN-linf" else "l2"
    beaten = fa.PGD(model, eps=float(size) * 0.7, norm=norm, steps=10, step=float(size)).run(y[:1], x[:1])
    assert (beaten.loss < threshold).all()
