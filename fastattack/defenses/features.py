"""Features of a task model: what a named layer gives, or what its last layer sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import NonFiniteError
from ..guard import left_as_found

LAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Features = str | Callable[[Tensor], Tensor] | None


def check_features(model: Any, features: Features) -> None:
    """A name of a layer, a function, or None for a model that has a last layer.

    Raises:
        TypeError, ValueError: anything else.
    """
    if features is not None and not isinstance(features, str) and not callable(features):
        raise TypeError(f"features: wanted a layer's name or a function of images, got {type(features).__name__}")
    if callable(features):
        return
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise TypeError(f"features: wanted a function of images for a task model that is no nn.Module ({got})")
    if features is None:
        if not any(isinstance(m, LAST) for m in model.modules()):
            raise ValueError("features: wanted a layer's name or a function: the task model has no linear layer or "
                             "convolution that could be its last")  # fmt: skip
    elif features not in (names := [name for name, _ in model.named_modules() if name]):
        some = ", ".join(map(repr, names[-8:]))
        raise ValueError(f"features: wanted a layer of the task model, such as {some}, got {features!r}")


def features_of(model: Callable[[Tensor], Any], x: Tensor, features: Features, what: str) -> Tensor:
    """Features (B, d) in float64 of images (B, C, H, W); maps are averaged over pixels. ``what`` names the images.

    Raises:
        TypeError, ValueError: what comes is no tensor of such a shape.
        NonFiniteError: NaN or infinity.
    """
    out = features(x) if callable(features) else _hooked(model, x, features)
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise TypeError(f"features: wanted a float tensor (B, d) or (B, d, H, W), got {type(out).__name__}")
    if out.dim() not in (2, 4, 5) or len(out) != len(x):
        raise ValueError(f"features: wanted ({len(x)}, d) or ({len(x)}, d, H, W), got {tuple(out.shape)}")
    found = out.detach().double().flatten(2).mean(2) if out.dim() > 2 else out.detach().double()
    bad = (~found.isfinite().all(1)).nonzero()
    if len(bad):
        raise NonFiniteError(f"features: NaN or infinity for {what}, {int(bad[0])} of a batch of {len(x)}")
    return found


def _hooked(model: Any, x: Tensor, name: str | None) -> Any:
    """What the named layer gives, or what comes into the last linear layer or convolution that runs."""
    seen: list[Any] = []

    def given(_module: nn.Module, _args: Any, out: Any) -> None:
        seen.append(out.clone() if isinstance(out, Tensor) else out)  # the next module may work in place

    def taken(_module: nn.Module, args: Any) -> None:
        seen[:] = [args[0].clone() if args and isinstance(args[0], Tensor) else None]

    if name is not None:
        handles = [model.get_submodule(name).register_forward_hook(given)]
    else:
        handles = [m.register_forward_pre_hook(taken) for m in model.modules() if isinstance(m, LAST)]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError(f"features: wanted a layer that a forward pass calls, got {name!r}")
    return seen[-1]


def all_features(
    model: Callable[[Tensor], Any],
    images: Tensor,
    features: Features,
    what: str,
    *,
    max_batch: int | None,
    change: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Features (N, d) on the CPU of all images, ``max_batch`` at a time, by a model in eval mode that is left as found.

    ``change``: (images, their numbers) to what the model sees.
    """
    numbers = torch.arange(len(images), device=images.device)
    size = max_batch or len(images)
    found = []
    with torch.no_grad(), left_as_found(model, images.device, eval_mode=True):
        for x, ids in zip(torch.split(images.detach(), size), torch.split(numbers, size), strict=True):
            found.append(features_of(model, x if change is None else change(x, ids), features, what))
    return torch.cat(found).cpu()
