"""What a run of the suite comes to: ratios of each case, rows that are behind, ways that have no time."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from .result import MISSING, Result, Row
from .view import one_line, title

CLOSE = 0.9
"""Of the ceiling: nearer is good enough."""


@dataclass(frozen=True)
class Span:
    """Of one figure over the rows of a case: geometric mean, least and most."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Case:
    """The fastest of ours in the rows of a case and type. ``plain``, ``peer``: the fastest of those as multiples of it;
    None where no row has both. ``share``: of the ceiling."""

    suite: str
    case: str
    dtype: str
    rows: int
    plain: Span | None
    peer: Span | None
    share: Span | None


def cases(result: Result) -> list[Case]:
    """In the order of the run."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in result.rows:
        grouped.setdefault((row.suite, row.case, row.dtype), []).append(row)
    return [
        Case(
            *key,
            rows=len(rows),
            plain=_span(_ratio(row, "plain") for row in rows),
            peer=_span(_ratio(row, "peer") for row in rows),
            share=_span(_share(row) for row in rows),
        )
        for key, rows in grouped.items()
    ]


def _ratio(row: Row, side: str) -> float | None:
    best = row.best("ours")
    return None if best is None else row.times_of(side, best)


def _share(row: Row) -> float | None:
    best = row.best("ours")
    return None if best is None else row.share(best)


def _span(values: Iterable[float | None]) -> Span | None:
    known = [value for value in values if value is not None]
    return Span(statistics.geometric_mean(known), min(known), max(known)) if known else None


def behind(result: Result) -> list[tuple[str, str]]:
    """(row, why) for each row where ours has no time, is under 0.9 of the ceiling, or is not ahead of the others."""
    return [(title(row), ", ".join(why)) for row in result.rows if (why := _behind(row))]


def _behind(row: Row) -> list[str]:
    best = row.best("ours")
    if best is None:
        return ["ours has no time"]
    why = [f"{100 * share:.1f} % of {one_line(row.floor_name)}"] if (share := row.share(best)) < CLOSE else []
    for side, words in (("plain", "best plain"), ("peer", "best peer")):
        other, ratio = row.best(side), row.times_of(side, best)
        if other is not None and ratio is not None and ratio <= 1:
            why.append(f"{ratio:.3f} x {words} ({one_line(other.name)})")
    return why


def without_time(result: Result) -> tuple[list[str], list[str]]:
    """Ways that are wrong or raised, and ways that are not installed; the same words once, with where that was."""
    failed: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for row in result.rows:
        for way in row.ways:
            if not way.seconds:
                why = way.refused or "no rounds"
                kind = missing if why.startswith(MISSING) else failed
                kind.setdefault(f"{one_line(way.name)} ({way.side}) {one_line(why)}", []).append(title(row))
    return _placed(failed), _placed(missing)


def _placed(found: dict[str, list[str]]) -> list[str]:
    return [
        f"{words}; in {where[0]}" + (f" and {len(where) - 1} more row{'s' * (len(where) > 2)}" if where[1:] else "")
        for words, where in found.items()
    ]
