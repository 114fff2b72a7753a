"""random_start_ beside torch's generator."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase, Tensors
from .inputs import EPS, RMS_EPS, radius


def linf(adv: Tensor, origin: Tensor) -> Tensor:
    return origin + torch.empty_like(adv).uniform_(-EPS, EPS)


def linf_(adv: Tensor, origin: Tensor) -> None:
    adv.uniform_(-EPS, EPS).add_(origin)


def l2(adv: Tensor, origin: Tensor, eps: float) -> Tensor:
    n = torch.randn_like(adv)
    share = torch.rand(len(n), device=n.device).pow(1 / n[0].numel()).reshape(-1, *[1] * (n.dim() - 1))
    return (origin + n * (eps * share / plain.norm(n.float()))).to(adv.dtype)


def l2_(adv: Tensor, origin: Tensor, eps: float) -> None:
    adv.normal_()
    share = torch.rand(len(adv), device=adv.device).pow_(1 / adv[0].numel()).reshape(-1, *[1] * (adv.dim() - 1))
    adv.mul_(eps * share / plain.norm(adv)).add_(origin)


def check_linf(x: Tensors, got: tuple[Tensor, ...]) -> float:
    """How far outside the ball, or how far its moments are from uniform ones, in multiples of eps."""
    delta = (got[0].double() - x["origin"].double()) / EPS
    moments = max(abs(float(delta.mean())), abs(float(delta.square().mean()) - 1 / 3))
    return max(float(delta.abs().amax()) - 1, moments - 6 / math.sqrt(delta.numel()), 0.0)


def check_l2(x: Tensors, got: tuple[Tensor, ...], eps: float) -> float:
    """How far outside the ball, or too far inside: of d dimensions, a point lies below r eps with probability r^d."""
    delta = (got[0].double() - x["origin"].double()).flatten(1)
    length = delta.norm(dim=1) / eps
    least = math.exp(math.log(1e-9) / delta.shape[1])
    centre = float((delta.mean(1).abs() * delta.shape[1] ** 0.5 / delta.norm(dim=1)).amax())  # a normal number
    return max(float(length.amax()) - 1, least - float(length.amin()), (centre - 7) / 7, 0.0)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    eps = radius(shape, RMS_EPS)
    return [
        OpCase(
            "random_start_ linf", "random_start", ("adv", "origin"),
            partial(ops.random_start_, norm="linf", eps=EPS, seed=0),
            {"eager": linf, "eager in place": linf_}, {"compiled": linf, "compiled in place": plain.written(linf)},
            streams=2, operations=25, check=check_linf, allowed={"ours": 1e-2, "plain": 2e-2},
        ),
        OpCase(
            "random_start_ l2", "random_start", ("adv", "origin"),
            partial(ops.random_start_, norm="l2", eps=eps, seed=0),
            {"eager": partial(l2, eps=eps), "eager in place": partial(l2_, eps=eps)},
            {"compiled": partial(l2, eps=eps), "compiled in place": plain.written(partial(l2, eps=eps))},
            streams=2, operations=80, check=partial(check_l2, eps=eps), allowed={"ours": 1e-2, "plain": 2e-2},
        ),
    ]  # fmt: skip
