"""Where the rows of a training run go, and what the terminal shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..files import write_atomic

#: A row of the log. "epoch" (from 0), "step" (steps done), the means since the last row of "loss" (in units of the
#: noise), "psnr" (the loss in dB; not where targets are no images) and "gradient" (l2 norm before clipping), "rate";
#: "valid" and "attacked" (dB) where the row ends an epoch that was validated.
Row = dict[str, float | int]
COLUMNS = ("epoch", "step", "loss", "psnr", "gradient", "rate", "valid", "attacked")

Log = str | Callable[[Row], object] | None
CSV = "log.csv"


def check_log(log: Log) -> None:
    """Complain about a log that cannot be, before anything is written."""
    if log == "tensorboard":
        _summary_writer()
    elif not (log is None or log == "csv" or callable(log)):
        raise ValueError(f"log: wanted 'csv', 'tensorboard', a function or None, got {log!r}")


@contextmanager
def open_log(log: Log, folder: Path, rows: list[Row]) -> Iterator[Callable[[Row], object]]:
    """A function that takes each new row. ``rows`` are the checkpoint's: later ones of a killed run are taken back."""
    if callable(log):
        yield log
    elif log == "csv":
        write_atomic(folder / CSV, _as_text(rows).encode())
        with (folder / CSV).open("a", encoding="utf-8", newline="") as file:
            yield lambda row: _append(file, row)
    elif log == "tensorboard":
        step = int(rows[-1]["step"]) if rows else 0
        with _summary_writer()(str(folder / "tensorboard"), purge_step=step + 1) as writer:
            yield lambda row: _to_board(writer, row)
    else:
        yield lambda row: None


def _as_text(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _append(file: TextIO, row: Row) -> None:
    csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
    file.flush()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeError(
            f"log: 'tensorboard' needs the tensorboard package ({error}): pip install tensorboard"
        ) from error
    return SummaryWriter


def _to_board(writer: Any, row: Row) -> None:
    for name, value in row.items():
        if name not in ("epoch", "step"):
            writer.add_scalar(name, value, row["step"])
    writer.flush()


@contextmanager
def progress_bar(steps: int, done: int, wanted: bool) -> Iterator[Callable[[int, str], None] | None]:
    """A function of (steps done, text) that moves the bar; None where stderr is no terminal or no bar is wanted."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield None
        return
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=steps, completed=done, text="")
        yield lambda step, text: bar.update(task, completed=step, text=text)
