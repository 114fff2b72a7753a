"""The kernels of csrc/cuda compiled at first use by CuPy (NVRTC), for machines without nvcc."""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import launch, launch_table
from .backend import Backend, BackendUnavailable

_NAMESPACE = "fastattack::portable::"  # the default FA_ISA of base.h


@functools.cache
def source_root() -> Path:
    """The folder with include/ and cuda/: csrc beside the package in a checkout, fastattack/_csrc in a wheel."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package.parent / "csrc", package / "_csrc")
    for root in candidates:
        if (root / "cuda" / "common.cuh").is_file():
            return root
    raise BackendUnavailable(f"the CUDA sources are missing (looked in {', '.join(map(str, candidates))})")


@functools.cache
def _digest() -> str:
    root = source_root()
    files = sorted([*root.glob("cuda/*.cuh"), *root.glob("include/fastattack/*.h")])
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def source(stem: str) -> str:
    """What is compiled. CuPy's disk cache does not look into included files: the digest makes it notice them."""
    return f'// {_digest()}\n#include "{stem}.cuh"\n'


def options() -> tuple[str, ...]:
    """No fused multiply-add: elementwise results are the bits of the reference."""
    root = source_root()
    return ("--std=c++17", "--fmad=false", f"-I{root / 'include'}", f"-I{root / 'cuda'}")


def expression(kernel: str) -> str:
    """'f<half_t>' with both names in full, as the demangler writes it, which is how newer CuPy finds a kernel."""
    name, storage = kernel.removesuffix(">").split("<")
    return f"{_NAMESPACE}{name}<{storage if storage in ('float', 'double') else _NAMESPACE + storage}>"


def expressions(stem: str, storage: str) -> tuple[str, ...]:
    return tuple(expression(f"{name}<{storage}>") for name in launch.KERNELS[stem])


def make_backend(cupy: Any, stream: launch.Stream = launch.current_stream) -> Backend:
    """The backend on top of the ``cupy`` module. A stem is compiled for one storage type when that is first used."""

    @functools.cache
    def module(stem: str, storage: str) -> Any:
        return cupy.RawModule(code=source(stem), options=options(), name_expressions=expressions(stem, storage))

    @functools.cache
    def function(stem: str, kernel: str) -> Any:
        storage = kernel[kernel.index("<") + 1 : -1]
        return module(stem, storage).get_function(expression(kernel))

    def run(stem: str, kernel: str, blocks: int, argument: bytes) -> None:
        # An array of one void element is passed by value: the struct that the kernel takes.
        by_value = np.frombuffer(argument, dtype=np.dtype((np.void, len(argument))))
        function(stem, kernel)((blocks,), (launch.THREADS,), (by_value,))

    @contextmanager
    def session(device: torch.device) -> Iterator[launch.Launch]:
        with stream(device) as handle, cupy.cuda.ExternalStream(handle):
            yield run

    return launch_table.backend("cupy", session)


def load() -> Backend:
    """Raises BackendUnavailable where CuPy is not installed or finds no driver or device."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise BackendUnavailable(f"cupy is not installed: {error}") from error
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError, which only a working cupy could name
        raise BackendUnavailable(f"no CUDA driver or device: {error}") from error
    if devices == 0:
        raise BackendUnavailable("no CUDA device")
    source_root()
    return make_backend(cupy)
