"""ART's attacks on this engine: the same images as ART's own classes, and numbers that follow by hand."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

theirs = pytest.importorskip("art.attacks.evasion", reason="adversarial-robustness-toolbox is not installed")

from art.defences.preprocessor import FeatureSqueezing  # noqa: E402
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402
from art.exceptions import EstimatorError  # noqa: E402
from art.summary_writer import SummaryWriter  # noqa: E402

from fastattack.compat import art as ours  # noqa: E402

Array = np.ndarray[Any, Any]
COUNT, SHAPE, CLASSES = 7, (3, 4, 4), 5


def net(seed: int = 0) -> nn.Module:
    """Smooth, so that no sign hangs on the last bit."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, CLASSES)).eval()


def classifier(model: nn.Module | None = None, *, clip: Any = (0.0, 1.0), loss: Any = None, **options: Any) -> Any:
    return PyTorchClassifier(
        net() if model is None else model, loss=nn.CrossEntropyLoss() if loss is None else loss, input_shape=SHAPE,
        nb_classes=options.pop("nb_classes", CLASSES), clip_values=clip, device_type="cpu", **options,
    )  # fmt: skip


def images(seed: int = 0) -> Array:
    """Some of them at the ends of [0, 1], so that clip values matter."""
    x = np.random.default_rng(seed).random((COUNT, *SHAPE), dtype=np.float32)
    return np.where(x > 0.8, np.float32(1), np.where(x < 0.2, np.float32(0), x))


def labels(estimator: Any, x: Array, *, off: int = 0) -> Array:
    return (estimator.predict(x).argmax(1) + off) % CLASSES


def ran(package: Any, name: str, estimator: Any, x: Array, y: Any, mask: Any = None, **options: Any) -> Array:
    np.random.seed(3)  # noqa: NPY002 (what ART draws from)
    options = {"batch_size": 3, **options} | ({} if name == "FastGradientMethod" else {"verbose": False})
    extra = {} if mask is None else {"mask": mask}
    return getattr(package, name)(estimator, **options).generate(x, y, **extra)


def agree(name: str, estimator: Any, x: Array, y: Any, *, tolerance: float = 1e-5, **options: Any) -> Array:
    """Theirs and ours, which must have moved; and both have drawn as many numbers."""
    wanted = ran(theirs, name, estimator, x.copy(), y, **options)
    drawn = np.random.random()  # noqa: NPY002
    found = ran(ours, name, estimator, x.copy(), y, **options)
    assert np.random.random() == drawn  # noqa: NPY002
    assert found.dtype == x.dtype
    assert np.abs(found - wanted).max() < tolerance
    moved = np.abs(wanted - x).reshape(len(x), -1).max(1)
    assert (moved > 1e-3).all()
    return found


# -- the same images as ART -------------------------------------------------------------------------------------------

BALLS = [(np.inf, 0.1, 0.03), ("inf", 0.1, 0.03), (2, 0.8, 0.3)]


@pytest.mark.parametrize("clip", [(0.0, 1.0), None])
@pytest.mark.parametrize("starts", [0, 1, 3])
@pytest.mark.parametrize(("norm", "eps", "step"), BALLS)
def test_pgd_gives_art_s_images(norm: Any, eps: float, step: float, starts: int, clip: Any):
    estimator, x = classifier(clip=clip), images()
    agree(
        "ProjectedGradientDescent", estimator, x, labels(estimator, x), norm=norm, eps=eps, eps_step=step, max_iter=8,
        num_random_init=starts,
    )  # fmt: skip


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "eps", "step"), BALLS)
def test_pgd_with_momentum_mask_and_targets_gives_art_s_images(norm: Any, eps: float, step: float, targeted: bool):
    estimator, x = classifier(), images()
    mask = (np.random.default_rng(1).random(x.shape) > 0.4).astype(np.float32)
    found = agree(
        "ProjectedGradientDescent", estimator, x, labels(estimator, x, off=int(targeted)), norm=norm, eps=eps,
        eps_step=step, max_iter=6, num_random_init=1, decay=0.9, targeted=targeted, mask=mask,
    )  # fmt: skip
    assert np.array_equal(found[mask == 0], x[mask == 0])


