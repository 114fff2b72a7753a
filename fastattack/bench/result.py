"""The measured suite as data, and as JSON that later runs are compared with."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..report.folder import finite

FORMAT, VERSION = "fastattack bench", 1
MISSING = "not installed"
"""How the reason of a way begins that has no package, or no backend, here."""


@dataclass(frozen=True)
class Measured:
    """One way of a row: its times, or why it has none.

    Args:
        seconds: of each round; empty where ``refused`` says why.
        off: how far its result is from the right one, on the scale of the case's judge.
        first: seconds of its first call where that compiles, else None.
        refused: "wrong: ...", "raised ...", "not installed: ...", or None.
    """

    name: str
    side: str
    seconds: tuple[float, ...] = ()
    off: float | None = None
    first: float | None = None
    refused: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quantile(self, share: float) -> float:
        """Of the rounds, between neighbours."""
        values = sorted(self.seconds)
        at = share * (len(values) - 1)
        low = int(at)
        return values[low] + (at - low) * (values[min(low + 1, len(values) - 1)] - values[low])


@dataclass(frozen=True)
class Row:
    """A measured trial. ``floor``: seconds of each round of the least that the work must cost, scaled to its size."""

    suite: str
    case: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    ways: tuple[Measured, ...]
    floor: tuple[float, ...]
    floor_name: str
    bytes: int | None = None
    operations: float | None = None

    @property
    def key(self) -> tuple[str, str, str, tuple[int, ...], str]:
        """What names a row in another run."""
        return self.suite, self.case, self.dtype, self.shape, self.layout

    def timed(self, side: str | None = None) -> list[Measured]:
        """The ways that have times, of one side or of all."""
        return [way for way in self.ways if way.seconds and side in (None, way.side)]

    def best(self, side: str) -> Measured | None:
        """The fastest of a side."""
        return min(self.timed(side), key=lambda way: way.median, default=None)

    def share(self, way: Measured) -> float:
        """Of the ceiling: the least time over this way's, the median over rounds (both were taken in the same ones)."""
        return _ratio(self.floor, way.seconds)

    def times_of(self, side: str, way: Measured) -> float | None:
        """The fastest of a side as a multiple of this way: above 1, this way is faster."""
        best = self.best(side)
        return None if best is None else _ratio(best.seconds, way.seconds)


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@dataclass(frozen=True)
class Ceiling:
    """What the machine can do: ``rate`` in ``unit`` ("GB/s", "G numbers/s", "us")."""

    name: str
    rate: float
    unit: str
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """A whole run. ``machine``: see `machine.describe`; ``settings``: the options; ``seconds``: of wall clock."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    ceilings: tuple[Ceiling, ...] = ()
    rows: tuple[Row, ...] = ()
    errors: tuple[str, ...] = ()
    """Trials that could not be set up, and why; the rest went on."""
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """In words, the ways of ours that are wrong or raise: what fails a run. A backend that is not here does not."""
        return [
            f"{row.case} {row.dtype} {'x'.join(map(str, row.shape))} {row.layout}: {way.name} {way.refused}"
            for row in self.rows
            for way in row.ways
            if way.side == "ours" and way.refused is not None and not way.refused.startswith(MISSING)
        ]

    @property
    def fastattack(self) -> str:
        """The version that was measured."""
        from .. import __version__  # not before it is needed: fastattack may be in the middle of its import

        return str(self.machine.get("versions", {}).get("fastattack") or __version__)

    def as_json(self) -> str:
        """What `read` reads. No number is NaN or infinite in it: null stands for such a one."""
        content = {"format": FORMAT, "version": VERSION, "config": {"fastattack": self.fastattack}, **asdict(self)}
        return json.dumps(finite(content), indent=1, allow_nan=False) + "\n"


def read(path: Path) -> Result:
    """A result of an earlier run.

    Raises:
        ValueError: it is not one, or of another version; names the file and what is wrong in it.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is no UTF-8
        raise ValueError(f"compare: {path} is not JSON: {error}") from error
    kind = found.get("format") if isinstance(found, dict) else None
    if kind != FORMAT:
        raise ValueError(
            f"compare: {path} is not a result of `fastattack bench`: wanted format {FORMAT!r}, got {kind!r}"
        )
    if found.get("version") != VERSION:
        raise ValueError(f"compare: {path}: wanted version {VERSION} of the format, got {found.get('version')!r}")
    try:
        return _result(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"compare: {path} lacks a part of a result, or it is of another kind: {words}") from error


def _result(found: dict[str, Any]) -> Result:
    return Result(
        machine=dict(found["machine"]),
        settings=dict(found["settings"]),
        ceilings=tuple(_ceiling(one) for one in found["ceilings"]),
        rows=tuple(_row(one) for one in found["rows"]),
        errors=tuple(map(str, found["errors"])),
        seconds=float(found["seconds"]),
        extra=dict(found["extra"]),
    )


def _ceiling(one: dict[str, Any]) -> Ceiling:
    _positive("rate", [one["rate"]])
    return Ceiling(**one)


def _row(one: dict[str, Any]) -> Row:
    ways = tuple(_measured(way) for way in one["ways"])
    row = Row(**one | {"shape": tuple(map(int, one["shape"])), "floor": _positive("floor", one["floor"]), "ways": ways})
    if not row.floor or any(len(way.seconds) != len(row.floor) for way in row.timed()):
        raise ValueError(f"{row.case}: wanted a time of every round for the floor and each way")
    return row


def _measured(one: dict[str, Any]) -> Measured:
    return Measured(**one | {"seconds": _positive("seconds", one["seconds"])})


def _positive(name: str, values: list[Any]) -> tuple[float, ...]:
    found = tuple(values)
    if not all(isinstance(x, int | float) and 0 < x < math.inf for x in found):
        raise ValueError(f"{name}: wanted positive numbers, got {str(values)[:60]}")
    return found
