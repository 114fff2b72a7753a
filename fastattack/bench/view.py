"""A row of the suite in words and figures of sensible units, the same on the terminal and on the page."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .result import Ceiling, Measured, Row

NOTHING = "-"


@dataclass(frozen=True)
class Line:
    """What a table says of a way that has times; `NOTHING` where a figure does not apply.

    Args:
        spread: the 20 and the 80 % quantile of the rounds.
        rate: GB/s of the bytes that must move.
        share: of the ceiling, which takes the least time that the work must cost.
        plain, peer: the median of the fastest plain PyTorch, of the fastest peer, as multiples of this way's.
        first: the first call of a way that compiles.
        off: how far the gate found the result from the right one, on the case's own scale.
    """

    side: str
    name: str
    median: str
    spread: str
    rate: str
    share: str
    plain: str
    peer: str
    first: str
    off: str
    bold: bool = False

    @property
    def figures(self) -> tuple[str, ...]:
        """All columns."""
        return tuple(getattr(self, one.name) for one in fields(self) if one.name != "bold")


TITLES = Line(
    "whose", "way", "median", "20 .. 80 %", "GB/s", "of ceiling", "x plain", "x peer", "first call", "off", True
)  # fmt: skip


def line(row: Row, way: Measured) -> Line:
    """Of a way of ``row`` that has times. The fastest of ours is bold."""
    return Line(
        side=way.side,
        name=one_line(way.name),
        median=seconds(way.median),
        spread=f"{seconds(way.quantile(0.2))} .. {seconds(way.quantile(0.8))}",
        rate=NOTHING if row.bytes is None else digits(row.bytes / way.median / 1e9),
        share=percent(row.share(way)),
        plain=times(row.times_of("plain", way)),
        peer=times(row.times_of("peer", way)),
        first=NOTHING if way.first is None else seconds(way.first),
        off=NOTHING if way.off is None else f"{way.off:.1e}" if way.off else "0",
        bold=way is row.best("ours"),
    )


def refused(row: Row) -> list[tuple[str, str]]:
    """(way, why it has no time)."""
    return [(one_line(way.name), one_line(way.refused or "no rounds")) for way in row.ways if not way.seconds]


def title(row: Row) -> str:
    """ "pgd_step_ linf float32 64x3x512x512"; the layout where it is not the usual one."""
    layout = "" if row.layout == "contiguous" else f" {row.layout}"
    return one_line(f"{row.case} {row.dtype} {shape(row)}{layout}")


def shape(row: Row) -> str:
    return "x".join(map(str, row.shape))


def must(row: Row) -> str:
    """What the work must cost: bytes, operations, and the measured time of the least."""
    parts = [] if row.bytes is None else [f"{scaled(row.bytes, 'B')} must move"]
    parts += [] if row.operations is None else [f"{scaled(row.operations, 'operations')} must be done"]
    floor = Measured("", "", row.floor).median
    return one_line(", ".join([*parts, f"at the ceiling ({row.floor_name}) {seconds(floor)}"]))


def ceiling(one: Ceiling) -> str:
    return f"{digits(one.rate)} {one_line(one.unit)}"


def one_line(text: str) -> str:
    """Without line ends and control characters: names and reasons come from anywhere."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def digits(value: float) -> str:
    """Three of them, without an exponent where that is short."""
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    places = next((k for k, end in ((3, 0.9995), (2, 9.995), (1, 99.95)) if abs(value) < end), 0)
    return f"{value:.{places}f}"


def seconds(value: float) -> str:
    """In us, ms or s."""
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if value * factor < 999.5:
            return f"{digits(value * factor)} {unit}"
    return f"{digits(value)} s"


def scaled(value: float, unit: str) -> str:
    """With a decimal prefix: 805 MB."""
    power, prefix = 1.0, ""
    for step in "kMGTP":
        if abs(value) / power < 999.5:
            break
        power, prefix = power * 1e3, step
    number = f"{value / power:.0f}" if not prefix and float(value).is_integer() else digits(value / power)
    return f"{number} {prefix}{' ' * (len(unit) > 1 and bool(prefix))}{unit}"


def percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def times(ratio: float | None) -> str:
    return NOTHING if ratio is None else digits(ratio) if ratio >= 99.95 else f"{ratio:.2f}"
