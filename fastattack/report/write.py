"""The output folder: written beside its place under another name, then renamed, so it is whole or as it was before."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from ..images import save_png
from ..job import ImageResult, summarise
from .picture import comparison


class ReportFolder:
    """``with ReportFolder(out) as folder: folder.add(result) ...; folder.finish(config)``.

    Made before the work starts, so that a place that cannot be written is found out at once.

    Raises:
        FileExistsError: ``out`` exists and overwrite is False, or holds something that is not such a report.
        OSError: it cannot be written.
    """

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        self.out = out = out.resolve()
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"out: {out} is a file, wanted a folder")
        if out.is_dir() and any(out.iterdir()):
            if not _is_report(out):
                raise FileExistsError(f"out: {out} holds more than a fastattack report; name another folder")
            if not overwrite:
                raise FileExistsError(f"out: {out} holds a report already; pass --overwrite or name another folder")
        self._rows: list[dict[str, str | float]] = []
        self._attacked: dict[str, Any] = {}

    def __enter__(self) -> ReportFolder:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._work = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.", dir=self.out.parent))
        self._work.chmod(0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def add(self, result: ImageResult) -> None:
        """Write the pictures of one image and keep its row."""
        name = str(result.row["name"])
        with self._named():
            save_png(self._work / "attacked" / f"{name}.png", result.attacked)
            pictures = self._work / "pictures"
            pictures.mkdir(exist_ok=True)
            comparison(result).save(pictures / f"{name}.png")
        self._rows.append(result.row)
        self._attacked[name] = result.attacked.float().contiguous()

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write report.json and the lossless inputs, and put the folder in its place; returns the report."""
        report = {"config": config, "summary": summarise(self._rows), "images": self._rows}
        text = json.dumps(_finite(report), indent=2, allow_nan=False) + "\n"
        with self._named():
            save_file(self._attacked, self._work / "attacked.safetensors")
            (self._work / "report.json").write_text(text, encoding="utf-8")
            self._place()
        return report

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the disk say which folder they are about."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise OSError(f"out: {self.out} cannot be written: {error}") from error

    def _place(self) -> None:
        """The new folder takes the place of the old one, or of nothing; where neither works the old one is back."""
        if not self.out.exists():
            os.rename(self._work, self.out)
            return
        old = self._work.with_name(self._work.name + ".old")
        os.rename(self.out, old)
        try:
            os.rename(self._work, self.out)
        except BaseException:
            os.rename(old, self.out)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _is_report(folder: Path) -> bool:
    """Whether everything in the folder is what a report consists of: nothing else is ever replaced."""
    if not {p.name for p in folder.iterdir()} <= {"report.json", "attacked.safetensors", "attacked", "pictures"}:
        return False
    inner = [p for name in ("attacked", "pictures") if (folder / name).is_dir() for p in (folder / name).iterdir()]
    try:
        config = json.loads((folder / "report.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(config, dict) and "fastattack" in config and all(p.suffix == ".png" for p in inner)


def _finite(value: Any) -> Any:
    """JSON has no infinity (the PSNR of equal images): null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
