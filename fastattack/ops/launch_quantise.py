"""The launch of quantise on cuda and cupy."""

from __future__ import annotations

from torch import Tensor

from .backend import Bounds, Scalar
from .launch import Launcher, per_sample, samples


def quantise(
    launcher: Launcher, adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bits: int,
    bounds: Bounds,
) -> None:  # fmt: skip
    with samples(adv, origin, mask=mask) as at:
        words = [*per_sample(eps), *map(float, bounds), float(2**bits - 1), int(norm == "linf")]
        launcher.run(adv, at, words, "quantise", "")