def test_bim_and_mim_give_art_s_images_also_from_the_model_s_own_labels():
    estimator, x = classifier(), images()
    agree("BasicIterativeMethod", estimator, x, None, eps=0.1, eps_step=0.03, max_iter=6)
    agree("MomentumIterativeMethod", estimator, x, None, norm=2, eps=0.5, eps_step=0.2, max_iter=6)


@pytest.mark.parametrize("starts", [0, 1, 3])
@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.15), (2, 1.0), (1, 2.0)])
def test_fgm_gives_art_s_images(norm: Any, eps: float, starts: int):
    if norm == 1 and starts:
        pytest.skip("ART shrinks into the l1 ball where ours takes the nearest point")
    estimator, x = classifier(), images()
    agree("FastGradientMethod", estimator, x, labels(estimator, x), norm=norm, eps=eps, num_random_init=starts)


@pytest.mark.parametrize(("norm", "eps", "step"), [(np.inf, 1.0, 0.03), (2, 6.0, 0.1), (1, 9.0, 0.2)])
def test_minimal_fgm_gives_art_s_images(norm: Any, eps: float, step: float):
    estimator, x = classifier(), images()
    y = labels(estimator, x)
    found = agree(
        "FastGradientMethod", estimator, x, y, norm=norm, eps=eps, eps_step=step, minimal=True, tolerance=3e-5
    )
    if norm == np.inf:  # one length less would not have done: by hand, from the model
        assert (labels(estimator, found) != y).any()
        for one, adv, label in zip(x, found, y, strict=True):
            count = round(float(np.abs(adv - one).max() / step))
            at = torch.tensor(one[None], requires_grad=True)
            nn.functional.cross_entropy(estimator.model(at), torch.tensor([label])).backward()
            told = [
                int(estimator.model((at + k * step * at.grad.sign()).clamp(0, 1)).argmax()) == label
                for k in range(1, count + 1)
            ]
            assert told == [True] * (count - 1) + [labels(estimator, adv[None])[0] == label]


def test_a_radius_of_its_own_for_each_sample():
    estimator, x = classifier(), images()
    y = labels(estimator, x)
    eps = np.linspace(0.02, 0.2, COUNT).reshape(-1, 1, 1, 1)
    found = agree("ProjectedGradientDescent", estimator, x, y, eps=eps, eps_step=eps / 2, max_iter=4)
    assert np.allclose(np.abs(found - x).reshape(COUNT, -1).max(1), eps.ravel(), atol=1e-6)
    full = np.broadcast_to(eps, x.shape)
    same = ran(ours, "ProjectedGradientDescent", estimator, x, y, eps=full, eps_step=full / 2, max_iter=4)
    assert np.array_equal(same, found)
    drawn = ran(ours, "ProjectedGradientDescent", estimator, x, y, norm=2, eps=eps, eps_step=eps / 2, max_iter=3,
                num_random_init=2)  # fmt: skip
    assert (np.sqrt(((drawn - x).astype(float) ** 2).sum((1, 2, 3))) <= eps.ravel() * (1 + 1e-6)).all()
    with pytest.raises(ValueError, match=r"^eps: wanted a number, or one for each sample"):
        ran(ours, "ProjectedGradientDescent", estimator, x, y, eps=x, eps_step=x + 1)


def test_random_eps_draws_as_art_does():
    estimator, x = classifier(), images()
    agree("ProjectedGradientDescent", estimator, x, labels(estimator, x), eps=0.2, eps_step=0.05, max_iter=3,
          random_eps=True, num_random_init=1)  # fmt: skip


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(weight=torch.arange(1.0, 6.0)), nn.MultiMarginLoss(),
                                  nn.CrossEntropyLoss(label_smoothing=0.2), nn.MSELoss()])  # fmt: skip
def test_other_losses_of_the_estimator(loss: Any):
    estimator, x = classifier(loss=loss), images()
    y = np.eye(CLASSES, dtype=np.float32)[labels(estimator, x, off=1)]
    agree("ProjectedGradientDescent", estimator, x, y, norm=2, eps=0.8, eps_step=0.3, max_iter=4)
    assert loss.reduction == "mean"


