"""strength_check: a model for each sign of masked gradients, and models without any."""

from __future__ import annotations

from importlib import resources

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.findings import Names, Results, Run, Seen, of_look, of_no_limit, of_runs
from fastattack.images import find_images, read_image
from fastattack.ops.dispatch import resolve
from tests.digits import digits, margin
from tests.shared import SHARED, needs_shared

SHORT = {"eps": 0.05, "steps": 16, "restarts": 3, "queries": 200}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(6, 1, 10, 10, generator=g)
    return clean + 0.1 * torch.randn(clean.shape, generator=g), clean


def signs(report: fa.StrengthReport) -> set[str]:
    return {f.name for f in report.findings if f.warns}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_healthy_restorer_has_no_sign(net, pair, norm, targeted):
    y, x = pair
    goal = torch.ones_like(x) * 3 if targeted else x  # far enough that no eps reaches it
    eps = 0.05 if norm == "linf" else 0.4
    report = fa.strength_check(net, y, goal, norm=norm, targeted=targeted, **{**SHORT, "eps": eps})
    assert report.warnings == []
    assert str(report).endswith("No sign of a weak attack.")
    assert all(rise.shape == (6,) and (rise > 0).all() for rise in report.rises.values())
    assert report.fooled == {}


def test_rounding_hides_the_gradient(net, pair):
    report = fa.strength_check(lambda v: net((v * 8).round() / 8), *pair, **SHORT)
    assert {"zero gradients", "black box", "steps"} <= signs(report)
    assert next(f for f in report.findings if f.name == "zero gradients").share == 1


def test_a_gradient_that_vanishes_at_the_input_alone_is_no_sign(pair):
    """|v - x|^2 from v = x: flat there and nowhere else."""
    report = fa.strength_check(lambda v: v, pair[0], pair[0], **SHORT)
    assert "zero gradients" not in signs(report)


def test_a_shattered_gradient_loses_to_queries(net, pair):
    report = fa.strength_check(lambda v: net(v + 0.02 * torch.sin(v * 3000)), *pair, **SHORT)
    assert {"black box", "eps"} <= signs(report)
    assert "zero gradients" not in signs(report)


def test_a_random_model_is_noticed(net, pair):
    def model(v):
        return net(v + 0.05 * torch.randn_like(v))

    report = fa.strength_check(model, *pair, **SHORT)
    assert "random model" in signs(report)
    assert "eot" in report.warnings[0]
    state = torch.get_rng_state()
    fa.strength_check(model, *pair, **SHORT)
    assert torch.equal(state, torch.get_rng_state())


def test_a_random_model_averaged_over_its_draws_is_fine(net, pair):
    if not hasattr(resolve(torch.device("cpu"), "auto"), "accumulate"):
        pytest.skip("eot needs the accumulate kernel")
    report = fa.strength_check(lambda v: net(v + 0.01 * torch.randn_like(v)), *pair, eot=4, **{**SHORT, "queries": 50})
    assert "random model" not in signs(report)


def test_a_clamped_model_does_not_feel_a_larger_eps(net, pair):
    y, x = pair
    report = fa.strength_check(lambda v: net(y + (v - y).clamp(-0.05, 0.05)), y, x, **SHORT)
    assert "eps" in signs(report)


def test_a_wavy_loss_is_won_by_one_long_step(pair):
    """Local peaks every 0.02 of the mean: small steps climb the first, one step of eps passes over all."""
    y, x = pair

    def objective(output, target):
        d = (output - y).flatten(1).mean(1)
        return d + 0.05 * torch.sin(d * 2 * torch.pi / 0.02)

    report = fa.strength_check(lambda v: v, y, x, objective=objective, **{**SHORT, "eps": 0.105, "steps": 84})
    assert "one step against many" in signs(report)


def test_starts_that_matter_are_noticed(pair):
    """Two slopes from the input, one ten times the other: the start decides which is climbed."""
    y, x = pair
    w = torch.randn(100, generator=torch.Generator().manual_seed(0))

    def objective(output, target):
        d = (output - y).flatten(1) @ w
        return torch.where(d > 0, 10 * d, -d)

    report = fa.strength_check(lambda v: v, y, x, objective=objective, **{**SHORT, "restarts": 8})
    assert "restarts" in signs(report)


def test_a_healthy_classifier_has_no_sign():
    model, x, labels = digits()
    options = {"objective": margin, "threshold": 0.0, "bounds": (0, 1), "norm": "linf"}
    report = fa.strength_check(model, x[:24], labels[:24], **options, **{**SHORT, "eps": 0.08})
    assert report.warnings == []
    assert report.fooled["no limit"] == 1
    assert 0 < report.fooled["16 steps"] < 1
    assert "fooled" in str(report)


def test_a_saturated_classifier_has_zero_gradients():
    """Logits times a million: the softmax is exact, and the cross-entropy flat."""
    model, x, labels = digits()
    report = fa.strength_check(
        lambda v: model(v) * 1e6, x[:24], labels[:24], objective=fa.objectives.cross_entropy, bounds=(0, 1), **SHORT
    )
    assert {"zero gradients", "steps"} <= signs(report)


