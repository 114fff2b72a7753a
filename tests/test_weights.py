"""models.weights: reading weight files, and the download cache (file:// and a faked network only)."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import urllib.request
from email.message import Message
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastattack.models import load, weights
from fastattack.models.weights import Official, cache_dir, download, read_weights
from tests.shared import SHARED, needs_shared

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
STATE = {"model.0.weight": torch.ones(4, 1, 3, 3), "model.0.bias": torch.zeros(4)}


# ---- reading


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_read(tmp_path: Path, suffix: str, prefix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    state = {prefix + key: value for key, value in STATE.items()}
    if suffix == "safetensors":
        save_file(state, path, metadata={"sigma": "25"})
    else:
        torch.save(state, path)
    got, metadata = read_weights(str(path))
    assert got.keys() == STATE.keys()
    assert all(torch.equal(got[key], STATE[key]) for key in STATE)
    assert metadata == ({"sigma": "25"} if suffix == "safetensors" else {})


@pytest.mark.parametrize("key", ["state_dict", "params"])
def test_read_unwraps(tmp_path: Path, key: str) -> None:
    torch.save({key: STATE, "epoch": 3}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")[0].keys() == STATE.keys()


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("keep", [0.0, 0.03, 0.5, 0.95])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut_off.{suffix}"
    if suffix == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=suffix == "pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"cut_off.*cannot be read as weights"):
        read_weights(path)


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def test_pickled_code_never_runs(tmp_path: Path) -> None:
    torch.save({"model.0.weight": Evil(str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_read_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "w.bin").touch()
    with pytest.raises(ValueError, match=r"w\.bin.*\.safetensors"):
        read_weights(tmp_path / "w.bin")
    for name, content in {"list": [1, 2], "number": {"a": 1}, "key": {1: torch.ones(1)}, "empty": {}}.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(ValueError, match=rf"{name}\.pt"):
            read_weights(tmp_path / f"{name}.pt")


# ---- cache


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FASTATTACK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "fastattack"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "fastattack"
    monkeypatch.setenv("FASTATTACK_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    assert list(tmp_path.iterdir()) == []


def test_download_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source.pth"
    source.write_bytes(CONTENT)
    monkeypatch.setenv("FASTATTACK_CACHE", str(tmp_path / "cache"))
    path = download(source.as_uri(), SHA256.upper())
    assert path == tmp_path / "cache" / "source.pth"
    assert path.read_bytes() == CONTENT
    source.unlink()
    assert download(source.as_uri(), SHA256) == path  # from the cache
    path.write_bytes(CONTENT[:100])  # a damaged cache entry is fetched again
    with pytest.raises(OSError, match=r"source\.pth"):
        download(source.as_uri(), SHA256)
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), SHA256).read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["source.pth"]


def test_wrong_checksum(tmp_path: Path) -> None:
    source = tmp_path / "source.pth"
    source.write_bytes(CONTENT)
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=f"expected sha256 {'0' * 64}, got {SHA256}"):
        download(source.as_uri(), "0" * 64, directory=cache)
    assert list(cache.iterdir()) == []


class Response(io.BytesIO):
    """A network answer that promises `promised` bytes, and may fail at the second read."""

    def __init__(self, content: bytes, promised: int, failure: BaseException | None = None) -> None:
        super().__init__(content)
        self.headers = Message()
        self.headers["Content-Length"] = str(promised)
        self.failure = failure

    def read(self, size: int | None = -1) -> bytes:
        if self.failure is not None and self.tell() > 0:
            raise self.failure
        return super().read(size)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (Response(CONTENT[:300_000], len(CONTENT)), OSError),
        (Response(CONTENT, len(CONTENT), ConnectionResetError("reset")), OSError),
        (Response(CONTENT, len(CONTENT), KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["short", "reset", "ctrl-c"],
)
def test_interrupted_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, response: Response, error: type[BaseException]
) -> None:
    (tmp_path / "w.pth").write_bytes(b"an older file")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: response)
    with pytest.raises(error, match=r"https://example\.org/w\.pth" if error is OSError else None):
        download("https://example.org/w.pth", SHA256, directory=tmp_path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("w.pth", b"an older file")]


# ---- load without a path


def test_load_fetches_the_official_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "tiny.safetensors"
    save_file(STATE | {"model.2.weight": torch.ones(1, 4, 3, 3), "model.2.bias": torch.ones(1)}, source)
    entry = Official(source.as_uri(), hashlib.sha256(source.read_bytes()).hexdigest())
    monkeypatch.setattr(weights, "OFFICIAL", {("dncnn", 1, 25.0): entry})
    monkeypatch.setenv("FASTATTACK_CACHE", str(tmp_path / "cache"))
    model = load("dncnn", sigma=25)
    assert (model.channels, model.sigma) == (1, 25)
    assert (tmp_path / "cache" / "tiny.safetensors").is_file()
    for sigma, channels in ((50, None), (None, None), (25, 3)):
        with pytest.raises(ValueError, match="pass weights=PATH"):
            load("dncnn", sigma=sigma, channels=channels)
    with pytest.raises(ValueError, match="pass weights=PATH"):
        load("n2n")


def test_official_table() -> None:
    for entry in weights.OFFICIAL.values():
        assert entry.url.startswith("https://")
        assert len(bytes.fromhex(entry.sha256)) == 32


@needs_shared
def test_official_file_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The listed checksum is that of the published file: a cached copy is taken without any network."""
    shutil.copy(SHARED / "weights" / "kair_dncnn_25.pth", tmp_path / "dncnn_25.pth")
    monkeypatch.setenv("FASTATTACK_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", None)
    assert load("dncnn", sigma=25).channels == 1
