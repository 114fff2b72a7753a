"""Whether warping is a noticeable share of a training or attack step: CPU time of one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fastattack.objectives import registration as objectives
from fastattack.registration.fields import warp

from .data import Pairs, known
from .nets import loss

GRID = ("aten::grid_sampler_2d", "aten::grid_sampler_2d_backward", "aten::grid_sampler_3d")


def of_warp(model: Any, some: Pairs) -> dict[str, Any]:
    """Milliseconds of a training step (batch 4) and of an attack's gradient (all pairs), and the warps' share.

    The share: torch's grid_sample, forward and backward, in the profiler's whole. A fused kernel could also spare what
    is around it (grids of positions, their scaling, the sum of a composition): all warps of the model's forward pass,
    of the same shapes, alone, there and back.
    """
    few = some.first(4)
    goal = objectives.field_error()

    def training() -> None:
        model.train()
        loss()(model(few.pair), known(few)).mean().backward()

    def attack() -> None:
        model.eval()
        pair = some.pair.clone().requires_grad_(True)
        torch.autograd.grad(goal(model(pair), some.truth).sum(), pair)

    found: dict[str, Any] = {}
    for name, step, pair in (("training", training, few.pair), ("attack", attack, some.pair)):
        shapes = warps(model, pair)
        found[name] = {"ms": _ms(step), **_share(step), "warps": len(shapes), "warps_ms": _alone(shapes)}
    model.eval().zero_grad(set_to_none=True)
    return found


def _alone(shapes: list[tuple[int, ...]]) -> float:
    """Milliseconds of warping images of these shapes, there and back, with gradients for image and field."""
    dims = len(shapes[0]) - 2
    images = [torch.rand(shape, requires_grad=True) for shape in shapes]
    fields = [torch.rand(shape[0], dims, *shape[2:], requires_grad=True) for shape in shapes]

    def step() -> None:
        for image, field in zip(images, fields, strict=True):
            warp(image, field).sum().backward()

    return _ms(step)


def _ms(step: Callable[[], None], times: int = 5) -> float:
    step()
    spent = []
    for _ in range(times):
        began = time.process_time()
        step()
        spent.append(1e3 * (time.process_time() - began))
    return round(statistics.median(spent), 1)


def _share(step: Callable[[], None]) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    events = seen.key_averages()
    whole = sum(e.self_cpu_time_total for e in events)
    grid = sum(e.self_cpu_time_total for e in events if e.key in GRID)
    return {"grid_sample_share": round(grid / whole, 4)}


def warps(model: Any, pair: Tensor) -> list[tuple[int, ...]]:
    """Shapes (image) of every warp in one forward pass."""
    from fastattack.models import llm_morph
    from fastattack.registration import fields

    shapes: list[tuple[int, ...]] = []
    plain = fields.warp

    def counted(image: Tensor, field: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(image.shape))
        return plain(image, field, **options)

    fields.warp = llm_morph.warp = counted
    try:
        with torch.no_grad():
            model(pair)
    finally:
        fields.warp = llm_morph.warp = plain
    return shapes
