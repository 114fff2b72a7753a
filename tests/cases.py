"""Shapes, memory formats and inputs that every op is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

#: (shape, format): odd sizes, one element, one pixel a sample, more than a kernel's tile, three formats, five dims.
LAYOUTS = [
    ((1, 1), "contiguous"),
    ((5,), "contiguous"),
    ((3, 1, 1, 1), "contiguous"),
    ((3, 1, 5, 7), "contiguous"),
    ((2, 3, 33, 17), "contiguous"),
    ((2, 3, 33, 17), "channels_last"),
    ((2, 3, 8, 9), "strided"),
    ((2, 3, 8, 9), "transposed"),
    ((2, 2, 3, 4, 5), "strided"),
    ((1, 2, 3, 2, 3, 2, 3), "strided"),
    ((3, 1, 64, 65), "contiguous"),
]


def as_format(x: Tensor, kind: str) -> Tensor:
    """x again with other strides; what lies between its elements in memory is NaN."""
    if kind == "channels_last":
        return x.clone().to(memory_format=torch.channels_last)
    if kind == "strided":
        room = torch.full([2 * n for n in x.shape], float("nan"), dtype=x.dtype, device=x.device)
        view = room[tuple(slice(None, None, 2) for _ in x.shape)]
        view.copy_(x)
        return view
    if kind == "transposed":
        return x.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)
    return x.clone()


@dataclass(frozen=True)
class Images:
    """adv lies partly outside the balls tried here; grad holds exact zeros."""

    label: str
    clean: Tensor
    origin: Tensor
    adv: Tensor
    grad: Tensor

    def fresh(self, kind: str) -> Tensor:
        return as_format(self.adv, kind)


def images(shape: tuple[int, ...], kind: str, dtype: torch.dtype, device: str, seed: int = 0) -> Images:
    g = torch.Generator().manual_seed(seed)
    clean = torch.rand(shape, generator=g)
    origin = clean + 0.1 * torch.randn(shape, generator=g)
    adv = origin + 0.02 * torch.randn(shape, generator=g)
    grad = 1e-4 * torch.randn(shape, generator=g)
    grad = torch.where(torch.rand(shape, generator=g) < 0.1, torch.zeros(()), grad)
    make = [as_format(t.to(device=device, dtype=dtype), kind) for t in (clean, origin, adv, grad)]
    return Images(f"{shape} {kind} {dtype}", *make)


def all_images(dtype: torch.dtype, device: str) -> Iterator[tuple[str, Images]]:
    for shape, kind in LAYOUTS:
        yield kind, images(shape, kind, dtype, device)


def ulp_distance(a: Tensor, b: Tensor) -> float:
    """Largest |a - b| in units of b's spacing at max(|b|, 0.1), the scale of images; NaN sits in the same places."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert torch.equal(a.isnan(), b.isnan())
    a, b = a.cpu(), b.cpu()
    spacing = torch.finfo(a.dtype).eps * b.double().abs().clamp(min=0.1)
    gap = (a.double() - b.double()).abs() / spacing
    return float(gap.nan_to_num(0.0).max()) if gap.numel() else 0.0
