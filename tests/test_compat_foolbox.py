"""The foolbox layer beside foolbox itself: the same starts, images, verdicts, defaults and errors."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack.compat.foolbox as fb
from tests.digits import digits, margin

foolbox = pytest.importorskip("foolbox")
eagerpy = pytest.importorskip("eagerpy")

SAME = [
    "LinfProjectedGradientDescentAttack", "L2ProjectedGradientDescentAttack", "LinfBasicIterativeAttack",
    "L2BasicIterativeAttack", "LinfFastGradientAttack", "L2FastGradientAttack",
    "LinfMomentumIterativeFastGradientMethod", "L2MomentumIterativeFastGradientMethod",
]  # fmt: skip
L1 = [name.replace("L2", "L1") for name in SAME if name.startswith("L2")]
MINIMAL = ["L2CarliniWagnerAttack", "DDNAttack"]
PREPROCESSED = {"mean": [102.0, 128.0, 153.0], "std": [51.0, 76.0, 64.0], "axis": -3, "flip_axis": -3}


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 5)
        ).eval()  # fmt: skip


def images(low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def pair(bounds: tuple[float, float] = (0, 1), preprocessing: dict | None = None) -> tuple:
    net = network()
    return tuple(m.PyTorchModel(net, bounds, device="cpu", preprocessing=preprocessing) for m in (fb, foolbox))


def both(name: str, run, **options) -> tuple:
    """What run(library, attack) gives for either library from the same random state."""
    found = []
    for library in (fb, foolbox):
        torch.manual_seed(3)
        found.append(run(library, getattr(library.attacks, name)(**options)))
    return tuple(found)


def longest(name: str, range_: float = 1.0) -> float:
    return (0.05 if name.startswith("Linf") else 0.8) * range_


@pytest.mark.parametrize("name", [*SAME, *L1, *MINIMAL])
def test_signatures_and_reprs_are_foolboxs(name):
    ours, theirs = getattr(fb.attacks, name), getattr(foolbox.attacks, name)
    want = [(p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()]
    assert [(p.name, p.kind, p.default) for p in inspect.signature(ours).parameters.values()] == want
    assert repr(ours()) == repr(theirs())
    assert repr(ours().repeat(3).repeat(2)) == repr(theirs().repeat(3).repeat(2))
    assert ours().distance.p == theirs().distance.p
    assert ours().set_speed(precision="bf16").__repr__() == repr(theirs())


@pytest.mark.parametrize("name", ["FGM", "FGSM", "L1PGD", "L2PGD", "LinfPGD", "PGD", "MIFGSM"])
def test_short_names_mean_the_same_classes(name):
    assert getattr(fb.attacks, name).__name__ == getattr(foolbox.attacks, name).__name__


@pytest.mark.parametrize("name", ["LinfPGD", "L2PGD", "L1PGD"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_starts_are_foolboxs_bit_for_bit(name, dtype):
    x = images().to(dtype)

    def start(library, attack):
        given = eagerpy.astensor(x) if library is foolbox else x
        found = attack.get_random_start(given, 0.3)
        return getattr(found, "raw", found), torch.get_rng_state()

    (ours, state), (theirs, their_state) = both(name, start)
    assert torch.equal(ours, theirs)
    assert torch.equal(state, their_state)


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize(
    ("bounds", "preprocessing"), [((0, 1), None), ((-1, 1), None), ((0, 255), PREPROCESSED)], ids=["01", "-11", "0255"]
)
def test_images_are_foolboxs(name, bounds, preprocessing):
    """One epsilon and several, from the same random state; a tolerance of 1e-5 of the range."""
    models, range_ = pair(bounds, preprocessing), bounds[1] - bounds[0]
    x, labels = images(*bounds), torch.tensor([0, 1, 2, 3])
    eps = longest(name, range_)
    for epsilons in (eps, [0.0, 0.3 * eps, eps]):
        ours, theirs = both(name, lambda m, a, e=epsilons: a(models[m is foolbox], x, labels, epsilons=e))
        for kind in (0, 1):
            pairs = (
                [(ours[kind], theirs[kind])] if epsilons is eps else list(zip(ours[kind], theirs[kind], strict=True))
            )
            for one, other in pairs:
                assert (one - other).abs().max() <= 1e-5 * range_
                assert one.shape == other.shape
                assert one.dtype == other.dtype
        assert torch.equal(ours[2], theirs[2])
        assert isinstance(ours[0], list) == isinstance(theirs[0], list)


@pytest.mark.parametrize("name", [n for n in SAME if "FastGradientAttack" not in n])
def test_targeted_images_are_foolboxs(name):
    models, x, wanted = pair(), images(), torch.tensor([3, 2, 1, 0])

    def run(library, attack):
        criterion = library.criteria.TargetedMisclassification(wanted)
        return attack(models[library is foolbox], x, criterion, epsilons=longest(name))

    ours, theirs = both(name, run)
    assert (ours[0] - theirs[0]).abs().max() <= 1e-5
    assert (ours[0] - x).abs().max() > 0.01
    assert torch.equal(ours[2], theirs[2])


@pytest.mark.parametrize("name", ["LinfPGD", "L2PGD"])
def test_repeats_keep_what_foolbox_keeps(name):
    models, x, labels = pair(), images(), network()(images()).argmax(1)
    ours, theirs = both(
        name, lambda m, a: a.repeat(3)(models[m is foolbox], x, labels, epsilons=[0.02, longest(name)]), steps=1
    )
    for k in (0, 1):
        assert (ours[1][k] - theirs[1][k]).abs().max() <= 1e-5
    assert torch.equal(ours[2], theirs[2])


@pytest.mark.parametrize("name", ["LinfPGD", "L2BasicIterativeAttack", "DDNAttack"])
def test_foolboxs_models_criteria_and_tensors_are_taken(name):
    """All that is foolbox's in, eagerpy tensors out."""
    ours, theirs = pair((0, 255), PREPROCESSED)
    x, labels = images(0, 255), torch.tensor([0, 1, 2, 3])
    attack, eps = getattr(fb.attacks, name)(steps=4), longest(name, 255)
    inputs = eagerpy.astensor(x)

    def run(model, given, criterion):
        torch.manual_seed(0)
        return attack(model, given, criterion, epsilons=[eps])

    want = run(ours, x, fb.Misclassification(labels))
    got = run(theirs, inputs, foolbox.Misclassification(labels))
    assert all(isinstance(v, eagerpy.PyTorchTensor) for v in (got[0][0], got[1][0], got[2]))
    assert torch.equal(got[0][0].raw, want[0][0])
    assert torch.equal(got[2].raw, want[2])
    moved = theirs.transform_bounds((0, 1), wrapper=True)
    both_kinds = foolbox.Misclassification(labels) & foolbox.Misclassification(labels)
    with pytest.raises(ValueError, match="unsupported criterion"):
        attack(moved, inputs / 255, both_kinds, epsilons=[eps / 255])
    again = attack(moved, inputs / 255, eagerpy.astensor(labels), epsilons=[eps / 255])
    assert float(again[1][0].raw.max()) <= 1


