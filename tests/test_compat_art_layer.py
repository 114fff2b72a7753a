"""Around ART's attacks on this engine: restorers, the model left as found, summary writers, bad input."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")

from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from art.summary_writer import SummaryWriter

from tests.art_subjects import (
    CLASSES,
    COUNT,
    MEANS,
    SHAPE,
    Array,
    Scale,
    agree,
    classifier,
    denoising,
    images,
    labels,
    net,
    ours,
    ran,
    theirs,
)

# -- restorers --------------------------------------------------------------------------------------------------------


def test_a_restorer_by_hand():
    estimator, x, clean = denoising()
    error = 0.75 * x.astype(np.float64) - clean
    assert np.allclose(estimator.predict(x, batch_size=2), 0.75 * x)
    assert np.allclose(estimator.loss_gradient(x, clean), 2 * 0.75 * error / x[0].size / COUNT, atol=1e-8)
    assert np.allclose(estimator.compute_loss(x, clean), (error**2).mean((1, 2, 3)))
    options = {"eps": 0.02, "eps_step": 0.008, "max_iter": 4}
    found = ran(ours, "ProjectedGradientDescent", estimator, x, clean, **options)
    clear = np.abs(error) > 0.02  # no sign turns on the way down
    assert np.abs(found - x - 0.02 * np.sign(error))[clear].max() < 1e-6
    down = ran(ours, "ProjectedGradientDescent", estimator, x, clean, targeted=True, **options)
    assert np.abs(down - x + 0.02 * np.sign(error))[clear].max() < 1e-6
    gray = ours.PyTorchRestorer(Scale(), loss=nn.L1Loss(), clip_values=(0, 1))
    inside = np.clip(x, 0, 1)
    found = ran(ours, "FastGradientMethod", gray, inside, clean, eps=0.02)
    wanted = np.clip(inside + 0.02 * np.sign(0.75 * inside - clean), 0, 1)
    assert np.abs(found - wanted).max() < 1e-6


def test_art_s_own_pgd_takes_the_restorer_and_gives_the_same_images():
    estimator, x, clean = denoising()
    agree("ProjectedGradientDescent", estimator, x, clean, norm=2, eps=0.5, eps_step=0.2, max_iter=4)


def test_a_restorer_s_starts_keep_the_best_loss():
    estimator, x, clean = denoising()
    options = {"norm": 2, "eps": 0.5, "eps_step": 0.05, "max_iter": 2}
    many = ran(ours, "ProjectedGradientDescent", estimator, x, clean, num_random_init=4, batch_size=COUNT, **options)
    np.random.seed(3)  # noqa: NPY002
    one = ours.ProjectedGradientDescent(estimator, num_random_init=1, batch_size=COUNT, verbose=False, **options)
    each = np.stack([estimator.compute_loss(one.generate(x, clean), clean) for _ in range(4)])
    assert np.array_equal(estimator.compute_loss(many, clean), each.max(0))
    assert len(set(each.argmax(0))) > 1
    away = ran(ours, "ProjectedGradientDescent", estimator, x, None, num_random_init=1, eps=0.1, max_iter=3)
    assert (estimator.compute_loss(away, 0.75 * x) > 0.004).all()


def test_square_and_a_per_sample_objective_on_a_restorer():
    import fastattack as fa

    estimator, x, clean = denoising()
    found = ran(ours, "SquareAttack", estimator, x, clean, eps=0.05, max_iter=30)
    assert (estimator.compute_loss(found, clean) > estimator.compute_loss(x, clean)).all()
    sharp = ours.PyTorchRestorer(Scale(), loss=fa.objectives.charbonnier())
    found = ran(ours, "ProjectedGradientDescent", sharp, x, clean, eps=0.05, eps_step=0.02, max_iter=4)
    assert (sharp.compute_loss(found, clean) > sharp.compute_loss(x, clean)).all()


def test_what_a_restorer_is_not_for():
    estimator, x, clean = denoising()
    for name in ("fit", "get_activations"):
        with pytest.raises(NotImplementedError, match="PyTorchRestorer"):
            getattr(estimator, name)(x, clean)
    with pytest.raises(ValueError, match=r"^y: wanted clean images"):
        ran(ours, "ProjectedGradientDescent", estimator, x, None)
    with pytest.raises(ValueError, match=r"^minimal: wanted False"):
        ran(ours, "FastGradientMethod", estimator, x, clean, minimal=True)
    with pytest.raises(EstimatorError):
        ours.AutoProjectedGradientDescent(estimator)
    with pytest.raises(TypeError, match=r"^loss: "):
        ours.PyTorchRestorer(Scale(), loss=nn.MSELoss)


# -- what is left behind, and what is shown ---------------------------------------------------------------------------


def test_the_model_and_torch_s_random_state_are_left_as_found():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, CLASSES)
    )
    estimator, x = classifier(model, preprocessing=MEANS), images()
    model.train()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    for name in ("ProjectedGradientDescent", "FastGradientMethod", "AutoProjectedGradientDescent", "SquareAttack"):
        fewer = {} if name == "FastGradientMethod" else {"max_iter": 2}
        ran(ours, name, estimator, x, None, **fewer)
    bad = np.full_like(x, np.inf)
    with pytest.raises(ValueError, match=r"^x: wanted finite"):
        ran(ours, "FastGradientMethod", estimator, bad, None)
    assert [m.training for m in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


class Recorder(SummaryWriter):  # type: ignore[misc]
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.resets = 0

    def update(self, batch_id: int, global_step: int, **told: Any) -> None:  # type: ignore[override]
        copies = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in told.items()}
        self.told.append({"batch": batch_id, "step": global_step, **copies})

    def reset(self) -> None:
        self.resets += 1


@pytest.mark.parametrize(("name", "options"), [
    ("ProjectedGradientDescent", {"max_iter": 3, "eps": 0.1, "eps_step": 0.04, "targeted": True}),
    ("FastGradientMethod", {"eps": 0.1}),
    ("FastGradientMethod", {"eps": 0.1, "eps_step": 0.03, "minimal": True}),
])  # fmt: skip
def test_a_summary_writer_is_told_what_art_tells_it(name: str, options: dict[str, Any]):
    estimator, x = classifier(), images()
    one, other = Recorder(), Recorder()
    for package, writer in ((theirs, one), (ours, other)):
        ran(package, name, estimator, x.copy(), labels(estimator, x, off=1), summary_writer=writer, **options)
    assert len(one.told) == len(other.told) > 0
    assert one.resets == other.resets == 1
    assert {told["batch"] for told in other.told} == {0, 1, 2}
    for a, b in zip(one.told, other.told, strict=True):
        assert "minimal" in options or a["batch"] == b["batch"]  # ART counts no batches there
        assert (a["step"], a["targeted"], a["patch"]) == (b["step"], b["targeted"], b["patch"])
        assert a["estimator"] is b["estimator"] is estimator
        for key in ("x", "y", "grad"):
            assert np.allclose(a[key], b[key], atol=1e-6), key


def test_a_path_gets_art_s_curves(tmp_path: Any):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    estimator, x, clean = denoising()
    ran(ours, "ProjectedGradientDescent", estimator, x, clean, max_iter=3, summary_writer=str(tmp_path), eps=0.02)
    folders = {p.name for p in (tmp_path / "generate-0").iterdir() if p.is_dir()}
    assert {"gradients_norm-L1_batch-0_0", "gradients_norm-Linf_batch-2_0", "loss_total_batch-1_2"} <= folders
    events = EventAccumulator(str(tmp_path / "generate-0" / "loss_total_batch-0_1"))
    events.Reload()
    curve = events.Scalars("loss/total/batch-0")
    assert [e.step for e in curve] == [0, 1, 2]
    assert np.isclose(curve[0].value, estimator.compute_loss(x, clean)[1])


class Listening(nn.Module):
    """Remembers in which precision it was called with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = net(), set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(torch.is_autocast_enabled("cpu"))
        return self.inner(x)


