"""zero_mean_step_ beside plain PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase
from .inputs import RMS_EPS, RMS_STEP, radius


def centred(x: Tensor) -> Tensor:
    return x - x.mean((1, 2, 3), keepdim=True)


def out_of_place(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    g = centred(grad)
    d = centred(adv - origin) + step * g / plain.norm(g).clamp(min=plain.TINY)
    return origin + d * (eps / plain.norm(d).clamp(min=plain.TINY)).clamp(max=1)


def in_place(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    """The gradient is used up."""
    grad.sub_(grad.mean((1, 2, 3), keepdim=True))
    adv.sub_(origin)
    adv.sub_(adv.mean((1, 2, 3), keepdim=True)).addcdiv_(grad, plain.norm(grad).clamp_(min=plain.TINY), value=step)
    adv.mul_((eps / plain.norm(adv).clamp_(min=plain.TINY)).clamp_(max=1)).add_(origin)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    numbers: dict[str, Any] = {"eps": radius(shape, RMS_EPS), "step": radius(shape, RMS_STEP)}
    out = partial(out_of_place, **numbers)
    return [
        OpCase(
            "zero_mean_step_", "zero_mean", ("adv", "grad", "origin"), partial(ops.zero_mean_step_, **numbers),
            {"eager": out, "eager in place": partial(in_place, **numbers)},
            {"compiled": out, "compiled in place": plain.written(out)},
            streams=7, operations=25, exact=out, slack=8,
        )
    ]  # fmt: skip
