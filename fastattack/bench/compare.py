"""Two runs of the suite: which ways became slower or faster, beyond what the machine does by itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..report.folder import finite
from . import view
from .result import Measured, Result, Row

Verdict = Literal["slower", "faster", "same", "unknown"]
VERDICTS: tuple[Verdict, ...] = ("slower", "faster", "same", "unknown")
Array = npt.NDArray[np.float64]
Key = tuple[str, str, str, tuple[int, ...], str]

DRAWS, SEED = 2000, 0
CONTROLS = 5
"""Ways that are not ours, at least, before their changes tell how far two runs of the same code are apart."""

SOFTWARE = (
    "fastattack", "commit", "python", "torch", "triton", "cupy", "numpy", "cuda", "backend", "auto", "versions",
    "cpu kernels",
)  # fmt: skip
"""How keys of ``machine`` begin that are about what is installed. Any other, except `PASSING`, is about the machine."""
PASSING = ("date", "time", "load", "seconds", "host", "openmp libraries")
"""Keys of ``machine`` that differ from run to run on the same one."""
SETTING = ("threads", "device", "clock")
"""Keys of ``settings`` that make it another machine as far as times go."""


@dataclass(frozen=True)
class Ratio:
    """New over old, above 1 is slower, with the ends of its bootstrap interval."""

    value: float
    low: float
    high: float

    def beyond(self, least: float, noise: float = 0.0) -> int:
        """1: slower by ``least`` and with the whole interval, widened by ``noise`` (of the logarithm, added in
        quadrature), above 1; -1: faster in the same sense; 0: neither."""
        middle = math.log(self.value)
        if middle >= math.log1p(least):
            return int(middle > math.hypot(middle - math.log(self.low), noise))
        if middle <= -math.log1p(least):
            return -int(-middle > math.hypot(math.log(self.high) - middle, noise))
        return 0


@dataclass(frozen=True)
class Change:
    """One way in both runs. ``old``, ``new``: medians in seconds; ``ratio`` of those; ``to_floor``: the same after
    each round is divided by the floor of that round; ``verdict``: "unknown" where the rounds are too few for one."""

    row: str
    way: str
    side: str
    old: float
    new: float
    ratio: Ratio
    to_floor: Ratio
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Args:
        changes: ways with times in both runs.
        only_old, only_new: rows, and ways of rows that both have, in words.
        lost, found: ways that had a time and are refused now, and the other way round, with the reason.
        other_work: rows whose floor or bytes are not the same ones, in words; they are not compared.
        differences: of machine, versions and settings, in words.
        same_machine: False: verdicts rest on ``to_floor`` alone.
        noise: how far apart, in the logarithm of ``to_floor``, two runs of the same code may be: from the ways that
            are not ours; None where they are too few.
        confidence, least: as given.
    """

    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    lost: tuple[str, ...]
    found: tuple[str, ...]
    other_work: tuple[str, ...]
    differences: tuple[str, ...]
    same_machine: bool
    noise: float | None
    confidence: float
    least: float

    def of(self, verdict: Verdict, side: str | None = None) -> list[Change]:
        """Changes with a verdict, of one side or of all."""
        return [one for one in self.changes if one.verdict == verdict and side in (None, one.side)]


