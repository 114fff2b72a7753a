"""typical_noise beside plain torch: noise on its shell, and plain noise, added to clean images."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase, Tensors

SIGMA, GAP = 0.1, 0.02
NAMES = ("adv", "clean")  # adv: where ours writes


def _length(clean: Tensor) -> float:
    return SIGMA * math.sqrt(clean[0].numel() * (1 + 2 * GAP))


def shell(adv: Tensor, clean: Tensor) -> Tensor:
    noise = torch.randn_like(clean)
    noise = noise - noise.mean((1, 2, 3), keepdim=True)
    return clean + noise * (_length(clean) / plain.norm(noise))


def shell_(adv: Tensor, clean: Tensor) -> None:
    """In place: the noise itself is the only buffer."""
    adv.normal_()
    adv.sub_(adv.mean((1, 2, 3), keepdim=True))
    adv.mul_(_length(clean) / plain.norm(adv)).add_(clean)


def noisy(adv: Tensor, clean: Tensor) -> Tensor:
    return clean + SIGMA * torch.randn_like(clean)


def noisy_(adv: Tensor, clean: Tensor) -> None:
    adv.normal_(0, SIGMA).add_(clean)


def ours(adv: Tensor, clean: Tensor, **options: Any) -> Tensor:
    return ops.typical_noise(adv, out=adv, clean=clean, sigma=SIGMA, seed=0, **options)


def check(x: Tensors, got: tuple[Tensor, ...], gap: float | None) -> float:
    """How far the typicality gap of the noise is off; for plain noise, beyond what chance gives (six deviations)."""
    noise = (got[0].double() - x["clean"].double()).flatten(1)
    found = 0.5 * (noise.square().mean(1) / SIGMA**2 - 1)
    centre = float((noise.mean(1).abs() / SIGMA).amax())
    chance = 6 / math.sqrt(noise.shape[1])
    if gap is None:
        return max(float(found.abs().amax()) - chance, centre - chance, 0.0)
    return max(float((found - gap).abs().amax()), centre)


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    common: dict[str, Any] = {"streams": 2, "allowed": {"ours": 1e-3, "plain": 2e-2}}
    return [
        OpCase(
            "typical_noise shell", "typical_noise", NAMES, partial(ours, typicality=GAP),
            {"eager": shell, "eager in place": shell_}, {"compiled": shell, "compiled in place": plain.written(shell)},
            operations=80, check=partial(check, gap=GAP), **common,
        ),
        OpCase(
            "typical_noise plain", "typical_noise", NAMES, partial(ours, typicality=None),
            {"eager": noisy, "eager in place": noisy_}, {"compiled": noisy, "compiled in place": plain.written(noisy)},
            operations=45, check=partial(check, gap=None), **common,
        ),
    ]  # fmt: skip
