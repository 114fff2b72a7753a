"""The suite on a terminal: each row as soon as it is measured, and at the end what it comes to."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple

from rich.console import Console, RenderableType
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
    table = _table(("ceiling", "rate", ""), left=(0, 2))
    for one in ceilings:
        table.add_row(*_cells(view.one_line(one.name), view.ceiling(one), view.one_line(one.detail)))
    _print(console, table)


def print_row(console: Console, row: Row) -> None:
    """One table: a line for each way that has times, and the reasons of those that have none."""
    _print(console, Text(f"\n{view.title(row)}", style="bold"), Text(view.must(row), style="dim"))
    ways = [view.line(row, way) for way in row.timed()]
    if ways:
        table = _table(astuple(view.TITLES)[:-1], left=(0, 1))
        for line in ways:
            table.add_row(*_cells(*astuple(line)[:-1]), style="bold" if line.bold else None)
        _print(console, table)
    for name, why in view.refused(row):
        _print(console, Padding(Text(f"{name}: no time, {why}", style="yellow"), (0, 1)))


def print_end(console: Console, result: Result) -> None:
    """Ratios of each case, rows that are behind, ways without a time, trials that failed."""
    found = summary.cases(result)
    if found:
        _print(console, Text("\nFastest of ours, geometric mean over rows (least .. most)", style="bold"))
        table = _table(
            ("suite", "case", "type", "rows", "x best plain", "x best peer", "of the ceiling"), left=(0, 1, 2)
        )
        for case in found:
            spans = span(case.plain), span(case.peer), span(case.share, share=True)
            table.add_row(*_cells(case.suite, view.one_line(case.case), case.dtype, str(case.rows), *spans))
        _print(console, table)
    failed, missing = summary.without_time(result)
    late = [f"{name}: {why}" for name, why in summary.behind(result)]
    _list(console, f"Under {summary.CLOSE} of the ceiling, or not ahead of plain PyTorch and every peer", late, "cyan")
    _list(console, "Wrong, or raised", failed, "red")
    _list(console, "Not installed", missing, "yellow")
    _list(console, "Could not be set up", [view.one_line(error) for error in result.errors], "red")
    rows, ours = len(result.rows), len(result.wrong)
    words = f"\n{rows} row{'s' * (rows != 1)} in {view.seconds(result.seconds)}" if rows else "\nNothing was measured"
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


def span(one: summary.Span | None, *, share: bool = False) -> str:
    """ "2.10 (1.80 .. 2.60)" """
    if one is None:
        return view.NOTHING
    write = view.percent if share else view.times
    return f"{write(one.mean)} ({write(one.low)} .. {write(one.high)})"


def _table(titles: Iterable[str], *, left: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(titles):
        table.add_column(
            Text(name), justify="left" if number in left else "right", no_wrap=number not in left, overflow="fold"
        )
    return table


def _cells(*words: str) -> list[Text]:
    return [Text(one) for one in words]  # never markup: a name may hold brackets


def _list(console: Console, head: str, lines: Sequence[str], style: str) -> None:
    if lines:
        _print(console, Text(f"\n{head}", style="bold"))
        for words in lines:
            _print(console, Padding(Text(words, style=style), (0, 0, 0, 2)))


def _print(console: Console, *parts: RenderableType) -> None:
    for part in parts:
        console.print(part, width=max(console.width, LEAST), crop=False, highlight=False)