def test_a_classifier_that_no_image_fools():
    model, x, labels = digits()
    x, labels = x[:24], labels[:24]
    report = fa.strength_check(
        lambda v: model(x + 0.01 * (v - x)), x, labels, objective=margin, threshold=0.0, bounds=(0, 1), **SHORT
    )
    assert "no limit" in signs(report)


def test_vectors_are_attacked_coordinate_by_coordinate():
    w = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    x = torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    report = fa.strength_check(lambda v: v @ w, x, x, **SHORT)
    assert "SimBA 200" in report.rises
    assert "random model" not in signs(report)


def test_mask_and_micro_batches_change_no_finding(net, pair):
    mask = torch.rand(6, 1, 10, 10, generator=torch.Generator().manual_seed(0)) > 0.3
    eps = torch.linspace(0.02, 0.08, 6)
    whole = fa.strength_check(net, *pair, mask=mask, **{**SHORT, "eps": eps})
    parts = fa.strength_check(net, *pair, mask=mask, max_batch=4, **{**SHORT, "eps": eps})
    assert signs(whole) == signs(parts) == set()
    for name, rise in whole.rises.items():
        assert torch.allclose(rise, parts.rises[name], rtol=1e-3), name


def crops(paths: list, side: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.stack([read_image(p, 1)[:, 64 : 64 + side, 64 : 64 + side] for p in paths])
    return x + 25 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x


def test_the_embedded_denoiser_has_no_sign():
    y, x = crops(find_images(str(resources.files("fastattack") / "assets" / "images")), side=24)
    model = fa.models.load("embedded")
    report = fa.strength_check(model, y, x, eps=5 / 255, steps=12, restarts=2, queries=60)
    assert report.warnings == []


@needs_shared
def test_the_published_dncnn_has_no_sign():
    y, x = crops([SHARED / "data" / "set12" / f"0{k}.png" for k in (1, 7)], side=24)
    model = fa.models.load("dncnn", weights=SHARED / "weights" / "kair_dncnn_25.pth", sigma=25)
    report = fa.strength_check(model, y, x, eps=5 / 255, steps=8, restarts=2, queries=40)
    assert report.warnings == []


# -- the verdicts, by hand ---------------------------------------------------------------------------------------------

NAMES = Names("few", "many", "restarts", "black")
HEALTHY = {"one step": 0.9, "few": 1.0, "many": 1.05, "restarts": 1.1, "black": 0.8, "eps x 4": 4.0}


def verdicts(fooled: float = 0.0, samples: int = 1, **changed: float) -> set[str]:
    """Names of the warnings where ``samples`` of 20 have other rises; ``fooled``: share that "many" fools."""
    runs = {}
    for name, rise in HEALTHY.items():
        rises = torch.full((20,), rise, dtype=torch.float64)
        rises[:samples] = changed.get(name.replace(" ", "_"), rise)
        runs[name] = Run(rises, torch.arange(20) < fooled * 20)
    return {f.name for f in of_runs(Results(torch.ones(20, dtype=torch.float64), runs), NAMES) if f.warns}


@pytest.mark.parametrize(
    ("name", "changed", "least"),
    [
        ("one step against many", {"one_step": 1.2}, 2),
        ("steps", {"few": 1.2}, 2),
        ("steps", {"few": 0.0, "many": 0.0, "one_step": 0.0, "restarts": 0.0, "black": 0.0}, 2),
        ("converged", {"few": 0.6}, 10),
        ("restarts", {"restarts": 1.4}, 2),
        ("black box", {"black": 1.3}, 2),
        ("eps", {"eps_x_4": 1.1}, 2),
    ],
)
def test_each_sign_by_itself_and_from_which_share_on(name, changed, least):
    assert verdicts() == set()
    assert name in verdicts(samples=least, **changed)
    assert name not in verdicts(samples=least - 1, **changed)
    if name != "converged":
        assert name not in verdicts(samples=least, fooled=0.5, **changed)  # fooled anyway


def test_looks_and_the_unlimited():
    look = Seen(torch.ones(20), torch.ones(20), torch.zeros(20, dtype=torch.bool))
    assert not any(f.warns for f in of_look(look, 1))
    look.second[3], look.zero[4] = 1.001, True
    assert [f.warns for f in of_look(look, 1)] == [True, True]
    assert [f.warns for f in of_look(look, 8)] == [False, True]
    runs = {"no limit": Run(torch.ones(20), torch.arange(20) < 19)}
    assert of_no_limit(Results(torch.ones(20), runs)).warns
    runs = {"no limit": Run(torch.ones(20), torch.ones(20, dtype=torch.bool))}
    assert not of_no_limit(Results(torch.ones(20), runs)).warns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, "steps: wanted"),
        ({"restarts": 1}, "restarts: wanted"),
        ({"queries": 0}, "queries: wanted"),
        ({"norm": "l1"}, "norm: wanted 'linf' or 'l2'"),
        ({"eps": -1.0}, "eps: wanted"),
        ({"x": "text"}, "input: wanted a tensor"),
        ({"model": 3}, "model: wanted something callable"),
        ({"model": lambda v: torch.zeros_like(v)}, "no gradient"),
    ],
)
def test_bad_input_is_named(net, pair, options, message):
    y, x = pair
    options = {"model": net, "x": y, "target": x, **SHORT, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        fa.strength_check(**options)
