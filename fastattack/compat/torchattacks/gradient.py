"""FGSM, BIM and PGD, and what differs from them by the start or the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import attacks as ours
from ...objectives import kl_divergence
from . import checks
from .attack import Attack

Model = Callable[..., Any]
_BOTH = ("default", "targeted")


def uniform(images: Tensor, eps: float) -> Tensor:
    """A random point of the linf ball in [0, 1], drawn as torchattacks draws it."""
    return (images + torch.empty_like(images).uniform_(-eps, eps)).clamp_(0, 1)


def seed() -> int:
    """For our own generators, from torch's global one."""
    return int(torch.randint(2**62, ()))


class VANILA(Attack):
    """The images as they are."""

    def __init__(self, model: Model) -> None:
        super().__init__("VANILA", model)
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Any = None) -> Tensor:
        checks.images(images)
        return images.clone().detach().to(self.device)


class GN(Attack):
    """Gaussian noise of standard deviation std."""

    def __init__(self, model: Model, std: float = 0.1) -> None:
        super().__init__("GN", model)
        self.std = std
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Any = None) -> Tensor:
        checks.images(images)
        checks.numbers(self)
        images = images.detach().to(self.device)
        return (images + self.std * torch.randn_like(images)).clamp_(0, 1)


class FGSM(Attack):
    """The fast gradient sign method (arXiv 1412.6572)."""

    def __init__(self, model: Model, eps: float = 8 / 255) -> None:
        super().__init__("FGSM", model)
        self.eps = eps
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        return self._engine(ours.FGSM, eps=self.eps)(images, goal)


class _Steps(Attack):
    """Sign steps of length alpha in the linf ball."""

    eps: float
    alpha: float
    steps: int

    def _steps(self, images: Tensor, goal: Any, *, start: Tensor | None = None, **options: Any) -> Tensor:
        return self._walk(
            ours.PGD, images, goal, start=start, eps=self.eps, step=self.alpha, steps=self.steps, random_start=False,
            **options,
        )  # fmt: skip


class BIM(_Steps):
    """The basic iterative method (arXiv 1607.02533). steps=0: as many as the paper takes for eps."""

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> None:
        super().__init__("BIM", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = int(min(eps * 255 + 4, 1.25 * eps * 255)) if steps == 0 else steps
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        return self._steps(images, goal)


class PGD(_Steps):
    """Projected gradient descent in the linf ball (arXiv 1706.06083)."""

    def __init__(
        self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, random_start: bool = True
    ) -> None:
        super().__init__("PGD", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = steps
        self.random_start = random_start
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        return self._steps(images, goal, start=uniform(images, self.eps) if self.random_start else None)


class EOTPGD(_Steps):
    """PGD with the mean gradient of eot_iter passes of a random model (arXiv 1907.00895)."""

    def __init__(
        self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, eot_iter: int = 2,
        random_start: bool = True,
    ) -> None:  # fmt: skip
        super().__init__("EOTPGD", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = steps
        self.eot_iter = eot_iter
        self.random_start = random_start
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        start = uniform(images, self.eps) if self.random_start else None
        return self._steps(images, goal, start=start, eot=self.eot_iter, seed=seed())


class RFGSM(_Steps):
    """PGD from a step of alpha along random signs (arXiv 1705.07204)."""

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> None:
        super().__init__("RFGSM", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = steps
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        start = (images + self.alpha * torch.randn_like(images).sign()).clamp_(0, 1)
        return self._steps(images, goal, start=start)


class FFGSM(Attack):
    """One step of alpha from a random point of the linf ball (arXiv 2001.03994)."""

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float = 10 / 255) -> None:
        super().__init__("FFGSM", model)
        self.eps = eps
        self.alpha = alpha
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        noise = torch.randn_like(images).uniform_(-self.eps, self.eps)  # torchattacks draws twice
        return self._walk(
            ours.PGD, images, goal, start=(images + noise).clamp_(0, 1), eps=self.eps, step=self.alpha, steps=1,
            random_start=False,
        )  # fmt: skip


class TPGD(_Steps):
    """PGD on the divergence from the output for the images themselves, as TRADES does (arXiv 1901.08573)."""

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> None:
        super().__init__("TPGD", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = steps
        self.supported_mode = ["default"]

    def forward(self, images: Tensor, labels: Any = None) -> Tensor:
        images, _, _ = self._ready(images, torch.zeros(len(images), dtype=torch.int64))
        with torch.no_grad():
            logits = self.get_logits(images)
        start = (images + 0.001 * torch.randn_like(images)).clamp_(0, 1)
        return self._steps(images, logits, start=start, objective=kl_divergence)


class PGDL2(Attack):
    """Projected gradient descent in the l2 ball (arXiv 1706.06083).

    A gradient of zero moves nothing, so that eps_for_division has no effect.
    """

    def __init__(
        self, model: Model, eps: float = 1.0, alpha: float = 0.2, steps: int = 10, random_start: bool = True,
        eps_for_division: float = 1e-10,
    ) -> None:  # fmt: skip
        super().__init__("PGDL2", model)
        self.eps = eps
        self.alpha = alpha
        self.steps = steps
        self.random_start = random_start
        self.eps_for_division = eps_for_division
        self.supported_mode = [*_BOTH]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        return self._walk(
            ours.PGD, images, goal, start=self._start(images) if self.random_start else None, norm="l2", eps=self.eps,
            step=self.alpha, steps=self.steps, random_start=False,
        )  # fmt: skip

    def _start(self, images: Tensor) -> Tensor:
        """A random direction, and a length uniform up to eps: drawn as torchattacks draws it."""
        delta = torch.empty_like(images).normal_()
        wide = (-1, *[1] * (images.dim() - 1))
        norm = delta.flatten(1).norm(dim=1).view(wide)
        length = torch.zeros_like(norm).uniform_(0, 1)
        start: Tensor = images + delta * (length / norm * self.eps)
        return start.clamp_(0, 1)