def test_foolboxs_own_attacks_take_our_model():
    ours, theirs = pair((0, 255), PREPROCESSED)
    x, labels = images(0, 255), torch.tensor([0, 1, 2, 3])
    attack = foolbox.attacks.LinfPGD(random_start=False, steps=3)
    assert torch.equal(attack(ours, x, labels, epsilons=9.0)[0], attack(theirs, x, labels, epsilons=9.0)[0])
    shown, _ = foolbox.samples(ours, dataset="cifar10", batchsize=2)
    assert shown.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("bounds", [(0, 1), (-1.0, 1.0), (0, 255)])
@pytest.mark.parametrize("preprocessing", [None, PREPROCESSED, {"mean": 3, "std": 5}], ids=["none", "all", "numbers"])
def test_models_and_their_other_bounds_are_foolboxs(bounds, preprocessing):
    ours, theirs = pair((0, 1), preprocessing)
    x = images(*bounds)
    for options in ({}, {"wrapper": True}):
        mine, other = (m.transform_bounds(bounds, **options) for m in (ours, theirs))
        assert tuple(mine.bounds) == tuple(other.bounds)
        assert torch.allclose(mine(x), other(x), atol=1e-6)
        assert mine.data_format == other.data_format
    assert tuple(ours.bounds) == (0, 1)
    ours.transform_bounds(bounds, inplace=True)
    assert torch.allclose(ours(x), theirs.transform_bounds(bounds)(x), atol=1e-6)


