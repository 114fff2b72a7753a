"""The results of an evaluation as the report reads them: estimates, labels, and grids of cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

NBSP = "\u00a0"

Results = dict[str, Any]
"""What results.json holds."""


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its confidence interval, which may be missing (one image)."""

    mean: float
    low: float | None
    high: float | None

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals meet; a missing interval meets everything."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


def estimate(block: dict[str, Any] | None, *index: int) -> Estimate | None:
    """The entry of {"mean", "low", "high"}, each a number or nested lists; None where it is null or not finite."""
    if block is None:
        return None
    mean, low, high = (_number(block[part], index) for part in ("mean", "low", "high"))
    return None if mean is None else Estimate(mean, low, high)


def _number(value: Any, index: tuple[int, ...]) -> float | None:
    for place in index:
        value = None if value is None else value[place]
    return float(value) if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Measure:
    """One matrix of the results and how it is shown.

    Attributes:
        key: of the matrix in results.json.
        square: sources against sources, not against all targets.
        factor, digits, unit: how a number is written.
        floor, ceiling: the end of the colour scale is the largest magnitude, kept between these; floor 0: no colours.
    """

    key: str
    title: str
    about: str
    unit: str = ""
    digits: int = 2
    factor: float = 1.0
    square: bool = False
    floor: float = 1.0
    ceiling: float = 1.0

    def text(self, value: float | None) -> str:
        return "?" if value is None else number(value * self.factor, self.digits)


MEASURES = (
    Measure(
        "drop", "Drop in PSNR", "What the attack crafted on the row's model costs the column's model.", "dB",
        floor=0.5, ceiling=math.inf,
    ),
    Measure(
        "normalised", "Normalised transfer",
        "The drop as a share of what the column's own attack costs it: R(i, j) = drop(i → j) / drop(j → j). "
        "1: the foreign attack is as strong as its own.", ceiling=2.0,
    ),
    Measure(
        "similitude", "Robustness similitude",
        "How alike two models break: S(i, j) = ½ (R(i, j) + R(j, i)); 1 on the diagonal.", square=True, ceiling=2.0,
    ),
    Measure(
        "shared", "Shared adversarial set",
        "The share of images on which the attack crafted on the row's model harms both models.", "%",
        digits=0, factor=100.0,
    ),
)  # fmt: skip

QUALITY = (
    Measure("psnr", "PSNR", "Of the restored image against the clean one.", "dB", floor=0.0),
    Measure("ssim", "SSIM", "Of the restored image against the clean one; 1 is equal.", digits=3, floor=0.0),
    Measure("lpips", "LPIPS", "Perceptual distance to the clean image; 0 is equal.", digits=3, floor=0.0),
)
"""Measures with a "before" for each target beside the matrix "after"."""


@dataclass(frozen=True)
class Cell:
    """One entry of a grid. ``shade`` is in [-1, 1]; ``text`` says "failed" or "–" where there is no estimate."""

    estimate: Estimate | None
    shade: float
    text: str
    interval: str
    title: str


