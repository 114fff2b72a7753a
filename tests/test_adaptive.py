"""Attacks through a purifier: every one of them, in named noise, with common draws; blind and adaptive side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import adaptive_check
from fastattack.diffusion import Diffusion
from tests.test_purifier import SCHEDULE, SHARES, gaussian

COUNT = 4


class Classifier(nn.Module):
    """(B, 1, 8, 8) to (B, 3), not linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(2 * self.conv(x)).flatten(1))


class Segments(nn.Module):
    """(B, 1, 8, 8) to logits of 3 classes for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv = nn.Conv2d(1, 3, 3, padding=1).double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * self.conv(x))


def images(seed: int = 5) -> Tensor:
    return torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def purifier(**options: Any) -> fa.Purifier:
    return fa.Purifier(gaussian(), **({"t_star": 20, "steps": 2, "seed": 1} | options))


LABELS = torch.tensor([0, 1, 2, 0])
CE, MARGIN = fa.objectives.cross_entropy, fa.objectives.cw_margin()
NET = nn.Conv2d(1, 2, 3).double()
Make = Callable[[Any, int], Any]


def of(names: str, **options: Any) -> dict[str, Make]:
    kinds = {name: getattr(fa, name) for name in names.split()}
    return {name: lambda m, n, k=kind: k(m, eot=2, max_batch=n, **options) for name, kind in kinds.items()}


CLASSIFIERS: dict[str, Make] = {
    **of("FGSM", eps=0.1, objective=CE),
    **of("BIM PGD MIFGSM NIFGSM DIM TIM SINIFGSM APGD", eps=0.1, objective=CE, steps=2),
    **of("VMIFGSM VNIFGSM", eps=0.1, objective=CE, steps=2, neighbours=2),
    **of("CW", objective=MARGIN, threshold=0.0, steps=2, restarts=2),
    **of("DDN FMN FAB", objective=MARGIN, threshold=0.0, steps=4),
    **of("Square SimBA", eps=0.1, objective=CE, queries=8),
}
RESTORERS: dict[str, Make] = {
    "DenoisingPGD": lambda m, n: fa.DenoisingPGD(m, steps=3, eot=2, max_batch=n),
    "ObsAtk": lambda m, n: fa.ObsAtk(m, eps=0.5, steps=3, eot=2, max_batch=n),
    "FeaturePGD": lambda m, n: fa.FeaturePGD(m, net=NET, eps=0.05, steps=3, eot=2, max_batch=n),
}
DENSE: dict[str, Make] = {
    "SegPGD": lambda m, n: fa.SegPGD(m, eps=0.05, steps=3, eot=2, max_batch=n),
    "CosPGD": lambda m, n: fa.CosPGD(m, eps=0.05, steps=3, eot=2, max_batch=n),
}


def case(name: str) -> tuple[Make, nn.Module, Any]:
    if name in CLASSIFIERS:
        return CLASSIFIERS[name], Classifier(), LABELS
    if name in RESTORERS:
        return RESTORERS[name], nn.Hardtanh(-0.2, 0.8), images(6)
    labels = torch.randint(3, (COUNT, 8, 8), generator=torch.Generator().manual_seed(7))
    return DENSE[name], Segments(), labels


@pytest.mark.parametrize("name", [*CLASSIFIERS, *RESTORERS, *DENSE])
def test_every_attack_goes_through_a_purifier(name: str) -> None:
    """By every backward pass; no batch split changes a number, and the purifier's own seed does."""
    make, model, target = case(name)
    x = images()
    whole = make(purifier()(model), COUNT)(x, target)
    nested = nn.Sequential(nn.Identity(), purifier()(model))  # names reach it inside another module
    torch.testing.assert_close(make(nested, 3)(x, target), whole, rtol=1e-9, atol=1e-9)
    other = make(purifier(seed=2)(model), COUNT)(x, target)
    for found in (whole, other, *(make(purifier(gradient=k)(model), COUNT)(x, target) for k in ("bpda", "surrogate"))):
        assert found.isfinite().all()
    assert not torch.equal(whole, x)
    assert not torch.equal(whole, other)


def test_one_perturbation_for_all_and_attack_each() -> None:
    x, model = images(), Classifier()
    options: dict[str, Any] = {"eps": 0.1, "objective": CE, "steps": 2, "eot": 2}
    whole, parts = (fa.Universal(purifier()(model), batch=n, **options).fit(x, LABELS).perturbation for n in (4, 3))
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-9)
    models = {"a": purifier()(model), "b": purifier()(nn.Sequential(nn.Hardtanh(), model))}
    each = fa.attack_each(models, x, LABELS, attack=lambda m: fa.PGD(m, **options))
    for name, one in models.items():
        assert torch.equal(each.results[name].adversarial, fa.PGD(one, **options)(x, LABELS))


