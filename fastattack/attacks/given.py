"""What an attack demands of models, their weights and a kernel for gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..engine import ENSEMBLES
from ..engine.combine import members


def check_models(model: Any, ensemble: Any) -> str | Sequence[float]:
    """Something callable, or a sequence or mapping of such things with a weight for each. Gives back the ensemble."""
    found = members(model)
    if not found:
        raise ValueError("model: wanted at least one model, got none")
    for one in found:
        if not callable(one):
            raise TypeError(f"model: wanted something callable as model(x), got {type(one).__name__}")
    if isinstance(ensemble, str):
        if ensemble not in ENSEMBLES:
            wanted = ", ".join(map(repr, ENSEMBLES))
            raise ValueError(f"ensemble: wanted one of {wanted}, or a weight for each model, got {ensemble!r}")
        return ensemble
    if len(found) == 1:
        raise ValueError(f"ensemble: wanted no weights beside one model, got {ensemble!r}")
    if isinstance(ensemble, Mapping):
        ensemble = _by_name(model, ensemble)
    try:
        if getattr(ensemble, "ndim", 1) != 1:  # NumPy makes numbers of rows of length one
            raise TypeError
        weights = [float(w) for w in ensemble]
    except (TypeError, ValueError):
        raise TypeError(f"ensemble: wanted a name or {len(found)} weights, got {ensemble!r}") from None
    if len(weights) != len(found) or not all(0 <= w < math.inf for w in weights) or not sum(weights) > 0:
        raise ValueError(f"ensemble: wanted {len(found)} weights, finite and >= 0, one for each model, got {weights}")
    return weights


def _by_name(model: Any, weights: Mapping[str, float]) -> list[float]:
    """The weights in the order of the models."""
    if not isinstance(model, (Mapping, nn.ModuleDict)):
        raise TypeError(f"ensemble: wanted weights in order (the models have no names), got {dict(weights)}")
    if model.keys() != weights.keys():
        wanted, got = (", ".join(map(repr, names)) for names in (model.keys(), weights.keys()))
        raise ValueError(f"ensemble: wanted weights of the models {wanted}, got those of {got or 'none'}")
    return [weights[name] for name in model]


def check_kernel(smooth: Any) -> None:
    if not isinstance(smooth, Tensor):
        raise TypeError(f"smooth: wanted a kernel (k, k), got {type(smooth).__name__}")
    if smooth.dim() != 2 or smooth.numel() == 0 or not smooth.is_floating_point():
        raise ValueError(f"smooth: wanted a floating kernel (k, k), got shape {tuple(smooth.shape)} {smooth.dtype}")
    if not bool(smooth.isfinite().all()):
        raise ValueError("smooth: wanted finite numbers, got NaN or infinity")
