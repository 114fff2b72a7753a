"""How cost grows: time against pixels, batch, steps and models, and the exponent of each.

The sizes take turns as the ways of a trial do, forwards and backwards, so that a machine that slows down does not look
like growth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import attacks, models, ops
from ..each import attack_each
from ..evaluate import transfer_matrix
from .machine import check_device
from .timing import Pace, interleaved
from .trial import Call

T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
"""The 0.975 quantile of Student's t by degrees of freedom."""

EPS, STEP, SIGMA = 5 / 255, 1 / 255, 25 / 255


@dataclass(frozen=True)
class Growth:
    """Seconds ~ x^exponent.

    Args:
        what: is done ("pgd_step_ linf").
        along: what grows: "pixels" (of a sample, times its channels), "batch", "steps" or "models".
        fixed: in words, what does not.
        xs: the sizes.
        seconds: for each size, of each round.
        exponent: slope of the straight line through the medians over rounds, on logarithmic scales.
        low, high: its 95 % interval from the medians' distances from the line. It tells noise and curvature together: a
            wide one means that no single power fits (overhead at the small end, a cache left at the large end).
    """

    what: str
    along: str
    fixed: str
    xs: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...]
    exponent: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """For `Result.extra`: what json can write. ``seconds``: the medians; ``rounds``: all of them."""
        return {
            "what": f"{self.what} against {self.along} ({self.fixed})",
            "x": list(self.xs),
            "seconds": [statistics.median(rounds) for rounds in self.seconds],
            "rounds": [list(rounds) for rounds in self.seconds],
            "exponent": self.exponent,
            "low": self.low,
            "high": self.high,
        }