class Watched(fa.Purified):
    """Notes (ids, draw, whether a gradient is asked for) of every call by an attack."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[tuple[int, ...], int, bool]] = []

    def for_samples(self, sample_ids: Tensor | None, draw: int) -> Any:
        assert sample_ids is not None
        inner, names = super().for_samples(sample_ids, draw), tuple(sample_ids.tolist())

        def noted(x: Tensor) -> Any:
            self.calls.append((names, draw, x.requires_grad))
            return inner(x)

        return noted


@pytest.mark.parametrize("attack", ["PGD", "APGD", "DIM"])
def test_gradients_have_fresh_draws_and_points_compare_by_common_ones(attack: str) -> None:
    x, ids = images(), torch.tensor([7, 2**35, 0, 3])
    watched = Watched(purifier(), Classifier())
    options: dict[str, Any] = {"eps": 0.1, "objective": CE, "steps": 3, "eot": 3, "seed": 8}
    if attack == "PGD":
        options["restarts"] = 2
    steps = options["steps"] * options.get("restarts", 1)
    found = getattr(fa, attack)(watched, **options).run(x, LABELS, sample_ids=ids)
    climbed = [draw for _, draw, grad in watched.calls if grad]
    judged = [draw for _, draw, grad in watched.calls if not grad]
    assert len(set(climbed)) == len(climbed) == 3 * steps  # other noise for each draw of each step
    common = sorted(set(judged))
    assert len(common) == 3  # the same noise at every step and restart
    assert len(judged) >= 3 * (1 if attack == "DIM" else steps + 1)  # DIM returns the last
    assert not set(common) & {0, *climbed}
    assert {names for names, _, _ in watched.calls} == {tuple(ids.tolist())}
    # what is told of the result is its mean loss in just these draws, made here by hand
    outputs = [watched.model(watched.purifier.purify(found.adversarial, sample_ids=ids, draw=d)) for d in common]
    by_hand = torch.stack([nn.functional.cross_entropy(out, LABELS, reduction="none") for out in outputs]).mean(0)
    torch.testing.assert_close(found.loss, by_hand.detach(), rtol=1e-9, atol=1e-12)


def test_without_eot_the_noise_is_known_also_through_a_view() -> None:
    watched = Watched(purifier(), Classifier())
    fa.PGD(watched, eps=0.1, objective=CE, steps=3, view=fa.views.Noise(std=0.05))(images(), LABELS)
    assert {draw for _, draw, _ in watched.calls} == {0}


# -- side by side ------------------------------------------------------------------------------------------------------


def turning(x: Tensor, t: Tensor) -> Tensor:
    """The estimate of x_0 is -x_t: the identity as a gradient, and the model alone, lead down."""
    share = torch.tensor(SHARES)[t + 1].view(-1, 1, 1, 1)
    return (x * (1 + share.sqrt()) / (1 - share).sqrt()).to(x.dtype)


def test_a_defence_that_is_no_purifier() -> None:
    """A linear model behind a blur: through the blur PGD reaches the closed form, which the blind attack does not."""
    x, w = images(), torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    blur, model = fa.defenses.Blur(1.0), nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(w.T)

    def value(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output[:, 0] - 0 * target[:, 0]

    target = torch.zeros(COUNT, 1, dtype=torch.float64)
    report = adaptive_check(blur(model), x, target, eps=0.05, objective=value, steps=10, draws=1)
    assert [row.name for row in report.rows] == ["blind", "own"]
    pixels = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    through = blur.purify(pixels).flatten(1) @ w  # the response to each pixel
    best = (blur.purify(x).flatten(1) @ w)[:, 0] + 0.05 * float(through.abs().sum())
    torch.testing.assert_close(report.row("own").fresh, best, rtol=1e-9, atol=1e-9)
    assert bool((report.row("blind").fresh < best - 1e-3).all())
    with pytest.raises(ValueError, match=r"ways: wanted some of 'blind', 'own', 'own\+eot', each once, got \['full'\]"):
        adaptive_check(blur(model), x, target, eps=0.05, objective=value, ways=["full"])


def test_blind_beside_adaptive_by_hand() -> None:
    turned = fa.Purifier(Diffusion(turning, SCHEDULE, channels=1), t_star=10, steps=1, gradient="bpda")
    x, target = images(), torch.zeros(COUNT, 1, 8, 8, dtype=torch.float64)
    model = nn.Hardtanh(-3, 3)
    report = adaptive_check(turned(model), x, target, eps=0.05, steps=6, draws=3, threshold=0.5, max_batch=3)
    names = ["blind", "full", "bpda", "surrogate", "full+eot", "bpda+eot", "surrogate+eot"]
    assert [row.name for row in report.rows] == names
    for row in (report.clean, *report.rows):
        losses = [(model(turned.purify(row.adversarial, draw=d)) - target).square().mean((1, 2, 3)) for d in range(4)]
        fresh = torch.stack(losses[1:])
        torch.testing.assert_close(row.known, losses[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(row.fresh, fresh.mean(0), rtol=1e-9, atol=1e-12)
        assert row.fooled is not None
        assert torch.equal(row.fooled, (fresh > 0.5).double().mean(0))
        assert float((row.adversarial - x).abs().max()) <= 0.05
    assert torch.equal(report.row("blind").adversarial, fa.PGD(model, eps=0.05, steps=6)(x, target))
    full = turned.replaced(gradient="full")(model)
    assert torch.equal(report.row("full+eot").adversarial, fa.PGD(full, eps=0.05, steps=6, eot=4)(x, target))
    rises = {row.name: float(report.rise(row).mean()) for row in report.rows}
    assert report.strongest.name == max(rises, key=lambda name: rises[name])
    assert report.strongest.name in ("full", "surrogate", "full+eot", "surrogate+eot")
    assert min(rises["full"], rises["full+eot"]) > 10 * max(rises["blind"], rises["bpda"], rises["bpda+eot"], 0.0)
    torch.testing.assert_close(report.worst, torch.stack([report.rise(row) for row in report.rows]).amax(0))
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines if "strongest" in line] == [report.strongest.name]
    assert all(any(line.startswith(name + " ") for line in lines) for name in ("clean", *names))


def test_an_attack_on_known_noise_is_told_to_average() -> None:
    """|f x + n|^2 rises along sign(f x + n): in noise far above x one draw points anywhere, the mean along x."""
    noisy = purifier(t_star=60, steps=2)
    x, target = torch.full((COUNT, 1, 8, 8), 0.04).double(), torch.zeros(COUNT, 1, 8, 8).double()
    options: dict[str, Any] = {"eps": 0.04, "steps": 8}
    report = fa.strength_check(noisy(nn.Identity()), x, target, **options, restarts=2, queries=10)
    told = report.adaptive
    assert told is not None
    rises = {row.name: float(told.rise(row).mean()) for row in told.rows}
    assert rises["full+eot"] > 1.1 * rises["full"]
    assert told.strongest.name in ("blind", "full+eot")  # alone, this model has its slope along x, too
    assert any(text.startswith("fresh noise") and "eot=4" in text for text in report.warnings)
    assert {"blind", "full", "bpda", "surrogate", "full+eot"} <= report.rises.keys()
    assert str(told) in str(report)
    averaged = fa.strength_check(noisy(nn.Identity()), x, target, **options, restarts=2, queries=10, eot=4)
    assert averaged.adaptive is not None
    assert not any(finding.name == "fresh noise" for finding in averaged.findings)
    assert [row.name for row in averaged.adaptive.rows] == ["blind", "full+eot", "bpda+eot", "surrogate+eot"]


def test_a_targeted_attack_goes_down() -> None:
    x, target = images(), images(9)
    report = adaptive_check(
        purifier()(nn.Identity()), x, target, eps=0.05, steps=5, targeted=True, ways=["blind", "full"], draws=2
    )
    assert all(float(report.rise(row).min()) > 0 for row in report.rows)
    assert float((report.row("full").fresh - report.clean.fresh).max()) < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": []}, "ways: wanted some of 'blind', 'full'"),
        ({"ways": ["full", "full"]}, "ways: wanted some of .* each once"),
        ({"ways": ["grey"]}, r"ways: wanted some of .* got \['grey'\]"),
        ({"eot": 1}, "eot: wanted a whole number >= 2, got 1"),
        ({"draws": 0}, "draws: wanted a whole number >= 1, got 0"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adaptive_check(purifier()(Classifier()), images(), LABELS, eps=0.1, objective=CE, **options)
    with pytest.raises(TypeError, match=r"model: wanted a model behind a defence, purifier\(model\), got Classifier"):
        adaptive_check(Classifier(), images(), LABELS, eps=0.1, objective=CE)  # type: ignore[arg-type]
    report = fa.strength_check(Classifier(), images(), LABELS, eps=0.1, objective=CE, steps=4, restarts=2, queries=4)
    assert report.adaptive is None
