"""Files that are either whole or not there, and what says whether one belongs to this run."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: str | Path, content: bytes | Callable[[BinaryIO], object], *, keep: Path | None = None) -> None:
    """Write a file whole or not at all: to a temporary file beside it, on the disk, then renamed over it.

    Args:
        path: target; missing folders are made.
        content: the bytes, or a function that writes them to an open binary file.
        keep: the old file gets this name instead of being replaced.

    Raises:
        OSError: it cannot be written; names the file. Whatever goes wrong, the old file is still there and no temporary
            file is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Before long work whose result is to be written: makes the folder, and a file in it that is gone at once.

    Raises:
        OSError: `write_atomic` could not write there; names the file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error


def _sync_folder(folder: Path) -> None:
    """The renames too are on the disk."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def differences(wanted: dict[str, Any], came: dict[str, Any], prefix: str = "") -> list[str]:
    """In words, for each entry that is not the same in two nested dictionaries."""
    found = []
    for key in [*wanted, *(key for key in came if key not in wanted)]:
        a, b = wanted.get(key, "nothing"), came.get(key, "nothing")
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: wanted {a}, got {b}")
    return found
