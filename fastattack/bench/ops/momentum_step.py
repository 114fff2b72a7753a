"""momentum_step_ (MI-FGSM) beside plain PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase
from .inputs import EPS, RMS_EPS, RMS_STEP, STEP, radius

NAMES = ("adv", "momentum", "grad", "origin")
DECAY = 0.9


def turned(momentum: Tensor, grad: Tensor) -> Tensor:
    return DECAY * momentum + grad / grad.abs().mean((1, 2, 3), keepdim=True).clamp(min=plain.TINY)


def linf(adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> tuple[Tensor, Tensor]:
    new = turned(momentum, grad)
    return plain.linf(adv, new, origin, eps, step), new


def l2(adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> tuple[Tensor, Tensor]:
    new = turned(momentum, grad)
    return plain.l2(adv, new, origin, eps, step), new


def linf_(adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    momentum.mul_(DECAY).add_(grad / grad.abs().mean((1, 2, 3), keepdim=True).clamp_(min=plain.TINY))
    adv.add_(momentum.sign(), alpha=step).sub_(origin).clamp_(-eps, eps).add_(origin)


def l2_(adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    momentum.mul_(DECAY).add_(grad / grad.abs().mean((1, 2, 3), keepdim=True).clamp_(min=plain.TINY))
    plain.l2_(adv, momentum, origin, eps, step)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    found = []
    for norm, forms, numbers, streams, operations in (
        ("linf", (linf, linf_), {"eps": EPS, "step": STEP}, 7, 13),
        ("l2", (l2, l2_), {"eps": radius(shape, RMS_EPS), "step": radius(shape, RMS_STEP)}, 10, 22),
    ):
        options: dict[str, Any] = numbers
        out, in_place = (partial(form, **options) for form in forms)
        found.append(
            OpCase(
                f"momentum_step_ {norm}",
                "momentum_step",
                NAMES,
                partial(ours, norm=norm, decay=DECAY, **options),
                {"eager": out, "eager in place": in_place},
                {"compiled": out, "compiled in place": in_place},
                streams=streams,
                operations=operations,
                exact=out,
                written=("adv", "momentum"),
                slack=8,
            )
        )
    return found


def ours(adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, **options: Any) -> None:
    ops.momentum_step_(adv, momentum, grad, origin, **options)
