"""The figures of an evaluation: heatmaps, robustness curves, typicality, spectra; each as PNG and as SVG.

Text and lines have one ink and the background one paper, so that the SVG inside report.html follows its light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..extras import require
from ..files import write_atomic
from .study import MEASURES, Cell, Estimate, Grid, Results, eps_label, estimate, grid, own, short_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER = "#1f2329", "#fefefe"
LOW, HIGH, NEGATIVE = (0.933, 0.953, 0.973), (0.031, 0.259, 0.494), (0.698, 0.333, 0.063)
"""The colour scale: pale, blue for a full drop, rust for a gain as large; lightness alone tells the strength."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
"""Okabe and Ito's colours that are seen on white and on black; markers and dashes tell lines apart beside them."""
MARKERS, DASHES = "os^DvPX*", ("-", "--", "-.", ":")

STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10, "text.usetex": False,
    "text.parse_math": False,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": "none", "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 11, "axes.titlelocation": "left", "legend.frameon": False,
    "svg.fonttype": "path", "svg.hashsalt": "fastattack",
}  # fmt: skip


def write_figures(folder: Path, results: Results) -> dict[str, str]:
    """Write every figure of ``results`` as NAME.png and NAME.svg; each file is whole or as it was.

    Returns:
        NAME -> the SVG element to put into a page: its ink is the page's currentColor, its paper is clear, its ids
        begin with NAME.

    Raises:
        RuntimeError: no matplotlib; it comes with the extra "evaluate".
        OSError: a file cannot be written.
    """
    return save_figures(folder, _plan(results))


def save_figures(folder: Path, plan: Mapping[str, Callable[[], Figure]]) -> dict[str, str]:
    """Draw and write each of ``plan``, as `write_figures` says."""
    require("matplotlib.figure", what="report", extra="evaluate")
    from matplotlib import rc_context

    inline = {}
    for name, draw in plan.items():
        with rc_context(STYLE):
            figure = draw()
            write_atomic(folder / f"{name}.png", partial(_save_png, figure))
            figure.set_layout_engine("none")  # the PNG's layout stays: finding it is half the time
            svg = io.BytesIO()
            figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        write_atomic(folder / f"{name}.svg", svg.getvalue())
        inline[name] = to_inline(svg.getvalue().decode(), name)
    return inline


def figure_name(kind: str, eps: float) -> str:
    """Of the figure of one eps, safe for file systems: drop_eps_5-255."""
    return f"{kind}_eps_{eps_label(eps).replace('/', '-')}"


def to_inline(svg: str, name: str) -> str:
    """The svg element of a file by matplotlib for use inside HTML, beside others."""
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace(INK, "currentColor").replace(PAPER, "none")


def _save_png(figure: Figure, file: BinaryIO) -> None:
    figure.savefig(file, format="png", dpi=150)


def _plan(results: Results) -> dict[str, Callable[[], Figure]]:
    plan: dict[str, Callable[[], Figure]] = {}
    for matrix in results["matrices"]:
        for measure in MEASURES:
            plan[figure_name(measure.key, matrix["eps"])] = partial(heatmap, grid(results, matrix, measure))
    if results["matrices"]:
        plan["robustness"] = partial(robustness, results)
    if results["statistics"]:
        plan["typicality"] = partial(typicality, results)
    for eps in sorted({row["eps"] for row in results["statistics"] if row["spectrum"]}):
        plan[figure_name("spectrum", eps)] = partial(spectrum, results, eps)
    return plan


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # no pyplot: it would keep figures and choose a window system

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def heatmap(shown: Grid) -> Figure:
    """Annotated cells: the mean, below it the interval; "failed" or "–" where there is none."""
    from matplotlib.patches import Rectangle

    rows, columns = len(shown.rows), len(shown.columns)
    figure, axes = _figure(2.4 + 0.95 * columns, 1.9 + 0.62 * rows)
    for i, line in enumerate(shown.cells):
        for j, cell in enumerate(line):
            fill, ink = cell_colours(cell)
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=fill, edgecolor=PAPER, linewidth=2))
            write = partial(axes.text, j + 0.5, color=ink, ha="center", va="center", in_layout=False)
            write(i + (0.4 if cell.interval else 0.5), cell.text)
            write(i + 0.74, cell.interval, fontsize=6.5)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    labels = shown.labels
    slanted = max(len(labels[name]) for name in shown.columns) > 9
    turn: dict[str, Any] = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    places = [k + 0.5 for k in range(max(rows, columns))]
    axes.set_xticks(places[:columns], [labels[name] for name in shown.columns], **turn)
    axes.set_yticks(places[:rows], [labels[name] for name in shown.rows])
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    unit = f", {shown.measure.unit}" if shown.measure.unit else ""
    axes.set_ylabel("crafted on")
    axes.set_xlabel("against" if shown.measure.square else "scored on")
    figure.suptitle(f"{shown.measure.title}{unit}, ε = {eps_label(shown.eps)}", fontsize=11)
    return figure


