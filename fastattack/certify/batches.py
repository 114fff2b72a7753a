"""A model's outputs on noisy copies, a batch at a time: as many as suit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import NonFiniteError
from ..engine.naming import draws_by_name
from ..fast import fold
from ..fast.agree import difference
from ..fast.memory import CHANNELS, PIXELS, Layout
from ..guard import modules_of
from ..inputs import out_of_memory
from .copies import Copies

Model = Callable[[Tensor], Any]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)

FIRST = 256
"""Copies of the first batch on a device with memory of its own; doubled while it lasts."""


def outputs(model: Model, copies: Copies, max_batch: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """(number of the first copy, output of the model for it and those behind it), without gradients.

    The batch is ``max_batch``, or on the CPU as large as its caches like it, on a GPU twice the last one until memory
    is full. A batch that does not fit is halved and tried again; so is every one after it. A model that draws by name
    (`fastattack.engine.naming`) draws for each copy what belongs to it, see `Copies.through`.

    Raises:
        TypeError, ValueError: the output is not a tensor with a row for each copy.
        NonFiniteError: NaN or infinity in an output; told at the end, so that nothing waits for the device.
    """
    on_cpu = copies.x.device.type == "cpu"
    act = _ready(model, copies.x)
    size = max_batch or (_suited(model, copies.x) if on_cpu else FIRST)
    grows = max_batch is None and not on_cpu
    bad = torch.zeros((), dtype=torch.bool, device=copies.x.device)
    buffer, first = copies.x.new_empty(0), 0
    while first < len(copies):
        here = min(size, len(copies) - first)
        try:
            if len(buffer) < here:
                buffer = copies.x.new_empty((here, *copies.x.shape[1:]))
            with torch.no_grad():
                found = _rows(copies.through(act, copies.write(buffer[:here], first), first), here)
        except Exception as error:
            if here == 1 or not out_of_memory(error):
                raise
            size, grows, buffer = (here + 1) // 2, False, copies.x.new_empty(0)
            continue
        if found.is_floating_point():
            bad |= ~found.isfinite().all()
        yield first, found
        first += here
        size = size * 2 if grows else size
    if bool(bad):
        raise NonFiniteError("model: wanted finite outputs on noisy copies, got NaN or infinity")


def _convolves(model: Model) -> bool:
    return any(isinstance(m, _CONVS) for m in modules_of(model))


def _ready(model: Model, x: Tensor) -> Model:
    """The model, or a copy of its modules with the same parameters in the memory format that the CPU is quicker in.

    Measured with AVX2, one thread, us a copy: a small CNN at 1x32x32 382 as it is, 136 in channels_last (its poolings
    most of all); ResNet-18 at 3x32x32 the same in both. The copy's outputs for an image or two are compared with the
    model's, which is taken where they differ by more than the order of sums; nothing is folded.
    """
    quick = torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AVX2"))
    fits = x.dim() == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and quick
    if not (fits and _convolves(model)) or draws_by_name(model):
        return model
    if not isinstance(model, nn.Module) or not fold.can_be_copied(model):
        return model
    twin, layout = fold.folded(model, [], images=True), Layout()
    few = x[:2]
    return model if difference(model, lambda v: twin(layout(v)), few, (few,), []) else lambda v: twin(layout(v))


def _suited(model: Model, x: Tensor) -> int:
    """As `fastattack.fast` cuts batches: activations that stay in the caches, weights that are read often enough.

    Sixteen times as many where a module has no convolutions, whose activations are small beside its input: 7.6 us a
    copy instead of 15 for a perceptron at 1x28x28.
    """
    if modules_of(model) and not _convolves(model):
        return max(1, 16 * PIXELS // x[0].numel())
    pixels = x[0].numel() // (x.shape[1] if x.dim() == 4 else 1)
    weights = sum(p.numel() for m in modules_of(model) for p in m.parameters(recurse=False))
    return int(max(1, PIXELS // pixels, -(-weights // (CHANNELS * pixels))))


def _rows(found: Any, rows: int) -> Tensor:
    if not isinstance(found, Tensor):
        raise TypeError(f"model: wanted a tensor, got {type(found).__name__}")
    if found.dim() == 0 or found.shape[0] != rows:
        raise ValueError(f"model: wanted a row for each of {rows} images, got shape {tuple(found.shape)}")
    return found.detach()


def class_counts(model: Model, copies: Copies, *, classes: int | None, max_batch: int | None) -> Tensor:
    """(B, K) on the device: how many copies of each image the model puts into each class.

    Args:
        classes: K, for a model that gives class numbers (m,) instead of scores (m, K).

    Raises:
        ValueError: an output of another form.
    """
    counts: Tensor | None = None
    for first, found in outputs(model, copies, max_batch):
        top, width = _classes_of(found, classes)
        if counts is None:
            counts = torch.zeros(len(copies.x) * width, dtype=torch.int64, device=copies.x.device)
        image = torch.arange(first, first + len(top), device=top.device) // copies.n
        counts.scatter_add_(0, image * width + top, torch.ones_like(top))
    assert counts is not None, "there is at least one image"
    return counts.reshape(len(copies.x), -1)


def _classes_of(found: Tensor, classes: int | None) -> tuple[Tensor, int]:
    if found.dim() == 2 and found.is_floating_point() and found.shape[1] >= 2:
        if classes is not None and classes != found.shape[1]:
            raise ValueError(f"classes: wanted {found.shape[1]}, as many as the model has scores, got {classes}")
        return found.argmax(1), found.shape[1]
    if found.dim() == 1 and not found.is_floating_point() and found.dtype != torch.bool:
        if classes is None:
            raise ValueError("classes: wanted their number for a model that gives class numbers, got None")
        found = found.long()
        if not bool(((found >= 0) & (found < classes)).all()):
            raise ValueError(
                f"model: wanted class numbers in 0 .. {classes - 1}, got {int(found.min())} to {int(found.max())}"
            )
        return found, classes
    raise ValueError(
        f"model: wanted scores (B, classes) of two classes at least, or class numbers (B,), got shape "
        f"{tuple(found.shape)} {str(found.dtype).removeprefix('torch.')}"
    )