@dataclass(frozen=True)
class Grid:
    """A matrix of the results, ready to be shown: rows are sources."""

    measure: Measure
    eps: float
    rows: list[str]
    columns: list[str]
    cells: list[list[Cell]]
    before: list[Cell] | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Name -> what stands beside the cells: long names without their middle, still each another."""
        return short_labels(list(dict.fromkeys([*self.rows, *self.columns])))


def grid(results: Results, matrix: dict[str, Any], measure: Measure) -> Grid:
    """The matrix of ``measure`` at one eps."""
    rows = list(matrix["sources"])
    columns = rows if measure.square else list(matrix["targets"])
    values = [[estimate(matrix[measure.key], i, j) for j in range(len(columns))] for i in range(len(rows))]
    limit = _limit(measure, [value.mean for row in values for value in row if value is not None])
    cells = [
        [
            _cell(results, measure, values[i][j], limit, f"{rows[i]} → {columns[j]}", (rows[i], columns[j]))
            for j in range(len(columns))
        ]
        for i in range(len(rows))
    ]
    return Grid(measure, float(matrix["eps"]), rows, columns, cells)


def quality(results: Results, matrix: dict[str, Any], measure: Measure) -> Grid | None:
    """The matrix "after" of ``measure`` with its row "before"; None where it was not measured."""
    if f"{measure.key}_after" not in matrix:
        return None
    after = grid(results, {**matrix, measure.key: matrix[f"{measure.key}_after"]}, measure)
    first = matrix[f"{measure.key}_before"]
    before = [
        _cell(results, measure, estimate(first, j), 0.0, f"{name}, not attacked", (name,))
        for j, name in enumerate(after.columns)
    ]
    return Grid(measure, after.eps, after.rows, after.columns, after.cells, before)


def _limit(measure: Measure, means: list[float]) -> float:
    """The magnitude with the full colour; 0 for a measure without colours."""
    if not measure.floor:
        return 0.0
    return min(max([measure.floor, *(abs(mean) for mean in means)]), measure.ceiling)


def _cell(
    results: Results, measure: Measure, value: Estimate | None, limit: float, what: str, names: tuple[str, ...]
) -> Cell:
    if value is None:
        failed = [name for name in names if failure(results, name)]
        why = f"{failed[0]} failed: {failure(results, failed[0])}" if failed else "not defined"
        return Cell(None, 0.0, "failed" if failed else "–", "", f"{what}: {why}")
    unit = f"{NBSP}{measure.unit}" if measure.unit else ""
    interval = "" if value.low is None else f"{measure.text(value.low)} to {measure.text(value.high)}"
    inside = f" ({confidence(results)} interval {interval})" if interval else ""
    shade = max(-1.0, min(1.0, value.mean / limit)) if limit else 0.0
    text = measure.text(value.mean)
    return Cell(value, shade, text, interval, f"{what}: {text}{unit}{inside}")


def failure(results: Results, name: str) -> str | None:
    """Why a model failed; None where it did not."""
    why = results["models"].get(name, {}).get("failed")
    return None if why is None else str(why)


def confidence(results: Results) -> str:
    """As in "95 %", which stays on one line."""
    return f"{100 * float(results['config']['confidence']):g}{NBSP}%"


def number(value: float, digits: int) -> str:
    """With a true minus, and none before a zero."""
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 else text.replace("-", "−")) if text.startswith("-") else text


def eps_label(eps: float) -> str:
    """In units of 1/255 where that is a short number, as such things are called."""
    steps = 255 * eps
    return f"{steps:.6g}/255" if abs(steps - round(steps, 2)) < 1e-4 else f"{eps:.6g}"


def largest(results: Results) -> dict[str, Any] | None:
    """The matrices at the largest eps."""
    return max(results["matrices"], key=lambda matrix: float(matrix["eps"]), default=None)


def own(matrix: dict[str, Any], key: str, source: str) -> Estimate | None:
    """The entry of a source on its own attack."""
    if source not in matrix["sources"] or source not in matrix["targets"]:
        return None
    return estimate(matrix[key], matrix["sources"].index(source), matrix["targets"].index(source))


def short_labels(names: list[str], limit: int = 24) -> dict[str, str]:
    """Names that fit beside an axis: long ones lose their middle, and get a number where that makes two alike."""
    short = {name: _shorten(name, limit) for name in names}
    seen = list(short.values())
    return {
        name: label if seen.count(label) == 1 else f"{k}: {_shorten(name, limit - 3)}"
        for k, (name, label) in enumerate(short.items(), 1)
    }


def _shorten(name: str, limit: int) -> str:
    name = " ".join(name.split())
    if len(name) <= limit:
        return name
    tail = limit // 2
    return f"{name[: limit - 1 - tail]}…{name[-tail:]}"
