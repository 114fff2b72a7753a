"""What one row of the suite is made of: ways to do the same work, a judge, and the least that the work must cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["ours", "plain", "peer"]
Call = Callable[[], Any]


class Wrong(Exception):
    """A way gives another result than it should; the message says by how much."""


@dataclass(frozen=True)
class Way:
    """One way to do the work of a trial.

    Args:
        name: within the trial ("eager in place").
        side: whose it is.
        make: builds what is timed; an ImportError lists the way as not installed, any other error as raised.
        compiles: whether the first call compiles (its time is told apart).
        judge: its own, where it promises less than the others do.
    """

    name: str
    side: Side
    make: Callable[[], Call]
    compiles: bool = False
    judge: Callable[[Call], float] | None = None


@dataclass(frozen=True)
class Trial:
    """A row before it is measured.

    Args:
        suite: "ops", "attacks" or "layers".
        case: what is done ("pgd_step_ linf").
        dtype: storage type of the tensors ("float32").
        shape: of the images, (B, C, H, W).
        ways: all are timed in turn; a way that is wrong or cannot be made has no time.
        judge: runs a way once and returns how far its result is off (on the case's own scale); raises Wrong.
        floor: does the least that the work must cost, timed in the same rounds.
        floor_name: what that is ("triad", "passes of the model").
        floor_scale: the floor's time times this is the least time for the work.
        layout: memory format of the tensors.
        bytes: that must move, None where that does not bind.
        operations: of arithmetic that must be done, None where nobody counted.
    """

    suite: str
    case: str
    dtype: str
    shape: tuple[int, ...]
    ways: Sequence[Way]
    judge: Callable[[Call], float]
    floor: Call
    floor_name: str
    floor_scale: float = 1.0
    layout: str = "contiguous"
    bytes: int | None = None
    operations: float | None = None
