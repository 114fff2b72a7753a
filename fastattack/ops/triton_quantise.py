"""Launches the Triton kernel of quantise. No arithmetic here, and no host sync."""

from __future__ import annotations

from torch import Tensor

from .backend import Bounds, Scalar
from .triton_steps import _blocks, _bytes, _kernels, _launch, _layout, _number, _walk, _with_mask


def quantise(
    adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bits: int, bounds: Bounds
) -> None:
    layout = _layout(*_with_mask(adv, origin, mask=mask))
    blocks = _blocks(layout)
    limits = (*_number(eps), *bounds, 2**bits - 1)
    walk, programs = _walk(layout, blocks), layout.batch * blocks
    _launch(_kernels().quantise, programs, adv, adv, origin, _bytes(mask), *limits, *walk, norm == "linf")
