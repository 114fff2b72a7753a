"""project_ onto the linf and l2 balls beside plain PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase
from .inputs import EPS, RMS_EPS, radius

NAMES = ("adv", "origin")


def linf(adv: Tensor, origin: Tensor, eps: float) -> Tensor:
    return torch.minimum(torch.maximum(adv, origin - eps), origin + eps)


def linf_(adv: Tensor, origin: Tensor, eps: float) -> None:
    adv.sub_(origin).clamp_(-eps, eps).add_(origin)


def linf_copy(adv: Tensor, origin: Tensor, eps: float) -> None:
    adv.copy_((adv - origin).clamp(-eps, eps) + origin)


def l2(adv: Tensor, origin: Tensor, eps: float) -> Tensor:
    delta = adv - origin
    return origin + delta * (eps / plain.norm(delta).clamp(min=plain.TINY)).clamp(max=1)


def l2_(adv: Tensor, origin: Tensor, eps: float) -> None:
    adv.sub_(origin)
    adv.mul_((eps / plain.norm(adv).clamp_(min=plain.TINY)).clamp_(max=1)).add_(origin)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    found = []
    for norm, eps, forms, streams, operations in (
        ("linf", EPS / 2, (linf, linf_), 3, 6),
        ("l2", radius(shape, RMS_EPS), (l2, l2_), 5, 8),
    ):
        numbers: dict[str, Any] = {"eps": eps}
        out, in_place = (partial(form, **numbers) for form in forms)
        copy = partial(linf_copy, **numbers) if norm == "linf" else plain.written(partial(l2, **numbers))
        found.append(
            OpCase(
                f"project_ {norm}",
                "project",
                NAMES,
                partial(ops.project_, norm=norm, **numbers),
                {"eager": out, "eager in place": in_place},
                {"compiled": out, "compiled in place": copy},
                streams=streams,
                operations=operations,
                exact=out,
                restores=norm == "l2",
                slack=8 if norm == "l2" else 1,
            )
        )
    return found
