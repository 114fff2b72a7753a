"""preserve_noise_ beside recentring, rescaling and clipping, which is what plain PyTorch has (and is less exact)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ops
from . import plain, project
from .case import OpCase, Tensors
from .inputs import EPS, RMS_EPS, radius

NAMES = ("adv", "origin", "clean")


def recentre(
    adv: Tensor, origin: Tensor, clean: Tensor, eps: float, onto: Callable[..., Tensor], rounds: int = 4
) -> Tensor:
    """``onto``: projects onto a ball, of project.py."""
    n, t = origin - clean, adv - clean
    dims = tuple(range(1, n.dim()))
    centre, spread = n.mean(dims, keepdim=True), n.std(dims, keepdim=True, correction=0)
    for _ in range(rounds):
        t = (t - t.mean(dims, keepdim=True)) * (spread / t.std(dims, keepdim=True, correction=0)) + centre
        t = onto(t, n, eps)
    return clean + t


def recentre_(adv: Tensor, origin: Tensor, clean: Tensor, eps: float, rounds: int = 4) -> None:
    n = origin - clean
    adv.sub_(clean)
    dims = tuple(range(1, n.dim()))
    centre, spread = n.mean(dims, keepdim=True), n.std(dims, keepdim=True, correction=0)
    length = spread * n[0].numel() ** 0.5
    for _ in range(rounds):
        adv.sub_(adv.mean(dims, keepdim=True))
        adv.mul_(length / plain.norm(adv)).add_(centre)  # quicker than std, which centres again
        project.linf_(adv, n, eps)
    adv.add_(clean)


def check(x: Tensors, got: tuple[Tensor, ...], eps: float, norm: str) -> float:
    """The largest of: relative error of the noise's norm, shift of its mean over its rms, how far beyond the ball."""
    origin, clean, out = x["origin"].double(), x["clean"].double(), got[0].double()
    before, after = (origin - clean).flatten(1), (out - clean).flatten(1)
    rms = before.norm(dim=1) / before.shape[1] ** 0.5
    length = float((after.norm(dim=1) / before.norm(dim=1) - 1).abs().amax())
    mean = float(((after.mean(1) - before.mean(1)).abs() / rms).amax())
    moved = (out - origin).flatten(1)
    reach = float((moved.abs() if norm == "linf" else moved.norm(dim=1)).amax()) / eps - 1
    stayed = 1.0 if torch.equal(out, x["adv"].double()) else 0.0  # the inputs are not in the set
    return max(length, mean, reach, stayed)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    found = []
    for norm, eps, onto, streams, operations in (
        ("linf", EPS / 2, project.linf, 9, 30),
        ("l2", radius(shape, RMS_EPS), project.l2, 9, 25),
    ):
        numbers: dict[str, Any] = {"eps": eps}
        out = partial(recentre, onto=onto, **numbers)
        in_place = {"eager in place x4": partial(recentre_, **numbers)} if norm == "linf" else {}
        found.append(
            OpCase(
                f"preserve_noise_ {norm}",
                "preserve_noise",
                NAMES,
                partial(ops.preserve_noise_, norm=norm, **numbers),
                {"eager x4": out, **in_place},
                {"compiled x4": out, "compiled in place x4": plain.written(out)},
                streams=streams,
                operations=operations,
                check=partial(check, norm=norm, **numbers),
                allowed={"ours": 1e-5, "plain": 1e-1},
                restores=True,
            )
        )
    return found
