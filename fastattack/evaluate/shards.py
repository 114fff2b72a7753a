"""What is done so far, on disk: one shard for each batch, whole or not there, so that a killed run can go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_atomic
from .measure import Measured
from .table import read_parquet, write_parquet

_ENDINGS = ("attacked.safetensors", "attacks.parquet", "scores.parquet")  # in the order in which they are written


@dataclass(frozen=True)
class Shards:
    """The shards of a run in ``folder``, numbered as its batches are.

    A shard is done when its table of scores is there, which is written last. Its note holds the models that failed.
    """

    folder: Path
    save_attacked: bool = True

    def write(self, number: int, measured: Measured) -> None:
        """Raises OSError where it cannot be written: the shard is then not there."""
        if self.save_attacked:
            tensors = {f"{place}.{source}": t.contiguous() for (place, source), t in measured.adversarial.items()}
            write_atomic(self._path(number, "attacked.safetensors"), save(tensors))
        write_parquet(self._path(number, "attacks.parquet"), measured.attacks)
        write_parquet(self._path(number, "scores.parquet"), measured.scores, {"failures": measured.failures})

    def read(self, number: int) -> Measured | None:
        """The rows of a shard; None where it is not there, or damaged."""
        try:
            attacks, _ = read_parquet(self._path(number, "attacks.parquet"))
            scores, note = read_parquet(self._path(number, "scores.parquet"))
        except (FileNotFoundError, ValueError):
            return None
        return Measured(scores, attacks, failures=dict(note.get("failures", {})))

    def is_there(self, number: int) -> bool:
        return self._path(number, _ENDINGS[-1]).is_file()

    def is_done(self, number: int) -> bool:
        """There, readable, whole, and no model failed in it: what failed is tried again when a run goes on."""
        found = self.read(number)
        kept = not self.save_attacked or self._path(number, _ENDINGS[0]).is_file()
        return found is not None and not found.failures and kept

    def remove(self, number: int) -> None:
        """What makes it count first."""
        for ending in reversed(_ENDINGS):
            self._path(number, ending).unlink(missing_ok=True)

    def numbers(self) -> list[int]:
        """Of those that are there."""
        ending = _ENDINGS[-1]
        return [int(p.name[:6]) for p in self.folder.glob(f"*.{ending}") if p.name[:6].isdecimal()]

    def attacked(self, number: int, place: int, source: str) -> Tensor | None:
        """(B, C, H, W), where it was kept."""
        path = self._path(number, "attacked.safetensors")
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            key = f"{place}.{source}"
            return file.get_tensor(key) if key in file.keys() else None  # noqa: SIM118

    def files(self, number: int) -> dict[str, bytes]:
        """The files of a shard, to be sent to another machine."""
        paths = [self._path(number, ending) for ending in _ENDINGS]
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    def take(self, files: dict[str, bytes]) -> None:
        """Write what `files` gave elsewhere, the table of scores last."""
        for name in sorted(files, key=lambda name: name.endswith(_ENDINGS[-1])):
            write_atomic(self.folder / name, files[name])

    def all(self, count: int) -> Iterator[Measured]:
        """In order. Raises ValueError for one that is not there."""
        for number in range(count):
            found = self.read(number)
            if found is None:
                raise ValueError(f"{self._path(number, _ENDINGS[-1])}: wanted a shard of this run, it is not there")
            yield found

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}.{ending}"
