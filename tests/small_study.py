"""A study that takes a second: three tiny restorers in a file of their own, and small images with a story."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fastattack.images import save_png

RESTORERS = '''
import os

import torch
from torch import nn


class Blur(nn.Module):
    """A binomial filter of one size, which is differentiable and the same everywhere."""

    def __init__(self, size):
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0] if size == 3 else [1.0, 4.0, 6.0, 4.0, 1.0])
        kernel = line[:, None] * line
        self.filter = nn.Conv2d(1, 1, size, padding=size // 2, padding_mode="replicate", bias=False)
        self.filter.weight.data = (kernel / kernel.sum())[None, None]

    def forward(self, y):
        return self.filter(y)


def small():
    return Blur(3)


def large():
    return Blur(5)


class Breaks(Blur):
    """Fails on images that are bright: on one of the images, unless told otherwise."""

    def forward(self, y):
        if float(y.detach().mean((1, 2, 3)).max()) > float(os.environ.get("TOO_BRIGHT", 0.7)):
            raise RuntimeError("too bright for me")
        return super().forward(y)


def breaks():
    return Breaks(3)
'''

SMALL = ("--steps", 2, "--max-batch", 2, "--draws", 50, "--channels", 1)


def make(folder: Path, images: int = 5) -> tuple[Path, Path]:
    """(file with restorers, folder of images): the last image is bright, the one before of another size."""
    folder.mkdir(parents=True, exist_ok=True)
    models, data = folder / "restorers.py", folder / "data"
    models.write_text(RESTORERS, encoding="utf-8")
    generator = torch.Generator().manual_seed(11)
    for i in range(images):
        size = (40, 32) if i == images - 2 else (32, 32)
        smooth = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6, generator=generator), size, mode="bicubic")[0]
        save_png(data / f"image{i}.png", 0.75 + 0.2 * smooth if i == images - 1 else 0.6 * smooth)
    return models, data


def arguments(models: Path, data: Path, out: Path, *more: object, names: tuple[str, ...] = ("small", "large")) -> list:
    """Of ``fastattack evaluate``, without the page, which takes seconds."""
    return [
        "evaluate", "--models", *(f"{name}={models}:{name}" for name in names), "--data", data, "--out", out,
        "--eps", "3/255", "5/255", *SMALL, "--no-report", *more,
    ]  # fmt: skip


def content(out: Path) -> dict[str, Any]:
    """What must not depend on processes, kills and time: the results without these, the tables, the shards."""
    results = json.loads((out / "results.json").read_text())
    for name in ("seconds", "processes"):
        results["summary"].pop(name)
    files = sorted(p for p in out.rglob("*") if p.suffix in (".csv", ".safetensors", ".parquet"))
    return {"results": results} | {str(p.relative_to(out)): p.read_bytes() for p in files}
