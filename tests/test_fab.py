"""FAB: its projection against scipy's linear programs, distances in closed form, and what it promises."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

import fastattack as fa
from fastattack.attacks.hyperplane import way_onto
from tests.digits import digits

NORMS = ["linf", "l2", "l1"]
ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
DUALS = {"linf": 1, "l2": 2, "l1": math.inf}


def lengths(delta: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1).double(), ORDERS[norm], dim=1)


# -- the projection ----------------------------------------------------------------------------------------------------


def shortest(x: np.ndarray, normal: np.ndarray, gap: float, norm: str, low: float, high: float) -> float:
    """The length of the shortest way onto the plane in the box; linear programs, and in l2 a bisection."""
    d = x.size
    if norm == "l2":
        small, large = 0.0, 1e9  # d = clip(s normal) for the multiplier s
        for _ in range(400):
            s = (small + large) / 2
            way = np.clip(math.copysign(s, gap) * normal, low - x, high - x)
            small, large = (s, large) if abs(normal @ way) < abs(gap) else (small, s)
        return float(np.linalg.norm(way))
    eye = np.eye(d)
    ends = np.ones((d, 1)) if norm == "linf" else eye
    rows = np.block([[eye, -ends], [-eye, -ends]])
    cost = np.concatenate([np.zeros(d), np.ones(ends.shape[1])])
    box = [*zip(low - x, high - x, strict=True), *[(0, None)] * ends.shape[1]]
    plane = np.concatenate([normal, np.zeros(ends.shape[1])])[None]
    found = linprog(cost, A_ub=rows, b_ub=np.zeros(2 * d), A_eq=plane, b_eq=[gap], bounds=box)
    assert found.success
    return float(found.fun)


def planes(rows: int = 12, d: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Points, some of them on the bounds, planes with some zeros and ties, gaps that the box has room for."""
    g = torch.Generator().manual_seed(3)
    x = torch.rand(rows, d, generator=g, dtype=torch.float64)
    x[1, :4], x[2, 2:] = 0.0, 1.0
    normal = torch.randn(rows, d, generator=g, dtype=torch.float64)
    normal[3, ::2], normal[4, :5] = 0.0, 0.7
    furthest = torch.where(normal > 0, 1 - x, -x)
    share = torch.linspace(-0.98, 0.98, rows, dtype=torch.float64)
    opposite = torch.where(normal < 0, 1 - x, -x)
    reach = torch.where(share > 0, (normal * furthest).sum(1), -(normal * opposite).sum(1))
    return x, normal, share * reach


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_onto_the_plane_is_the_shortest(norm):
    x, normal, gap = planes()
    way = way_onto(x, normal, gap, norm, (0.0, 1.0))
    assert torch.allclose((normal * way).sum(1), gap, rtol=1e-12, atol=1e-14)
    assert (x + way).min() >= -1e-15
    assert (x + way).max() <= 1 + 1e-15
    assert (way[normal == 0] == 0).all()
    want = [
        shortest(*(t[k].numpy() for t in (x, normal)), float(gap[k]), norm, 0.0, 1.0) for k in range(len(x))
    ]  # fmt: skip
    assert lengths(way, norm).tolist() == pytest.approx(want, rel=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_without_a_box_is_that_of_the_dual_norm(norm):
    x, normal, gap = planes()
    way = way_onto(x, normal, gap, norm, (-math.inf, math.inf))
    want = gap.abs() / torch.linalg.vector_norm(normal, DUALS[norm], dim=1)
    assert torch.allclose(lengths(way, norm), want, rtol=1e-12)
    assert torch.allclose((normal * way).sum(1), gap, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_box_does_not_reach_the_way_ends_in_its_corner(norm):
    x, normal, gap = planes()
    way = way_onto(x, normal, gap.sign() * 1e6, norm, (0.0, 1.0))
    corner = torch.where(normal * gap[:, None] > 0, 1.0, 0.0).double()
    assert torch.allclose((x + way)[normal != 0], corner[normal != 0])
    nothing = way_onto(x, torch.zeros_like(normal), gap, norm, (0.0, 1.0))
    assert (nothing == 0).all()
    assert (way_onto(x, normal, torch.zeros_like(gap), norm, (0.0, 1.0)) == 0).all()


# -- distances in closed form ------------------------------------------------------------------------------------------


def total(output: Tensor, target: object) -> Tensor:
    return output.flatten(1).sum(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_distance_to_a_plane(norm, targeted, dtype):
    """A linear loss: gap / |w|_dual, and the second sample succeeds as it is."""
    w = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    x = torch.rand(4, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    start, side = total(x * w, None), -1 if targeted else 1
    threshold = float((start[1] - side * 0.2).item())
    attack = fa.FAB(lambda v: v * w, objective=total, threshold=threshold, targeted=targeted, norm=norm, steps=20)
    found = attack.run(x, None)
    want = (side * (threshold - start.double())).clamp(min=0) / torch.linalg.vector_norm(w.double(), DUALS[norm])
    got = lengths(found.adversarial - x, norm)
    assert found.success.all()
    assert (side * (total(found.adversarial * w, None) - threshold) > 0).all()
    assert (got >= want * (1 - 1e-5)).all()
    assert (got <= want * 1.01 + 1e-6).all()
    assert torch.equal(found.adversarial[1], x[1])
    assert found.best_step[1] == 0


def linear(classes: int = 4, d: int = 9) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier, images in [0, 1], and the classes that it gives them."""
    model = nn.Linear(d, classes).double()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, d, generator=g, dtype=torch.float64))
        model.bias.copy_(-model.weight.sum(1) / 2)
    x = torch.rand(8, d, generator=g, dtype=torch.float64)
    return model, x, model(x).argmax(1)


def to_each_class(model: nn.Module, x: Tensor, labels: Tensor, norm: str) -> Tensor:
    """(B, classes) distances in the box, inf for the label and for what the box does not reach."""
    w, logits = model.weight.detach(), model(x).detach()
    found = torch.full(logits.shape, math.inf, dtype=torch.float64)
    for k, label in enumerate(labels.tolist()):
        for other in range(w.shape[0]):
            normal, gap = w[other] - w[label], float(logits[k, label] - logits[k, other])
            furthest = torch.where(normal > 0, 1 - x[k], -x[k])
            if other != label and float(normal @ furthest) > gap * 1.1:
                found[k, other] = shortest(x[k].numpy(), normal.numpy(), gap, norm, 0.0, 1.0)
    return found


def with_all_others(labels: Tensor, classes: int) -> Tensor:
    others = [[c for c in range(classes) if c != label] for label in labels.tolist()]
    return torch.cat([labels[:, None], torch.tensor(others)], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_to_the_nearest_class_of_a_linear_model_in_a_box(norm):
    model, x, labels = linear()
    want = to_each_class(model, x, labels, norm).amin(1)
    attack = fa.FAB(model, classes=True, norm=norm, bounds=(0, 1), steps=40)
    found = attack.run(x, with_all_others(labels, 4))
    got = lengths(found.adversarial - x, norm)
    assert found.success.all()
    assert (model(found.adversarial).argmax(1) != labels).all()
    assert (got >= want * (1 - 1e-9)).all()
    assert (got <= want * 1.02).all()
    assert found.adversarial.min() >= 0
    assert found.adversarial.max() <= 1
    margin = fa.objectives.cw_margin()(model(found.adversarial), labels)
    assert torch.allclose(found.loss, margin.detach())


def test_one_class_in_the_target_is_the_boundary_to_that_class():
    """Another class on the way is a success too; where none is nearer, the distance is that to the wanted one."""
    model, x, labels = linear()
    distances = to_each_class(model, x, labels, "l2")
    wanted = distances.masked_fill(distances == math.inf, -1).argmax(1)
    attack = fa.FAB(model, classes=True, norm="l2", bounds=(0, 1), steps=40)
    got = lengths(attack(x, torch.stack([labels, wanted], 1)) - x, "l2")
    far = distances.gather(1, wanted[:, None])[:, 0]
    assert (got >= distances.amin(1) * (1 - 1e-9)).all()
    assert (got <= far * 1.02).all()
    nearest = attack(x, torch.stack([labels, distances.argmin(1)], 1))
    assert (lengths(nearest - x, "l2") <= distances.amin(1) * 1.02).all()


# -- a trained net -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_further_than_torchattacks(norm):
    """The untargeted attack with as many steps: the same images fooled, and on average as near."""
    peer = pytest.importorskip("torchattacks")
    model, x, y = digits()
    x, y = x[:24], y[:24]
    theirs = peer.FAB(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=9.0, steps=15, n_restarts=1, n_classes=10)(
        x, y
    )
    found = fa.FAB(model, classes=True, norm=norm, bounds=(0, 1), steps=15).run(x, with_all_others(y, 10))
    assert found.success.all()
    ours = lengths(found.adversarial - x, norm)
    assert ours.mean() <= 1.02 * lengths(theirs - x, norm).mean()
    one = fa.FAB(
        model, objective=fa.objectives.cw_margin(), threshold=0.0, norm=norm, bounds=(0, 1), steps=15
    ).run(x, y)  # fmt: skip
    assert one.success.all()
    assert lengths(one.adversarial - x, norm).mean() <= 1.1 * ours.mean()


@pytest.mark.parametrize("norm", NORMS)
def test_enough_is_enough(norm):
    model, x, y = digits()
    target = with_all_others(y[:16], 10)[:, :3]
    options = {"classes": True, "norm": norm, "bounds": (0, 1), "steps": 12}
    whole = fa.FAB(model, **options).run(x[:16], target)
    limit = float(lengths(whole.adversarial - x[:16], norm).median() * 1.3)
    short = fa.FAB(model, enough=limit, restarts=3, radius=limit, **options).run(x[:16], target)
    ended = lengths(short.adversarial - x[:16], norm) <= limit
    assert ended.any()
    assert (short.steps_used[ended] < 36).all()
    assert (short.steps_used[~ended] == 36).all()
    assert short.steps_used[ended].double().mean() < 12


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_only_help(norm):
    model, x, y = digits()
    x, target = x[:12], with_all_others(y[:12], 10)[:, [0, 5]]
    options = {"classes": True, "norm": norm, "bounds": (0, 1), "steps": 20, "seed": 3}
    one = fa.FAB(model, **options).run(x, target)
    five = fa.FAB(model, restarts=5, radius=9.0, **options).run(x, target)
    again = fa.FAB(model, restarts=5, radius=9.0, **options).run(x, target)
    assert torch.equal(five.adversarial, again.adversarial)
    near, far = (lengths(found.adversarial - x, norm) for found in (five, one))
    assert (near <= far).all()
    assert (near < far).any()
    assert five.best_restart.max() > 0


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_begin_at_most_half_as_far_as_what_is_known(norm):
    model, x, y = digits()
    seen = []

    def spied(v: Tensor) -> Tensor:
        seen.append(v.detach().clone())
        return model(v)

    x, target = x[:4], with_all_others(y[:4], 10)[:, [0, 5]]
    for radius in (0.1, 50.0):
        options = {"classes": True, "norm": norm, "bounds": (0, 1), "steps": 9}
        known = lengths(fa.FAB(model, **options)(x, target) - x, norm)
        seen.clear()
        fa.FAB(spied, restarts=2, radius=radius, **options)(x, target)
        begin = lengths(seen[1 + 2 * 9] - x, norm)  # the input, then two passes a step
        assert (begin <= known.clamp(max=radius) / 2 * (1 + 1e-6)).all()
        assert (begin > known.clamp(max=radius) / 10).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [False, True])
def test_micro_batches_order_and_mask(norm, classes):
    model, x, y = digits()
    model, x = copy.deepcopy(model).double(), x[:5].double()
    target = with_all_others(y[:5], 10)[:, :3] if classes else y[:5]
    own = {"classes": True} if classes else {"objective": fa.objectives.cw_margin(), "threshold": 0.0}
    options = {**own, "norm": norm, "bounds": (0, 1), "steps": 6, "restarts": 2, "radius": 0.3}
    mask = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.2
    ids = torch.arange(5)
    whole = fa.FAB(model, **options).run(x, target, mask=mask, sample_ids=ids)
    parts = fa.FAB(model, max_batch=2, **options).run(x, target, mask=mask, sample_ids=ids)
    turned = fa.FAB(model, **options).run(x.flip(0), target.flip(0), mask=mask.flip(0), sample_ids=ids.flip(0))
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=1e-9)
    assert torch.allclose(whole.adversarial, turned.adversarial.flip(0), atol=1e-9)
    assert torch.equal(whole.adversarial[~mask], x[~mask])
    assert not torch.equal(whole.adversarial, x)


def test_reduced_precision_is_judged_by_the_model_as_it_is():
    model, x, y = digits()
    target = with_all_others(y[:16], 10)[:, :3]
    found = fa.FAB(model, classes=True, bounds=(0, 1), steps=8, precision="bf16").run(x[:16], target)
    with torch.no_grad():
        fooled = model(found.adversarial).argmax(1) != y[:16]
    assert torch.equal(found.success, fooled)
    assert fooled.all()


def test_the_model_is_left_as_it_was_found():
    model = nn.Sequential(nn.Linear(12, 12), nn.Dropout(0.5), nn.BatchNorm1d(12)).train()
    before = [p.clone() for p in (*model.parameters(), *model.buffers())]
    x = torch.rand(4, 12)
    state = torch.get_rng_state()
    fa.FAB(model, classes=True, steps=3, restarts=2, radius=1.0)(x, torch.tensor([[0, 1]] * 4))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *model.buffers()), strict=True))


@pytest.mark.parametrize("case", ["loss", "gradient"])
def test_what_is_not_finite_is_named(case):
    def model(v: Tensor) -> Tensor:
        return v / 0.0 if case == "loss" else v + (v - v.detach()).abs().sqrt()  # infinite slope

    with pytest.raises(fa.NonFiniteError, match="sample 0"):
        fa.FAB(model, objective=total, threshold=99.0, steps=2)(torch.rand(2, 3) + 0.1, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "threshold: wanted a finite number"),
        ({"threshold": 0.0, "eps": 0.1}, "eps has no place"),
        ({"threshold": 0.0, "step": 0.1}, "step has no place"),
        ({"threshold": 0.0, "stop": "success"}, "stop has no place here; enough="),
        ({"threshold": 0.0, "random_start": True}, "random_start has no place"),
        ({"threshold": 0.0, "keep": "last"}, "keep has no place"),
        ({"threshold": 0.0, "grid": 8}, "grid"),
        ({"threshold": 0.0, "alpha_max": 1.5}, "alpha_max: wanted a number from 0 to 1, got 1.5"),
        ({"threshold": 0.0, "eta": 0.9}, "eta: wanted a number >= 1"),
        ({"threshold": 0.0, "beta": 1.0}, "beta: wanted a number between 0 and 1"),
        ({"threshold": 0.0, "radius": 0.0}, "radius: wanted a number > 0"),
        ({"threshold": 0.0, "enough": -1.0}, "enough: wanted a number > 0"),
        ({"threshold": 0.0, "restarts": 2}, "radius: wanted a number > 0 with more than one restart"),
        ({"classes": 1}, "classes: wanted True or False"),
        ({"classes": True, "threshold": 1.0}, "threshold: wanted 0"),
        ({"classes": True, "targeted": True}, "targeted has no place"),
        ({"classes": True, "objective": fa.objectives.mse}, "objective has no place"),
        ({"classes": True, "norm": "l0"}, "norm"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fa.FAB(lambda v: v, **options)


@pytest.mark.parametrize(
    "target", [torch.zeros(4, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.int64), torch.zeros(4, 2), None]
)
def test_targets_that_cannot_be(target):
    with pytest.raises((TypeError, ValueError), match="target: wanted the label and other classes"):
        fa.FAB(lambda v: v, classes=True)(torch.rand(4, 3), target)
