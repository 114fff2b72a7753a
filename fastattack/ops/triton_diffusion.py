"""Launches the Triton kernel of diffusion_step (kernels/diffusion_step.py)."""

from __future__ import annotations

from torch import Tensor

from .backend import Scalar
from .reference_random import STREAM_DIFFUSION, numbered
from .triton_steps import _blocks, _kernels, _launch, _layout, _number, _walk


def diffusion_step(
    x: Tensor, eps_hat: Tensor | None, a: Scalar, b: Scalar, c: Scalar, seed: int, step: int, sample_ids: Tensor | None
) -> None:
    layout = _layout(*((x,) if eps_hat is None else (x, eps_hat)), keep_order=True)
    blocks = _blocks(layout)
    numbers = (seed, numbered(STREAM_DIFFUSION, step), *_number(a), *_number(b), *_number(c))
    walk = _walk(layout, blocks)
    _launch(_kernels().diffusion_step, layout.batch * blocks, x, x, eps_hat, sample_ids, *numbers, *walk)
