"""The tensors of a row: real enough in size and scale that nothing is subnormal, all inside or all outside a ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "mixed", "sliced")
"""mixed: the gradient alone is channels_last, as a channels_last model returns it; sliced: windows of wider images."""
EPS, STEP = 0.2, 0.1
"""Of the linf ball: so long that a step is many spacings of bfloat16, and the ball cuts 5 % and more of the pixels."""
RMS_EPS, RMS_STEP = 0.09, 0.05
"""Of the l2 ball, times the root of the number of pixels: a step leaves it."""
SEED = 0


def radius(shape: tuple[int, ...], rms: float) -> float:
    """The l2 length of a sample whose every pixel is ``rms``."""
    return rms * math.sqrt(math.prod(shape[1:]))


def tensors(
    names: tuple[str, ...], shape: tuple[int, ...], *, dtype: torch.dtype, device: str, layout: str = "contiguous"
) -> dict[str, Tensor]:
    """The named ones, the same for every run."""
    makers = {
        "clean": lambda: torch.rand(shape, generator=_numbers("clean", device), device=device),
        "origin": lambda: made["clean"] + 0.1 * _normal("origin", shape, device),
        "adv": lambda: made["origin"] + 0.1 * _normal("adv", shape, device),
        "grad": lambda: 1e-2 * _normal("grad", shape, device),
        "momentum": lambda: _normal("momentum", shape, device),
        "previous": lambda: made["adv"] + 0.02 * _normal("previous", shape, device),
    }
    made: dict[str, Tensor] = {}
    for name in ("clean", "origin", "adv", "grad", "momentum", "previous"):
        if name in names or name in ("clean", "origin", "adv"):
            made[name] = makers[name]()
    return {name: laid_out(made[name].to(dtype), layout, name) for name in names}


def laid_out(t: Tensor, layout: str, name: str) -> Tensor:
    """A copy of the tensor in a memory format.

    Raises:
        ValueError: there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: wanted one of {', '.join(LAYOUTS)}, got {layout!r}")
    if layout == "channels_last" or (layout == "mixed" and name == "grad"):
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = t.new_zeros(*t.shape[:-1], t.shape[-1] + 8)
        wide[..., 4:-4] = t
        return wide[..., 4:-4]
    return t.contiguous()


def _numbers(name: str, device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(SEED + sum(map(ord, name)))


def _normal(name: str, shape: tuple[int, ...], device: str) -> Tensor:
    return torch.randn(shape, generator=_numbers(name, device), device=device)