def cell_colours(cell: Cell) -> tuple[Any, str]:
    """(fill, ink) of a cell of a figure."""
    if cell.estimate is None:
        return (0.5, 0.5, 0.5, 0.15), INK
    end, share = (HIGH if cell.shade >= 0 else NEGATIVE), abs(cell.shade)
    fill = tuple(low + share * (high - low) for low, high in zip(LOW, end, strict=True))
    luminance = sum(w * c**2.2 for w, c in zip((0.2126, 0.7152, 0.0722), fill, strict=True))
    return fill, "#000000" if luminance > 0.179 else "#ffffff"  # where black and white contrast alike


def _line(names: list[str], name: str) -> dict[str, Any]:
    k = names.index(name)
    return {
        "color": LINES[k % len(LINES)], "marker": MARKERS[k % len(MARKERS)], "markersize": 5,
        "linestyle": DASHES[k // len(LINES) % len(DASHES)], "linewidth": 1.6,
    }  # fmt: skip


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 2 if max(map(len, labels)) > 14 else 4
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)


def _eps_axis(axes: Axes, values: list[float]) -> None:
    axes.set_xticks(values, [eps_label(eps) if eps else "0" for eps in values])
    axes.set_xlabel("ε")
    axes.grid(axis="y", color=INK, alpha=0.12)


def _sources(results: Results) -> list[str]:
    return list(dict.fromkeys(name for matrix in results["matrices"] for name in matrix["sources"]))


def robustness(results: Results) -> Figure:
    """PSNR of each source under the attack crafted on itself, against eps; at 0 what it reaches without an attack."""
    figure, axes = _figure(6.4, 4.4)
    matrices = sorted(results["matrices"], key=lambda matrix: float(matrix["eps"]))
    names = _sources(results)
    labels = short_labels(names)
    for name in names:
        points: list[tuple[float, Estimate]] = []
        if name in matrices[0]["targets"]:
            start = estimate(matrices[0]["psnr_before"], matrices[0]["targets"].index(name))
            points += [(0.0, start)] if start else []
        points += [(m["eps"], value) for m in matrices if (value := own(m, "psnr_after", name))]
        if points:
            _curve(axes, points, labels[name], _line(names, name))
    _eps_axis(axes, [0.0, *(m["eps"] for m in matrices)])
    axes.set_ylabel("PSNR after the model's own attack, dB")
    _legend(figure, axes)
    return figure


def _curve(axes: Axes, points: list[tuple[float, Estimate]], label: str, line: dict[str, Any]) -> None:
    """Means, with a band from low to high."""
    at = [eps for eps, _ in points]
    low = [value.mean if value.low is None else value.low for _, value in points]
    high = [value.mean if value.high is None else value.high for _, value in points]
    (drawn,) = axes.plot(at, [value.mean for _, value in points], **line)
    drawn.set_label(f" {label}")  # a label that begins with "_" would be left out of the legend
    axes.fill_between(at, low, high, color=line["color"], alpha=0.14, linewidth=0)


def typicality(results: Results) -> Figure:
    """Typicality gap of the noise before (eps = 0) and after each attack, over the typical shell ±2/sqrt(2d)."""
    figure, axes = _figure(6.4, 4.4)
    rows = sorted(results["statistics"], key=lambda row: float(row["eps"]))
    names = list(dict.fromkeys(row["source"] for row in rows))
    labels = short_labels(names)
    shells = [2 * row["spread"] for row in rows if row["spread"] is not None]
    if shells:
        axes.axhspan(-max(shells), max(shells), color=INK, alpha=0.12, linewidth=0, label="typical shell, ±2/√(2d)")
    for name in names:
        mine = [row for row in rows if row["source"] == name]
        points = [(0.0, first)] if (first := estimate(mine[0]["typicality_before"])) else []
        points += [(row["eps"], value) for row in mine if (value := estimate(row["typicality_after"]))]
        if points:
            _curve(axes, points, labels[name], _line(names, name))
    _eps_axis(axes, sorted({0.0, *(row["eps"] for row in rows)}))
    axes.set_ylabel("typicality gap of the noise, nats per pixel")
    _legend(figure, axes)
    return figure


def spectrum(results: Results, eps: float) -> Figure:
    """Power of the perturbations relative to white noise, in radial bands."""
    figure, axes = _figure(6.4, 4.4)
    rows = [row for row in results["statistics"] if row["eps"] == eps]
    names = [row["source"] for row in rows]
    labels = short_labels(names)
    for row in rows:
        bands = row["spectrum"] or []
        width = 0.5**0.5 / max(len(bands), 1)
        points = [((k + 0.5) * width, power) for k, power in enumerate(bands) if power is not None and power > 0]
        if points:
            (drawn,) = axes.plot(*zip(*points, strict=True), **_line(names, row["source"]))
            drawn.set_label(f" {labels[row['source']]}")
    axes.axhline(1, color=INK, alpha=0.5, linewidth=1, linestyle=":", label="white noise")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color=INK, alpha=0.12)
    axes.set(xlabel="spatial frequency, cycles per pixel", ylabel="power relative to white noise")
    axes.set_title(f"ε = {eps_label(eps)}")
    _legend(figure, axes)
    return figure
