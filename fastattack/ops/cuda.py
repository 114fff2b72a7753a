"""The kernels of csrc/cuda as nvcc built them into fastattack._cuda."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from . import launch, launch_table
from .backend import Backend, BackendUnavailable


class Native(Protocol):
    """What module.cpp offers."""

    def launch(self, kernel: str, blocks: int, argument: bytes, stream: int, /) -> None: ...

    def available(self) -> tuple[bool, str]: ...


def make_backend(native: Native, stream: launch.Stream = launch.current_stream) -> Backend:
    """The backend on top of ``native``, which launches on the stream that ``stream(device)`` gives."""

    @contextmanager
    def session(device: torch.device) -> Iterator[launch.Launch]:
        with stream(device) as handle:
            yield lambda _stem, kernel, blocks, argument: native.launch(kernel, blocks, argument, handle)

    return launch_table.backend("cuda", session)


def load() -> Backend:
    """Raises BackendUnavailable where the module was not built, or there is no driver or device."""
    try:
        native = importlib.import_module("fastattack._cuda")
    except ImportError as error:
        raise BackendUnavailable(f"fastattack._cuda is not built (nvcc was not found then): {error}") from error
    usable, reason = native.available()
    if not usable:
        raise BackendUnavailable(reason)
    return make_backend(native)
