"""Answers by image: in memory, or in a file of SQLite where a batch is whole or not there."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAME = "answers.sqlite"
FORMAT = "fastattack answers 1"
_AT_ONCE = 500  # keys in one statement; SQLite takes 999 in its oldest builds
_DIGEST = 8
_TYPES: dict[str, Any] = {"float32": np.dtype("<f4"), "int64": np.dtype("<i8")}


def key_of(image: Tensor) -> bytes:
    """SHA-256 of an image's type, shape and bytes."""
    data = image.detach().cpu().contiguous()
    head = f"{data.dtype} {tuple(data.shape)} ".encode()
    return hashlib.sha256(head + data.reshape(-1).view(torch.uint8).numpy().tobytes()).digest()


def form_of(answers: Tensor) -> str:
    """Number type and shape of one answer."""
    return f"{str(answers.dtype).removeprefix('torch.')} {tuple(answers.shape[1:])}"


class Memory:
    """Answers that last as long as the process.

    Attributes:
        form: of the answers held, see `form_of`; None while there are none.
        place: in words, for errors; "" says that nothing is left after the process.
    """

    place = ""

    def __init__(self) -> None:
        self.form: str | None = None
        self._held: dict[bytes, Tensor] = {}

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """The answers that are there, by key."""
        return {key: self._held[key] for key in keys if key in self._held}

    def put(self, keys: Sequence[bytes], answers: Tensor) -> None:
        """Keep a batch of one form."""
        self.form = form_of(answers)
        self._held.update(zip(keys, answers.unbind(0), strict=True))


class Disk(Memory):
    """Answers in FOLDER/answers.sqlite. A batch is one transaction: killed at any moment, it is whole or not there.

    Args:
        folder: made where it is missing.
        source: what the answers are of, as text; None: not told.

    Raises:
        ValueError: the file is no cache, damaged, or holds the answers of another source.
        OSError: it cannot be read or written.
    """

    def __init__(self, folder: str | Path, source: str | None = None) -> None:
        self.path = Path(folder) / NAME
        self.place = str(folder)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cache: {folder} cannot be made: {error}") from error
        with self._open() as file:
            file.execute("CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT)")
            file.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID")
            about = dict(file.execute("SELECT name, value FROM about"))
            came, known = about.get("format", FORMAT), about.get("source")
            if came != FORMAT:
                raise ValueError(f"cache: {self.path}: wanted the format {FORMAT!r}, got {came!r}")
            if source is not None and known is not None and source != known:
                raise ValueError(f"cache: {self.path} holds the answers of {known}, wanted those of {source}")
            self._tell(file, "format", FORMAT)
            if source is not None:
                self._tell(file, "source", source)
        self.form = about.get("form")

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        found: dict[bytes, Tensor] = {}
        with self._open() as file:
            for first in range(0, len(keys), _AT_ONCE):
                part = keys[first : first + _AT_ONCE]
                marks = ", ".join("?" * len(part))
                rows = file.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part)
                found.update((key, self._read(blob)) for key, blob in rows)
        return found

    def put(self, keys: Sequence[bytes], answers: Tensor) -> None:
        kind = _TYPES[form_of(answers).partition(" ")[0]]
        blobs = [row.numpy().astype(kind).tobytes() for row in answers]
        with self._open() as file:
            self._tell(file, "form", form_of(answers))
            file.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)",
                [(key, _sealed(blob)) for key, blob in zip(keys, blobs, strict=True)],
            )
        self.form = form_of(answers)

    @staticmethod
    def _tell(file: sqlite3.Connection, name: str, value: str) -> None:
        file.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def _read(self, blob: bytes) -> Tensor:
        data = blob[:-_DIGEST]
        if self.form is None or _sealed(data) != blob:
            raise ValueError(f"cache: {self.path} is damaged; remove it to ask again")
        kind, _, shape = self.form.partition(" ")
        sizes = [int(n) for n in shape.strip("()").split(",") if n.strip()]
        return torch.from_numpy(np.frombuffer(data, _TYPES[kind]).astype(kind).reshape(sizes))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction; taken back where anything goes wrong."""
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as file, file:
                yield file
        except sqlite3.OperationalError as error:
            raise OSError(f"cache: {self.path} cannot be read or written: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"cache: {self.path} is damaged, or no cache of fastattack: {error}") from error


def _sealed(data: bytes) -> bytes:
    """With a checksum behind: SQLite does not notice a flipped bit."""
    return data + hashlib.sha256(data).digest()[:_DIGEST]
