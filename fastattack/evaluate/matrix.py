"""Transfer between models: who is hurt by whose attack, and how alike models are in that (arXiv 2306.16050)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .bootstrap import Array, Bootstrap, Estimate, weighted
from .table import Table


@dataclass(frozen=True)
class TransferMatrix:
    """What attacks on M source models cost N target models, over S images.

    y'_i is crafted on source i from the noisy image y; D_j is target j; x the clean image. Rows are sources, columns
    targets. Every `Estimate` is a mean over images with its bootstrap interval; NaN where it is not defined, and in the
    whole row or column of a model that failed on an image.

    Attributes:
        sources, targets: names; sources come first among the targets.
        eps: radius of the ball; None where each sample had its own.
        before: (S, N) PSNR(D_j(y), x) in dB of each image.
        after: (S, M, N) PSNR(D_j(y'_i), x).
        psnr_before: (N,), psnr_after: (M, N): their means.
        drop: (M, N), PSNR(D_j(y)) - PSNR(D_j(y'_i)), dB.
        normalised: (M, N), R[i, j] = drop(i -> j) / drop(j -> j); not defined for targets that are no source, nor where
            drop(j -> j) <= 0.
        similitude: (M, M), S[i, j] = (R[i, j] + R[j, i]) / 2: this project's robustness similitude, 1 on the diagonal.
        shared: (M, N), the share of the images on which y'_i costs both models i and j at least ``shared_db`` dB.
        shared_db: that threshold.
        quality: other measures by name, as "ssim_before": (N,), "ssim_after": (M, N).
        scores, attacks: the rows behind it, one for each (image, source, target) and (image, source).
        failed: why, of each model that failed.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    eps: float | None
    before: Array = field(repr=False)
    after: Array = field(repr=False)
    psnr_before: Estimate = field(repr=False)
    psnr_after: Estimate = field(repr=False)
    drop: Estimate
    normalised: Estimate = field(repr=False)
    similitude: Estimate
    shared: Estimate = field(repr=False)
    shared_db: float
    quality: dict[str, Estimate] = field(repr=False)
    scores: Table = field(repr=False)
    attacks: Table = field(repr=False)
    failed: dict[str, str]

    @property
    def images(self) -> int:
        """S."""
        return len(self.before)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, None for what is not defined: what results.json holds for one eps."""
        named = {
            "psnr_before": self.psnr_before, "psnr_after": self.psnr_after, "drop": self.drop,
            "normalised": self.normalised, "similitude": self.similitude, "shared": self.shared, **self.quality,
        }  # fmt: skip
        lists = {name: estimate.as_lists() for name, estimate in named.items()}
        return {
            "eps": self.eps, "sources": list(self.sources), "targets": list(self.targets), "images": self.images,
            "shared_db": self.shared_db, **lists,
        }  # fmt: skip


def build_matrix(
    scores: Table,
    attacks: Table,
    *,
    eps: float | None,
    sources: Sequence[str],
    targets: Sequence[str],
    shared_db: float = 1.0,
    bootstrap: Bootstrap | None = None,
    failed: dict[str, str] | None = None,
) -> TransferMatrix:
    """The matrix of the rows of one eps; rows may come in any order, a missing one counts as failed.

    Args:
        scores: columns sample, source, target, psnr_before, psnr_after and pairs such as ssim_before, ssim_after.
        attacks: kept beside the matrix.
        targets: the sources, in order, then the others.
        shared_db: what counts as a shared adversarial sample, dB, > 0.
        failed: why, of each model that failed on an image.

    Raises:
        ValueError: no rows, targets that do not begin with the sources, a threshold that is not positive.
    """
    if list(targets[: len(sources)]) != list(sources):
        raise ValueError(f"targets: wanted the sources {list(sources)} first, got {list(targets)}")
    if not 0 < shared_db < float("inf"):
        raise ValueError(f"shared_db: wanted a number of dB > 0, got {shared_db!r}")
    if not scores or not len(scores["sample"]):
        raise ValueError("scores: wanted at least one row, got none")
    samples = np.unique(scores["sample"])
    place = (
        np.searchsorted(samples, scores["sample"]), _positions(scores["source"], sources),
        _positions(scores["target"], targets),
    )  # fmt: skip
    shape = (len(samples), len(sources), len(targets))
    cubes = {}
    for name in scores:
        if name.endswith(("_before", "_after")):
            cubes[name] = np.full(shape, np.nan)
            cubes[name][place] = scores[name]
            for lost in failed or {}:  # on some image: no mean over fewer images than the others
                cubes[name][:, [s == lost for s in sources]] = np.nan
                cubes[name][:, :, [t == lost for t in targets]] = np.nan
    kinds = [name.removesuffix("_after") for name in cubes if name.endswith("_after")]
    before = {kind: _of_targets(cubes[f"{kind}_before"]) for kind in kinds}
    after = {kind: cubes[f"{kind}_after"] for kind in kinds}
    found = _estimates(before, after, len(sources), shared_db, bootstrap or Bootstrap())
    own = {key: found.pop(key) for key in ("psnr_before", "psnr_after", "drop", "normalised", "similitude", "shared")}
    return TransferMatrix(
        tuple(sources), tuple(targets), eps, before["psnr"], after["psnr"], **own, shared_db=shared_db, quality=found,
        scores=scores, attacks=attacks, failed=dict(failed or {}),
    )  # fmt: skip


def _positions(names: Any, known: Sequence[str]) -> Any:
    return np.array([list(known).index(str(name)) for name in names])


def _of_targets(cube: Array) -> Array:
    """(S, M, N), the same for every source that has it -> (S, N)."""
    there = ~np.isnan(cube)
    first = there.argmax(1)
    return np.take_along_axis(cube, first[:, None], 1)[:, 0]


def _estimates(
    before: dict[str, Array], after: dict[str, Array], m: int, shared_db: float, bootstrap: Bootstrap
) -> dict[str, Estimate]:
    drops = before["psnr"][:, None] - after["psnr"]
    hurt = np.where(np.isnan(drops), np.nan, drops >= shared_db)
    both = hurt * np.diagonal(hurt[:, :, :m], axis1=1, axis2=2)[:, :, None]

    def statistics(weights: Array) -> dict[str, Array]:
        drop = weighted(weights, drops)
        normalised = _normalised(drop, m)
        square = normalised[:, :, :m]
        found = {f"{kind}_before": weighted(weights, before[kind]) for kind in before}
        found |= {f"{kind}_after": weighted(weights, after[kind]) for kind in after}
        return found | {
            "drop": drop, "normalised": normalised, "similitude": (square + square.swapaxes(1, 2)) / 2,
            "shared": weighted(weights, both),
        }  # fmt: skip

    return bootstrap.estimate(statistics, len(drops))


def _normalised(drop: Array, m: int) -> Array:
    """(D, M, N): by what each target's own attack costs it."""
    own = np.full((len(drop), drop.shape[2]), np.nan)
    own[:, :m] = np.diagonal(drop[:, :, :m], axis1=1, axis2=2)
    own[~(own > 0)] = np.nan
    return np.asarray(drop / own[:, None, :], dtype=np.float64)
