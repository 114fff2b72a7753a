"""denoising-PGD and ObsAtk: the attacks on image denoisers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine import Models
from .base import Attack, Options, Unpack


class DenoisingPGD(Attack):
    """denoising-PGD (arXiv 2306.16050): climbs |D(y') - x|^2 over |y' - y|_p <= eps from a uniform point of the ball.

    With ``preserve_noise`` each iterate is projected so that the noise y' - x keeps its mean and norm, and with them
    its place in the typical set of the noise distribution: the denoiser is attacked inside the distribution that it was
    trained for. There is no clamp to [0, 1]: noisy inputs leave it by nature.

    Args:
        model: the denoiser, called as model(y); see fa.with_sigma for models called as model(y, sigma).
        eps: radius on the scale of the images (5/255); a float or (B,).
        steps, step: number and length of the steps; step=None means 2.5 eps / steps.
        norm: "linf" or "l2".
        preserve_noise: keep mean and norm of the noise. Excludes ``bounds``.
        sigma: standard deviation of the noise on the scale of the images, for the typicality in the result, or None.
        options: see `fastattack.attacks.base.Options`.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Models,
        *,
        eps: float | Tensor = 5 / 255,
        preserve_noise: bool = True,
        sigma: float | Tensor | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.compose(model, options, eps=eps, preserve_noise=preserve_noise, sigma=sigma)


class ObsAtk(Attack):
    """ObsAtk (arXiv 2201.04397): climbs |D(y') - x|^2 over the perturbations with |y' - y|_2 <= eps and mean 0.

    Normalised-gradient steps along the hyperplane of zero mean, then back into the ball: the adversarial noise has the
    mean of the noise, to rounding: 1e-6 of its rms in float32, some percent where the images are bfloat16.

    Args:
        model: the denoiser, called as model(y).
        eps: l2 radius of each sample on the scale of the images, a float or (B,). A perturbation of rms r in a sample
            of d numbers has the radius r sqrt(d).
        steps, step: number and length of the steps; step=None means 2.5 eps / steps.
        sigma: standard deviation of the noise on the scale of the images, for the typicality in the result, or None.
        options: see `fastattack.attacks.base.Options`.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Models,
        *,
        eps: float | Tensor,
        sigma: float | Tensor | None = None,
        **options: Unpack[Options],
    ) -> None:
        for name in ("norm", "bounds"):
            if name in options:
                raise TypeError(f"ObsAtk: {name} has no place here (the l2 ball of zero mean, without bounds)")
        self.compose(model, options, eps=eps, norm="l2", zero_mean=True, sigma=sigma, steps=5)


def denoising_pgd(model: Models, noisy: Tensor, clean: Tensor, **options: Any) -> Tensor:
    """DenoisingPGD(model, **options)(noisy, clean): for training loops."""
    return DenoisingPGD(model, **options)(noisy, clean)
