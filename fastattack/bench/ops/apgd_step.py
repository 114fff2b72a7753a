"""apgd_step_ beside plain PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ... import ops
from . import plain, project
from .case import OpCase
from .inputs import EPS, RMS_EPS, RMS_STEP, STEP, radius

NAMES = ("adv", "previous", "grad", "origin")
MOMENTUM = 0.75


def moved(
    adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float, step: float
) -> tuple[Tensor, Tensor]:
    """Out of place: two projections."""
    at, back = (plain.linf, project.linf) if norm == "linf" else (plain.l2, project.l2)
    z = at(adv, grad, origin, eps, step)
    return back(adv + MOMENTUM * (z - adv) + (1 - MOMENTUM) * (adv - previous), origin, eps), adv.clone()


def copied(adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float, step: float) -> None:
    """For torch.compile: writes adv and previous."""
    new, old = moved(adv, previous, grad, origin, norm, eps, step)
    previous.copy_(old)
    adv.copy_(new)


def in_place(adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, norm: str, eps: float, step: float) -> None:
    """With one buffer and the gradient's."""
    stepped, back = (plain.linf_, project.linf_) if norm == "linf" else (plain.l2_, project.l2_)
    lag = (adv - previous).mul_(1 - MOMENTUM)
    previous.copy_(adv)
    stepped(adv, grad, origin, eps, step)
    adv.sub_(previous).mul_(MOMENTUM).add_(previous).add_(lag)
    back(adv, origin, eps)


def ours(adv: Tensor, previous: Tensor, grad: Tensor, origin: Tensor, **options: Any) -> None:
    ops.apgd_step_(adv, previous, grad, origin, momentum=MOMENTUM, **options)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    found = []
    for norm, eps, step, streams, operations in (
        ("linf", EPS, STEP, 6, 18),
        ("l2", radius(shape, RMS_EPS), radius(shape, RMS_STEP), 10, 35),
    ):
        options: dict[str, Any] = {"norm": norm, "eps": eps, "step": step}
        out = partial(moved, **options)
        found.append(
            OpCase(
                f"apgd_step_ {norm}",
                "apgd_step",
                NAMES,
                partial(ours, **options),
                {"eager": out, "eager in place": partial(in_place, **options)},
                {"compiled": out, "compiled in place": partial(copied, **options)},
                streams=streams,
                operations=operations,
                exact=out,
                written=("adv", "previous"),
                slack=8,
            )
        )
    return found
