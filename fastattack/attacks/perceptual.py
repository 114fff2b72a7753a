"""Attacks guided by what a feature network sees in the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine import Models
from ..objectives import features, lpips
from .base import Attack, Options, Unpack


class FeaturePGD(Attack):
    """PGD that drives the features of the output away from those of the target (towards them, ``targeted``).

    This project's formulation of feature-guided attacks; Ganeshan et al. (FDA, arXiv 1909.04385) disrupt the layers of
    the attacked network itself.

    Args:
        model: called as model(x), or several. The target: images like its output.
        eps: radius on the scale of x; a float or (B,).
        net, layers, distance: see `fastattack.objectives.features`.
        options: see `Options`, without objective.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self, model: Models, *, net: Any, eps: float | Tensor, layers: Sequence[str] | None = None,
        distance: str = "l2", **options: Unpack[Options],
    ) -> None:  # fmt: skip
        if "objective" in options:
            raise TypeError("FeaturePGD: objective has no place here; use fa.PGD with an objective of your own")
        self.compose(model, options, objective=features(net, layers=layers, distance=distance), eps=eps)


class LPIPSAttack(Attack):
    """PGD on the perceptual distance LPIPS (Zhang et al., arXiv 1801.03924) between output and target.

    Args:
        model: called as model(x), or several. The target: RGB images in [0, 1] like its output.
        weights, net: see `fastattack.objectives.lpips`.
        eps: radius on the scale of x; a float or (B,).
        options: see `Options`, without objective.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self, model: Models, *, weights: str | Path, net: Any = "alex", eps: float | Tensor,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        if "objective" in options:
            raise TypeError("LPIPSAttack: objective has no place here; use fa.PGD with an objective of your own")
        self.compose(model, options, objective=lpips(weights, net=net), eps=eps)
