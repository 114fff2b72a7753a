"""The folder of `fastattack evaluate`: it grows as OUT.partial, which outlives a kill, and becomes OUT when done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from ..files import differences, write_atomic
from ..report.folder import OutputFolder
from .shards import Shards

_RUN = "run.json"


class EvaluationFolder(OutputFolder):
    """``with EvaluationFolder(out, resume=..., overwrite=...) as folder: folder.begin(identity); ...; folder.place()``.

    Nothing in ``out`` changes before `place`. An error or a kill leaves OUT.partial, from which ``resume`` goes on.

    Raises:
        FileExistsError: ``out`` or OUT.partial is there and neither ``resume`` nor ``overwrite`` was given, or is
            something else.
        ValueError: ``resume`` of a run with another identity; the message says what differs.
        OSError: it cannot be written.
    """

    kind = "evaluation"
    record = "results.json"
    files = frozenset(
        {_RUN, "report.html", "scores.csv", "scores.parquet", "attacks.csv", "attacks.parquet"}
    )  # fmt: skip
    folders = frozenset({"shards", "figures", "examples"})
    endings = frozenset({".png", ".svg", ".parquet", ".safetensors"})

    def __init__(self, out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        super().__init__(out, overwrite=overwrite or resume)
        self.resume = resume
        self.work = self.out.with_name(self.out.name + ".partial")
        if self.work.exists():
            if not (self.work / _RUN).is_file():
                raise FileExistsError(f"out: {self.work} is in the way, and not an unfinished evaluation")
            if not (resume or overwrite):
                raise FileExistsError(f"out: {self.work} holds an unfinished run; pass --resume or --overwrite")

    def __enter__(self) -> EvaluationFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    @property
    def shards(self) -> Path:
        return self.work / "shards"

    def begin(self, identity: dict[str, Any]) -> None:
        """Make OUT.partial, or find it, or make it from a finished OUT whose failed parts are to be tried again."""
        with self.named():
            if self.work.exists() and not self.resume:
                old = self.work.with_name(f".{self.work.name}.old")
                os.rename(self.work, old)  # whatever happens now, what is at its place is whole
                shutil.rmtree(old)
            finished = self.resume and not self.work.exists() and (self.out / _RUN).is_file()
            if self.resume and (self.work.exists() or finished):
                self._same((self.out if finished else self.work) / _RUN, identity)
            write_atomic(self.work / _RUN, json.dumps(identity, indent=2).encode())
            if finished:
                shutil.copytree(self.out / "shards", self.shards)
            self.shards.mkdir(parents=True, exist_ok=True)
            Shards(self.shards).remove_leftovers()

    def _same(self, run: Path, identity: dict[str, Any]) -> None:
        try:
            came = json.loads(run.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{run}: cannot be read: {error}; pass --overwrite to begin anew") from error
        if found := differences(json.loads(json.dumps(identity)), came):
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            raise ValueError(f"resume: {run} is of another run: {'; '.join(found[:5])}{more}")

    def clear(self) -> None:
        """What an earlier attempt to finish left beside the shards."""
        for name in ("figures", "examples"):
            shutil.rmtree(self.work / name, ignore_errors=True)
