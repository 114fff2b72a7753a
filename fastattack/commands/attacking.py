"""What `fastattack attack` does for every attack: images in, a progress bar, results out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from torch import Tensor

    from ..job import Watch

Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)


class Report(Protocol[Taken]):
    """A `fastattack.report.OutputFolder` that takes results one by one."""

    def __enter__(self) -> object: ...

    def __exit__(self, *reason: Any) -> None: ...

    def add(self, result: Taken, /) -> None: ...

    def finish(self, config: dict[str, Any], /) -> object: ...


def packaged_images() -> AbstractContextManager[Path]:
    """Inside, the images of the package are a folder."""
    return resources.as_file(resources.files("fastattack") / "assets" / "images")


def load_data(data: list[Path] | None, channels: int) -> list[tuple[str, Tensor]]:
    """The images of these folders and files, or the packaged ones."""
    from ..job import load_images

    with packaged_images() as packaged:
        return load_images(list(data) if data else [packaged], channels)


def with_bar(run: Callable[[Watch], Iterator[Result]], total: int, words: Callable[[Tensor], str]) -> Iterator[Result]:
    """Results as they come, under a progress bar over ``total`` gradients; ``words`` of the losses at hand."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("attacking"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("attack", total=total, loss="")

        def progress(size: int, now: Any) -> None:
            if console.is_terminal:
                bar.update(task, advance=size, loss=words(now.loss.double()))

        yield from run(progress)


def deliver(
    results: Iterator[Result],
    folder: Report[Result] | None,
    config: dict[str, Any],
    show: Callable[[list[Result]], None],
    out: Path | None,
) -> None:
    """Write the results into the folder, where there is one, and show them."""
    if folder is None or out is None:
        show(list(results))
        return
    with folder:
        rows = []
        for result in results:
            folder.add(result)
            rows.append(result)
        folder.finish(config)
    show(rows)
    print(f"report: {out / 'report.json'}")