def fit(xs: Sequence[float], seconds: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The exponent and its 95 % interval: least squares through the logarithms of the medians, Student's t.

    A round and the next go through the sizes in opposite directions; they count as one, their geometric mean, in which
    a steady drift cancels. An odd last round is left out (unless it is the only one).

    Raises:
        ValueError: fewer than three sizes, or more than ten.
    """
    freedom = len(xs) - 2
    if freedom not in T975:
        raise ValueError(f"xs: wanted 3 to {max(T975) + 2} sizes, got {len(xs)}")
    at = [math.log(x) for x in xs]
    values = [statistics.median(_pairs([math.log(s) for s in rounds])) for rounds in seconds]
    slope, start = statistics.linear_regression(at, values)
    centre = statistics.fmean(at)
    left = sum((v - start - slope * a) ** 2 for a, v in zip(at, values, strict=True))
    error = math.sqrt(left / freedom / sum((a - centre) ** 2 for a in at))
    return slope, slope - T975[freedom] * error, slope + T975[freedom] * error


def _pairs(rounds: Sequence[float]) -> list[float]:
    pairs = [(a + b) / 2 for a, b in zip(rounds[::2], rounds[1::2], strict=False)]
    return pairs or list(rounds)


def grown(what: str, along: str, fixed: str, calls: Mapping[float, Call], pace: Pace) -> Growth:
    """The growth of calls by size."""
    times = interleaved({str(x): call for x, call in calls.items()}, pace)
    xs, seconds = tuple(calls), tuple(times.values())
    return Growth(what, along, fixed, xs, seconds, *fit(xs, seconds))


@dataclass(frozen=True)
class Scale:
    """The sizes that are measured. ``sides``: of the square images of the ops; ``attacked``: of the attacks'."""

    sides: tuple[int, ...] = (64, 128, 256, 512)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    attacked: tuple[int, ...] = (32, 48, 64, 96, 128)
    few: tuple[int, ...] = (1, 2, 3, 4)
    steps: tuple[int, ...] = (2, 4, 8, 16)
    channels: int = 3
    side: int = 128
    rounds: int = 6
    least: float = 0.01


FULL = Scale()
QUICK = Scale((16, 32, 64), (1, 2, 4), (16, 24, 32), (1, 2, 3), (1, 2, 4), 1, 32, 2, 0.001)


def growth(*, device: str, quick: bool, rounds: int | None = None) -> tuple[Growth, ...]:
    """Ops and attacks against all that makes them longer. Seconds where quick, else a minute or two.

    Raises:
        ValueError: a device that is not there.
    """
    check_device(device)
    scale = QUICK if quick else FULL
    own = device == "cpu" and torch.get_num_threads() == 1
    pace = Pace(rounds or scale.rounds, scale.least, device, own)
    return (*_ops(scale, device, pace), *_attacks(scale, device, pace))


# -- ops ---------------------------------------------------------------------------------------------------------------


def _images(batch: int, channels: int, side: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images, noisy ones, and a gradient."""
    draw = torch.Generator().manual_seed(0)
    clean = torch.rand(batch, channels, side, side, generator=draw)
    noisy = clean + SIGMA * torch.randn(clean.shape, generator=draw)
    grad = torch.randn(clean.shape, generator=draw)
    return clean.to(device), noisy.to(device), grad.to(device)


def _step(norm: str, clean: Tensor, noisy: Tensor, grad: Tensor) -> Call:
    adv, size = noisy.clone(), 1.0 if norm == "linf" else clean[0].numel() ** 0.5
    return lambda: ops.pgd_step_(adv, grad, noisy, eps=EPS * size, step=STEP * size, norm=norm)


def _preserve(clean: Tensor, noisy: Tensor, grad: Tensor) -> Call:
    """From a point that lies outside each time: a copy comes with it."""
    moved, adv = noisy + EPS * grad.sign(), noisy.clone()
    return lambda: ops.preserve_noise_(adv.copy_(moved), noisy, clean, norm="linf", eps=EPS)


OPS: dict[str, Callable[[Tensor, Tensor, Tensor], Call]] = {
    "pgd_step_ linf": partial(_step, "linf"),
    "pgd_step_ l2": partial(_step, "l2"),
    "noise_stats": lambda clean, noisy, grad: partial(ops.noise_stats, noisy - clean, sigma=SIGMA),
    "copy and preserve_noise_ linf": _preserve,
    "typical_noise": lambda clean, noisy, grad: partial(ops.typical_noise, clean, sigma=SIGMA, seed=0, out=noisy),
}


def _ops(scale: Scale, device: str, pace: Pace) -> Iterable[Growth]:
    channels, side = scale.channels, scale.side
    for name, make in OPS.items():
        pixels = {float(channels * s * s): make(*_images(1, channels, s, device)) for s in scale.sides}
        yield grown(name, "pixels", f"batch 1, {channels} channels", pixels, pace)
        batches = {float(b): make(*_images(b, channels, side, device)) for b in scale.batches}
        yield grown(name, "batch", f"{channels}x{side}x{side}", batches, pace)


# -- attacks -----------------------------------------------------------------------------------------------------------


def _attacks(scale: Scale, device: str, pace: Pace) -> Iterable[Growth]:
    """On the packaged denoiser, which is small."""
    model = models.load("embedded").to(device)
    side, steps = scale.attacked[0], scale.steps[0]

    def pgd(batch: int, side: int, steps: int) -> Call:
        clean, noisy, _ = _images(batch, 1, side, device)
        attack = attacks.PGD(model, eps=EPS, step=STEP, steps=steps, random_start=False)
        return lambda: attack(noisy, clean)

    pixels = {float(s * s): pgd(1, s, steps) for s in scale.attacked}
    yield grown("PGD", "pixels", f"batch 1, {steps} steps", pixels, pace)
    batches = {float(b): pgd(b, side, steps) for b in scale.few}
    yield grown("PGD", "batch", f"1x{side}x{side}, {steps} steps", batches, pace)
    longer = {float(n): pgd(1, side, n) for n in scale.steps}
    yield grown("PGD", "steps", f"1x1x{side}x{side}", longer, pace)
    clean, noisy, _ = _images(1, 1, side, device)
    many = [models.load("embedded").to(device) for _ in range(scale.few[-1])]

    def craft(m: Any) -> attacks.Attack:
        return attacks.PGD(m, eps=EPS, step=STEP, steps=steps, random_start=False)

    def each(count: int) -> Call:
        return lambda: attack_each(many[:count], noisy, clean, attack=craft, how="turns")

    def transfer(count: int) -> Call:
        return lambda: transfer_matrix(many[:count], (noisy, clean), craft)

    fixed = f"1x1x{side}x{side}, {steps} steps"
    yield grown("attack_each, in turns", "models", fixed, {float(n): each(n) for n in scale.few}, pace)
    yield grown("transfer_matrix", "models", fixed, {float(n): transfer(n) for n in scale.few}, pace)
