"""Noise schedules: how much of the image and how much noise a level of the diffusion holds.

Level 0 is the clean image, level n of N is x_n = sqrt(ab_n) x_0 + sqrt(1 - ab_n) z; a model calls it step n - 1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """The cumulative products ab_1 > ab_2 > ... > ab_N of a variance-preserving diffusion (arXiv 2006.11239).

    Attributes:
        alphas_bar: each in (0, 1), falling.

    Raises:
        ValueError: numbers that do not fall, or leave (0, 1); the level is named.
    """

    alphas_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas_bar", tuple(float(v) for v in self.alphas_bar))
        if not self.alphas_bar:
            raise ValueError("alphas_bar: wanted at least one level, got none")
        before = 1.0
        for level, value in enumerate(self.alphas_bar, 1):
            if not 0 < value < before:
                raise ValueError(f"alphas_bar: wanted numbers that fall from below 1 to above 0, got {value:g} after "
                                 f"{before:g} at level {level}")  # fmt: skip
            before = value

    @classmethod
    def of_betas(cls, betas: Iterable[float]) -> Schedule:
        """ab_n = (1 - beta_1) ... (1 - beta_n)."""
        product, found = 1.0, []
        for beta in betas:
            product *= 1.0 - float(beta)
            found.append(product)
        return cls(tuple(found))

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
        """Betas in equal steps from ``first`` to ``last`` (arXiv 2006.11239, section 4)."""
        steps = _whole(steps)
        return cls.of_betas(first + (last - first) * k / max(1, steps - 1) for k in range(steps))

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Schedule:
        """ab(s) = cos^2(pi/2 (s + offset) / (1 + offset)), s = n / N, no beta above ``largest`` (arXiv 2102.09672)."""
        steps = _whole(steps)

        def at(s: float) -> float:
            return math.cos((s + offset) / (1 + offset) * math.pi / 2) ** 2

        return cls.of_betas(min(largest, 1 - at((k + 1) / steps) / at(k / steps)) for k in range(steps))

    @property
    def steps(self) -> int:
        return len(self.alphas_bar)

    def alpha_bar(self, level: int) -> float:
        """ab of a level in 0 .. N; level 0 is the clean image.

        Raises:
            ValueError: the level is out of range.
        """
        require_level(level, "level", self.steps)
        return 1.0 if level == 0 else self.alphas_bar[level - 1]

    def sigma(self, level: int) -> float:
        """Standard deviation of the noise beside an image of the model's scale that is not shrunk."""
        share = self.alpha_bar(level)
        return math.sqrt((1 - share) / share)

    def level_of(self, sigma: float) -> int:
        """The first level with at least this much noise (model's scale); 0 for none.

        Raises:
            ValueError: below 0, or more than the last level has.
        """
        last = self.sigma(self.steps)
        if not 0 <= sigma <= last * (1 + 1e-9):
            raise ValueError(
                f"sigma: wanted a noise level from 0 to {last:g}, the last one of the schedule, got {sigma}"
            )
        return min(self.steps, bisect_left(range(self.steps + 1), sigma * (1 - 1e-9), key=self.sigma))


def _whole(steps: Any) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps: wanted a whole number >= 1, got {steps!r}")
    return steps


def require_level(level: Any, name: str, last: int) -> int:
    """A level of the schedule, 0 .. ``last``."""
    if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= last:
        raise ValueError(
            f"{name}: wanted a level from 0 (no noise) to {last}, the last one of the schedule, got {level!r}"
        )
    return level


def evenly(start: int, stop: int, count: int) -> tuple[int, ...]:
    """Levels from ``start`` down to ``stop`` in ``count`` steps as even as whole numbers are: count + 1 of them."""
    return tuple(stop + ((start - stop) * (count - k) * 2 + count) // (2 * count) for k in range(count + 1))
