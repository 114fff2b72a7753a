"""What the public ops demand of their arguments. Each error says what was wanted and what came, naming the argument."""

from __future__ import annotations

import math
import numbers
from functools import lru_cache
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor
from torch.autograd.graph import increment_version

from .backend import Bounds, Scalar
from .fit import fit

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NORMS = ("linf", "l2")
BALLS = (*NORMS, "l1")  # what project_ and random_start_ take
UNBOUNDED: Bounds = (-math.inf, math.inf)


def as_tensor(value: Any, name: str) -> Tensor:
    """A torch tensor as it is; another array library's through DLPack, sharing its memory."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "__dlpack__"):
        shared: Tensor = torch.utils.dlpack.from_dlpack(value)
        return shared
    raise TypeError(f"{name}: wanted a tensor (or an array with __dlpack__), got {type(value).__name__}")


def _describe(t: Tensor) -> str:
    return f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} on {t.device}"


def images(names: tuple[str, ...], *tensors: Any) -> tuple[Tensor, ...]:
    """Tensors or arrays, as tensors: (B, ...) of a floating dtype, all with shape, dtype and device of the first."""
    if fit(tensors, 0):
        return tensors
    checked = tuple(map(as_tensor, tensors, names))
    require_images(checked[0], names[0])
    require_alike(names[0], checked[0], *zip(names[1:], checked[1:], strict=True))
    return checked


def require_images(t: Tensor, name: str) -> None:
    """(B, ...) of a floating dtype."""
    if t.dim() == 0:
        raise ValueError(f"{name}: wanted a batch of samples (B, ...), got a tensor without dimensions")
    if t.dtype not in DTYPES:
        wanted = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        hint = "" if t.is_floating_point() or t.is_complex() else " (divide integer images by 255 first)"
        raise TypeError(f"{name}: wanted {wanted}, got {str(t.dtype).removeprefix('torch.')}{hint}")
    if not torch.compiler.is_compiling() and t.is_neg():  # as x.conj().imag: its memory has the other sign
        raise ValueError(f"{name}: wanted a tensor whose memory holds its numbers, got a view that negates; clone it")
    if t.numel() == 0 and t.shape[0] != 0:
        raise ValueError(f"{name}: wanted at least one element in each sample, got shape {tuple(t.shape)}")


def require_alike(first_name: str, first: Tensor, *others: tuple[str, Tensor]) -> None:
    """All have the shape, dtype and device of ``first``."""
    shape, dtype, device = first.shape, first.dtype, first.device
    for name, t in others:
        if t.shape != shape or t.dtype is not dtype or t.device != device:
            raise ValueError(f"{name}: wanted {_describe(first)} as {first_name} has, got {_describe(t)}")


def require_writable(adv: Tensor, *others: tuple[str, Tensor], name: str = "adv") -> None:
    """It can be written in place: no grad recorded, no element twice in memory, no memory shared with the rest."""
    if adv.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: requires grad, and autograd does not see this in-place op; use torch.no_grad() or detach()"
        )
    if not adv.is_contiguous() and torch._debug_has_internal_overlap(adv) == 1:
        raise ValueError(
            f"{name}: wanted memory of its own for each element, got strides {adv.stride()} (an expanded view)"
        )
    address, size = adv.data_ptr(), adv.nbytes
    for other_name, other in others:
        apart = other.data_ptr() - address
        # Views with gaps may lie in one another without sharing an element: those pass.
        if -size < apart < size and (apart == 0 or (adv.is_contiguous() and other.is_contiguous())):
            raise ValueError(f"{other_name}: shares its memory with {name}, which this op overwrites; pass a clone")


def written(tensors: tuple[Tensor, ...]) -> None:
    """Tell autograd that they changed, so that a graph which saved one refuses a wrong backward pass."""
    for t in tensors:
        if not t.is_inference():
            increment_version(t)


def require_norm(norm: str, allowed: tuple[str, ...] = NORMS, *, hint: str = "") -> None:
    """``hint``: what to do about an "l1" that is not allowed."""
    if norm not in allowed:
        told = hint if norm == "l1" else ""
        raise ValueError(f"norm: wanted one of {', '.join(map(repr, allowed))}, got {norm!r}{told}")


@lru_cache(maxsize=1024)
def _one(value: float, name: str, least: float, down: bool) -> float:
    """One number, checked. ``down``: the largest float32 magnitude not above it, so that no ball grows by rounding."""
    if not value >= least:
        raise ValueError(f"{name}: wanted a number{_at_least(least)}, got {value}")
    if not down:
        return value
    narrow = torch.tensor(value, dtype=torch.float32)
    if abs(narrow.item()) > abs(value):
        narrow = torch.nextafter(narrow, torch.zeros(()))
    return float(narrow.item())


def per_sample(
    value: Any, name: str, like: Tensor, *, least: float = -math.inf, down: bool = False, nan: bool = False
) -> Scalar:
    """A number, or (B,) numbers as float64 on the device of ``like``; none of them below ``least``, or NaN but for
    ``nan`` in a tensor.

    ``down`` rounds towards zero to float32 where ``like`` is computed in float32.
    """
    if type(value) is float:
        return _one(value, name, least, down and like.dtype is not torch.float64)
    if not isinstance(value, Tensor):
        return _one(_number(value, name), name, least, down and like.dtype is not torch.float64)
    if value.dim() == 0:
        if nan and math.isnan(value.item()):
            return math.nan
        return per_sample(value.item(), name, like, least=least, down=down)
    batch = like.shape[0]
    if value.shape != (batch,):
        raise ValueError(f"{name}: wanted a number or a tensor of shape ({batch},), got shape {tuple(value.shape)}")
    wide = value.detach().to(device=like.device, dtype=torch.float64).contiguous()
    if not bool((wide >= least if not nan else ~(wide < least)).all()):
        raise ValueError(f"{name}: wanted numbers{_at_least(least)}, got a smallest of {wide.min().item()}")
    if down and like.dtype is not torch.float64:
        narrow = wide.float()
        narrow = torch.where(
            narrow.double().abs() > wide.abs(), torch.nextafter(narrow, torch.zeros_like(narrow)), narrow
        )
        wide = narrow.double()
    return wide


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: wanted a number or a (B,) tensor, got {type(value).__name__} {value!r}") from None


def _at_least(least: float) -> str:
    return "" if least == -math.inf else " > 0" if least == _TINY else f" >= {least:g}"


_TINY = 5e-324


def positive(value: Any, name: str, like: Tensor) -> Scalar:
    """As per_sample, above zero."""
    return per_sample(value, name, like, least=_TINY)


@lru_cache(maxsize=256)
def _bounds_in(low: float, high: float, dtype: torch.dtype) -> Bounds:
    """The bounds, checked, on the grid of the storage type, rounded inwards."""
    if not low <= high:
        raise ValueError(f"bounds: wanted (low, high) with low <= high, got ({low}, {high})")
    inner = []
    for value, up in ((low, True), (high, False)):
        t = torch.tensor(value, dtype=dtype)
        if (t.double().item() < value) if up else (t.double().item() > value):
            t = torch.nextafter(t, torch.tensor(math.inf if up else -math.inf, dtype=dtype))
        inner.append(t.double().item())
    return inner[0], inner[1]


def bounds_of(bounds: tuple[float, float] | None, dtype: torch.dtype) -> Bounds:
    if bounds is None:
        return UNBOUNDED
    if type(bounds) is tuple and len(bounds) == 2 and type(bounds[0]) is type(bounds[1]) is float:
        return _bounds_in(bounds[0], bounds[1], dtype)
    try:
        if isinstance(bounds, str):
            raise TypeError
        low, high = (float(b) for b in bounds)
    except (TypeError, ValueError):
        raise TypeError(f"bounds: wanted (low, high) or None, got {bounds!r}") from None
    return _bounds_in(low, high, dtype)


def mask_of(mask: Any, adv: Tensor) -> Tensor | None:
    """bool, expanded to the shape of adv; 0 keeps the origin."""
    if mask is None:
        return None
    mask = as_tensor(mask, "mask")
    if mask.device != adv.device:
        raise ValueError(f"mask: wanted a tensor on {adv.device}, got one on {mask.device}")
    if mask.dtype is not torch.bool:
        mask = mask != 0
    try:
        expanded: Tensor = mask.expand(adv.shape)
    except RuntimeError:
        raise ValueError(
            f"mask: wanted a shape that broadcasts to {tuple(adv.shape)}, got {tuple(mask.shape)}"
        ) from None
    return expanded


def seed_of(seed: Any) -> int:
    return whole(seed, "seed", 64)


def whole(value: Any, name: str, bits: int) -> int:
    """A whole number that ``bits`` hold."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: wanted an integer, got {type(value).__name__} {value!r}")
    if not 0 <= value < 2**bits:
        raise ValueError(f"{name}: wanted 0 <= {name} < 2**{bits}, got {value}")
    return value


def is_number(value: Any) -> bool:
    """One finite real number: of Python or NumPy, neither bool nor tensor."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def scale_hint(value: float) -> str:
    """For a noise level of images in [0, 1] that is one of the 0-255 scale: what was meant."""
    return f", did you mean {value:g} / 255?" if 1 < value <= 255 else ""


def ids_of(sample_ids: Any, adv: Tensor) -> Tensor | None:
    """int64 (B,) on the device of adv."""
    if sample_ids is None:
        return None
    try:
        ids = torch.as_tensor(sample_ids, device=adv.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"sample_ids: wanted {adv.shape[0]} integers, got {sample_ids!r}") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool or ids.shape != (adv.shape[0],):
        raise ValueError(f"sample_ids: wanted {adv.shape[0]} integers, got shape {tuple(ids.shape)} {ids.dtype}")
    return ids.to(torch.int64).contiguous()
