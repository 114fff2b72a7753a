"""diffusion_step_ beside plain torch: a step that draws (DDPM), one that does not (DDIM), and the forward jump."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase, Tensors

A, B, C = 0.99, -0.2, 0.1
NAMES = ("adv", "momentum", "previous")  # x, eps_hat, and room for the normals of plain torch


def ours(adv: Tensor, eps_hat: Tensor, room: Tensor, **options: Any) -> Tensor:
    return ops.diffusion_step_(adv, eps_hat, coefficients=(A, B, C), seed=0, **options)


def ddpm(adv: Tensor, eps_hat: Tensor, room: Tensor) -> Tensor:
    return A * adv + B * eps_hat + C * torch.randn_like(adv)


def ddpm_(adv: Tensor, eps_hat: Tensor, room: Tensor) -> None:
    adv.mul_(A).add_(eps_hat, alpha=B).add_(room.normal_(), alpha=C)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _normals(room: Tensor) -> None:
    room.normal_()


def ddpm_apart(adv: Tensor, eps_hat: Tensor, room: Tensor) -> None:
    """For torch.compile, whose own normals take ten times as long on the CPU: they are drawn between two graphs."""
    _normals(room)
    adv.copy_(A * adv + B * eps_hat + C * room)


def ddim(adv: Tensor, eps_hat: Tensor) -> Tensor:
    return A * adv + B * eps_hat


def ddim_(adv: Tensor, eps_hat: Tensor) -> None:
    adv.mul_(A).add_(eps_hat, alpha=B)


def ours_forward(adv: Tensor, room: Tensor, **options: Any) -> Tensor:
    return ops.diffusion_step_(adv, None, coefficients=(A, 0.0, C), seed=0, **options)


def forward(adv: Tensor, room: Tensor) -> Tensor:
    return A * adv + C * torch.randn_like(adv)


def forward_(adv: Tensor, room: Tensor) -> None:
    adv.mul_(A).add_(room.normal_(), alpha=C)


def forward_apart(adv: Tensor, room: Tensor) -> None:
    _normals(room)
    adv.copy_(A * adv + C * room)


def check(x: Tensors, got: tuple[Tensor, ...]) -> float:
    """How far mean and variance of what was drawn are off, and how far it goes along with x or eps_hat: each in each
    sample, beyond what chance gives (six deviations)."""
    known = {name: x[name].double().flatten(1) for name in ("adv", "momentum") if name in x}
    z = got[0].double().flatten(1) - A * known["adv"]
    if "momentum" in known:
        z = z - B * known["momentum"]
    z = z / C
    off = [z.mean(1), (z.square().mean(1) - 1) / math.sqrt(2)]
    off += [(z * t).mean(1) / t.square().mean(1).sqrt() for t in known.values()]
    return max(float(torch.stack(off).abs().amax()) - 6 / math.sqrt(z.shape[1]), 0.0)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    common: dict[str, Any] = {"check": check, "allowed": {"ours": 1e-3, "plain": 2e-2}}
    stem = "diffusion_step"
    return [
        OpCase(
            "diffusion_step_ ddpm", stem, NAMES, ours, {"eager": ddpm, "eager in place": ddpm_},
            {"compiled": ddpm, "compiled in place": plain.written(ddpm), "compiled, eager normals": ddpm_apart},
            streams=3, operations=48, **common,
        ),
        OpCase(
            "diffusion_step_ ddim", stem, NAMES[:2],
            partial(ops.diffusion_step_, coefficients=(A, B, 0.0), seed=0), {"eager": ddim, "eager in place": ddim_},
            {"compiled": ddim, "compiled in place": plain.written(ddim)}, streams=3, operations=4, exact=ddim,
        ),
        OpCase(
            "diffusion_step_ forward", stem, ("adv", "previous"), ours_forward,
            {"eager": forward, "eager in place": forward_},
            {"compiled": forward, "compiled in place": plain.written(forward),
             "compiled, eager normals": forward_apart}, streams=2, operations=46, **common,
        ),
    ]  # fmt: skip
