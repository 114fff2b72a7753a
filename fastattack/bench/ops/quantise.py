"""quantise_ beside plain PyTorch, which rounds and then cuts at the outermost levels in the ball."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import ops
from . import plain
from .case import OpCase, Tensors
from .inputs import EPS


def out_of_place(adv: Tensor, clean: Tensor, eps: float) -> Tensor:
    low = ((clean - eps).clamp(0, 1) * 255 - 1e-4).ceil()
    high = ((clean + eps).clamp(0, 1) * 255 + 1e-4).floor()
    return torch.minimum(torch.maximum((adv * 255).round(), low), high) / 255


def in_place(adv: Tensor, clean: Tensor, eps: float) -> None:
    low = (clean - eps).clamp_(0, 1).mul_(255).sub_(1e-4).ceil_()
    high = (clean + eps).clamp_(0, 1).mul_(255).add_(1e-4).floor_()
    adv.mul_(255).round_()
    torch.minimum(torch.maximum(adv, low, out=adv), high, out=adv).div_(255)


def check(x: Tensors, got: tuple[Tensor, ...]) -> float:
    """How far from a level, from the ball and from the nearest level, the largest of the three in levels.

    The nearest level may lie outside the ball: its neighbour is the right one then, so up to a level is no error.
    """
    adv, clean, out = x["adv"].double(), x["clean"].double(), got[0].double()
    wanted = torch.minimum(torch.maximum(adv, clean - EPS), clean + EPS).clamp(0, 1)
    grid = (out * 255 - (out * 255).round()).abs().amax()
    ball = ((out - clean).abs().amax() - EPS) * 255
    near = ((out - wanted).abs().amax() * 255 - 1).clamp(min=0)
    return max(grid.item(), ball.item(), near.item())


def cases(shape: tuple[int, ...]) -> list[OpCase]:
    numbers: dict[str, Any] = {"eps": EPS}
    out = partial(out_of_place, **numbers)
    return [
        OpCase(
            "quantise_ linf", "quantise", ("adv", "clean"), partial(ops.quantise_, **numbers),
            {"eager": out, "eager in place": partial(in_place, **numbers)},
            {"compiled": out, "compiled in place": plain.written(out)},
            streams=3, operations=14, dtypes=("float32",), check=check, allowed={"ours": 1e-4, "plain": 1e-2},
        )
    ]  # fmt: skip
