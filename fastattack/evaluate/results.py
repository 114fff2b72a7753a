"""From the rows of a study to results.json: plain numbers, lists and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..engine.naming import draws_differ
from .bootstrap import Bootstrap
from .matrix import TransferMatrix, build_matrix
from .measure import Measured
from .panel import Behind, Panel
from .statistics import BANDS
from .study import Study
from .table import Table, joined, rows_where

FIGURES = (
    "typicality_before", "typicality_after", "correlation_noise", "correlation_error", "gain", "linf", "l2",
    "mean_shift", "norm_ratio", "steps_used",
)  # fmt: skip


def gather_rows(shards: Sequence[Measured], sizes: Sequence[int]) -> tuple[Table, Table, dict[str, tuple[str, int]]]:
    """(scores, attacks, failures): rows in order; of each model that failed, why at first, and images of its batches.

    ``sizes``: images in each shard.
    """
    failed: dict[str, tuple[str, int]] = {}
    for shard, size in zip(shards, sizes, strict=True):
        for name, why in shard.failures.items():
            first, count = failed.get(name, (why, 0))
            failed[name] = first, count + size
    return joined(s.scores for s in shards), joined(s.attacks for s in shards), failed


def matrices(
    study: Study, scores: Table, attacks: Table, sources: Sequence[str], targets: Sequence[str], failed: dict[str, str]
) -> list[TransferMatrix]:
    """One for each radius of the study; none where every source failed on every image."""
    found = []
    for place, eps in enumerate(study.eps):
        rows = rows_where(scores, attack=place) if scores else {}
        if rows and len(rows["sample"]):
            found.append(build_matrix(
                rows, rows_where(attacks, attack=place), eps=eps, sources=sources, targets=targets,
                shared_db=study.shared_db, bootstrap=study.bootstrap, failed=failed,
            ))  # fmt: skip
    return found


def describe_attacks(matrix: TransferMatrix, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Means over images of what each source's perturbations look like, with intervals; failed sources are left out."""
    described = []
    for source in matrix.sources:
        if source in matrix.failed:
            continue
        rows = rows_where(matrix.attacks, source=source)
        means = bootstrap.means({name: rows[name].astype(np.float64) for name in FIGURES})
        bands = np.stack([rows[f"spectrum_{i:02d}"] for i in range(BANDS)], axis=1).mean(0)
        described.append({
            "eps": matrix.eps, "source": source, **{name: means[name].as_lists() for name in FIGURES},
            "spread": float(rows["spread"].mean()), "spectrum": None if np.isnan(bands).any() else bands.tolist(),
        })  # fmt: skip
    return described


def choose_examples(matrix: TransferMatrix) -> list[tuple[str, str, int]]:
    """(rank, source, sample): for each source the image that lost most on it, and the one in the middle."""
    samples = np.unique(matrix.scores["sample"])
    chosen = []
    for i, source in enumerate(matrix.sources):
        drop = matrix.before[:, i] - matrix.after[:, i, i]
        there = np.flatnonzero(~np.isnan(drop))
        if source in matrix.failed or not len(there):
            continue
        order = there[np.argsort(-drop[there], kind="stable")]
        chosen.append(("strongest", source, int(samples[order[0]])))
        chosen.append(("median", source, int(samples[order[len(order) // 2]])))
    return chosen


def describe_models(panel: Panel, failed: Mapping[str, tuple[str, int]]) -> dict[str, dict[str, Any]]:
    """By label; of a model behind a defence also "defense": which model, which defence, and how attacks pass it."""
    return {
        label: {
            "spec": one.spec, "role": "source" if label in panel.sources else "target", "parameters": one.parameters,
            "sha256": one.sha256, "failed": failed[label][0] if label in failed else None,
            "failed_on": failed[label][1] if label in failed else 0,
        } | ({"defense": describe_defense(panel.defended[label], one.model)} if label in panel.defended else {})
        for label, one in panel.opened.items()
    }  # fmt: skip


def describe_defense(one: Behind, model: Any) -> dict[str, Any]:
    """Which model, which defence, whether anything behind it draws, and how attacks pass it."""
    defense = one.defense
    return {
        "model": one.model, "label": defense.label, "spec": defense.spec, "sha256": defense.sha256,
        "random": draws_differ(model), "how": str(getattr(model, "how", "")),
    }  # fmt: skip
