"""project_ onto the l1 ball and l1_step_ beside plain PyTorch, which sorts or iterates."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ops
from .case import OpCase, Tensors

KEEP = 0.05


def project(adv: Tensor, origin: Tensor, eps: float) -> Tensor:
    """Duchi et al., ICML 2008, without bounds."""
    d = (adv - origin).flatten(1)
    u = d.abs().sort(1, descending=True).values
    over = (u.cumsum(1) - eps) / torch.arange(1, u.shape[1] + 1, device=u.device)
    last = (u > over).sum(1, keepdim=True) - 1
    lam = over.gather(1, last).clamp(min=0)
    return origin + (d.sign() * (d.abs() - lam).clamp(min=0)).reshape(adv.shape)


def newton(adv: Tensor, origin: Tensor, eps: float, rounds: int = 6) -> None:
    """Without sorting: Newton's iteration on the threshold (Michelot 1986), which comes from below and never passes
    it; writes adv. A radius that leaves few pixels needs more rounds than ours here, which halves the length."""
    d = (adv - origin).flatten(1).float()  # sums of half precision overflow
    size, lam = d.abs(), d.new_zeros(len(d), 1)
    for _ in range(rounds):
        above = size > lam
        rest = (size - lam).clamp_(min=0).sum(1, keepdim=True) - eps
        lam = (lam + rest / above.sum(1, keepdim=True).clamp_(min=1)).clamp_(min=0)
    adv.copy_(origin + (d.sign() * (size - lam).clamp_(min=0)).reshape(adv.shape))


def newton_step(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, length: float) -> None:
    adv.copy_(moved(adv, grad, length))
    newton(adv, origin, eps)


def step(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, length: float) -> Tensor:
    return project(moved(adv, grad, length), origin, eps)


def moved(adv: Tensor, grad: Tensor, length: float) -> Tensor:
    """A step of l1 length ``length`` in the pixels of the largest gradient."""
    size = grad.abs().flatten(1)
    least = size.topk(max(1, math.ceil(KEEP * size.shape[1])), dim=1).values[:, -1:]
    move = grad.flatten(1).sign() * (size >= least)
    move = move / move.abs().sum(1, keepdim=True)
    return adv + length * move.reshape(adv.shape)


def close(x: Tensors, got: tuple[Tensor, ...], eps: float, length: float | None) -> float:
    """|got - exact|_inf, where a pixel's share of the radius would be 1; half precision is judged by its ball."""
    double = {name: t.double() for name, t in x.items()}
    if length is None:
        want = project(double["adv"], double["origin"], eps)
    else:
        want = step(double["adv"], double["grad"], double["origin"], eps, length)
    return float((got[0].double() - want).abs().amax())


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    pixels = float(math.prod(shape[1:]))
    eps = 0.04 * pixels  # half of the l1 length of adv - origin
    numbers: dict[str, Any] = {"eps": eps}
    length = 0.1 * eps
    out, further = partial(project, **numbers), partial(step, length=length, **numbers)
    quick, quicker = partial(newton, **numbers), partial(newton_step, length=length, **numbers)
    return [
        OpCase(
            "project_ l1", "l1", ("adv", "origin"), partial(ops.project_, norm="l1", **numbers),
            {"eager": out, "eager in place, Newton": quick},
            {"compiled": out, "compiled in place, Newton": quick}, streams=11, operations=20,
            check=partial(close, length=None, **numbers), allowed={"ours": 1e-5, "plain": 1e-4}, restores=True,
        ),
        OpCase(
            "l1_step_", "l1", ("adv", "grad", "origin"),
            partial(ops.l1_step_, step=length, keep=KEEP, **numbers),
            {"eager": further, "eager in place, Newton": quicker},
            {"compiled": further, "compiled in place, Newton": quicker}, streams=15, operations=30,
            check=partial(close, length=length, **numbers), allowed={"ours": 1e-5, "plain": 1e-4}, restores=True,
        ),
    ]  # fmt: skip
