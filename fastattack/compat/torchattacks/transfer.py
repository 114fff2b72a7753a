"""Attacks with momentum, made to transfer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ... import attacks as ours
from ...objectives import Objective, cross_entropy, cw_margin, dlr, dlr_targeted
from ...views import smoothing_kernel
from . import checks
from .attack import Attack
from .gradient import seed, uniform

Model = Callable[..., Any]
_BOTH = ("default", "targeted")
KERNELS = ("gaussian", "linear", "uniform")


class _Momentum(Attack):
    """Steps of length alpha along the signs of the accumulated gradients, in the linf ball."""

    eps: float
    alpha: float
    steps: int
    decay: float

    def _steps(self, kind: Callable[..., Any], images: Tensor, goal: Any, **options: Any) -> Tensor:
        checks.real(self, "decay", positive=False)
        return self._walk(
            kind, images, goal, eps=self.eps, step=self.alpha, steps=self.steps, decay=self.decay, random_start=False,
            **options,
        )  # fmt: skip


class MIFGSM(_Momentum):
    """MI-FGSM (arXiv 1710.06081)."""

    _name = "MIFGSM"
    _kind: type[ours.MIFGSM] = ours.MIFGSM

    def __init__(
        self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 1.0
    ) -> None:
        super().__init__(self._name, model)
        self.eps = eps
        self.steps = steps
        self.decay = decay
        self.alpha = alpha
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        return self._steps(self._kind, images, goal)


class NIFGSM(MIFGSM):
    """NI-FGSM (arXiv 1908.06281). The point ahead is brought into the ball before the model sees it."""

    _name = "NIFGSM"
    _kind = ours.NIFGSM


class Resized:
    """A view: with a probability, the images at a random size, padded with zeros at a random place; one draw a batch.

    Between ``rate`` of the image's width and its full width, or for rate > 1 between its full width and so much of it.
    Square, as torchattacks makes it; drawn from the engine's generator.
    """

    moves_target = False

    def __init__(self, rate: float, probability: float) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"resize_rate: wanted a number > 0, got {rate!r}")
        if not 0 <= probability <= 1:
            raise ValueError(f"diversity_prob: wanted a number in [0, 1], got {probability!r}")
        self.rate, self.probability = rate, probability

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        width = x.shape[-1]
        small, large = sorted((width, int(width * self.rate)))
        size = _below(max(small, 1), large, generator)
        top, left = _below(0, large - size, generator), _below(0, large - size, generator)
        if float(torch.rand((), generator=generator)) >= self.probability:
            return x
        resized = functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        return functional.pad(resized, (left, large - size - left, top, large - size - top))


def _below(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high - 1; low where there is none."""
    return low if high <= low else int(torch.randint(low, high, (), generator=generator))


class DIFGSM(_Momentum):
    """DI2-FGSM (arXiv 1803.06978): gradients through random resizing and padding."""

    def __init__(
        self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 0.0,
        resize_rate: float = 0.9, diversity_prob: float = 0.5, random_start: bool = False,
    ) -> None:  # fmt: skip
        super().__init__("DIFGSM", model)
        self.eps = eps
        self.steps = steps
        self.decay = decay
        self.alpha = alpha
        self.resize_rate = resize_rate
        self.diversity_prob = diversity_prob
        self.random_start = random_start
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        start = uniform(images, self.eps) if self.random_start else None
        view = Resized(self.resize_rate, self.diversity_prob)
        return self._steps(ours.MIFGSM, images, goal, start=start, view=view, seed=seed())


