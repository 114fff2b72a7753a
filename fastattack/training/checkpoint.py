"""Checkpoints: whole or not there, checked before anything is taken from them, and the one before is kept.

A file is what torch.save writes, with its SHA-256 behind it: a zip archive is read from its end, where torch finds its
own part still, and a flipped bit, which torch would load, is noticed. Saving writes a temporary file, then renames
checkpoint.pt to checkpoint.previous.pt and the new file to checkpoint.pt. Killed at any point, a whole one is there.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from ..files import differences, write_atomic

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
FORMAT = "fastattack training 1"
_DIGEST = hashlib.sha256().digest_size


def latest(folder: Path) -> Path | None:
    """The checkpoint to go on from; the previous one where a run was killed between the two renames."""
    return next((path for path in (folder / NAME, folder / PREVIOUS) if path.exists()), None)


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write checkpoint.pt; what was there becomes checkpoint.previous.pt."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "torch": str(torch.__version__), **content}, buffer)
    data = buffer.getbuffer()

    def write(file: BinaryIO) -> None:
        file.write(data)
        file.write(hashlib.sha256(data).digest())

    write_atomic(folder / NAME, write, keep=folder / PREVIOUS)


def remove_leftovers(folder: Path, names: Sequence[str]) -> None:
    """Delete the temporary files that `write_atomic` left for these files where it was killed, and nothing else."""
    theirs = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]+\.tmp")
    for path in folder.glob(".*.tmp"):
        if theirs.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def load(path: Path, identity: dict[str, Any], known: Collection[str] | None = None) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. No pickled code is run.

    Args:
        path: the file.
        identity: what this run is; the checkpoint's must be the same.
        known: entries of the identity to look at, while the others are not known yet; None: all.

    Raises:
        ValueError: a damaged or foreign file, or the checkpoint of another run; names the file and what differs.
    """
    data = path.read_bytes()
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise ValueError(f"{path}: not a checkpoint of fastattack's training, or damaged{_way_out(path)}")
    try:
        content = torch.load(io.BytesIO(data[:-_DIGEST]), map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises almost anything
        raise ValueError(f"{path}: cannot be read as a checkpoint{_way_out(path)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        came = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: wanted a checkpoint of the format {FORMAT!r}, got {came!r}")
    if found := differences(_chosen(identity, known), _chosen(content["identity"], known)):
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(f"{path}: the checkpoint of another run: {'; '.join(found[:3])}{more}")
    return content


def _chosen(identity: dict[str, Any], known: Collection[str] | None) -> dict[str, Any]:
    return identity if known is None else {k: v for k, v in identity.items() if k in known}


def _way_out(path: Path) -> str:
    previous = path.with_name(PREVIOUS)
    return f"; remove it to go on from {previous}" if path.name == NAME and previous.exists() else ""


def shapes(model: nn.Module) -> dict[str, Any]:
    """Name -> shape and type of each tensor of a model."""
    return {k: f"{tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in model.state_dict().items()}
