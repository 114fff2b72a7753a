"""ART's summary writer, shown what the engine sees."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from art.summary_writer import SummaryWriter, SummaryWriterDefault
from torch import Tensor

from ...engine import Moment, Source, Wrapped
from ...extras import require
from ...objectives import Objective
from ...ops.backend import Backend

Show = Callable[[Moment, Tensor, Tensor], None]
"""(moment, x, gradient of the losses' sum) of a batch."""


class Watched(Wrapped):
    """A source that shows each gradient where it was taken."""

    def __init__(self, inner: Source, show: Show) -> None:
        super().__init__(inner)
        self.show = show

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        found = self.inner.gradient(x, target, objective, moment)
        self.show(moment, x, found[1])
        return found


def watching(show: Show | None) -> Callable[[Source, Backend], Source] | None:
    """What `fastattack.engine.attack` takes as ``wrap``."""
    return None if show is None else lambda source, _: Watched(source, show)


class TorchWriter(SummaryWriterDefault):  # type: ignore[misc]
    """ART's default writer over torch's TensorBoard writer, where tensorboardX is not installed."""

    def _init_summary_writer(self, summary_writer: str | bool, init_counter: int) -> None:
        from torch.utils.tensorboard import SummaryWriter as Torch

        if isinstance(summary_writer, str):
            self._summary_writer = Torch(log_dir=f"{summary_writer}/generate-{init_counter}")
        else:
            self._summary_writer = Torch(comment=f"-generate-{init_counter}")


def writer_of(wanted: Any) -> Any:
    """False, or a SummaryWriter, from what ART's ``summary_writer`` takes.

    Raises:
        ValueError: it is of another type. RuntimeError: no TensorBoard writer is installed.
    """
    if isinstance(wanted, SummaryWriter):
        return wanted
    if not isinstance(wanted, (bool, str)):
        raise ValueError(f"summary_writer: wanted True, False, a path or ART's SummaryWriter, got {wanted!r}")
    if not wanted:
        return False
    if find_spec("tensorboardX") is not None:
        return SummaryWriterDefault(wanted)
    require("torch.utils.tensorboard", what="summary_writer", extra="tensorboard")
    return TorchWriter(wanted)
