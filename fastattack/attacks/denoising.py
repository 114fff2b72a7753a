"""denoising-PGD and ObsAtk: the attacks on image denoisers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine import Model, Schedule
from ..objectives import Objective, mse
from ..threat import Threat
from .base import Attack


class DenoisingPGD(Attack):
    """denoising-PGD (arXiv 2306.16050): climbs |D(y') - x|^2 over |y' - y|_p <= eps from a uniform point of the ball.

    With ``preserve_noise`` each iterate is projected so that the noise y' - x keeps its mean and norm, and with them
    its place in the typical set of the noise distribution: the denoiser is attacked inside the distribution that it was
    trained for. There is no clamp to [0, 1]: noisy inputs leave it by nature.

    Args:
        model: the denoiser, called as model(y); see fa.with_sigma for models called as model(y, sigma).
        eps: radius on the scale of the images (5/255); a float or (B,).
        steps, step: number and length of the steps; step=None means 2 eps / steps.
        norm: "linf" or "l2".
        preserve_noise: keep mean and norm of the noise. Excludes ``bounds``.
        sigma: standard deviation of the noise on the scale of the images, for the typicality in the result, or None.
        objective, bounds, random_start, restarts, keep, seed, max_batch, eval_mode, backend: as for fa.PGD.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Model,
        *,
        eps: float | Tensor = 5 / 255,
        steps: int = 10,
        step: float | Tensor | None = None,
        norm: str = "linf",
        preserve_noise: bool = True,
        sigma: float | Tensor | None = None,
        objective: Objective = mse,
        bounds: tuple[float, float] | None = None,
        random_start: bool = True,
        restarts: int = 1,
        keep: str = "best",
        seed: int = 0,
        max_batch: int | None = None,
        eval_mode: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            model,
            objective=objective,
            threat=Threat(norm=norm, eps=eps, bounds=bounds, preserve_noise=preserve_noise),
            schedule=Schedule(
                steps=steps, step=step, random_start=random_start, restarts=restarts, keep=keep, seed=seed,
                max_batch=max_batch, eval_mode=eval_mode, backend=backend,
            ),
            sigma=sigma,
        )  # fmt: skip


class ObsAtk(Attack):
    """ObsAtk (arXiv 2201.04397): climbs |D(y') - x|^2 over the perturbations with |y' - y|_2 <= eps and mean 0.

    Normalised-gradient steps along the hyperplane of zero mean, then back into the ball: the adversarial noise has the
    mean of the noise, to rounding: 1e-6 of its rms in float32, some percent where the images are bfloat16.

    Args:
        model: the denoiser, called as model(y).
        eps: l2 radius of each sample on the scale of the images, a float or (B,). A perturbation of rms r in a sample
            of d numbers has the radius r sqrt(d).
        steps, step: number and length of the steps; step=None means 2 eps / steps.
        sigma: standard deviation of the noise on the scale of the images, for the typicality in the result, or None.
        objective, random_start, restarts, keep, seed, max_batch, eval_mode, backend: as for fa.PGD.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Model,
        *,
        eps: float | Tensor,
        steps: int = 5,
        step: float | Tensor | None = None,
        sigma: float | Tensor | None = None,
        objective: Objective = mse,
        random_start: bool = True,
        restarts: int = 1,
        keep: str = "best",
        seed: int = 0,
        max_batch: int | None = None,
        eval_mode: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            model,
            objective=objective,
            threat=Threat(norm="l2", eps=eps, zero_mean=True),
            schedule=Schedule(
                steps=steps, step=step, random_start=random_start, restarts=restarts, keep=keep, seed=seed,
                max_batch=max_batch, eval_mode=eval_mode, backend=backend,
            ),
            sigma=sigma,
        )  # fmt: skip


def denoising_pgd(model: Model, noisy: Tensor, clean: Tensor, **options: Any) -> Tensor:
    """DenoisingPGD(model, **options)(noisy, clean): for training loops."""
    return DenoisingPGD(model, **options)(noisy, clean)
