"""The output folder: written beside its place under another name, then renamed, so it is whole or as it was before."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from safetensors import SafetensorError

Folder = TypeVar("Folder", bound="OutputFolder")


class OutputFolder:
    """``with Subclass(out) as folder: ...``; what is written to ``work`` stands in ``out`` after ``place``.

    Made before the work starts, so that a place that cannot be written is found out at once. A subclass says what it
    consists of: its kind in words, the record (a JSON file with a "config" that names fastattack), other files, and
    folders of files with known endings. Nothing else is ever replaced.

    Raises:
        FileExistsError: ``out`` exists and overwrite is False, or holds something that is not of this kind.
        OSError: it cannot be written.
    """

    kind: str
    record: str
    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    endings: frozenset[str] = frozenset({".png"})

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        self.out = out = out.resolve()
        self._recover()
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"out: {out} is a file, wanted a folder")
        if out.is_dir() and any(out.iterdir()):
            if not self._is_ours(out):
                raise FileExistsError(f"out: {out} holds more than a fastattack {self.kind}; name another folder")
            if not overwrite:
                raise FileExistsError(
                    f"out: {out} holds a fastattack {self.kind} already; pass --overwrite or name another folder"
                )

    def __enter__(self: Folder) -> Folder:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.", dir=self.out.parent))
        self.work.chmod(0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors of the disk say which folder they are about."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise OSError(f"out: {self.out} cannot be written: {error}") from error

    def write_record(self, content: dict[str, Any]) -> None:
        """The record, from {"config": {"fastattack": version, ...}, ...}."""
        text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
        (self.work / self.record).write_text(text, encoding="utf-8")

    def place(self) -> None:
        """The new folder takes the place of the old one, or of nothing; where neither works the old one is back."""
        if not self.out.exists():
            os.rename(self.work, self.out)
            return
        old = self.out.with_name(f".{self.out.name}.{secrets.token_hex(4)}.old")
        os.rename(self.out, old)
        try:
            os.rename(self.work, self.out)
        except BaseException:
            os.rename(old, self.out)
            raise
        gone = old.with_suffix(".gone")
        os.rename(old, gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _recover(self) -> None:
        """What a run that was killed in `place` left: the old folder goes back where no new one has come."""
        for left in self.out.parent.glob(f".{glob.escape(self.out.name)}.*"):
            ending = left.name.removeprefix(f".{self.out.name}.")
            if re.fullmatch(r"[0-9a-f]{8}\.old", ending) and self._is_ours(left):
                if self.out.exists():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    os.rename(left, self.out)
            elif re.fullmatch(r"[0-9a-f]{8}\.gone", ending):
                shutil.rmtree(left, ignore_errors=True)

    def _is_ours(self, folder: Path) -> bool:
        """Whether everything in the folder is what this kind consists of."""
        if not {p.name for p in folder.iterdir()} <= {self.record, *self.files, *self.folders}:
            return False
        inner = [p for name in self.folders for p in (folder / name).rglob("*") if not p.is_dir()]
        try:
            config = json.loads((folder / self.record).read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return isinstance(config, dict) and "fastattack" in config and all(p.suffix in self.endings for p in inner)


def finite(value: Any) -> Any:
    """JSON has no infinity (the PSNR of equal images): null stands for it."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
