"""A process as one differentiable function of the images, without the graph of its steps in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..diffusion.process import Process, Watch

KEPT = 32  # states that a forward pass keeps; a longer process makes those between again


def forward(process: Process, x: Tensor, seed: int, ids: Tensor, keep: list[Tensor] | None = None) -> Tensor:
    """The images that come out, without a graph; every ``stride_of``-th state goes to ``keep``.

    Raises:
        NonFiniteError: NaN or infinity; the step is named.
    """
    watch, stride = Watch(process), stride_of(process)
    with torch.no_grad():
        origin = process.scaled(x)
        state = process.enter(origin, seed, ids)
        watch.see(state)
        for k in range(process.steps):
            if keep is not None and k % stride == 0:
                keep.append(state.clone())  # the steps write in place
            state = process.step(k, state, origin, seed, ids, overwrite=True)
            watch.see(state)
        out = process.leave(state, seed, ids)
    watch.require_finite()
    if keep is not None:
        keep.append(state)
    return out


def stride_of(process: Process) -> int:
    return max(1, math.ceil(process.steps / KEPT))


def backward(process: Process, x: Tensor, kept: list[Tensor], grad: Tensor, seed: int, ids: Tensor) -> Tensor:
    """The gradient at x, a step at a time: the graph of one step is alive, and the states of one stride."""
    stride = stride_of(process)
    with torch.no_grad():
        origin = process.scaled(x)
    of_origin = torch.zeros_like(origin)
    (grad,) = _vjp(lambda s: process.leave(s, seed, ids), grad, kept[-1])
    for segment in reversed(range(len(kept) - 1)):
        first = segment * stride
        states = [kept[segment]]
        with torch.no_grad():
            for k in range(first, min(first + stride, process.steps) - 1):
                states.append(process.step(k, states[-1], origin, seed, ids))
        for k in reversed(range(first, first + len(states))):

            def one(s: Tensor, o: Tensor, k: int = k) -> Tensor:
                return process.step(k, s, o, seed, ids)

            grad, more = _vjp(one, grad, states.pop(), origin)
            of_origin += more
    (through,) = _vjp(lambda o: process.enter(o, seed, ids), grad, origin)
    (found,) = _vjp(process.scaled, through + of_origin, x)
    return found


def _vjp(function: Any, grad: Tensor, *at: Tensor) -> list[Tensor]:
    """Gradients of <function(at), grad>; zeros where nothing depends."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(True) for t in at]
        found = torch.autograd.grad(function(*leaves), leaves, grad, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, at, strict=True)]


class Through(torch.autograd.Function):
    """Forward by one process; backward through the same, a shorter one, or as the identity (None: BPDA)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, process: Process, behind: Process | None, seed: int, ids: Tensor) -> Tensor:
        keep: list[Tensor] | None = [] if behind is process and ctx.needs_input_grad[0] else None
        out = forward(process, x, seed, ids, keep)
        ctx.behind, ctx.seed = behind, seed
        ctx.same = keep is not None
        if behind is not None:
            ctx.save_for_backward(x, ids, *(keep or ()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.behind is None:
            return grad, None, None, None, None
        x, ids, *kept = ctx.saved_tensors
        if not ctx.same:
            forward(ctx.behind, x, ctx.seed, ids, kept)
        return backward(ctx.behind, x, kept, grad, ctx.seed, ids), None, None, None, None