@pytest.mark.parametrize("p", [0, 1, 2, 3, math.inf])
def test_distances_are_foolboxs(p):
    x, y = images(), images() + torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(9))
    ours, theirs = fb.distances.LpDistance(p), foolbox.distances.LpDistance(p)
    want = theirs(x, y)
    assert torch.allclose(ours(x, y), want, rtol=1e-5)
    assert (repr(ours), str(ours)) == (repr(theirs), str(theirs))
    radius = float(want.median())
    if p == 0:
        assert torch.equal(ours.clip_perturbation(x, y, radius), y)
        with pytest.raises(NotImplementedError):
            ours.clip_perturbation(x, y, radius - 1)
        return
    clipped = ours.clip_perturbation(x, y, radius)
    assert torch.allclose(clipped, theirs.clip_perturbation(x, y, radius), atol=1e-6)
    assert isinstance(ours(eagerpy.astensor(x), eagerpy.astensor(y)), eagerpy.PyTorchTensor)


@pytest.mark.parametrize("name", L1)
def test_l1_attacks_are_at_least_as_strong(name):
    model, x, labels = digits()
    models = [m.PyTorchModel(model, (0, 1), device="cpu") for m in (fb, foolbox)]
    ours, theirs = both(name, lambda m, a: a(models[m is foolbox], x, labels, epsilons=[1.0, 3.0]))
    for k, eps in enumerate((1.0, 3.0)):
        assert bool(((ours[1][k] - x).abs().flatten(1).sum(1) <= eps * (1 + 1e-6)).all())
        assert int(ours[2][k].sum()) >= int(theirs[2][k].sum())
        with torch.no_grad():
            mine, other = (margin(model(found[1][k]), labels).mean() for found in (ours, theirs))
        assert mine >= other


def sizes(x: Tensor, found: Tensor) -> Tensor:
    return (found - x).flatten(1).norm(dim=1)


@pytest.mark.parametrize("targeted", [False, True])
def test_ddn_is_foolboxs(targeted):
    model, x, labels = digits()
    x, labels = x[:16], labels[:16]
    wanted = (labels + 1) % 10
    models = [m.PyTorchModel(model, (0, 1), device="cpu") for m in (fb, foolbox)]

    def run(library, attack):
        criterion = library.TargetedMisclassification(wanted) if targeted else labels
        return attack(models[library is foolbox], x, criterion, epsilons=[None, 0.5])

    ours, theirs = both("DDNAttack", run, steps=40)
    assert ours[2][0].all()
    assert theirs[2][0].all()
    assert torch.equal(ours[2][1], theirs[2][1])
    assert (sizes(x, ours[0][0]) <= sizes(x, theirs[0][0]) + 1e-4).all()
    assert (sizes(x, ours[0][0]) - sizes(x, theirs[0][0])).abs().median() <= 1e-4


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_and_wagner_finds_perturbations_as_small_as_foolboxs(targeted):
    model, x, labels = digits()
    x, labels = x[:12], labels[:12]
    wanted = (labels + 1) % 10
    models = [m.PyTorchModel(model, (0, 1), device="cpu") for m in (fb, foolbox)]

    def run(library, attack):
        criterion = library.TargetedMisclassification(wanted) if targeted else labels
        return attack(models[library is foolbox], x, criterion, epsilons=None)

    options = {"steps": 60, "stepsize": 0.05, "binary_search_steps": 6, "initial_const": 0.01}
    ours, theirs = both("L2CarliniWagnerAttack", run, **options)
    assert ours[2].sum() >= theirs[2].sum()
    at = theirs[2]
    assert sizes(x, ours[1])[at].mean() <= 1.02 * sizes(x, theirs[1])[at].mean()


