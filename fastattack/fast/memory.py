"""Layouts and places of the CPU's memory."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 64 * 64  # pixels of an image from which channels_last pays without folding
PIXELS = 65536  # a chunk's: 16 MB for 64 float32 channels
CHANNELS = 64  # a chunk has as many numbers in so many channels as the model has weights, which each chunk reads anew
_LARGEST = (32 << 20) - (64 << 10)  # glibc never keeps larger blocks in its heap


class Anchor:
    """Keeps freed activations in the process while an attack runs, so that the next step need not fault them in again.

    glibc gives the end of its heap back to the system whenever enough of it is free: after each backward pass, and each
    forward pass then faults in every page of its activations (measured: 11 % of a step of DnCNN-17). A small block at
    the end of the heap, taken where a forward pass ends, keeps all below it. Before, one large block that is never
    touched is freed: its size is what glibc keeps in the heap from then on. With the anchor all goes back.
    """

    def __init__(self, device: torch.device) -> None:
        self.block: Tensor | None = None
        self.used = device.type == "cpu"
        if self.used:
            torch.empty(_LARGEST, dtype=torch.uint8)

    def hold(self) -> None:
        """Call it where a forward pass has ended."""
        if self.used:
            block = torch.empty(1 << 18, dtype=torch.uint8)
            if self.block is None or block.data_ptr() > self.block.data_ptr():
                self.block = block


class Layout:
    """Images with their channels innermost, in a buffer that is made once."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x with the strides of channels_last, also where one channel leaves torch the choice."""
        _, c, h, w = x.shape
        strides = (c * h * w, 1, w * c, c)
        if x.stride() == strides:
            return x
        if c == 1 and x.is_contiguous():
            return x.as_strided(x.shape, strides)
        if self.buffer is None or self.buffer.shape != x.shape or self.buffer.dtype != x.dtype:
            self.buffer = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
        return self.buffer.copy_(x)
