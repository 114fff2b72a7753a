"""The number format in which gradients are made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

GAIN = 1.2  # a reduced format must be this much faster before "auto" takes it


@dataclass(frozen=True)
class Precision:
    """A format, and why it was chosen where nobody named it.

    Attributes:
        dtype: what autocast computes in; None: no autocast.
        scales: the loss is multiplied with a power of two, so that small gradients do not vanish.
    """

    name: str
    dtype: torch.dtype | None = None
    scales: bool = False
    why: str = ""

    @property
    def reduced(self) -> bool:
        return self.name != "fp32"

    def forward(self, device: torch.device) -> AbstractContextManager[object]:
        """Around a call of the model."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype, cache_enabled=False)  # weights change, graphs are recorded

    def region(self) -> AbstractContextManager[object]:
        """Around forward and backward."""
        return tf32(True) if self.name == "tf32" else nullcontext()

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


_NAMED = {
    "fp32": Precision("fp32"),
    "tf32": Precision("tf32"),
    "bf16": Precision("bf16", torch.bfloat16),
    "fp16": Precision("fp16", torch.float16, scales=True),
}


def precision_of(name: str, x: Tensor) -> Precision:
    """The precision for inputs like x.

    Raises:
        ValueError: the input's device or type has no such precision.
    """
    if name == "auto":
        if x.dtype != torch.float32:
            return Precision("fp32", why=f"auto: the input is {x.dtype}")
        return _auto_cuda(torch.cuda.get_device_capability(x.device)) if x.is_cuda else _auto_cpu(x.device.type)
    if name == "tf32" and not x.is_cuda:
        raise ValueError(f"precision: wanted 'fp32', 'bf16', 'fp16' or 'auto' on {x.device.type}, got 'tf32'")
    if name != "fp32" and x.dtype == torch.float64:
        raise ValueError(f"precision: wanted 'fp32' or 'auto' for float64 inputs, got {name!r}")
    return _NAMED[name]


def _chosen(name: str, why: str) -> Precision:
    found = _NAMED[name]
    return replace(found, why=f"auto: {why}")


def _auto_cuda(capability: tuple[int, int]) -> Precision:
    """By what the tensor cores take; not measured yet."""
    of = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        return _chosen("bf16", f"{of} has bf16 tensor cores")
    if capability >= (7, 0):
        return _chosen("fp16", f"{of} has fp16 tensor cores")
    return _chosen("fp32", f"{of} has no tensor cores")


def _auto_cpu(device: str) -> Precision:
    if device != "cpu":
        return _chosen("fp32", f"nothing is known about {device}")
    units = bf16_units()
    if not units:
        return _chosen("fp32", "this CPU has neither AMX nor AVX512-BF16")
    gain = _bf16_gain(torch.get_num_threads())
    return _chosen("bf16" if gain >= GAIN else "fp32", f"{units[0]}, bf16 measured {gain:.2f} times as fast")


def bf16_units() -> list[str]:
    """What this CPU has for bfloat16; nothing where torch emulates it, many times slower than float32."""
    known = (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported"))
    return [name for name, ask in known if getattr(torch.cpu, ask, lambda: False)()]


@lru_cache
def _bf16_gain(threads: int) -> float:
    """How many times as fast as float32 a convolution goes there and back in bfloat16: a tenth of a second, once."""
    weight = torch.full((64, 64, 3, 3), 0.01)
    x = torch.ones(1, 64, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    best = {False: float("inf"), True: float("inf")}
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(5):
            for low in best:
                began = time.perf_counter()
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low, cache_enabled=False):
                    out = functional.conv2d(x, weight, padding=1)
                torch.autograd.grad(out.float().sum(), x)
                best[low] = min(best[low], time.perf_counter() - began)
    return best[False] / best[True]


def _tf32_flags() -> tuple[list[tuple[Any, str, Any]], bool]:
    """(place, name, value) of the two flags, and whether they are torch's newer ones.

    A process that has set torch's newer flags (``fp32_precision``) cannot read the older ones.
    """
    matmul, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    try:
        return [(matmul, "allow_tf32", matmul.allow_tf32), (cudnn, "allow_tf32", cudnn.allow_tf32)], False
    except RuntimeError:
        places = ((matmul, "fp32_precision"), (cudnn.conv, "fp32_precision"))
        return [(place, name, getattr(place, name)) for place, name in places], True


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """With or without TensorFloat-32 in matrix products and convolutions; the flags are as before afterwards."""
    flags, newer = _tf32_flags()
    value: bool | str = ("tf32" if wanted else "ieee") if newer else wanted
    try:
        for place, name, _ in flags:
            setattr(place, name, value)
        yield
    finally:
        for place, name, before in flags:
            setattr(place, name, before)


def settings(device: torch.device) -> tuple[Any, ...]:
    """What the process has set of the precision on the device."""
    kind = device.type
    return (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind), *(value for *_, value in _tf32_flags()[0]))
