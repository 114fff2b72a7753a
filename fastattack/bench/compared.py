"""A comparison of two runs, for a reader."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from . import view
from .compare import VERDICTS, Change, Comparison
from .table import show_list, show_table


def print_comparison(console: Console, comparison: Comparison) -> None:
    """What changed, then everything that could not be compared."""
    if not comparison.same_machine:
        words = "\nNot the same machine or threads: verdicts rest on the times over their floors alone"
        console.print(Text(words, style="bold yellow"))
    show_list(console, "Differences", comparison.differences, "")
    for verdict in VERDICTS[:2]:
        if found := comparison.of(verdict):
            console.print(Text(f"\n{verdict.capitalize()}", style="bold"))
            _show(console, found, comparison.confidence)
    for head, lines, style in (
        ("Had a time, has none now", comparison.lost, "red"),
        ("Had no time, has one now", comparison.found, "green"),
        ("Other work than before, not compared", comparison.other_work, "yellow"),
        ("Only before", comparison.only_old, ""),
        ("Only now", comparison.only_new, ""),
    ):
        show_list(console, head, lines, style)
    console.print(Text("\n" + conclusion(comparison)))


def conclusion(comparison: Comparison) -> str:
    """In one paragraph."""
    slower, faster, same, unknown = (len(comparison.of(verdict)) for verdict in VERDICTS)
    words = f"{len(comparison.changes)} ways compared: {slower} slower, {faster} faster"
    words += f" (by at least {100 * comparison.least:g} %, beyond the noise), {same} the same."
    if unknown:
        words += f" {unknown} have too few rounds for a verdict."
    if comparison.noise is None:
        return words + " Too few ways that are not ours: the noise between runs is not known, only that of the rounds."
    reach = 100 * math.expm1(comparison.noise)
    return f"{words} The ways that are not ours show the noise between runs: changes under {reach:.3g} % may be chance."


def _show(console: Console, changes: Sequence[Change], confidence: float) -> None:
    interval = f"{100 * confidence:g} % of new/old"
    titles = ("row", "way", "before", "now", "change", interval, "over floor", interval)
    rows = []
    for one in sorted(changes, key=lambda one: -abs(math.log(one.to_floor.value))):
        figures = [view.seconds(one.old), view.seconds(one.new)]
        for ratio in (one.ratio, one.to_floor):
            figures += [f"{100 * (ratio.value - 1):+.1f} %", f"{ratio.low:.3f} .. {ratio.high:.3f}"]
        rows.append([one.row, f"{one.way} ({one.side})", *figures])
    show_table(console, titles, rows, left=(0, 1))
