"""The backends under test. Without a GPU the CUDA sources run through a host build, Triton through its interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from unittest import mock

import pytest
import torch

from fastattack import _cpu
from fastattack.ops import BackendUnavailable, dispatch

Item = TypeVar("Item")
GPU = torch.cuda.is_available()
NAMES = (
    ["reference", "cpu-avx512", "cpu-avx2", "cpu-portable"]
    + (["triton", "cuda", "cupy"] if GPU else ["triton-interpreted"])
    + ["cuda-host", "cupy-host"]
)


@dataclass(frozen=True)
class Subject:
    name: str
    backend: str
    device: str

    def few(self, items: Sequence[Item], first: int = 0, *, emulated: int = 1) -> Sequence[Item]:
        """Every fourth from ``first`` for Triton's interpreter, where a call of dozens of launches takes a second, and
        as many as ``emulated`` says for the emulated device."""
        stride = {"triton-interpreted": 4, "cuda-host": emulated, "cupy-host": emulated}.get(self.name, 1)
        return items[first % stride :: stride]

    def turns(self, items: Sequence[Item], turn: int) -> Sequence[Item]:
        """One of them in its turn for Triton's interpreter. Where the turn is layout + type it meets every pair of
        layout and type, layout and item, type and item; the other backends meet every triple."""
        return [items[turn % len(items)]] if self.name == "triton-interpreted" else items

    @property
    def slow(self) -> bool:
        """Interpreted or emulated: small images only."""
        return self.name in ("triton-interpreted", "cuda-host", "cupy-host")


@contextmanager
def _instruction_set(name: str) -> Iterator[None]:
    before = _cpu.instruction_set()
    try:
        _cpu.use_instruction_set(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        _cpu.use_instruction_set(before)


@contextmanager
def _host_build(backend: str) -> Iterator[None]:
    from tests import host

    built = host.cuda_backend() if backend == "cuda" else host.cupy_backend()
    with mock.patch.dict(dispatch._loaded, {backend: built}), mock.patch.dict(dispatch._DEVICES, {backend: ("cpu",)}):
        yield


@contextmanager
def subject_called(name: str) -> Iterator[Subject]:
    if name.startswith("cpu-"):
        with _instruction_set(name.removeprefix("cpu-")):
            yield Subject(name, "cpu", "cpu")
    elif name.endswith("-host"):
        backend = name.removesuffix("-host")
        with _host_build(backend):
            yield Subject(name, backend, "cpu")
    else:
        backend = name.removesuffix("-interpreted")
        try:
            dispatch.load(backend)
        except BackendUnavailable as error:
            pytest.skip(str(error))
        yield Subject(name, backend, "cuda" if GPU and backend not in ("reference", "cpu") else "cpu")