def test_set_speed_reaches_the_engine():
    model = Listening()
    estimator, x = classifier(model), images()
    attack = ours.ProjectedGradientDescent(estimator, eps=0.1, eps_step=0.03, max_iter=3, verbose=False)
    attack.generate(x)
    assert model.seen == {False}
    assert attack.set_speed(precision="bf16", fold=False) is attack
    assert np.abs(attack.generate(x) - x).max() <= np.float32(0.1)
    assert True in model.seen
    with pytest.raises(ValueError, match=r"^precision: "):
        attack.set_speed(precision="fp8")


# -- bad input --------------------------------------------------------------------------------------------------------


def test_set_params_checks_and_undoes():
    attack = ours.ProjectedGradientDescent(classifier())
    attack.set_params(eps=0.5, norm=2)
    with pytest.raises(ValueError, match=r"^eps: "):
        attack.set_params(max_iter=3, eps=-1.0)
    assert (attack.eps, attack.norm, attack.max_iter) == (0.5, 2, 100)
    with pytest.raises(ValueError, match="'radius'"):
        attack.set_params(radius=1)
    assert "eps=0.5" in repr(attack)
    for kind in ("ProjectedGradientDescent", "FastGradientMethod", "AutoProjectedGradientDescent", "SquareAttack"):
        assert getattr(ours, kind).attack_params == getattr(theirs, kind).attack_params
        assert getattr(ours, kind)._estimator_requirements == getattr(theirs, kind)._estimator_requirements


