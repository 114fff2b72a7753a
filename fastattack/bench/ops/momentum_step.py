"""momentum_step_ (MI-FGSM) beside plain PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ... import ops
from . import plain, project
from .case import OpCase
from .inputs import EPS, RMS_EPS, RMS_STEP, STEP, radius

NAMES = ("adv", "momentum", "grad", "origin")
DECAY = 0.9


def scaled(grad: Tensor) -> Tensor:
    return grad / grad.abs().mean((1, 2, 3), keepdim=True).clamp_(min=plain.TINY)


def moved(
    adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float, step: float
) -> tuple[Tensor, Tensor]:
    new = DECAY * momentum + scaled(grad)
    return (plain.linf if norm == "linf" else plain.l2)(adv, new, origin, eps, step), new


def moved_(adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float, step: float) -> None:
    momentum.mul_(DECAY).add_(scaled(grad))
    if norm == "linf":
        adv.add_(momentum.sign(), alpha=step)  # the momentum is kept
        project.linf_(adv, origin, eps)
    else:
        plain.l2_(adv, momentum, origin, eps, step)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    found = []
    for norm, eps, step, streams, operations in (
        ("linf", EPS, STEP, 7, 13),
        ("l2", radius(shape, RMS_EPS), radius(shape, RMS_STEP), 10, 22),
    ):
        options: dict[str, Any] = {"norm": norm, "eps": eps, "step": step}
        out, in_place = partial(moved, **options), partial(moved_, **options)
        found.append(
            OpCase(
                f"momentum_step_ {norm}",
                "momentum_step",
                NAMES,
                partial(ours, decay=DECAY, **options),
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
