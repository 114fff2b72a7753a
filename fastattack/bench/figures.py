"""The figures of a run: roofline, ratios by size, attacks, growth; each as PNG and as SVG, in the report's style."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..report.figures import INK, LINES, MARKERS, save_figures
from ..report.study import short_labels
from . import view
from .result import Ceiling, Result, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

SIDES = {"ours": LINES[0], "plain": LINES[1], "peer": LINES[2]}
ALL = {
    "roofline": "Operations per second against operations per byte, under what the machine can do",
    "ratios": "Time of the best plain PyTorch over ours, against the number of pixels",
    "attacks": "Speed of whole attacks as a multiple of the best plain loop",
    "growth": "Seconds against what grows, with the fitted exponents",
}
"""Name of a figure -> what it shows."""


def write_figures(folder: Path, result: Result) -> dict[str, str]:
    """Write the figures for which ``result`` has something; each file is whole or as it was.

    Returns:
        Name -> the SVG element for a page, as `report.figures.write_figures`.

    Raises:
        RuntimeError: no matplotlib; it comes with the extra "evaluate".
        OSError: a file cannot be written.
    """
    plan: dict[str, Callable[[], Figure]] = {}
    if points := [row for row in largest(result.rows) if row.bytes and row.operations and row.timed()]:
        plan["roofline"] = partial(roofline, points, result.ceilings)
    ops = [row for row in result.rows if row.suite != "attacks" and _ratio(row) is not None]
    if ops:
        plan["ratios"] = partial(ratios, ops)
    if attacks := [row for row in result.rows if row.suite == "attacks" and row.best("plain")]:
        plan["attacks"] = partial(bars, attacks)
    if grown := result.extra.get("growth"):
        plan["growth"] = partial(growth, grown)
    return save_figures(folder, plan)


def largest(rows: Sequence[Row]) -> list[Row]:
    """Of each case, type and layout the row with the most pixels."""
    found: dict[tuple[str, str, str, str], Row] = {}
    for row in rows:
        key = row.suite, row.case, row.dtype, row.layout
        if key not in found or math.prod(row.shape) > math.prod(found[key].shape):
            found[key] = row
    return list(found.values())


def _ratio(row: Row) -> float | None:
    best = row.best("ours")
    return None if best is None else row.times_of("plain", best)


def _style(names: Sequence[str], name: str) -> dict[str, Any]:
    """Colour and marker; as many pairs as both have together."""
    k = names.index(name)
    return {"color": LINES[k % len(LINES)], "marker": MARKERS[(k // len(LINES) + k % len(LINES)) % len(MARKERS)]}


def _grid(count: int, columns: int, width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """``count`` axes in rows of ``columns``; ``heights``: of each row, inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=list(heights))
    return figure, [figure.add_subplot(grid[k // columns, k % columns]) for k in range(count)]


def _rows_of(count: int, columns: int) -> int:
    return -(-count // columns)


def _log(axes: Axes, which: Literal["x", "y"], unit: str | None = "") -> None:
    """A logarithmic axis with ticks at 1, 2, 5 of few decades, else at powers of ten; with prefixes before ``unit``, or
    plain where that is None: the style reads no mathtext."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_data_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,), numticks=7))
    axis.set_major_formatter("{x:g}" if unit is None else EngFormatter(unit, sep=" " if unit else ""))
    axis.set_minor_formatter(NullFormatter())


def _below(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def roofline(rows: Sequence[Row], ceilings: Sequence[Ceiling]) -> Figure:
    """Ours filled, the best plain PyTorch hollow, one point for each case and type at its largest size."""
    names = list(dict.fromkeys(row.case for row in rows))
    labels = short_labels(names, 30)
    figure, (axes,) = _grid(1, 1, 7.2, [4.6 + 0.2 * _rows_of(len(names) + len(ceilings), 3)])
    shown = set()
    places = []
    for row in rows:
        operations = row.operations or 0.0
        at = operations / (row.bytes or 1)
        places.append(at)
        for side, face in (("plain", "none"), ("ours", None)):
            if best := row.best(side):
                style = _style(names, row.case)
                (drawn,) = axes.plot(at, operations / best.median, linestyle="", markersize=6, **style)
                drawn.set_markerfacecolor(face or style["color"])
                if side == "ours" and row.case not in shown:
                    shown.add(row.case)
                    drawn.set_label(f" {labels[row.case]}")
    low, high = min(places) / 2, max(places) * 2
    for k, (label, height) in enumerate(_roofs(ceilings)):
        ends = [height(low), height(high)]
        axes.plot([low, high], ends, color=INK, linewidth=1.2, linestyle=("-", "--", "-.", ":")[k % 4], label=label)
    _log(axes, "x", None)
    _log(axes, "y")
    axes.set_xlim(low, high)
    axes.set(xlabel="operations per byte that must move", ylabel="operations per second")
    axes.grid(color=INK, alpha=0.12)
    axes.set_title("filled: ours; hollow: best plain PyTorch", fontsize=9)
    _below(figure, axes, 3)
    return figure


def _roofs(ceilings: Sequence[Ceiling]) -> list[tuple[str, Callable[[float], float]]]:
    """(label, operations/s at so many operations/byte) of the ceilings of bandwidth and of arithmetic."""
    found: list[tuple[str, Callable[[float], float]]] = []
    for one in ceilings:
        label = f" {view.one_line(one.name)}, {view.ceiling(one)}"
        if one.unit == "GB/s":
            found.append((label, partial(lambda rate, at: rate * at, one.rate * 1e9)))
        elif scale := {"Gflop/s": 1e9, "GFLOP/s": 1e9, "G operations/s": 1e9, "Gop/s": 1e9}.get(one.unit):
            found.append((label, partial(lambda rate, at: rate, one.rate * scale)))
    return found


def ratios(rows: Sequence[Row]) -> Figure:
    """One axes for each case; a line for each type and layout; above 1, ours is faster."""
    cases = list(dict.fromkeys(row.case for row in rows))
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    columns = min(3, len(cases))
    heights = [2.1] * _rows_of(len(cases), columns)
    heights[-1] += 0.5
    figure, all_axes = _grid(len(cases), columns, max(4.2, 3.0 * columns), heights)
    for case, axes in zip(cases, all_axes, strict=True):
        for kind in kinds:
            points = sorted((math.prod(r.shape), _ratio(r) or 0.0) for r in rows if r.case == case and _kind(r) == kind)
            line = {**_style(kinds, kind), "markersize": 4, "linewidth": 1.4, "label": f" {kind}"}
            axes.plot(*(zip(*points, strict=True) if points else ([], [])), **line)
        axes.axhline(1, color=INK, alpha=0.5, linewidth=1, linestyle=":")
        _log(axes, "x")
        low, high = axes.dataLim.intervaly
        if high < 10 * low:
            axes.set_ylim(0, 1.1 * high)
        else:
            _log(axes, "y")
        axes.grid(axis="y", color=INK, alpha=0.12)
        axes.set_title(short_labels([case], 34)[case], fontsize=9)
    for axes in all_axes[-columns:]:
        axes.set_xlabel("pixels (B·C·H·W)", fontsize=9)
    figure.supylabel("best plain PyTorch / ours", fontsize=9)
    _below(figure, all_axes[0], 3)
    return figure


def _kind(row: Row) -> str:
    return view.one_line(row.dtype if row.layout == "contiguous" else f"{row.dtype} {row.layout}")


def bars(rows: Sequence[Row]) -> Figure:
    """One axes for each attack; a bar for each way, plain first and ours last; ways without a time have words."""
    figure, all_axes = _grid(len(rows), 1, 7.2, [0.75 + 0.24 * len(row.ways) for row in rows])
    for row, axes in zip(rows, all_axes, strict=True):
        order = {"plain": 0, "peer": 1, "ours": 2}
        ways = sorted(row.ways, key=lambda way: order.get(way.side, 3))
        names = [f"{k}: {view.one_line(way.name)}" for k, way in enumerate(ways)]
        labels = short_labels(names, 30)
        for k, way in enumerate(ways):
            ratio = row.times_of("plain", way) if way.seconds else None
            if ratio is not None:
                axes.barh(k, ratio, color=SIDES.get(way.side, LINES[-1]), height=0.7)
            words = view.times(ratio) if ratio is not None else f"no time: {(way.refused or 'no rounds')[:60]}"
            axes.text(ratio or 0, k, f" {view.one_line(words)}", va="center", fontsize=7)
        axes.axvline(1, color=INK, alpha=0.6, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(ways)), [labels[name].partition(": ")[2] for name in names], fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.tick_params(axis="y", length=0)
        axes.set_title(short_labels([view.title(row)], 70)[view.title(row)], fontsize=9)
    all_axes[-1].set_xlabel("times as fast as the best plain PyTorch loop")
    return figure


def growth(grown: Sequence[dict[str, Any]]) -> Figure:
    """One axes for each; points as measured, the line of the fitted exponent through their middle."""
    columns = min(2, len(grown))
    figure, all_axes = _grid(len(grown), columns, 3.6 * columns + 0.4, [2.7] * _rows_of(len(grown), columns))
    for one, axes in zip(grown, all_axes, strict=True):
        x, y = [float(v) for v in one["x"]], [float(v) for v in one["seconds"]]
        middle = [math.exp(sum(map(math.log, values)) / len(values)) for values in (x, y)]
        ends = [min(x), max(x)]
        axes.plot(x, y, linestyle="", marker="o", markersize=5, color=LINES[0])
        axes.plot(ends, [middle[1] * (at / middle[0]) ** one["exponent"] for at in ends], color=LINES[1], linewidth=1.3)
        _log(axes, "x")
        _log(axes, "y", "s")
        axes.grid(color=INK, alpha=0.12)
        name = view.one_line(str(one["what"]))
        title, _, along = name.partition(" against ")
        axes.set_title("\n".join([*textwrap.wrap(title, 44), f"exponent {exponent(one)}"]), fontsize=9)
        axes.set_xlabel("\n".join(textwrap.wrap(along, 44)), fontsize=9)
    return figure


def exponent(one: dict[str, Any]) -> str:
    """ "1.02 (0.98 to 1.05)"; without an interval where there is none."""
    low, high = one.get("low"), one.get("high")
    return f"{one['exponent']:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")
