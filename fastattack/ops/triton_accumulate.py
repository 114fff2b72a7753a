"""Launches the Triton kernel of accumulate (kernels/accumulate.py)."""

from __future__ import annotations

from torch import Tensor

from .backend import Scalar
from .triton_steps import _blocks, _kernels, _launch, _layout, _number, _walk


def accumulate(total: Tensor, grad: Tensor, keep: Scalar, weight: Scalar) -> None:
    layout = _layout(total, grad)
    blocks = _blocks(layout)
    numbers = (*_number(keep), *_number(weight))
    _launch(_kernels().accumulate, layout.batch * blocks, total, total, grad, *numbers, *_walk(layout, blocks))
