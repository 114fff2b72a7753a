"""Which backend runs: an argument, then `use_backend`, then FASTATTACK_BACKEND, then the best for the device."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from .backend import Backend, BackendUnavailable

NAMES = ("reference", "cpu", "triton", "cuda", "cupy")
_ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "cupy", "reference")}
_DEVICES = {"cpu": ("cpu",), "triton": ("cuda",), "cuda": ("cuda",), "cupy": ("cuda",)}

_ENVIRONMENT = os.environ.get("FASTATTACK_BACKEND")  # read once: a look-up costs as much as a small kernel
_chosen: ContextVar[str | None] = ContextVar("fastattack_backend", default=None)
_loaded: dict[str, Backend | BackendUnavailable] = {}


def known_backend(name: str) -> None:
    if name not in (*NAMES, "auto"):
        raise ValueError(f"backend: wanted one of {', '.join(NAMES)} or 'auto', got {name!r}")


def load(name: str) -> Backend:
    """The backend of that name; loaded once, and a failure is remembered. Raises BackendUnavailable."""
    known_backend(name)
    if name not in _loaded:
        try:
            module = importlib.import_module(f".{name}", __package__)
            _loaded[name] = module.BACKEND if name == "reference" else module.load()
        except BackendUnavailable as error:
            _loaded[name] = error
    found = _loaded[name]
    if isinstance(found, BackendUnavailable):
        raise found
    return found


def available() -> dict[str, str | None]:
    """For each backend None where it can run here, else the reason why not."""
    reasons: dict[str, str | None] = {}
    for name in NAMES:
        try:
            load(name)
            reasons[name] = None
        except BackendUnavailable as error:
            reasons[name] = str(error)
    return reasons


def runs_on(name: str, device_type: str) -> bool:
    """Whether a backend takes tensors of that device (triton under its interpreter takes CPU tensors)."""
    if name == "reference":
        return True
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return device_type == "cpu"
    return device_type in _DEVICES[name]


_auto: dict[torch.device, Backend] = {}  # by device: its type is a string made anew at every look


def resolve(device: torch.device, backend: str = "auto") -> Backend:
    """The backend for tensors on ``device``.

    An explicit request that cannot be met raises BackendUnavailable with what is available and why the rest is not;
    only "auto" falls back.
    """
    name = backend if backend != "auto" else _chosen.get() or _ENVIRONMENT or "auto"
    if name == "auto":
        return best(device)
    kind = device.type
    try:
        found = load(name)
    except BackendUnavailable as error:
        raise BackendUnavailable(f"backend {name!r} cannot run here: {error}. {_summary()}") from error
    if not runs_on(name, kind):
        raise BackendUnavailable(f"backend {name!r} does not take tensors on {kind!r}. {_summary()}")
    return found


def best(device: torch.device) -> Backend:
    """The fastest backend for tensors on ``device``, whatever was chosen."""
    return _auto.get(device) or _auto.setdefault(device, _best(device.type))


def _best(kind: str) -> Backend:
    for name in _ORDER.get(kind, ("reference",)):
        try:
            return load(name)
        except BackendUnavailable:
            continue
    raise AssertionError("reference always loads")


def _summary() -> str:
    reasons = available()
    usable = ", ".join(name for name, reason in reasons.items() if reason is None)
    missing = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
    return f"Available: {usable}. Not available: {missing or 'none'}."


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Inside the ``with`` block every op and attack that says backend="auto" uses ``name``.

    Raises ValueError for an unknown name and BackendUnavailable where it cannot run here, at once.
    """
    if name != "auto":
        load(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
