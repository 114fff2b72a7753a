"""Means over images with their bootstrap confidence intervals (Efron & Tibshirani 1993, percentile method)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_BLOCK = 64  # resamples at a time, so that draws x sources x targets stays small


@dataclass(frozen=True)
class Estimate:
    """A statistic of a set of images; arrays of one shape, NaN where it is not defined.

    Attributes:
        value: the statistic of the images as they are.
        low, high: the ends of the confidence interval over images.
    """

    value: Array
    low: Array
    high: Array

    def at(self, *index: Any) -> Estimate:
        """The estimate of a part of the array."""
        return Estimate(self.value[index], self.low[index], self.high[index])

    def as_lists(self) -> dict[str, Any]:
        """{"mean", "low", "high"}: nested lists, None for NaN."""
        return {"mean": plain(self.value), "low": plain(self.low), "high": plain(self.high)}


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made: ``draws`` resamples of the images from ``seed``, ends at (1 +- confidence) / 2."""

    confidence: float = 0.95
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence: wanted a share in (0, 1), got {self.confidence!r}")
        if isinstance(self.draws, bool) or not isinstance(self.draws, int) or self.draws < 1:
            raise ValueError(f"draws: wanted a whole number >= 1, got {self.draws!r}")

    def estimate(self, statistics: Callable[[Array], dict[str, Array]], count: int) -> dict[str, Estimate]:
        """Statistics of ``count`` images.

        Args:
            statistics: from weights of the images (D, count), each row of sum 1, to named arrays (D, ...). All of them
                see the same resamples, so a ratio's ends are those of the ratio.
            count: number of images.

        Returns:
            An `Estimate` for each name.

        Raises:
            ValueError: no image.
        """
        if count < 1:
            raise ValueError(f"images: wanted at least one, got {count}")
        whole = {name: value[0] for name, value in statistics(np.full((1, count), 1 / count)).items()}
        random = np.random.default_rng(self.seed)
        parts: list[dict[str, Array]] = []
        for first in range(0, self.draws, _BLOCK):
            rows = min(_BLOCK, self.draws - first)
            parts.append(statistics(random.multinomial(count, [1 / count] * count, size=rows) / count))
        ends = [(1 - self.confidence) / 2, (1 + self.confidence) / 2]
        result = {}
        for name, value in whole.items():
            drawn = np.concatenate([part[name] for part in parts])
            with np.errstate(invalid="ignore"):  # infinite: a restored image that is the clean one
                low, high = np.quantile(drawn, ends, axis=0)
            result[name] = Estimate(value, low, high)
        return result

    def means(self, columns: dict[str, Array]) -> dict[str, Estimate]:
        """Means over the images of arrays (count, ...)."""
        count = len(next(iter(columns.values())))
        return self.estimate(lambda w: {name: weighted(w, x) for name, x in columns.items()}, count)


def weighted(weights: Array, x: Array) -> Array:
    """(D, S), (S, ...) -> (D, ...). A NaN in one image makes that mean NaN; weights of 0 do not hide it."""
    with np.errstate(invalid="ignore"):  # 0 x infinity
        product: Array = np.tensordot(weights, x, axes=(1, 0))
    return product


def plain(x: Array) -> Any:
    """Nested lists, None for what is not finite."""
    return np.where(np.isfinite(x), x, None).tolist()  # type: ignore[call-overload]
