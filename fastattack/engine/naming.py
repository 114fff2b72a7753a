"""Whose noise a model draws, where its noise belongs to named samples and a numbered draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from ..guard import modules_of

_now: ContextVar[tuple[Tensor | None, int]] = ContextVar("naming", default=(None, 0))


def draws_by_name(model: Callable[..., Any]) -> bool:
    """The model, or a part of it, has ``for_samples(ids, draw)``: the model for these samples and this draw."""
    return any(hasattr(part, "for_samples") for part in (model, *modules_of(model)))


def draws_differ(model: Callable[..., Any]) -> bool:
    """EOT has something to average: the model draws by name, and does not say ``draws = False``."""
    return draws_by_name(model) and bool(getattr(model, "draws", True))


@contextmanager
def naming(ids: Tensor | None, draw: int) -> Iterator[None]:
    """Inside, a model that draws by name, however deep it lies in another, draws for these samples (B,)."""
    before = _now.set((ids, draw))
    try:
        yield
    finally:
        _now.reset(before)


def call_named(model: Callable[..., Any], x: Tensor, ids: Tensor | None, draw: int) -> Any:
    """model(x) for samples of these names and a draw, whether the model itself draws by name, a part of it or none."""
    with naming(ids, draw):
        return (model.for_samples(ids, draw) if hasattr(model, "for_samples") else model)(x)


def names_now() -> tuple[Tensor | None, int]:
    """(ids, draw) of the innermost `naming`; (None, 0) outside: samples 0 .. B-1, noise as it is."""
    return _now.get()
