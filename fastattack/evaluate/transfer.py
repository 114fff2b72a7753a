"""`transfer_matrix` and `robustness_curve`: several models, some data, one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..attacks.base import Attack
from ..each import named_models
from ..engine import Model
from .bootstrap import Bootstrap, Estimate
from .matrix import TransferMatrix, build_matrix
from .measure import PSNR, Batch, Craft, Measured, Quality, measure
from .table import Table, joined, rows_where

Models = Mapping[str, Model] | Sequence[Model]
Data = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RobustnessCurve:
    """How a model fares as the ball grows.

    Attributes:
        models: names.
        eps: the radii; 0 first.
        psnr: (M, E) PSNR(D_i(y'_i), x) in dB, means over images with their intervals; at eps 0 that of D_i(y).
        scores, attacks: the rows behind it.
    """

    models: tuple[str, ...]
    eps: tuple[float, ...]
    psnr: Estimate
    scores: Table = field(repr=False)
    attacks: Table = field(repr=False)


def transfer_matrix(
    models: Models,
    data: Data,
    attack: Craft,
    *,
    targets: Models | None = None,
    sigma: float | None = None,
    quality: Quality | None = None,
    shared_db: float = 1.0,
    bootstrap: Bootstrap | None = None,
    go_on: bool = False,
) -> TransferMatrix:
    """How far attacks carry: crafted once on each model, scored on all of them (arXiv 2306.16050).

    Args:
        models: restorers, called as model(y); a mapping keeps its names, a sequence gives "0", "1", ...
        data: (noisy, clean), both (B, C, H, W) with a nominal range [0, 1], or batches of such pairs (a DataLoader),
            which may differ in size. Samples are numbered in the order in which they come.
        attack: makes the attack of one model: ``lambda m: fa.DenoisingPGD(m, eps=5/255)``.
        targets: further models that are not attacked: black boxes, anything that maps an image to an image.
        sigma: standard deviation of the noise on the scale of the images, for the typicality in ``attacks``.
        quality: measures beside PSNR: name -> function of (restored, clean) giving (B,), such as
            ``{"ssim": fa.metrics.ssim}``.
        shared_db: what an attack must cost to count as shared, dB.
        bootstrap: how the confidence intervals are made.
        go_on: a model that raises is written down in ``failed`` and its row and column are NaN, instead of raising.

    Raises:
        TypeError, ValueError: no models, names given twice, data that do not fit; and what an attack or a model raises.
    """
    crafts: list[Craft] = [attack]
    panel, rows = _measure_all(models, targets, data, crafts, sigma, quality, go_on)
    scores, attacks, failed = rows
    eps = sorted(set(attacks["eps"])) if attacks else []
    return build_matrix(
        scores, attacks, eps=float(eps[0]) if len(eps) == 1 and eps[0] == eps[0] else None, sources=panel[0],
        targets=panel[1], shared_db=shared_db, bootstrap=bootstrap, failed=failed,
    )  # fmt: skip


def robustness_curve(
    models: Models,
    data: Data,
    attack: Callable[[Any, float], Attack],
    *,
    eps: Sequence[float],
    sigma: float | None = None,
    bootstrap: Bootstrap | None = None,
) -> RobustnessCurve:
    """PSNR of each model under its own attack, over the radius of the ball.

    Args:
        attack: ``lambda m, eps: fa.DenoisingPGD(m, eps=eps)``.
        eps: radii > 0, rising.
        models, data, sigma, bootstrap: as for `transfer_matrix`.

    Raises:
        TypeError, ValueError: as for `transfer_matrix`; radii that do not rise.
    """
    radii = [float(e) for e in eps]
    if not radii or radii[0] <= 0 or any(a >= b for a, b in pairwise(radii)):
        raise ValueError(f"eps: wanted radii > 0 that rise, got {list(eps)}")
    crafts: list[Craft] = [lambda m, e=e: attack(m, e) for e in radii]  # type: ignore[misc]
    (sources, targets), (scores, attacks, _) = _measure_all(models, None, data, crafts, sigma, None, False)
    curves = []
    for name in sources:
        own = [rows_where(scores, attack=place, source=name, target=name) for place in range(len(radii))]
        curves.append(np.stack([own[0]["psnr_before"], *(rows["psnr_after"] for rows in own)], axis=1))
    psnr = (bootstrap or Bootstrap()).means({"psnr": np.stack(curves, axis=1)})["psnr"]
    return RobustnessCurve(tuple(targets), (0.0, *radii), psnr, scores, attacks)


Rows = tuple[Table, Table, dict[str, str]]


def _measure_all(
    models: Models,
    targets: Models | None,
    data: Data,
    crafts: Sequence[Craft],
    sigma: float | None,
    quality: Quality | None,
    go_on: bool,
) -> tuple[tuple[list[str], list[str]], Rows]:
    sources = {str(name): model for name, model in named_models(models).items()}
    further = {} if targets is None else _further(targets, sources)
    parts: list[Measured] = []
    for batch in _batches(data):
        part = measure(batch, sources, further, crafts, sigma=sigma, quality={**PSNR, **(quality or {})}, go_on=go_on)
        part.adversarial.clear()  # the rows are all that stays in memory
        parts.append(part)
    if not parts:
        raise ValueError("data: wanted at least one batch, got none")
    failed: dict[str, str] = {}
    for part in parts:
        failed = {**part.failures, **failed}
    rows = joined(p.scores for p in parts), joined(p.attacks for p in parts), failed
    return (list(sources), [*sources, *further]), rows


def _further(targets: Models, sources: dict[str, Model]) -> dict[str, Model]:
    """Targets under names; numbers go on behind those of the sources."""
    first = 0 if isinstance(targets, (Mapping, nn.ModuleDict)) else len(sources)
    found = {str(n + first if isinstance(n, int) else n): model for n, model in named_models(targets).items()}
    if twice := sorted(found.keys() & sources.keys()):
        raise ValueError(f"targets: wanted other names than those of the models, got {twice[0]!r} in both")
    return found


def _batches(data: Data) -> Iterator[Batch]:
    count = 0
    pairs: Iterable[Any] = [data] if _is_pair(data) else data
    for pair in pairs:
        if not _is_pair(pair):
            raise TypeError(f"data: wanted (noisy, clean), or batches of such pairs, got {type(pair).__name__}")
        noisy, clean = pair
        if noisy.dim() != 4 or noisy.shape != clean.shape or not len(noisy):
            raise ValueError(
                f"data: wanted noisy and clean images (B, C, H, W) of one shape, got {tuple(noisy.shape)} and "
                f"{tuple(clean.shape)}"
            )
        ids = tuple(range(count, count + len(noisy)))
        count += len(noisy)
        yield Batch(ids, tuple(map(str, ids)), clean, noisy)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(t, Tensor) for t in value)
