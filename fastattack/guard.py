"""Leaves the user's model and the process's random state as they were found, also after an exception or Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self


@contextmanager
def _flags(modules: list[nn.Module], eval_mode: bool) -> Iterator[None]:
    training = [(m, m.training) for m in modules]
    learning = [p for m in modules for p in m.parameters(recurse=False) if p.requires_grad]
    if any(p.is_inference() for p in learning):
        raise ValueError("model: its parameters were made under torch.inference_mode(), which autograd cannot use")
    try:
        if eval_mode:
            for m in modules:
                m.training = False
        for p in learning:
            p.requires_grad_(False)
        yield
    finally:
        for m, flag in training:
            m.training = flag
        for p in learning:
            p.requires_grad_(True)


@contextmanager
def buffers_kept(modules: list[nn.Module]) -> Iterator[None]:
    """What is written into the modules' buffers inside is undone after.

    Unseen by autograd, which may have saved a buffer for a backward pass of the caller's that is still to come: it will
    find the numbers that it saved. Version counters would not do to tell which were written: batch norm moves none.
    """
    kept = [(m, name, b, b.detach().clone()) for m in modules for name, b in m._buffers.items() if b is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for m, name, buffer, value in kept:
                m._buffers[name] = buffer  # the model may have put another tensor there
                buffer.data.copy_(value)


@contextmanager
def random_state(device: torch.device) -> Iterator[None]:
    """torch's random state, on the CPU and the device, is after as it was before."""
    state = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seeds the generators that `random_state` keeps, and no other: torch.manual_seed seeds those of all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def modules_of(model: Callable[..., Any]) -> list[nn.Module]:
    """Of an nn.Module, or of the one that a bound method belongs to; [] for another callable."""
    root = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return list(root.modules()) if isinstance(root, nn.Module) else []


@contextmanager
def frozen(net: Callable[..., Any]) -> Iterator[None]:
    """Inside: eval mode, and parameters that need no gradient. After: the flags as before.

    For a network whose backward pass comes later. Eval mode writes no buffers, and restoring them as left_as_found does
    would make autograd refuse those that it saved.
    """
    with _flags(modules_of(net), eval_mode=True):
        yield


@contextmanager
def left_as_found(model: Callable[..., Any], device: torch.device, *, eval_mode: bool) -> Iterator[None]:
    """Inside: parameters need no gradient and, with ``eval_mode``, every module is in eval mode. After: as before.

    Training flags, requires_grad flags, buffers that a forward pass wrote (batch norm in training mode) and torch's
    random state are restored. ``.grad`` fields and hooks are never touched. Modules are those of an nn.Module or of the
    nn.Module that a bound method belongs to; what another callable hides (a lambda around a module) is not seen.
    """
    modules = modules_of(model)
    with random_state(device), buffers_kept(modules), _flags(modules, eval_mode):
        yield


def fresh(t: Tensor) -> Tensor:
    """A tensor that autograd may save: inference tensors are copied, all others pass."""
    return t.clone() if t.is_inference() else t.detach()


@dataclass(frozen=True)
class Rowwise:
    """A target of several parts: tensors with a row for each sample, which are cut, moved and laid out together."""

    def each(self, change: Callable[[Any], Any]) -> Self:
        """The same with every part changed."""
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def moved(self, move: Callable[[Any], Any]) -> Self:
        """The same as it is through a view that moves what is seen; ``move`` moves images and leaves other parts."""
        return self.each(move)


def samples_in(value: Any) -> int:
    """How many samples a tensor has, or a target of several parts (0 where it has none)."""
    if isinstance(value, Rowwise):
        parts = (getattr(value, f.name) for f in fields(value))
        return next((samples_in(part) for part in parts if part is not None), 0)
    return len(value)


def rows_of(value: Any, rows: slice | Tensor, batch: int) -> Any:
    """The rows of a tensor with one for each sample, or of every such part of a target; anything else as it is."""
    if isinstance(value, Rowwise):
        return value.each(lambda part: rows_of(part, rows, batch))
    per_sample = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch
    return value[rows] if per_sample else value
