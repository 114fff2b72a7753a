"""FGSM, BIM and PGD."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine import Models
from .base import Attack, Options, Unpack


class PGD(Attack):
    """Projected gradient descent (Madry et al., arXiv 1706.06083), on restorers and classifiers alike.

    x <- P(x + step * direction(grad objective(model(x), target))), from a random point of the ball.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        eps: radius on the scale of x; a float or (B,).
        objective: per-sample function of (output, target); fa.objectives.mse by default, cross_entropy for classifiers.
        norm: "linf", "l2" or "l1"; "l1" moves the ``sparsity`` share of the pixels with the largest gradients.
        steps, step: number and length of the steps; step=None means 2.5 eps / steps.
        bounds: (low, high) of the pixels, or None. Classifiers want (0, 1).
        options: see `Options`.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, eps: float | Tensor, **options: Unpack[Options]) -> None:
        self.compose(model, options, eps=eps)


class BIM(Attack):
    """The basic iterative method (Kurakin et al., arXiv 1607.02533): PGD from x itself, steps of eps / steps.

    Args and errors: as for PGD.
    """

    def __init__(self, model: Models, *, eps: float | Tensor, **options: Unpack[Options]) -> None:
        steps = options.get("steps", 10)
        known = isinstance(steps, int) and steps > 0 and isinstance(eps, (int, float, Tensor))
        length = eps / steps if known else None  # schedule and threat complain about others
        self.compose(model, options, eps=eps, step=length, random_start=False)


class FGSM(Attack):
    """One step of full length from x itself (Goodfellow et al., arXiv 1412.6572); "l2" gives the fast gradient method.

    Args and errors: as for PGD; steps, step, restarts and random starts have no place here.
    """

    def __init__(self, model: Models, *, eps: float | Tensor, **options: Unpack[Options]) -> None:
        for name in ("steps", "step", "restarts", "random_start", "keep"):
            if name in options:
                raise TypeError(f"FGSM: {name} has no meaning in one step from the input; use fa.PGD")
        self.compose(model, options, eps=eps, steps=1, step=eps, random_start=False, keep="last")


def pgd(model: Models, x: Tensor, target: Any, *, mask: Tensor | None = None, **options: Any) -> Tensor:
    """PGD(model, **options)(x, target): for training loops."""
    return PGD(model, **options)(x, target, mask=mask)


def fgsm(model: Models, x: Tensor, target: Any, *, mask: Tensor | None = None, **options: Any) -> Tensor:
    """FGSM(model, **options)(x, target): for training loops."""
    return FGSM(model, **options)(x, target, mask=mask)
