"""Two evaluations of the same images, side by side: what differs, and whether that is more than chance."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from .bootstrap import Array, Bootstrap
from .table import Table, read_parquet


@dataclass(frozen=True)
class Difference:
    """One quantity in both runs, over the images that both have; PSNR in dB.

    Attributes:
        eps: radius; None for images that were not attacked.
        source, target: labels; source None for images that were not attacked.
        images: how many are paired.
        a, b: means.
        difference: mean of b - a; low, high: its bootstrap interval.
        p: two-sided, of the paired permutation test (random signs); p_holm: after Holm's correction over all rows. NaN
            where a restored image is the clean one, whose PSNR is infinite.
    """

    eps: float | None
    source: str | None
    target: str
    images: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """``differences``: restored PSNR without and under attack; ``only_a``, ``only_b``: what the other run lacks."""

    a: str
    b: str
    config: dict[str, tuple[Any, Any]]
    differences: list[Difference]
    only_a: list[str]
    only_b: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(a: Path, b: Path, *, bootstrap: Bootstrap | None = None, permutations: int = 9999) -> Comparison:
    """Compare two folders of `fastattack evaluate`.

    Images are paired by number and name. Radii count as equal where they agree to 1e-9.

    Args:
        bootstrap: of the intervals; its seed also draws the permutations.
        permutations: random ones where not all 2^images can be tried.

    Raises:
        FileNotFoundError, ValueError: no evaluation in a folder, or nothing that both have.
        RuntimeError: pyarrow or SciPy is missing.
    """
    bootstrap = bootstrap or Bootstrap()
    (config_a, rows_a), (config_b, rows_b) = _load(a), _load(b)
    common = [key for key in rows_a if key in rows_b]
    found = []
    for key in common:
        mine, theirs = rows_a[key], rows_b[key]
        images = sorted(image for image in mine.keys() & theirs.keys())
        if images:
            pair = np.array([[mine[image], theirs[image]] for image in images])
            found.append(_difference(key, pair, bootstrap, permutations))
    if not found:
        raise ValueError(f"compare: wanted runs with a model, a radius and an image in common, got none in {a} and {b}")
    keys = sorted({*config_a, *config_b})
    changed = {k: (config_a.get(k), config_b.get(k)) for k in keys if config_a.get(k) != config_b.get(k)}
    return Comparison(
        str(a), str(b), changed, _holm(found), [_words(k) for k in rows_a if k not in rows_b],
        [_words(k) for k in rows_b if k not in rows_a],
    )  # fmt: skip


Key = tuple[float | None, str | None, str]
Images = dict[tuple[int, str], float]


def _load(folder: Path) -> tuple[dict[str, Any], dict[Key, Images]]:
    record = folder / "results.json"
    if not record.is_file():
        raise FileNotFoundError(f"{folder}: wanted a folder of `fastattack evaluate`, which has results.json")
    try:
        config = json.loads(record.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record}: cannot be read as an evaluation: {error}") from error
    if (run := folder / "run.json").is_file():
        config = {**config, "images": json.loads(run.read_text(encoding="utf-8")).get("images")}  # their checksum
    scores, _ = read_parquet(folder / "scores.parquet")
    return config, _by_key(scores)


def _by_key(scores: Table) -> dict[Key, Images]:
    found: dict[Key, Images] = {}
    names = ("sample", "image", "eps", "source", "target", "psnr_before", "psnr_after")
    for sample, image, eps, source, target, before, after in zip(*(scores.get(n, []) for n in names), strict=True):
        which = int(sample), str(image)
        found.setdefault((None, None, str(target)), {})[which] = float(before)
        found.setdefault((round(float(eps), 9), str(source), str(target)), {})[which] = float(after)
    return found


def _difference(key: Key, pair: Array, bootstrap: Bootstrap, permutations: int) -> Difference:
    require("scipy.stats", what="compare", extra="evaluate")
    from scipy import stats

    change = pair[:, 1] - pair[:, 0]
    mean = bootstrap.means({"change": change})["change"]
    p = 1.0 if np.isfinite(change).all() else float("nan")  # both restored one image perfectly: infinite PSNR
    if len(change) > 1 and change.any() and p == 1.0:
        p = float(stats.permutation_test(
            (change,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True,
            n_resamples=permutations, random_state=np.random.default_rng(bootstrap.seed),
        ).pvalue)  # fmt: skip
    eps, source, target = key
    return Difference(
        eps=eps, source=source, target=target, images=len(pair), a=float(pair[:, 0].mean()), b=float(pair[:, 1].mean()),
        difference=float(mean.value), low=float(mean.low), high=float(mean.high), p=p,
    )  # fmt: skip


def _holm(rows: list[Difference]) -> list[Difference]:
    """Holm (1979): the chance that any of the differences called significant is none stays below the level."""
    order = sorted((i for i in range(len(rows)) if rows[i].p == rows[i].p), key=lambda i: rows[i].p)
    adjusted, worst = [float("nan")] * len(rows), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - place) * rows[i].p))
        adjusted[i] = worst
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def _words(key: Key) -> str:
    eps, source, target = key
    return f"{target} without attack" if eps is None else f"{source} -> {target} at eps {eps * 255:.3g}/255"
