"""The example images of an evaluation, as PNG files: clean, noisy, attacked, restored, and the perturbation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine import Model
from ..images import save_png
from ..metrics import psnr
from .matrix import TransferMatrix
from .measure import Batch, Craft, restore
from .results import choose_examples
from .table import rows_where


def save_examples(
    folder: Path,
    matrix: TransferMatrix,
    models: Mapping[str, Model],
    find: Callable[[int, str], tuple[Batch, Tensor | None]],
    craft: Craft,
    purify: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
) -> list[dict[str, Any]]:
    """Write folder/examples/<rank>-<source>/*.png for the strongest and the median image of each source.

    Args:
        folder: of the evaluation.
        models: by label.
        find: function of (sample, source) -> (batch, attacked inputs of it or None), both on the models' device.
        craft: the attack that ``matrix`` is of; an attacked input that was not kept is made again.
        purify: what stands before a model, by its label: function of (inputs, ids of the samples).

    Returns:
        What results.json says of them.
    """
    told = []
    for number, (rank, source, sample) in enumerate(choose_examples(matrix)):
        batch, attacked = find(sample, source)
        ids = torch.tensor(batch.ids, device=batch.noisy.device)
        if attacked is None:
            attacked = craft(models[source]).run(batch.noisy, batch.clean, sample_ids=ids).adversarial
        row = batch.ids.index(sample)
        images = _images(batch, row, attacked, models[source])
        if purify and source in purify:
            images["purified"] = purify[source](attacked, ids)[row]
        name = f"{number:02d}-{rank}-{_safe(source)}"
        files = {kind: f"examples/{name}/{kind}.png" for kind in images}
        for kind, image in images.items():
            save_png(folder / files[kind], image)
        told.append(_told(matrix, rank, source, sample, images) | {"files": files})
    return told


def _images(batch: Batch, row: int, attacked: Tensor, model: Model) -> dict[str, Tensor]:
    restored, restored_attacked = restore(model, batch.noisy, batch.ids), restore(model, attacked, batch.ids)
    delta = (attacked - batch.noisy)[row]
    return {
        "clean": batch.clean[row], "noisy": batch.noisy[row], "attacked": attacked[row], "restored": restored[row],
        "restored_attacked": restored_attacked[row],
        "perturbation": 0.5 + delta * (0.5 / delta.abs().max().clamp(min=1e-12)),
    }  # fmt: skip


def _told(matrix: TransferMatrix, rank: str, source: str, sample: int, images: Mapping[str, Tensor]) -> dict[str, Any]:
    score = rows_where(matrix.scores, sample=sample, source=source, target=source)
    row = rows_where(matrix.attacks, sample=sample, source=source)
    clean = images["clean"][None]
    kinds = [kind for kind in images if kind not in ("clean", "perturbation")]
    return {
        "rank": rank, "source": source, "eps": matrix.eps, "image": str(score["image"][0]), "sample": sample,
        "psnr": {kind: psnr(images[kind][None], clean).item() for kind in kinds},
        "typicality": {end: float(row[f"typicality_{end}"][0]) for end in ("before", "after")},
    }  # fmt: skip


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60].strip("-") or "model"
