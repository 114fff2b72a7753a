"""Results of an evaluation as issue 5's contract has them, made up but plausible, with example images on disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastattack.images import save_png

PICTURES = ("clean", "noisy", "attacked", "restored", "restored_attacked", "perturbation")
STATISTICS = (
    "typicality_before", "typicality_after", "correlation_noise", "correlation_error", "gain", "linf", "l2",
    "mean_shift", "norm_ratio", "steps_used",
)  # fmt: skip
D = 4096


def build(
    out: Path,
    *,
    sources: tuple[str, ...] = ("dncnn_25", "ffdnet", "ecndnet"),
    others: tuple[str, ...] = ("bm3d",),
    eps: tuple[float, ...] = (3 / 255, 5 / 255, 8 / 255),
    failed: dict[str, str] | None = None,
    skipped: tuple[tuple[str, str], ...] = (),
    seed: int = 0,
    size: tuple[int, int] = (40, 56),
) -> dict[str, Any]:
    """A results dict; the rows and columns of a failed model are null. Example images are written under ``out``."""
    failed = failed or {}
    rng = np.random.default_rng(seed)
    names = (*sources, *others)
    models = {
        name: {
            "spec": f"{name}:/models/{name}.pth", "role": "source" if name in sources else "target",
            "parameters": 556096 if name in sources else None, "sha256": f"{k:02x}" * 32 if name in sources else None,
            "failed": failed.get(name), "failed_on": 12 if name in failed else 0,
        }
        for k, name in enumerate(names)
    }  # fmt: skip
    working = [name for name in sources if name not in failed]
    return {
        "config": {
            "fastattack": "0.1.0", "kind": "evaluation", "models": [m["spec"] for m in models.values()],
            "targets": list(others), "sigma": 25.0, "data": ["/data/set12"], "attack": "denoising-pgd",
            "eps": list(eps), "steps": 10, "preserve_noise": True, "norm": "linf", "seed": 0, "shared_db": 1.0,
            "confidence": 0.95,
        },
        "summary": {"images": 12, "seconds": 81.2, "channels": 1, "complete": True, "processes": 1},
        "models": models,
        "skipped": [{"path": path, "why": why} for path, why in skipped],
        "matrices": [_matrix(rng, value, sources, names, set(failed)) for value in eps],
        "statistics": [_statistics(rng, value, name) for value in eps for name in working],
        "examples": [
            _example(rng, out, rank, k, name, eps[-1], size)
            for k, name in enumerate(working)
            for rank in ("strongest", "median")
        ],
    }  # fmt: skip


def _interval(mean: Any, width: float, *, most: float = math.inf) -> dict[str, Any]:
    mean = np.asarray(mean, dtype=float)
    parts = {"mean": mean, "low": mean - width, "high": np.minimum(mean + width, most)}
    return {key: _null(value.tolist()) for key, value in parts.items()}


def _null(value: Any) -> Any:
    if isinstance(value, list):
        return [_null(v) for v in value]
    return None if math.isnan(value) else round(value, 6)


def _matrix(
    rng: np.random.Generator, eps: float, sources: tuple[str, ...], targets: tuple[str, ...], failed: set[str]
) -> dict[str, Any]:
    m, n = len(sources), len(targets)
    weak = 130 * (1 + 0.3 * rng.random(n)) * np.where([t in sources for t in targets], 1.0, 0.35)
    carried = np.where(np.arange(m)[:, None] == np.arange(n), 1.0, 0.6 + 0.35 * rng.random((m, n)))
    drop = eps * weak * carried
    before = 30.4 + rng.random(n)
    gone_rows = np.array([s in failed for s in sources])[:, None]
    gone = np.array([t in failed for t in targets])
    drop[gone_rows | gone] = np.nan
    before[gone] = np.nan
    own = np.array([[drop[j, j] for j in range(m)] + [np.nan] * (n - m)])
    share = drop / own
    similitude = (share[:, :m] + share[:, :m].T) / 2
    shared = np.clip(drop / 2.5, 0, 1)
    return {
        "eps": eps, "sources": list(sources), "targets": list(targets), "images": 12,
        "psnr_before": _interval(before, 0.4), "psnr_after": _interval(before - drop, 0.45),
        "ssim_before": _interval(before / 36, 0.01), "ssim_after": _interval((before - drop) / 36, 0.012),
        "drop": _interval(drop, 0.12), "normalised": _interval(share, 0.05),
        "similitude": _interval(similitude, 0.04), "shared": _interval(shared, 0.08, most=1.0),
    }  # fmt: skip


def _statistics(rng: np.random.Generator, eps: float, source: str) -> dict[str, Any]:
    bands = np.arange(16)
    values = {
        "typicality_before": rng.normal(0, 0.004), "typicality_after": rng.normal(0, 0.004) + 2.2 * eps,
        "correlation_noise": 0.25, "correlation_error": 0.4, "gain": 1.05 + 0.1 * rng.random(), "linf": eps,
        "l2": eps * math.sqrt(D) * 0.9, "mean_shift": 2e-5, "norm_ratio": 1.0003, "steps_used": 9.6,
    }  # fmt: skip
    assert tuple(values) == STATISTICS
    spread = {"typicality_before": 0.003, "typicality_after": 0.003}
    return {
        "eps": eps, "source": source, "spread": 1 / math.sqrt(2 * D),
        "spectrum": (100 * np.exp(-0.45 * bands) + 0.1 + 0.05 * rng.random(16)).tolist(),
        **{key: _interval(value, spread.get(key, 0.05 * abs(value))) for key, value in values.items()},
    }  # fmt: skip


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    y, x = np.mgrid[:height, :width] / height
    image = 0.35 + 0.3 * y + 0.2 * np.sin(7 * x + 3 * y)
    for _ in range(5):
        cy, cx, r = rng.random(), rng.random() * width / height, 0.08 + 0.15 * rng.random()
        image = np.where((y - cy) ** 2 + (x - cx) ** 2 < r * r, rng.random(), image)
    return torch.from_numpy(image).clamp(0, 1).float()[None]


def _example(
    rng: np.random.Generator, out: Path, rank: str, k: int, source: str, eps: float, size: tuple[int, int]
) -> dict[str, Any]:
    clean = _scene(rng, size)
    noise = torch.from_numpy(rng.normal(0, 25 / 255, clean.shape)).float()
    delta = eps * torch.sign(torch.nn.functional.avg_pool2d(noise[None], 5, 1, 2)[0])
    images = {
        "clean": clean, "noisy": clean + noise, "attacked": clean + noise + delta, "restored": clean + 0.1 * noise,
        "restored_attacked": clean + 0.1 * noise + delta, "perturbation": 0.5 + delta / eps * 0.5,
    }  # fmt: skip
    files = {key: f"examples/{rank}-{k}/{key}.png" for key in PICTURES}
    for key, image in images.items():
        save_png(out / files[key], image)
    return {
        "rank": rank, "source": source, "eps": eps, "image": f"{k:02d}", "sample": k, "files": files,
        "psnr": {"noisy": 20.18, "attacked": 19.71, "restored": 31.02, "restored_attacked": 28.13},
        "typicality": {"before": 0.0012, "after": 0.0391},
    }  # fmt: skip
