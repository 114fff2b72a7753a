"""pgd_step_ beside plain PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase
from .inputs import EPS, RMS_EPS, RMS_STEP, STEP, radius

NAMES = ("adv", "grad", "origin")


def l2_one_reduction(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    """As our kernel does it, for torch.compile: the norm after the step from three sums of one pass."""
    d, g = (adv - origin).flatten(1), grad.flatten(1)
    gg, dg, dd = (g * g).sum(1), (d * g).sum(1), (d * d).sum(1)
    c = step / gg.sqrt().clamp(min=plain.TINY)
    after = (dd + 2 * c * dg + c * c * gg).clamp(min=0).sqrt()
    r = (eps / after.clamp(min=plain.TINY)).clamp(max=1)
    wide = [-1] + [1] * (adv.dim() - 1)
    adv.copy_(origin + r.reshape(wide) * (adv - origin + c.reshape(wide) * grad))


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    linf: dict[str, Any] = {"eps": EPS, "step": STEP}
    l2: dict[str, Any] = {"eps": radius(shape, RMS_EPS), "step": radius(shape, RMS_STEP)}
    return [
        OpCase(
            "pgd_step_ linf", "pgd_step", NAMES,
            partial(ops.pgd_step_, norm="linf", **linf),
            {"eager": partial(plain.linf, **linf), "eager in place": partial(plain.linf_, **linf)},
            {"compiled": partial(plain.linf, **linf), "compiled in place": partial(plain.linf_copy, **linf)},
            streams=4, operations=8, exact=partial(plain.linf, **linf),
        ),
        OpCase(
            "pgd_step_ l2", "pgd_step", NAMES,
            partial(ops.pgd_step_, norm="l2", **l2),
            {"eager": partial(plain.l2, **l2), "eager in place": partial(plain.l2_, **l2)},
            {
                "compiled": partial(plain.l2, **l2),
                "compiled in place": plain.written(partial(plain.l2, **l2)),
                "compiled in place, one reduction": partial(l2_one_reduction, **l2),
            },
            streams=7, operations=17, exact=partial(plain.l2, **l2), slack=8,
        ),
    ]  # fmt: skip
