"""The folder of `fastattack evaluate`: it grows as OUT.partial, which outlives a kill, and becomes OUT when done."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from ..files import differences, write_atomic
from ..report.folder import OutputFolder

_RUN = "run.json"


class EvaluationFolder(OutputFolder):
    """``folder = EvaluationFolder(out, resume=..., overwrite=...)``, then begin(identity), ..., place().

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
        if resume and self.out.exists() and any(self.out.iterdir()) and not (self.out / _RUN).is_file():
            raise FileExistsError(f"out: {self.out} has no {_RUN} to go on from; pass --overwrite to begin anew")
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
        """Make OUT.partial, or find it, or make it from a finished OUT whose failed parts are to be tried again.

        It appears at its place whole, by renaming, so that a kill leaves nothing that could not be gone on from.
        """
        with self.named():
            for left in self.work.parent.glob(f".{glob.escape(self.work.name)}.*"):
                if left.suffix in (".new", ".gone"):  # of a kill
                    shutil.rmtree(left, ignore_errors=True)
            if self.work.exists() and not self.resume:
                _remove(self.work)
            if self.work.exists():
                self._same(self.work / _RUN, identity)
                self.clear()
                return
            finished = self.resume and self.out.exists()
            if finished:
                self._same(self.out / _RUN, identity)
            new = self.work.with_name(f".{self.work.name}.{secrets.token_hex(4)}.new")
            try:
                new.mkdir(parents=True)
                if finished:
                    shutil.copytree(self.out / "shards", new / "shards")
                else:
                    (new / "shards").mkdir()
                write_atomic(new / _RUN, json.dumps(identity, indent=2).encode())
                os.rename(new, self.work)
            finally:
                shutil.rmtree(new, ignore_errors=True)

    def join(self, identity: dict[str, Any]) -> None:
        """For the other processes: where rank 0's OUT.partial is not seen, on a disk of its own, one is made."""
        if (self.work / _RUN).is_file():
            self._same(self.work / _RUN, identity)
        elif not self.work.exists():
            self.begin(identity)

    def _same(self, run: Path, identity: dict[str, Any]) -> None:
        try:
            came = json.loads(run.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{run}: cannot be read: {error}; pass --overwrite to begin anew") from error
        if found := differences(json.loads(json.dumps(identity)), came):
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            raise ValueError(f"resume: {run} is of another run: {'; '.join(found[:5])}{more}")

    def clear(self) -> None:
        """What an earlier attempt to finish left beside the shards, and temporary files of a kill."""
        for name in ("figures", "examples"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        for path in [*self.work.glob(".*.tmp"), *self.shards.glob(".*.tmp")]:
            path.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Away from its place at once, whatever happens while its files are deleted."""
    old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
    os.rename(folder, old)
    shutil.rmtree(old, ignore_errors=True)