X, LABELS = images(), torch.tensor([0, 1, 2, 3])
MISTAKES = {
    "above the bounds": lambda m, f: m.attacks.PGD()(f, X + 0.5, LABELS, epsilons=0.1),
    "below the bounds": lambda m, f: m.attacks.DDNAttack()(f, X - 0.5, LABELS, epsilons=None),
    "NaN": lambda m, f: m.attacks.PGD()(f, X * math.nan, LABELS, epsilons=0.1),
    "bounds in run": lambda m, f: m.attacks.PGD().run(f, X + 0.5, LABELS, epsilon=0.1),
    "an image as target": lambda m, f: m.attacks.PGD()(f, X, X, epsilons=0.1),
    "labels too long": lambda m, f: m.attacks.PGD()(f, X, torch.cat([LABELS, LABELS]), epsilons=0.1),
    "labels too long for CW": lambda m, f: m.attacks.L2CarliniWagnerAttack()(f, X, LABELS[:3], epsilons=None),
    "labels that are floats": lambda m, f: m.attacks.PGD()(f, X, LABELS.float(), epsilons=0.1),
    "labels above the classes": lambda m, f: m.attacks.PGD()(f, X, LABELS + 2, epsilons=0.1),
    "labels below 0": lambda m, f: m.attacks.PGD()(f, X, LABELS - 1, epsilons=0.1),
    "labels in a list": lambda m, f: m.attacks.PGD()(f, X, [0, 1, 2, 3], epsilons=0.1),
    "inputs in a list": lambda m, f: m.attacks.PGD()(f, [0.1], LABELS, epsilons=0.1),
    "no epsilon": lambda m, f: m.attacks.PGD()(f, X, LABELS, epsilons=None),
    "none among epsilons": lambda m, f: m.attacks.FGSM()(f, X, LABELS, epsilons=[0.1, None]),
    "epsilons left out": lambda m, f: m.attacks.FGSM()(f, X, LABELS),
    "another keyword": lambda m, f: m.attacks.PGD()(f, X, LABELS, epsilons=0.1, foo=1),
    "another keyword to DDN": lambda m, f: m.attacks.DDNAttack()(f, X, LABELS, epsilons=0.1, foo=1),
    "an option by position": lambda m, f: m.attacks.PGD(0.1),
    "a target for one step": lambda m, f: m.attacks.FGSM()(f, X, m.TargetedMisclassification(LABELS), epsilons=0.1),
    "both criteria": lambda m, f: m.attacks.PGD()(
        f, X, m.Misclassification(LABELS) & m.Misclassification(LABELS), epsilons=0.1
    ),
    "a model without bounds": lambda m, f: m.attacks.PGD()(network(), X, LABELS, epsilons=0.1),
    "repeated no times": lambda m, f: m.attacks.PGD().repeat(0),
    "no module": lambda m, f: m.PyTorchModel(lambda x: x, (0, 1)),
    "another key": lambda m, f: m.PyTorchModel(network(), (0, 1), preprocessing={"scale": 2}),
    "an axis above 0": lambda m, f: m.PyTorchModel(network(), (0, 1), preprocessing={"mean": [1.0] * 3, "axis": 1}),
    "a number beside an axis": lambda m, f: m.PyTorchModel(network(), (0, 1), preprocessing={"std": 2, "axis": -3}),
    "inplace and wrapper": lambda m, f: f.transform_bounds((0, 2), inplace=True, wrapper=True),
    "a criterion's shape": lambda m, f: m.Misclassification(LABELS)(X, torch.zeros(3, 5)),
    "images of integers": lambda m, f: m.attacks.FGSM()(f, (X * 0).byte(), LABELS, epsilons=0.1),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_foolbox_refuses_is_refused_by_the_same_error(name):
    ours, theirs = pair()
    with pytest.raises(Exception) as there:  # noqa: PT011 (the type is what is asked)
        MISTAKES[name](foolbox, theirs)
    with pytest.raises(there.type) as here:
        MISTAKES[name](fb, ours)
    assert str(here.value)


def test_a_module_in_training_mode_is_told_of():
    with pytest.warns(UserWarning, match="training mode"):
        fb.PyTorchModel(network().train(), (0, 1))


def test_accuracy_is_foolboxs():
    ours, theirs = pair()
    labels = network()(X).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    assert fb.accuracy(ours, X, labels) == foolbox.accuracy(theirs, X, labels) == 0.75
    assert fb.utils.accuracy(ours, eagerpy.astensor(X), eagerpy.astensor(labels)) == 0.75
    with pytest.raises(ValueError, match="labels"):
        fb.accuracy(ours, X, labels[:, None])


def test_epsilons_come_in_any_form():
    ours, _ = pair()
    want = fb.attacks.FGSM()(ours, X, LABELS, epsilons=[0.01, 0.02])
    for epsilons in (np.array([0.01, 0.02]), (0.01, 0.02), torch.tensor([0.01, 0.02], dtype=torch.float64)):
        got = fb.attacks.FGSM()(ours, X, LABELS, epsilons=epsilons)
        assert torch.equal(torch.stack(got[0]), torch.stack(want[0]))
    assert torch.equal(fb.attacks.FGSM()(ours, X, LABELS, epsilons=np.float64(0.02))[0], want[0][1])