class TIFGSM(_Momentum):
    """TI-FGSM with DI (arXiv 1904.02884): gradients smoothed by a kernel, through random resizing and padding.

    Images may have any number of channels.
    """

    def __init__(
        self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 0.0,
        kernel_name: str = "gaussian", len_kernel: int = 15, nsig: float = 3, resize_rate: float = 0.9,
        diversity_prob: float = 0.5, random_start: bool = False,
    ) -> None:  # fmt: skip
        super().__init__("TIFGSM", model)
        self.eps = eps
        self.steps = steps
        self.decay = decay
        self.alpha = alpha
        self.resize_rate = resize_rate
        self.diversity_prob = diversity_prob
        self.random_start = random_start
        self.kernel_name = kernel_name
        self.len_kernel = len_kernel
        self.nsig = nsig
        if kernel_name not in KERNELS:
            wanted = ", ".join(map(repr, KERNELS))
            raise NotImplementedError(f"kernel_name: wanted one of {wanted}, got {kernel_name!r}")
        self._smooth()
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        start = uniform(images, self.eps) if self.random_start else None
        view = Resized(self.resize_rate, self.diversity_prob)
        return self._steps(ours.MIFGSM, images, goal, start=start, view=view, smooth=self._smooth(), seed=seed())

    def _smooth(self) -> Tensor:
        """The kernel; a Gaussian's ends lie ``nsig`` standard deviations out."""
        checks.real(self, "nsig", positive=True)
        checks.whole(self, "len_kernel", 1)
        if self.len_kernel % 2 == 0:
            raise ValueError(f"len_kernel: wanted an odd whole number, got {self.len_kernel}")
        reach = (self.len_kernel - 1) / 2 / self.nsig
        sigma = reach if self.kernel_name == "gaussian" and reach > 0 else None
        return smoothing_kernel(self.len_kernel, kind=self.kernel_name, sigma=sigma)


class SINIFGSM(_Momentum):
    """SI-NI-FGSM (arXiv 1908.06281): NI-FGSM with the mean gradient of m copies, each half as bright as the one before.

    The point ahead is brought into the ball before the model sees it.
    """

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        decay: float = 1.0,
        m: int = 5,
    ) -> None:
        super().__init__("SINIFGSM", model)
        self.eps = eps
        self.steps = steps
        self.decay = decay
        self.alpha = alpha
        self.m = m
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        checks.whole(self, "m", 1)
        return self._steps(ours.SINIFGSM, images, goal, copies=self.m)


class VMIFGSM(_Momentum):
    """VMI-FGSM (arXiv 2103.15571): MI-FGSM with the gradient's variance among N neighbours within beta eps."""

    _kind: Callable[..., Any] = ours.VMIFGSM

    def __init__(
        self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 1.0,
        N: int = 5, beta: float = 3 / 2,
    ) -> None:  # fmt: skip
        super().__init__(type(self).__name__, model)
        self.eps = eps
        self.steps = steps
        self.decay = decay
        self.alpha = alpha
        self.N = N
        self.beta = beta
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        checks.whole(self, "N", 1)
        checks.real(self, "beta", positive=True)
        return self._steps(type(self)._kind, images, goal, neighbours=self.N, spread=self.beta, seed=seed())


class VNIFGSM(VMIFGSM):
    """VNI-FGSM (arXiv 2103.15571): VMI-FGSM that looks one step of momentum ahead, inside the ball."""

    _kind = ours.VNIFGSM


class UPGD(_Momentum):
    """PGD, MI-FGSM and EOT in one: ``loss`` "ce", "dlr" or "margin", momentum ``decay``, ``eot_iter`` passes a step."""

    def __init__(
        self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, random_start: bool = False,
        loss: str = "ce", decay: float = 1.0, eot_iter: int = 1,
    ) -> None:  # fmt: skip
        super().__init__("UPGD", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = steps
        self.random_start = random_start
        self.loss = loss
        self.decay = decay
        self.eot_iter = eot_iter
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, given, goal = self._ready(images, labels)
        start = uniform(images, self.eps) if self.random_start else None
        both = self.targeted and self.loss == "dlr"
        return self._steps(
            ours.MIFGSM, images, torch.stack((given, goal), 1) if both else goal, start=start,
            objective=loss_of(self.loss, self.targeted), eot=self.eot_iter, seed=seed() if self.eot_iter > 1 else 0,
        )  # fmt: skip


def loss_of(name: Any, targeted: bool) -> Objective:
    """The loss of this name. For "dlr", a targeted attack compares with (label, target)."""
    known: dict[str, Objective] = {
        "ce": cross_entropy,
        "dlr": dlr_targeted if targeted else dlr,
        "margin": cw_margin(kappa=0, targeted=targeted),
    }
    if not isinstance(name, str):
        raise TypeError(
            f"loss: wanted a name, got {type(name).__name__}; for one of your own: fastattack.MIFGSM(objective=...)"
        )
    if name not in known:
        raise ValueError(f"loss: wanted one of {', '.join(map(repr, known))}, got {name!r}")
    return known[name]
