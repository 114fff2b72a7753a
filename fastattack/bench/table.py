"""The suite on a terminal: each row as soon as it is measured, and at the end what it comes to."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from . import summary, view
from .result import Ceiling, Result, Row

LEAST = 118
"""Columns of a table of ways; where a console has fewer, lines are longer than it: no figure is left out."""
FILE = 140


def stdout() -> Console:
    """As wide as the terminal; 140 columns in a pipe or file."""
    return Console(width=None if sys.stdout.isatty() else FILE, highlight=False)


def print_ceilings(console: Console, ceilings: Sequence[Ceiling]) -> None:
    """What the machine can do at all."""
    if not ceilings:
        return
    rows = [(one.name, view.ceiling(one), one.detail) for one in ceilings]
    show_table(console, ("ceiling", "rate", ""), rows, left=(0, 2))


def print_row(console: Console, row: Row) -> None:
    """One table: a line for each way that has times, and the reasons of those that have none."""
    _print(console, Text(f"\n{view.title(row)}", style="bold"), Text(view.must(row), style="dim"))
    lines = [view.line(row, way) for way in row.timed()]
    if lines:
        bold = [number for number, line in enumerate(lines) if line.bold]
        show_table(console, view.TITLES.figures, [line.figures for line in lines], left=(0, 1), bold=bold)
    for name, why in view.refused(row):
        _print(console, Padding(Text(f"{name}: no time, {why}", style="yellow"), (0, 1), expand=False))


def print_end(console: Console, result: Result) -> None:
    """Ratios of each case, rows that are behind, ways without a time, trials that failed."""
    found = summary.cases(result)
    if found:
        _print(console, Text("\nFastest of ours, geometric mean over rows (least .. most)", style="bold"))
        titles = ("suite", "case", "type", "rows", "x best plain", "x best peer", "of the ceiling")
        rows = [
            (
                one.suite,
                one.case,
                one.dtype,
                str(one.rows),
                span(one.plain),
                span(one.peer),
                span(one.share, view.percent),
            )
            for one in found
        ]
        show_table(console, titles, rows, left=(0, 1, 2))
    failed, missing = summary.without_time(result)
    late = [f"{name}: {why}" for name, why in summary.behind(result)]
    show_list(
        console, f"Under {summary.CLOSE} of the ceiling, or not ahead of plain PyTorch and every peer", late, "cyan"
    )
    show_list(console, "Wrong, or raised", failed, "red")
    show_list(console, "Not installed", missing, "yellow")
    show_list(console, "Could not be set up", result.errors, "red")
    count, ours = len(result.rows), len(result.wrong)
    words = (
        f"\n{count} row{'s' * (count != 1)} in {view.seconds(result.seconds)}" if count else "\nNothing was measured"
    )
    _print(console, Text(words + (f"; {ours} of our ways without a time" if ours else "")))


def text(result: Result, *, width: int = FILE) -> str:
    """All of it without colours, for a file."""
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None, force_terminal=False)
    print_ceilings(console, result.ceilings)
    for row in result.rows:
        print_row(console, row)
    print_end(console, result)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def span(one: summary.Span | None, write: Callable[[float], str] = view.times) -> str:
    """ "2.10 (1.80 .. 2.60)" """
    return view.NOTHING if one is None else f"{write(one.mean)} ({write(one.low)} .. {write(one.high)})"


def show_table(
    console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int],
    bold: Sequence[int] = (),
) -> None:  # fmt: skip
    """Columns of ``left`` are words and may break; the others are figures. Nothing is read as markup."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(titles):
        words = number in left
        table.add_column(Text(name), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*(Text(view.one_line(cell)) for cell in row), style="bold" if number in bold else None)
    _print(console, _Wide(table))


def show_list(console: Console, head: str, lines: Sequence[str], style: str) -> None:
    """Nothing where there are no lines."""
    if lines:
        _print(console, Text(f"\n{head}", style="bold"))
        for words in lines:
            _print(console, Padding(Text(view.one_line(words), style=style), (0, 0, 0, 2), expand=False))


@dataclass(frozen=True)
class _Wide:
    """At least `LEAST` columns wide, whatever the console is."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update(width=max(options.max_width, LEAST)))


def _print(console: Console, *parts: RenderableType) -> None:
    for part in parts:
        console.print(part, crop=False, highlight=False)
