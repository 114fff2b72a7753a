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
        seen = process.seen(origin)
        state = process.enter(origin if process.guide is None else origin.clone(), seed, ids)
        watch.see(state)
        for k in range(process.steps):
            if keep is not None and k % stride == 0:
                keep.append(state.clone())  # the steps write in place
            state = process.step(k, state, seen, seed, ids, overwrite=True)
            watch.see(state)
        out = process.leave(state, seed, ids)
    watch.require_finite()
    return out


def stride_of(process: Process) -> int:
    return max(1, math.ceil(process.steps / KEPT))


def backward(process: Process, x: Tensor, kept: list[Tensor], grad: Tensor, seed: int, ids: Tensor) -> Tensor:
    """The gradient at x, a step at a time: the graph of one step is alive, and the states of one stride."""
    stride, scale = stride_of(process), process.diffusion.high - process.diffusion.low
    origin = process.scaled(x.detach())
    with torch.no_grad():
        seen = process.seen(origin)
    of_seen = torch.zeros_like(seen)
    grad = grad * (process.grown / scale)
    for segment in reversed(range(len(kept))):
        first = segment * stride
        states = [kept[segment]]
        with torch.no_grad():
            for k in range(first, min(first + stride, process.steps) - 1):
                states.append(process.step(k, states[-1], seen, seed, ids))
        for k in reversed(range(first, first + len(states))):
            grad, more = _through_step(process, k, states.pop(), seen, grad, seed, ids)
            if more is not None:
                of_seen += more
    return (grad * process.kept + _through_seen(process, origin, of_seen)) * scale


def _through_step(
    process: Process, k: int, state: Tensor, seen: Tensor, grad: Tensor, seed: int, ids: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The gradients at a step's state, and at what a guide sees of the input."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(True) for t in ((state,) if process.guide is None else (state, seen))]
        out = process.step(k, leaves[0], leaves[-1], seed, ids)
        found = torch.autograd.grad(out, leaves, grad, allow_unused=True)
    before = torch.zeros_like(state) if found[0] is None else found[0]
    return before, found[1] if len(found) > 1 else None


def _through_seen(process: Process, origin: Tensor, grad: Tensor) -> Tensor:
    """The gradient at the input, once for all steps, of what a guide saw of it."""
    with torch.enable_grad():
        leaf = origin.detach().requires_grad_(True)
        seen = process.seen(leaf)
        if seen is leaf or not seen.requires_grad:
            return grad if seen is leaf else torch.zeros_like(origin)
        (found,) = torch.autograd.grad(seen, leaf, grad)
    return found


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
