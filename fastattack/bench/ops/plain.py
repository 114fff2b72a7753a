"""What the plain forms of several ops share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TINY = 1e-30
"""Keeps a division by a norm that is 0 finite. float16 has no such number: there it is 0, and 0 / 0 is NaN."""


def written(function: Callable[..., Tensor]) -> Callable[..., None]:
    """For torch.compile: the same written to the first tensor, adv; saves an allocation."""

    def copied(adv: Tensor, *others: Tensor) -> None:
        adv.copy_(function(adv, *others))

    return copied


def norm(x: Tensor) -> Tensor:
    """|x|_2 of each sample, in the shape that multiplies it."""
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return length.reshape(-1, *[1] * (x.dim() - 1))


def linf(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    return torch.minimum(torch.maximum(adv + step * grad.sign(), origin - eps), origin + eps)


def linf_(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    """In place: one buffer, which the gradient of this step lends."""
    adv.add_(grad.sign_(), alpha=step)
    adv.sub_(origin).clamp_(-eps, eps).add_(origin)
    return adv


def linf_copy(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    """For torch.compile: one fused kernel that writes adv."""
    adv.copy_((adv + step * grad.sign() - origin).clamp(-eps, eps) + origin)


def l2(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    delta = adv + step * grad / norm(grad).clamp(min=TINY) - origin
    return origin + delta * (eps / norm(delta).clamp(min=TINY)).clamp(max=1)


def l2_(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    adv.addcdiv_(grad, norm(grad).clamp_(min=TINY), value=step).sub_(origin)
    return adv.mul_((eps / norm(adv).clamp_(min=TINY)).clamp_(max=1)).add_(origin)
