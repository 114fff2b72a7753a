"""Attacks on dense outputs: segmentation, and restoration in colour."""

from __future__ import annotations

from torch import Tensor

from ..engine import Models
from ..objectives import cospgd, segpgd
from .base import Attack, Options, Unpack


def _refuse(name: str, options: Options) -> None:
    """The weights move while the attack goes on: what it climbs cannot say which iterate is the best."""
    if "objective" in options:
        raise TypeError(f"{name}: objective has no place here; use fa.PGD with an objective of your own")
    if options.get("keep", "last") != "last":
        raise ValueError(
            f"keep: wanted 'last' for {name}, whose loss is no measure of the best, got {options['keep']!r}"
        )
    if options.get("restarts", 1) != 1:
        raise ValueError(f"restarts: wanted 1 for {name}, whose loss is no measure of the best")


class SegPGD(Attack):
    """SegPGD (arXiv 2207.12391): PGD on cross-entropy that turns, step by step, to the positions already wrong.

    Args:
        model: gives logits (B, classes, H, W); several models as for PGD. The target: labels (B, H, W) int64.
        eps: radius on the scale of x; a float or (B,).
        options: see `Options`, without objective, restarts and keep="best" (the last iterate is returned).

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, eps: float | Tensor, **options: Unpack[Options]) -> None:
        _refuse("SegPGD", options)
        objective = segpgd(targeted=options.get("targeted", False))
        self.compose(model, options, objective=objective, eps=eps, keep="last")


class CosPGD(Attack):
    """CosPGD (arXiv 2302.02213): PGD whose loss at each position is weighted by how right the prediction is there.

    Args:
        model: gives logits (B, classes, H, W) with labels (B, H, W) as target, or images (B, C, H, W), C >= 2, with
            images as target.
        eps: radius on the scale of x; a float or (B,).
        activation: "softmax" or "sigmoid", see `fastattack.objectives.cospgd`.
        options: see `Options`, without objective, restarts and keep="best" (the last iterate is returned).

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(
        self, model: Models, *, eps: float | Tensor, activation: str = "softmax", **options: Unpack[Options]
    ) -> None:
        _refuse("CosPGD", options)
        objective = cospgd(activation=activation, targeted=options.get("targeted", False))
        self.compose(model, options, objective=objective, eps=eps, keep="last")
