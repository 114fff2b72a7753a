"""What an attack demands of the tensors that it is given. Each error names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from .guard import modules_of
from .ops import check
from .threat import Threat


def check_input(origin: Any, bounds: tuple[float, float] | None) -> None:
    """A batch of finite float images inside the bounds."""
    if not isinstance(origin, Tensor):
        raise TypeError(f"input: wanted a tensor, got {type(origin).__name__}")
    check.require_images(origin, "input")
    if origin.dim() < 2:
        raise ValueError(f"input: wanted a batch of samples (B, ...), got shape {tuple(origin.shape)}")
    if origin.numel() == 0:
        raise ValueError(f"input: wanted at least one sample, got shape {tuple(origin.shape)}")
    low, high = (v.item() for v in torch.aminmax(origin.detach()))
    if not (float("-inf") < low and high < float("inf")):
        raise ValueError("input: wanted finite numbers, got NaN or infinity")
    if bounds is not None and (low < bounds[0] or high > bounds[1]):
        raise ValueError(f"input: wanted values inside bounds {bounds}, got {low:g} to {high:g}")


def check_target(target: Any, name: str = "target") -> None:
    """Finite, where it is a tensor of floats."""
    if isinstance(target, Tensor) and target.is_floating_point() and not bool(target.isfinite().all()):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")


def check_clean(target: Any, origin: Tensor, mask: Tensor | None, name: str = "target") -> Tensor:
    """The clean images that preserve_noise needs: like the input, and without a mask beside them."""
    if mask is not None:
        raise ValueError("mask: wanted None with preserve_noise=True (the projection moves every pixel)")
    if not isinstance(target, Tensor):
        raise TypeError(f"{name}: wanted the clean images with preserve_noise=True, got {type(target).__name__}")
    check.require_alike("the input", origin, (name, target))
    return target


def clean_of(clean: Any, target: Any, origin: Tensor, mask: Tensor | None, threat: Threat) -> Tensor | None:
    """The images beside which the noise is preserved; None where it is not."""
    if clean is not None:
        if not isinstance(clean, Tensor):
            raise TypeError(f"clean: wanted a tensor like the input, or None, got {type(clean).__name__}")
        check_clean(clean, origin, mask if threat.preserve_noise else None, "clean")
        check_target(clean, "clean")
    if not threat.preserve_noise:
        return None
    return check_clean(target, origin, mask) if clean is None else clean


def check_start(start: Any, origin: Tensor) -> None:
    """Where an attack shall begin: None, or finite numbers like the input."""
    if start is None:
        return
    if not isinstance(start, Tensor):
        raise TypeError(f"start: wanted a tensor like the input, or None, got {type(start).__name__}")
    check.require_alike("the input", origin, ("start", start))
    if not bool(start.isfinite().all()):
        raise ValueError("start: wanted finite numbers, got NaN or infinity")


def misfit(models: Sequence[Any], origin: Tensor, target: Any) -> str:
    """What is elsewhere, or of another type, than the input; "" where nothing is.

    Words for an error that torch raised, not an error by itself: a model may move its input on its own.
    """
    want = (origin.dtype, origin.device)
    for number, model in enumerate(models):
        held = {(p.dtype, p.device) for m in modules_of(model) for p in m.parameters(recurse=False)}
        held = {(dtype, device) for dtype, device in held if dtype.is_floating_point}
        if held and any(want[i] not in {place[i] for place in held} for i in (0, 1)):
            got = ", ".join(sorted(_placed(*place) for place in held))
            which = f" of model {number}" if len(models) > 1 else ""
            return f"model: wanted parameters{which} in {_placed(*want)} as the input is, got {got}"
    if isinstance(target, Tensor) and target.device != origin.device:
        return f"target: wanted a tensor on {origin.device} as the input is, got one on {target.device}"
    return ""


def check_data(models: Sequence[Any], origin: Tensor, target: Any) -> None:
    """Nothing is on the meta device, where torch computes without numbers and without an error."""
    tensors = [p for model in models for m in modules_of(model) for p in m.parameters(recurse=False)]
    if any(t.is_meta for t in [*tensors, target] if isinstance(t, Tensor)):
        raise ValueError(misfit(models, origin, target))


def _placed(dtype: torch.dtype, device: torch.device) -> str:
    return f"{str(dtype).removeprefix('torch.')} on {device}"


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says so, on whichever device."""
    known = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in known)


def told(error: BaseException) -> str:
    """An error in one line: its type, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def unknown_option(owner: str, wrong: Iterable[str], known: Iterable[str]) -> TypeError:
    """The error that names options which are none, and those that may have been meant."""
    names, told = sorted(known), []
    for name in sorted(wrong):
        near = get_close_matches(name, names, 1)
        told.append(f"{name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return TypeError(f"{owner}: unknown option {', '.join(told)}")


def dense(t: Tensor) -> Tensor:
    """Without gaps or overlaps in memory, so that clones keep its strides and slices of it stay flat."""
    if t.dim() <= 5 and (t.is_contiguous() or (t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last))):
        return t
    return t.contiguous()


def check_grid(origin: Tensor, threat: Threat) -> None:
    """Images that have a point of the integer grid inside the threat at every pixel."""
    if threat.grid is None:
        return
    if origin.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"grid: wanted float32 or float64 images, got {origin.dtype} (the grid is not representable)")
    levels = 2**threat.grid - 1
    gap = (origin - (origin.clamp(0, 1) * levels).round() / levels).abs().flatten(1).amax(1)
    reach = threat.eps if threat.norm == "linf" and threat.eps is not None else 0.0
    reach = reach.to(gap) if isinstance(reach, Tensor) else torch.full_like(gap, reach)
    if bool((gap > reach).any()):
        wanted = (
            f"a {threat.grid}-bit level within eps of" if threat.norm == "linf" else f"a {threat.grid}-bit level at"
        )
        raise ValueError(
            f"grid: wanted {wanted} every pixel of the input, got a pixel {gap.max().item():g} away; round it first"
        )