def compare(old: Result, new: Result, *, confidence: float = 0.99, least: float = 0.03) -> Comparison:
    """Pair the ways of two runs by row and name, and judge each.

    The rounds of one run share the state of the machine (frequency, neighbours, where the memory came to lie), so the
    bootstrap over rounds, which takes them for independent, knows the noise inside a run alone and is too narrow for
    two runs. Therefore "slower" and "faster" are said only where all of these hold:

    - the median changed by at least ``least``, and its bootstrap interval (percentiles, both runs resampled) is apart
      from no change;
    - so did the median of time over floor of the same round, in the same direction: what slows the floor down too is
      the machine;
    - that change is more than the ways that are not ours make one expect. Plain PyTorch and the peers are the same code
      in both runs, so their changes are a sample of the noise between runs: 1.4826 times the median of their
      magnitude is its standard deviation, and the quantile is the one at which none of n ways is flagged by chance
      with probability ``confidence``. With fewer than five of them this guard is missing; `Comparison.noise` says so.

    On another machine, or with other threads, the first condition is left out. Where so few rounds were taken that
    even a full separation is no evidence at this confidence (fewer than five in each run at 0.99), it is "unknown".
    None of this sees a change of the state of the machine that slows one way down and neither the floor nor the
    others: a flag is a reason to run both again, interleaved.

    Args:
        confidence: of the intervals.
        least: share of a change that is worth telling.

    Raises:
        ValueError: an argument is out of range, or a run has two rows, or a row two ways, of one name.
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence: wanted a share in [0.5, 1), got {confidence!r}")
    if not 0 <= least < math.inf:
        raise ValueError(f"least: wanted a share >= 0, got {least!r}")
    before, after = _rows("old", old), _rows("new", new)
    alike, other_work = {}, []
    for key in before:
        if key in after:
            words = _other_work(before[key], after[key])
            other_work += words
            if not words:
                alike[key] = before[key], after[key]
    pairs = [pair for rows in alike.values() for pair in _pairs(*rows)]
    ratios = [_ratios(*pair, confidence) for pair in pairs]
    noise = _noise([to_floor for (row, way, *_), (_, to_floor) in zip(pairs, ratios, strict=True)
                    if way.side != "ours"], len(pairs), confidence)  # fmt: skip
    differences, same = _differences(old, new)
    changes = []
    for (row, a, _, b), (ratio, to_floor) in zip(pairs, ratios, strict=True):
        verdict = _verdict(ratio, to_floor, same, least, noise or 0.0)
        if 2 / math.comb(len(a.seconds) + len(b.seconds), len(a.seconds)) > 1 - confidence:
            verdict = "unknown"
        changes.append(Change(view.title(row), a.name, b.side, a.median, b.median, ratio, to_floor, verdict))
    ways = [_ways(*rows) for rows in alike.values()]
    return Comparison(
        changes=tuple(changes),
        only_old=(*(view.title(before[k]) for k in before if k not in after), *(w for one in ways for w in one[0])),
        only_new=(*(view.title(after[k]) for k in after if k not in before), *(w for one in ways for w in one[1])),
        lost=tuple(w for one in ways for w in one[2]),
        found=tuple(w for one in ways for w in one[3]),
        other_work=tuple(other_work),
        differences=tuple(differences),
        same_machine=same,
        noise=noise,
        confidence=confidence,
        least=least,
    )


def _rows(which: str, result: Result) -> dict[Key, Row]:
    rows: dict[Key, Row] = {}
    for row in result.rows:
        if row.key in rows:
            raise ValueError(f"{which}: wanted one row for each name, got two of {view.title(row)}")
        if len({way.name for way in row.ways}) < len(row.ways):
            raise ValueError(f"{which}: wanted one way for each name, got more in {view.title(row)}")
        rows[row.key] = row
    return rows


def _other_work(old: Row, new: Row) -> list[str]:
    pairs = (("floor", old.floor_name, new.floor_name), ("bytes", old.bytes, new.bytes))
    return [f"{view.title(new)}: {name} was {a}, is {b}" for name, a, b in pairs if a != b]


def _pairs(old: Row, new: Row) -> Iterator[tuple[Row, Measured, Row, Measured]]:
    """(row, way) of both runs for each way that has times in both."""
    after = {way.name: way for way in new.timed()}
    for way in old.timed():
        if way.name in after:
            yield old, way, new, after[way.name]


def _ways(old: Row, new: Row) -> tuple[list[str], list[str], list[str], list[str]]:
    """Ways of the old row alone, of the new one alone, that lost their time, and that have one now."""
    a, b, name = {w.name: w for w in old.ways}, {w.name: w for w in new.ways}, view.title(new)
    both = [(a[key], b[key]) for key in a if key in b]
    return (
        [f"{name}: {key}" for key in a if key not in b],
        [f"{name}: {key}" for key in b if key not in a],
        [f"{name}: {y.name} {y.refused or 'no rounds'}" for x, y in both if x.seconds and not y.seconds],
        [f"{name}: {x.name} was {x.refused or 'no rounds'}" for x, y in both if y.seconds and not x.seconds],
    )


def _ratios(old: Row, a: Measured, new: Row, b: Measured, confidence: float) -> tuple[Ratio, Ratio]:
    """Of the times, and of the times over the floor."""
    x, y = np.array([a.seconds, old.floor]), np.array([b.seconds, new.floor])
    return _ratio(x[0], y[0], confidence), _ratio(x[0] / x[1], y[0] / y[1], confidence)


def _ratio(old: Array, new: Array, confidence: float) -> Ratio:
    random = np.random.default_rng(SEED)
    drawn = [np.median(x[random.integers(len(x), size=(DRAWS, len(x)))], axis=1) for x in (old, new)]
    low, high = np.quantile(drawn[1] / drawn[0], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Ratio(float(np.median(new) / np.median(old)), float(low), float(high))


def _noise(controls: Sequence[Ratio], ways: int, confidence: float) -> float | None:
    if len(controls) < CONTROLS:
        return None
    deviation = 1.4826 * statistics.median(abs(math.log(one.value)) for one in controls)
    return deviation * statistics.NormalDist().inv_cdf(1 - (1 - confidence) / 2 / ways)  # Bonferroni's share of each


def _verdict(ratio: Ratio, to_floor: Ratio, same_machine: bool, least: float, noise: float) -> Verdict:
    where = to_floor.beyond(least, noise)
    if same_machine and ratio.beyond(least) != where:
        where = 0
    return "slower" if where > 0 else "faster" if where < 0 else "same"


def _differences(old: Result, new: Result) -> tuple[list[str], bool]:
    """In words, and whether times of the two can be compared as they are."""
    words, same = [], True
    for part, is_machine in (("machine", _is_machine), ("settings", _is_setting)):
        a, b = _flat(getattr(old, part)), _flat(getattr(new, part))
        for key in [*a, *(key for key in b if key not in a)]:
            x, y = a.get(key, "nothing"), b.get(key, "nothing")
            if x != y:
                words.append(view.one_line(f"{part} {key}: {x} before, {y} now"))
                same = same and not is_machine(key)
    return words, same


def _is_machine(key: str) -> bool:
    return not key.lower().startswith(SOFTWARE + PASSING)


def _is_setting(key: str) -> bool:
    return key.lower().startswith(SETTING)


def _flat(found: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = finite(value)  # tuples are lists, as in JSON
    return flat
