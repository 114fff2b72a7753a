"""Which noise certifies most: the parameter with the largest average certified radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .bounds import count
from .certificate import Certificate, labels_of
from .copies import CHOOSE, checked, seed_of_stage
from .noise import Noise, noise_of, positive
from .norms import Norm
from .smoothed import Smoothed


@dataclass(frozen=True)
class NoiseTrial:
    """One parameter: noise, mean radius (0 where wrong), share that is right and certified, share that abstains."""

    noise: Noise
    average_radius: float
    accuracy: float
    abstained: float


@dataclass(frozen=True)
class NoiseChoice:
    """What `optimise_noise` found.

    Attributes:
        noise: with the largest mean radius over the images.
        trials: all that was tried, by the parameter.
        radii: (T, N) float64, of each trial and image; 0 where wrong.
        norm: of the radii.
    """

    noise: Noise
    trials: tuple[NoiseTrial, ...]
    radii: Tensor
    norm: Norm

    @property
    def per_input(self) -> Tensor:
        """(N,) float64: the parameter with the largest radius of each image; NaN where all are wrong.

        **No certificate follows from it.** A classifier that chooses its noise by the input it sees may choose another
        one for the attacked input, so the radius at x says nothing of x + delta (Sukenik et al., arXiv 2110.05365;
        Alfarra et al., arXiv 2012.04351, have to remember regions). It holds for a classifier that keeps x's noise in
        all of the ball around x. It shows what a parameter for each input could gain at most.
        """
        scales = torch.tensor([t.noise.scale for t in self.trials], dtype=torch.float64)
        best = self.radii.max(0)
        return torch.where(best.values > 0, scales[best.indices.cpu()].to(best.values.device), math.nan)

    def __str__(self) -> str:
        lines = ["   parameter  mean radius  certified  abstains"]
        for trial in self.trials:
            mark = "*" if trial.noise == self.noise else " "
            lines.append(
                f"{mark} {trial.noise.scale:10.4g}  {trial.average_radius:11.4f}  {trial.accuracy:9.1%}  "
                f"{trial.abstained:8.1%}"
            )
        return "\n".join(lines)


def optimise_noise(
    model: Callable[[Tensor], Any],
    x: Tensor,
    labels: Tensor,
    *,
    noise: Noise,
    scales: Sequence[float],
    rounds: int = 2,
    norm: Norm | None = None,
    n: int = 1_000,
    seed: int = 0,
    **options: Any,
) -> NoiseChoice:
    """The parameter of a noise with the largest average certified radius over a set of images.

    Every parameter of ``scales`` is tried with the same random numbers; then, in each round, the geometric means of the
    best one and its neighbours. Its numbers are none of those with which `Smoothed.certify` certifies, so the
    certificates made with the chosen noise hold, for the one classifier that uses it for every input. The mean over the
    very images that chose is biased upwards as an estimate for others: choose on images that are not reported.

    Args:
        model: as for `Smoothed`; it should have been trained with noise.
        x: (N, ...), finite.
        labels: (N,) class numbers.
        noise: its kind; its parameter is not looked at.
        scales: parameters to try, > 0: sigma, b, half_width or width, on the scale of the inputs (any; 25 / 255 for
            images in [0, 1]).
        rounds: of refinement, two more parameters each.
        norm: of the radius; None: the noise's own.
        n: copies of an estimate.
        seed: of the numbers.
        options: n0, alpha, scores, classes, max_batch, backend, as for `Smoothed`.

    Raises:
        TypeError, ValueError: an argument that does not fit; no image is right and certified in any trial; and as
            `Smoothed.certify`.
    """
    kind = noise_of(noise)
    count(rounds, "rounds", 0)
    first = _scales(scales)
    labels_of(labels, len(checked(x)))
    norm = kind.home if norm is None else norm
    tried: dict[float, Certificate] = {}

    def try_all(values: Sequence[float]) -> float:
        for value in values:
            if value not in tried:
                tried[value] = _certify(model, x, kind.scaled(value), n, seed, options)
                labels_of(labels, len(x), tried[value].classes)  # before the next one's work
        return max(tried, key=lambda s: tried[s].average_radius(labels, norm))

    best = try_all(first)
    for _ in range(rounds):
        order = sorted(tried)
        at = order.index(best)
        best = try_all([math.sqrt(best * other) for other in (*order[max(0, at - 1) : at], *order[at + 1 : at + 2])])
    if not tried[best].average_radius(labels, norm) > 0:
        raise ValueError(
            f"scales: wanted a parameter with which an image is right and certified, got none from {min(tried):g} to "
            f"{max(tried):g} (parameters are on the scale of the images, and the model should know such noise)"
        )
    trials = [_trial(tried[scale], labels, norm) for scale in sorted(tried)]
    radii = torch.stack([_right_radius(tried[scale], labels, norm) for scale in sorted(tried)])
    return NoiseChoice(kind.scaled(best), tuple(trials), radii, norm)


def _scales(scales: Sequence[float]) -> list[float]:
    try:
        found = list(scales)
    except TypeError:
        raise TypeError(f"scales: wanted a list of numbers > 0, got {type(scales).__name__} {scales!r}") from None
    if not found:
        raise ValueError("scales: wanted at least one number > 0, got none")
    return [positive(value, "scales") for value in found]


def _certify(
    model: Callable[[Tensor], Any], x: Tensor, noise: Noise, n: int, seed: int, options: dict[str, Any]
) -> Certificate:
    """With numbers of its own: a draw of the seed that no certificate has."""
    return Smoothed(model, noise=noise, n=n, seed=seed_of_stage(seed, CHOOSE), **options).certify(x)


def _right_radius(found: Certificate, labels: Tensor, norm: Norm) -> Tensor:
    return torch.where(found.right(labels), found.radius(norm), 0.0)


def _trial(found: Certificate, labels: Tensor, norm: Norm) -> NoiseTrial:
    right = found.right(labels)
    return NoiseTrial(
        found.noise,
        found.average_radius(labels, norm),
        float(right.double().mean()),
        float(found.abstained.double().mean()),
    )