@pytest.mark.parametrize("name", ["ProjectedGradientDescent", "BasicIterativeMethod", "MomentumIterativeMethod",
                                  "FastGradientMethod", "AutoProjectedGradientDescent", "SquareAttack"])  # fmt: skip
def test_arguments_stand_where_art_s_stand_with_its_defaults(name: str):
    import inspect

    def form(package: Any) -> list[tuple[str, Any, Any]]:
        found = inspect.signature(getattr(package, name).__init__).parameters.values()
        return [(p.name, p.kind, p.default) for p in found]

    assert form(ours) == form(theirs)


BAD = [
    ("ProjectedGradientDescent", {"norm": 0.5}, ValueError, "norm"),
    ("ProjectedGradientDescent", {"eps": -0.1}, ValueError, "eps"),
    ("ProjectedGradientDescent", {"eps": "0.1"}, TypeError, "eps"),
    ("ProjectedGradientDescent", {"eps": np.ones(3)}, TypeError, "eps"),
    ("ProjectedGradientDescent", {"eps": np.ones(3), "eps_step": np.ones(2)}, ValueError, "eps_step"),
    ("ProjectedGradientDescent", {"eps_step": 0}, ValueError, "eps_step"),
    ("ProjectedGradientDescent", {"targeted": 1}, ValueError, "targeted"),
    ("ProjectedGradientDescent", {"num_random_init": 1.0}, TypeError, "num_random_init"),
    ("ProjectedGradientDescent", {"num_random_init": -1}, ValueError, "num_random_init"),
    ("ProjectedGradientDescent", {"batch_size": 0}, ValueError, "batch_size"),
    ("ProjectedGradientDescent", {"max_iter": -1}, ValueError, "max_iter"),
    ("ProjectedGradientDescent", {"decay": -1.0}, ValueError, "decay"),
    ("ProjectedGradientDescent", {"verbose": 1}, ValueError, "verbose"),
    ("FastGradientMethod", {"minimal": 1}, ValueError, "minimal"),
    ("AutoProjectedGradientDescent", {"norm": 3}, ValueError, "norm"),
    ("AutoProjectedGradientDescent", {"eps": 0}, ValueError, "eps"),
    ("AutoProjectedGradientDescent", {"max_iter": 1.5}, ValueError, "max_iter"),
    ("AutoProjectedGradientDescent", {"nb_random_init": 0}, ValueError, "nb_random_init"),
    ("AutoProjectedGradientDescent", {"loss_type": "hinge"}, ValueError, "loss_type"),
    ("SquareAttack", {"p_init": 1.0}, ValueError, "p_init"),
    ("SquareAttack", {"nb_restarts": 0}, ValueError, "nb_restarts"),
]


@pytest.mark.parametrize(("name", "options", "error", "argument"), BAD)
def test_what_art_rejects_is_rejected_with_its_type_and_named(
    name: str, options: dict[str, Any], error: type[Exception], argument: str
):
    estimator = classifier()
    with pytest.raises(error) as told:
        getattr(theirs, name)(estimator, **options)
    with pytest.raises(error, match=f"^{argument}: wanted") as found:
        getattr(ours, name)(estimator, **options)
    assert type(found.value) is type(told.value)


