"""ART's attacks on this engine: the same images as ART's own classes, and numbers that follow by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")

from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch

from tests.art_subjects import (
    CLASSES,
    COUNT,
    MEANS,
    SHAPE,
    Array,
    agree,
    classifier,
    images,
    labels,
    ours,
    ran,
    theirs,
)

# -- the same images as ART -------------------------------------------------------------------------------------------

BALLS = [(np.inf, 0.1, 0.03), ("inf", 0.1, 0.03), (2, 0.8, 0.3)]


@pytest.mark.parametrize("clip", [(0.0, 1.0), None])
@pytest.mark.parametrize("starts", [0, 1, 3])
@pytest.mark.parametrize(("norm", "eps", "step"), BALLS)
def test_pgd_gives_art_s_images(norm: Any, eps: float, step: float, starts: int, clip: Any):
    estimator, x = classifier(clip=clip), images()
    y = labels(estimator, x)
    y[:3] = (y[:3] + 1) % CLASSES  # ART keeps the start whose class is not the model's, whatever the labels say
    agree(
        "ProjectedGradientDescent", estimator, x, y, norm=norm, eps=eps, eps_step=step, max_iter=8,
        num_random_init=starts,
    )  # fmt: skip


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize(("norm", "eps", "step"), BALLS)
def test_pgd_with_momentum_mask_and_targets_gives_art_s_images(
    norm: Any, eps: float, step: float, starts: int, targeted: bool
):
    estimator, x = classifier(), images()
    mask = np.random.default_rng(1).choice(np.array([0, 0.5, 1], dtype=np.float32), x.shape)
    found = agree(
        "ProjectedGradientDescent", estimator, x, labels(estimator, x, off=int(targeted)), norm=norm, eps=eps,
        eps_step=step, max_iter=6, num_random_init=starts, decay=0.9, targeted=targeted, mask=mask,
        batch_size=3 if starts == 1 else COUNT,  # ART's targeted restarts fail on a batch of one
    )  # fmt: skip
    assert np.array_equal(found[mask == 0], x[mask == 0])


def test_bim_and_mim_give_art_s_images_also_from_the_model_s_own_labels():
    estimator, x = classifier(), images()
    agree("BasicIterativeMethod", estimator, x, None, eps=0.1, eps_step=0.03, max_iter=6)
    agree("MomentumIterativeMethod", estimator, x, None, norm=2, eps=0.5, eps_step=0.2, max_iter=6)


@pytest.mark.parametrize(("norm", "eps", "starts"), [
    (np.inf, 0.15, 0), (np.inf, 0.15, 1), (np.inf, 0.15, 3), (2, 1.0, 0), (2, 1.0, 1), (2, 1.0, 3),
    (1, 2.0, 0),  # from elsewhere ART shrinks into the ball, where ours takes the nearest point
])  # fmt: skip
def test_fgm_gives_art_s_images(norm: Any, eps: float, starts: int):
    estimator, x = classifier(clip=None if norm == 1 else (0.0, 1.0)), images()
    agree("FastGradientMethod", estimator, x, labels(estimator, x), norm=norm, eps=eps, num_random_init=starts)


@pytest.mark.parametrize(("norm", "eps", "step"), [(np.inf, 1.0, 0.03), (2, 6.0, 0.1), (1, 9.0, 0.2)])
def test_minimal_fgm_gives_art_s_images(norm: Any, eps: float, step: float):
    estimator, x = classifier(clip=None if norm == 1 else (0.0, 1.0)), images()
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


WEIGHTS = np.linspace(-1, 2, 48, dtype=np.float32).reshape(SHAPE)


class Rounded(Preprocessor):  # type: ignore[misc]
    """A defence in NumPy that is flat almost everywhere, with a gradient that it makes up."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, x: Array, y: Any = None) -> tuple[Array, Any]:
        return np.rint(x * np.float32(64)) / np.float32(64), y

    def estimate_gradient(self, x: Array, grad: Array) -> Array:
        return grad * WEIGHTS * (1 + x)


@pytest.mark.parametrize("options", [
    {"preprocessing": MEANS},
    {"preprocessing": (0.5, 0.25), "preprocessing_defences": [Curved()]},
    {"preprocessing": MEANS, "preprocessing_defences": [Rounded()]},
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
