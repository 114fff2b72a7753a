"""The cuda and cupy backends on CPU tensors: the kernels of csrc/cuda compiled by g++ (see cuda_shim.h)."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

from fastattack.ops import cuda, cupy, launch
from fastattack.ops.backend import Backend

from . import build


@functools.cache
def native() -> ModuleType:
    """The host build of fastattack._cuda."""
    path = build.build()
    spec = importlib.util.spec_from_file_location("_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def emulator() -> ctypes.CDLL:
    return ctypes.CDLL(str(build.build()))


@contextmanager
def backwards() -> Iterator[None]:
    """Blocks and threads run last to first: the same bits must come out."""
    emulator().emulator_backwards(1)
    try:
        yield
    finally:
        emulator().emulator_backwards(0)


@contextmanager
def no_driver() -> Iterator[None]:
    emulator().emulator_driver(0)
    try:
        yield
    finally:
        emulator().emulator_driver(1)


def no_stream(device: torch.device) -> nullcontext[int]:
    assert device.type == "cpu"
    return nullcontext(0)


class RawKernel:
    """As strict about its arguments as CuPy's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[np.ndarray]) -> None:
        (argument,) = args
        assert isinstance(argument, np.ndarray)
        assert argument.size == 1, "only arrays of size one are passed by value"
        assert block == (launch.THREADS,)
        native().launch(self.name, *grid, argument.tobytes(), 0)


class RawModule:
    """Finds a name expression only if it was announced, is spelt in full, and is a kernel of the host build."""

    def __init__(self, *, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        assert "--fmad=false" in options
        assert "#include" in code
        self.name_expressions = name_expressions

    def get_function(self, expression: str) -> RawKernel:
        assert expression in self.name_expressions
        name = expression.replace("fastattack::portable::", "")
        assert cupy.expression(name) == expression
        assert name in native().names()
        return RawKernel(name)


def fake_cupy() -> SimpleNamespace:
    """What cupy.py uses of CuPy."""
    return SimpleNamespace(RawModule=RawModule, cuda=SimpleNamespace(ExternalStream=lambda handle: nullcontext(handle)))


@functools.cache
def cuda_backend() -> Backend:
    return cuda.make_backend(native(), stream=no_stream)


@functools.cache
def cupy_backend() -> Backend:
    return cupy.make_backend(fake_cupy(), stream=no_stream)
