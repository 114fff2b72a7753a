"""A whole gradient as one CUDA graph: no launch of its hundreds of kernels is paid for again. Not measured yet."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

Outputs = tuple[Tensor, Tensor]
Function = Callable[[Tensor, Any], Outputs]


class Recorder(Protocol):
    """What `StepGraph` needs of CUDA."""

    def aside(self, function: Callable[[], Outputs]) -> Outputs:
        """Run on a side stream that waits for the current one, and the current one for it."""
        ...

    def record(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """(what replays it, the tensors that a replay writes). Nothing has run yet afterwards."""
        ...


class CudaRecorder:
    """torch's graphs, as its notes on CUDA semantics say: warm up on a side stream, capture there, replay anywhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def aside(self, function: Callable[[], Outputs]) -> Outputs:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            out = function()
        current.wait_stream(self.stream)
        for tensor in out:
            tensor.record_stream(current)
        return out

    def record(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        graph = torch.cuda.CUDAGraph()
        with self._capture(graph):
            out = function()
        return graph.replay, out

    def _capture(self, graph: torch.cuda.CUDAGraph) -> AbstractContextManager[None]:
        # "thread_local": other threads (a data loader that pins memory) may go on
        return torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local")


class StepGraph:
    """Calls a function (x, target) -> (loss, grad) through a graph.

    The first two calls of a kind run as they are, on a side stream, and count; the third is recorded. A call of another
    kind (shapes, strides, types, the addresses of the weights, the objective) starts anew; values that change in place,
    weights too, are read by each replay. Results are copies: a replay overwrites the recorded ones.

    Args:
        weights: all tensors of the model that the function reads, asked for at each call.
        strict: raise where it cannot be recorded; otherwise go on without and set ``reason``.
    """

    WARM_UP = 2
    MOST = 8

    def __init__(self, recorder: Recorder, weights: Callable[[], Iterable[Tensor]], *, strict: bool) -> None:
        self.recorder, self.weights, self.strict = recorder, weights, strict
        self.reason = ""
        self.form: Hashable = None
        self.key: Hashable = None
        self.kept: tuple[Any, ...] = ()
        self.recordings = 0
        self.calls = 0
        self.renamed = 0
        self.replay: Callable[[], None] | None = None

    def __call__(self, function: Function, x: Tensor, target: Any, kind: object) -> Outputs:
        """``function`` at x; ``kind`` is whatever else its work follows from (the objective)."""
        if self.reason:
            return function(x, target)
        self._prepare(x, target, kind)
        if self.reason:
            return function(x, target)
        self.x.copy_(x)
        if isinstance(target, Tensor):
            self.target.copy_(target)
        self.calls += 1
        if self.calls <= self.WARM_UP:
            return self.recorder.aside(lambda: function(self.x, self.target))
        if self.replay is None and not self._record(function):
            return function(x, target)
        assert self.replay is not None, "recorded"
        self.replay()
        loss, grad = self.out
        return loss.clone(), grad.clone(memory_format=torch.preserve_format)

    def _prepare(self, x: Tensor, target: Any, kind: object) -> None:
        form = (_form(x), _form(target), tuple(w.data_ptr() for w in self.weights()))
        key = (form, id(kind))
        if key == self.key:
            return
        self.renamed = self.renamed + 1 if form == self.form and self.calls == 1 else 0
        if self.renamed == self.WARM_UP:
            self._give_up("the objective is another one at each step")
            return
        self.form, self.key = form, key
        self.kept = (kind, target)  # what an id names stays alive, so that no other object gets the id
        self.calls, self.replay = 0, None
        self.x = torch.empty_like(x)
        self.target = torch.empty_like(target) if isinstance(target, Tensor) else target

    def _record(self, function: Function) -> bool:
        problem: Exception | None = None
        if self.recordings == self.MOST:
            why = f"shapes, weights or objective changed {self.MOST} times"
        else:
            try:
                self.replay, self.out = self.recorder.record(lambda: function(self.x, self.target))
                self.recordings += 1
                return True
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                problem, why = error, str(error).strip().split("\n", 1)[0]
        self._give_up(why, problem)
        return False

    def _give_up(self, why: str, problem: Exception | None = None) -> None:
        if self.strict:
            raise RuntimeError(f"graph: this model or objective cannot be recorded as a CUDA graph: {why}") from problem
        self.reason = why

    def __str__(self) -> str:
        """What happened."""
        why = self.reason or "too few gradients of one kind"
        return "CUDA graph" if self.recordings and not self.reason else f"no CUDA graph: {why}"


def _form(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return id(value)
