"""Weight files: read them safely, and fetch published ones into a cache with their checksum verified."""

from __future__ import annotations

import hashlib
import os
import secrets
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Official:
    """A published weight file."""

    url: str
    sha256: str


# (model name, channels, sigma on the 0-255 scale) -> file. Only files whose checksum was taken from the file itself.
OFFICIAL: dict[tuple[str, int, float | None], Official] = {
    ("dncnn", 1, 25.0): Official(
        "https://github.com/cszn/KAIR/releases/download/v1.0/dncnn_25.pth",
        "0451a70de9b672ae037270498fbb1c17a1c1c4403785df586ff65df5b858e5b0",
    ),
}


def official_weights(name: str, channels: int | None, sigma: float | None) -> Path:
    """The cached official file for a model, downloaded when it is not there yet.

    Args:
        name: model name as in `load`.
        channels: 1 or 3; None takes the first that is listed.
        sigma: noise level, 0-255 scale.

    Raises:
        ValueError: no such file is listed, or its checksum is wrong.
        OSError: it cannot be downloaded.
    """
    for (known, width, level), official in OFFICIAL.items():
        if known == name and level == sigma and channels in (None, width):
            return download(official.url, official.sha256)
    listed = ", ".join(f"{n} channels={c} sigma={s:g}" if s else f"{n} channels={c}" for n, c, s in OFFICIAL)
    raise ValueError(
        f"no official weights are listed for {name!r} with channels={channels}, sigma={sigma}: pass weights=PATH "
        f"(listed: {listed}; packaged: 'embedded')"
    )


def cache_dir() -> Path:
    """$FASTATTACK_CACHE, else $XDG_CACHE_HOME/fastattack, else ~/.cache/fastattack. Not created here."""
    if own := os.environ.get("FASTATTACK_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "fastattack"


def download(url: str, sha256: str, *, directory: Path | None = None, timeout: float = 60.0) -> Path:
    """Fetch `url` into the cache and return the file; a cached file with the right checksum is not fetched again.

    The bytes go to a temporary file beside the target, which takes the final name only once the checksum is right;
    whatever goes wrong, no partial file stays behind.

    Args:
        url: address (https:// or file://).
        sha256: expected SHA-256, hexadecimal.
        directory: where to keep it; default `cache_dir()`.
        timeout: seconds without an answer before giving up.

    Raises:
        ValueError: the checksum differs; the message names the address, the expected and the received one.
        OSError: the download failed; the message names the address.
    """
    folder = cache_dir() if directory is None else directory
    target = folder / Path(urllib.parse.urlsplit(url).path).name
    if target.is_file() and sha256_of(target) == sha256.lower():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{target.name}.{secrets.token_hex(6)}.tmp"
    try:
        got = _fetch(url, temporary, timeout)
        if got != sha256.lower():
            raise ValueError(f"{url}: wrong checksum: expected sha256 {sha256.lower()}, got {got}")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _fetch(url: str, path: Path, timeout: float) -> str:
    """Copy the bytes at `url` to `path`; returns their SHA-256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, path.open("xb") as out:
            expected = response.headers.get("Content-Length")
            received = 0
            while block := response.read(1 << 18):
                digest.update(block)
                received += out.write(block)
    except OSError as exc:
        raise OSError(f"{url}: download failed: {exc}") from exc
    if expected is not None and received != int(expected):
        raise OSError(f"{url}: download failed: got {received} of {expected} bytes")
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file of any size, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 18):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_folder(path: Path) -> str:
    """The SHA-256 of the names and contents of all files below a folder, hexadecimal."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_weights(path: str | Path) -> tuple[State, dict[str, str]]:
    """Read a weight file: ``.safetensors``, or ``.pt`` / ``.pth`` with nothing but tensors in it.

    Pickled code is never run: torch files go through ``torch.load(weights_only=True)``. A wrapping ``state_dict`` or
    ``params`` entry is unwrapped and a leading ``module.`` (DataParallel) removed.

    Returns:
        The tensors by name, on the CPU, and the file's metadata (empty for torch files).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weight file, damaged, or of an unknown kind; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"{path}: unknown kind of weight file, expected .safetensors, .pt or .pth")
    try:
        state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_torch(path), {})
    except (OSError, MemoryError):
        raise
    except Exception as exc:  # a damaged file makes either reader raise almost anything
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise ValueError(f"{path}: cannot be read as weights (damaged, or not plain tensors): {reason}") from exc
    if not state:
        raise ValueError(f"{path}: holds no tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}, metadata


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_torch(path: Path) -> State:
    content: object = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary of tensors, got {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"expected a dictionary of tensors, entry {key!r} is {type(value).__name__}")
    return dict(content)