@pytest.mark.parametrize(("options", "argument"), [
    ({"norm": 3}, "norm"), ({"norm": 1, "decay": 1.0}, "norm"), ({"eps": float("nan")}, "eps"),
    ({"batch_size": 2.5}, "batch_size"), ({"summary_writer": 3}, "summary_writer"),
    ({"eps": 0, "random_eps": True}, "eps"),
])  # fmt: skip
def test_what_has_no_meaning_here_is_refused(options: dict[str, Any], argument: str):
    with pytest.raises((ValueError, TypeError), match=f"^{argument}: wanted"):
        ours.ProjectedGradientDescent(classifier(), **options)


def with_nan(x: Array) -> Array:
    return np.where(np.arange(x.size).reshape(x.shape) == 5, np.float32("nan"), x)


@pytest.mark.parametrize(("change", "error", "told"), [
    (lambda x, y: {"x": with_nan(x)}, ValueError, "^x: wanted finite"),
    (lambda x, y: {"x": x + 0.5}, ValueError, "^x: wanted values inside the clip values"),
    (lambda x, y: {"x": torch.from_numpy(x)}, TypeError, "^x: wanted a NumPy array"),
    (lambda x, y: {"y": y + CLASSES}, IndexError, "^y: wanted labels from 0 to 4"),
    (lambda x, y: {"y": y - CLASSES}, IndexError, "^y: wanted labels from 0 to 4"),
    (lambda x, y: {"y": y + 0.5}, ValueError, "^y: wanted whole numbers"),
    (lambda x, y: {"y": y[:3]}, ValueError, "^y: wanted labels"),
    (lambda x, y: {"y": x}, ValueError, "PyTorchRestorer"),
    (lambda x, y: {"y": np.zeros((COUNT, CLASSES))}, ValueError, "^y: wanted rows"),
    (lambda x, y: {"mask": np.ones((2, 2))}, ValueError, "^mask: wanted a shape"),
    (lambda x, y: {"mask": np.ones(SHAPE, int)}, ValueError, "^mask: wanted bool"),
    (lambda x, y: {"mask": -np.ones(SHAPE)}, ValueError, "^mask: wanted finite"),
    (lambda x, y: {"masks": np.ones(SHAPE)}, TypeError, "did you mean 'mask'"),
    (lambda x, y: {"y": None, "targeted": True}, ValueError, "^y: wanted the targets"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_named(change: Any, error: type[Exception], told: str):
    estimator, x = classifier(), images()
    arrays = {"x": x, "y": labels(estimator, x)}
    arrays.update(change(x, arrays["y"]))
    attack = ours.ProjectedGradientDescent(estimator, max_iter=2, targeted=arrays.pop("targeted", False), verbose=False)
    with pytest.raises(error, match=told):
        attack.generate(**arrays)


def test_estimators_that_are_not_known_are_refused():
    class Own(PyTorchClassifier):  # type: ignore[misc]
        def loss_gradient(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

    own = Own(net(), loss=nn.CrossEntropyLoss(), input_shape=SHAPE, nb_classes=CLASSES, device_type="cpu")
    with pytest.raises(TypeError, match=r"^estimator: wanted a classifier whose loss_gradient"):
        ours.ProjectedGradientDescent(own)
    with pytest.raises(EstimatorError):
        ours.ProjectedGradientDescent(net())
    x = images()
    for estimator, told in (
        (classifier(loss=lambda out, y: out.sum()), "attribute reduction"),
        (classifier(loss=nn.BCEWithLogitsLoss()), "BCEWithLogitsLoss"),
        (classifier(clip=(np.zeros(SHAPE), np.arange(1, 49).reshape(SHAPE))), "^clip_values"),
    ):
        with pytest.raises(ValueError, match=told):
            ours.ProjectedGradientDescent(estimator, verbose=False).generate(x)
    soft = classifier(nn.Sequential(net(), nn.Softmax(1)))
    with pytest.raises(ValueError, match=r"^estimator: wanted logits"):
        ours.AutoProjectedGradientDescent(soft)
    with pytest.raises(ValueError, match=r"^norm: wanted np.inf, 'inf' or 2"):
        ours.SquareAttack(classifier(), norm=1)


def test_without_art_the_error_says_what_to_install():
    code = "import sys; sys.modules['art'] = None; import fastattack.compat.art"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RuntimeError: fastattack.compat.art: wanted art" in done.stderr
    assert "fastattack[compat]" in done.stderr
