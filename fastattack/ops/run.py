"""What the in-place ops share: from checked arguments to the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import check
from .fit import fit
from .layout import INNER_DIMS, collapse


def run(
    kernel: Callable[..., None],
    names: tuple[str, ...],
    images: tuple[Tensor, ...],
    rest: tuple[Any, ...],
    *,
    writes: int = 1,
    keep_order: bool = False,
) -> None:
    """Calls ``kernel(*images, *rest)``, which writes the first ``writes`` of the images that check.images gave.

    Nothing happens to an empty batch. What has too many dimensions for a kernel goes through copies.

    Args:
        rest: the mask among them, if any, has the shape of the images.
        keep_order: the kernel walks the elements in their logical order.

    Raises:
        ValueError: a tensor to write requires grad, overlaps with itself or shares its memory with a later one.
    """
    first = images[0]
    if not fit(images, writes):
        if first.numel() == 0:
            return
        for k in range(writes):
            others = zip(names[k + 1 :], images[k + 1 :], strict=True)
            check.require_writable(images[k], *others, name=names[k])
    if first.dim() > INNER_DIMS + 1:
        masks = [t for t in rest if isinstance(t, Tensor) and t.shape == first.shape]
        if collapse(*images, *masks, keep_order=keep_order) is None:
            _run_on_copies(kernel, images, rest, writes)
            return
    kernel(*(images + rest))
    check.written(images[:writes])


def _run_on_copies(kernel: Callable[..., None], images: tuple[Tensor, ...], rest: tuple[Any, ...], writes: int) -> None:
    copies = [t.contiguous() for t in images]
    kernel(*copies, *(t.contiguous() if isinstance(t, Tensor) else t for t in rest))
    for t, copy in zip(images[:writes], copies, strict=False):
        t.copy_(copy)
