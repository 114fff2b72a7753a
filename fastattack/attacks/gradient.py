"""FGSM and PGD."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine import Model, Schedule
from ..objectives import Objective, mse
from ..threat import Threat
from .base import Attack


class PGD(Attack):
    """Projected gradient descent (Madry et al., arXiv 1706.06083), on restorers and classifiers alike.

    x <- P(x + step * direction(grad objective(model(x), target))), from a uniform point of the ball.

    Args:
        model: called as model(x); nn.Module or any callable.
        objective: per-sample function of (output, target); fa.objectives.mse by default, cross_entropy for classifiers.
        eps: radius on the scale of x; a float or (B,).
        steps, step: number and length of the steps; step=None means 2 eps / steps.
        norm: "linf" or "l2".
        bounds: (low, high) of the pixels, or None. Classifiers want (0, 1).
        random_start, restarts: random_start=False starts at x itself.
        targeted: go down the objective, towards target, instead of up.
        keep: "best" iterate of each sample, or "last".
        seed: of the random starts. max_batch: samples at a time. eval_mode: see fa.engine.Schedule.
        backend: "auto", "reference", "cpu", "triton", "cuda" or "cupy".

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Model,
        *,
        objective: Objective = mse,
        eps: float | Tensor,
        steps: int = 10,
        step: float | Tensor | None = None,
        norm: str = "linf",
        bounds: tuple[float, float] | None = None,
        random_start: bool = True,
        restarts: int = 1,
        targeted: bool = False,
        keep: str = "best",
        seed: int = 0,
        max_batch: int | None = None,
        eval_mode: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            model,
            objective=objective,
            threat=Threat(norm=norm, eps=eps, bounds=bounds),
            schedule=Schedule(
                steps=steps, step=step, random_start=random_start, restarts=restarts, minimise=targeted, keep=keep,
                seed=seed, max_batch=max_batch, eval_mode=eval_mode, backend=backend,
            ),
        )  # fmt: skip


class FGSM(Attack):
    """One step of full length from x itself (Goodfellow et al., arXiv 1412.6572); "l2" gives the fast gradient method.

    Args and errors: as for PGD.
    """

    def __init__(
        self,
        model: Model,
        *,
        objective: Objective = mse,
        eps: float | Tensor,
        norm: str = "linf",
        bounds: tuple[float, float] | None = None,
        targeted: bool = False,
        max_batch: int | None = None,
        eval_mode: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            model,
            objective=objective,
            threat=Threat(norm=norm, eps=eps, bounds=bounds),
            schedule=Schedule(
                steps=1, step=eps, random_start=False, minimise=targeted, keep="last", max_batch=max_batch,
                eval_mode=eval_mode, backend=backend,
            ),
        )  # fmt: skip


def pgd(model: Model, x: Tensor, target: Any, *, mask: Tensor | None = None, **options: Any) -> Tensor:
    """PGD(model, **options)(x, target): for training loops."""
    return PGD(model, **options)(x, target, mask=mask)


def fgsm(model: Model, x: Tensor, target: Any, *, mask: Tensor | None = None, **options: Any) -> Tensor:
    """FGSM(model, **options)(x, target): for training loops."""
    return FGSM(model, **options)(x, target, mask=mask)