def test_probabilities_as_targets():
    estimator, x = classifier(), images()
    y = np.random.default_rng(2).dirichlet(np.ones(CLASSES), COUNT).astype(np.float32)
    agree("ProjectedGradientDescent", estimator, x, y, norm=2, eps=0.8, eps_step=0.3, max_iter=4, targeted=True)


class Curved(PreprocessorPyTorch):  # type: ignore[misc]
    """A defence in torch, with a gradient of its own."""

    def __init__(self) -> None:
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=False, apply_predict=True)

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        return x**2 + 0.1 * x, y


MEANS = (np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25]))


@pytest.mark.parametrize("options", [
    {"preprocessing": MEANS},
    {"preprocessing": (0.5, 0.25), "preprocessing_defences": [Curved()]},
    {"preprocessing": MEANS, "preprocessing_defences": [FeatureSqueezing(clip_values=(0, 1), bit_depth=6)]},
], ids=["standardised", "torch", "numpy"])  # fmt: skip
def test_preprocessing_is_part_of_the_model(options: dict[str, Any]):
    estimator, x = classifier(**options), images()
    agree("ProjectedGradientDescent", estimator, x, labels(estimator, x), norm=2, eps=0.6, eps_step=0.2, max_iter=3)


def test_a_change_of_the_preprocessing_is_seen_by_the_next_call():
    estimator, x = classifier(preprocessing=MEANS), images()
    y = labels(estimator, x)
    attack = ours.ProjectedGradientDescent(estimator, norm=2, eps=0.6, eps_step=0.2, max_iter=3, verbose=False)
    first = attack.generate(x, y)
    estimator.set_params(preprocessing=(0.1, 3.0))
    fresh = ours.ProjectedGradientDescent(estimator, norm=2, eps=0.6, eps_step=0.2, max_iter=3, verbose=False)
    assert np.array_equal(attack.generate(x, y), fresh.generate(x, y))
    assert not np.array_equal(attack.generate(x, y), first)


# -- by hand ----------------------------------------------------------------------------------------------------------


def linear() -> tuple[Any, Array]:
    """Two classes, (estimator, direction): the loss of class 0 rises along the direction everywhere."""
    weights = np.random.default_rng(5).normal(size=(2, 48)).astype(np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(weights))
    return classifier(model, clip=None, nb_classes=2), (weights[1] - weights[0]).astype(np.float64).reshape(SHAPE)


@pytest.mark.parametrize(("norm", "wanted"), [
    (np.inf, lambda d: 0.05 * np.sign(d)),
    (2, lambda d: 0.05 * d / np.sqrt((d**2).sum())),
    (1, lambda d: 0.05 * np.sign(d) * (np.abs(d) == np.abs(d).max())),
])  # fmt: skip
@pytest.mark.parametrize("form", ["index", "column", "one-hot"])
def test_a_linear_model_by_hand(norm: Any, wanted: Any, form: str):
    estimator, direction = linear()
    y = {"index": np.zeros(COUNT, int), "column": np.zeros((COUNT, 1)), "one-hot": np.eye(2)[np.zeros(COUNT, int)]}[
        form
    ]
    x = images() * 0.3
    found = ran(ours, "ProjectedGradientDescent", estimator, x, y, norm=norm, eps=0.05, eps_step=0.02, max_iter=4)
    assert np.abs(found - x - wanted(direction)).max() < 1e-6
    back = ran(ours, "ProjectedGradientDescent", estimator, x, y, norm=norm, eps=0.05, eps_step=0.02, max_iter=4,
               targeted=True)  # fmt: skip
    assert np.abs(back - x + wanted(direction)).max() < 1e-6


def test_float64_keeps_every_digit_of_what_the_mask_holds():
    estimator, direction = linear()
    x = np.random.default_rng(7).random((COUNT, *SHAPE))
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3] = True
    found = ran(ours, "ProjectedGradientDescent", estimator, x, np.zeros(COUNT, int), eps=0.05, eps_step=0.02,
                max_iter=4, mask=mask)  # fmt: skip
    assert found.dtype == np.float64
    assert np.array_equal(found[..., ~mask], x[..., ~mask])
    assert np.abs((found - x - 0.05 * np.sign(direction))[..., mask]).max() < 1e-6


def test_no_steps_and_no_radius_leave_the_input():
    estimator, x = classifier(), images()
    y = labels(estimator, x)
    assert np.array_equal(ran(ours, "ProjectedGradientDescent", estimator, x, y, max_iter=0), x)
    assert np.array_equal(ran(ours, "ProjectedGradientDescent", estimator, x, y, eps=0, eps_step=1, max_iter=2), x)
    assert np.array_equal(ran(ours, "FastGradientMethod", estimator, x, y, eps=0), x)


# -- APGD and Square --------------------------------------------------------------------------------------------------


def size(norm: Any, d: Array) -> Array:
    flat = np.abs(d.astype(np.float64)).reshape(len(d), -1)
    return {np.inf: flat.max(1), 2: np.sqrt((flat**2).sum(1)), 1: flat.sum(1)}[norm]


def loss_of(estimator: Any, x: Array, y: Array) -> Array:
    with torch.no_grad():
        found = nn.functional.cross_entropy(estimator.model(torch.from_numpy(x)), torch.from_numpy(y), reduction="none")
    return found.numpy()


@pytest.mark.parametrize("loss", [None, "cross_entropy", "difference_logits_ratio"])
@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.06), (2, 0.4), (1, 1.5)])
def test_apgd_fools_as_many_as_art_s_does(norm: Any, eps: float, loss: str | None):
    estimator, x = classifier(), images()
    y = labels(estimator, x)
    y[0] = (y[0] + 1) % CLASSES  # not classified as labelled: left as it is
    options = {"norm": norm, "eps": eps, "eps_step": eps, "max_iter": 15, "nb_random_init": 2, "loss_type": loss}
    found = ran(ours, "AutoProjectedGradientDescent", estimator, x.copy(), y, **options)
    wanted = ran(theirs, "AutoProjectedGradientDescent", estimator, x.copy(), y, **options)
    assert (labels(estimator, found) != y).sum() >= (labels(estimator, wanted) != y).sum()
    assert np.array_equal(found[0], x[0])
    assert (size(norm, found - x) <= eps * (1 + 1e-6)).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (loss_of(estimator, found, y) > loss_of(estimator, x, y))[1:].all()


def test_targeted_apgd_comes_nearer_to_its_targets_and_keeps_the_mask():
    estimator, x = classifier(), images()
    y = labels(estimator, x, off=2)
    mask = np.ones(SHAPE, dtype=np.float32)
    mask[:, :2] = 0
    found = ran(ours, "AutoProjectedGradientDescent", estimator, x, y, targeted=True, max_iter=10, mask=mask)
    assert (loss_of(estimator, found, y) < loss_of(estimator, x, y)).all()
    assert np.array_equal(found[:, :, :2], x[:, :, :2])


@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.15), (2, 1.2)])
def test_square_searches_inside_the_ball_and_repeats_with_numpy_s_seed(norm: Any, eps: float):
    estimator, x = classifier(), images()
    y = labels(estimator, x)
    y[0] = (y[0] + 1) % CLASSES
    options = {"norm": norm, "eps": eps, "max_iter": 60, "nb_restarts": 2}
    found = ran(ours, "SquareAttack", estimator, x, y, **options)
    assert np.array_equal(found, ran(ours, "SquareAttack", estimator, x, y, **options | {"batch_size": 5}))
    assert (labels(estimator, found) != y).sum() >= 3
    assert np.array_equal(found[0], x[0])
    assert (size(norm, found - x) <= eps * (1 + 1e-6)).all()
    assert found.min() >= 0
    assert found.max() <= 1


# -- restorers --------------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """A restorer whose gradients are known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(0.75))

    def forward(self, x: Tensor) -> Tensor:
        return self.by * x


def denoising() -> tuple[Any, Array, Array]:
    clean = images(3) * 0.8
    return ours.PyTorchRestorer(Scale()), clean + 0.1 * images(4) - 0.05, clean


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
    for a, b in zip(one.told, other.told, strict=True):
        assert (a["batch"], a["step"], a["targeted"], a["patch"]) == (b["batch"], b["step"], b["targeted"], b["patch"])
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
    assert attack.set_speed("bf16", fold=False) is attack
    assert np.abs(attack.generate(x) - x).max() <= np.float32(0.1)
    assert True in model.seen
    with pytest.raises(ValueError, match=r"^precision: "):
        attack.set_speed("fp8")


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
