"""Denoising: crops of bsd68 with noise of sigma 25, published and small DnCNNs; a few crops in colour."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack import training
from fastattack.defenses import Blur, Bm3d, Median
from fastattack.images import find_images, read_image
from fastattack.metrics import psnr
from fastattack.ops.spectrum import Spectrum
from fastattack.training import Patches, TrainConfig

from .bench import Case, Effort

SHARED = Path(__file__).resolve().parents[3] / "shared"
SIGMA, EPS = 25 / 255, 5 / 255
LEVEL = 35 / 255  # up to which noise is added to what holds SIGMA already
STEPS = 10  # of attacks without a purifier: more change nothing that matters (docs/results/ts-training.md)
SLOW, COLOURED = 2, 2
PATCH, BATCH, LR = 32, 8, 2e-4


def crops(folder: str, channels: int, size: int, count: int) -> Tensor:
    """The middle of the first images (count, channels, size, size)."""
    found = []
    for path in find_images(SHARED / "data" / folder)[:count]:
        x = read_image(path, channels)
        top, left = (x.shape[1] - size) // 2, (x.shape[2] - size) // 2
        found.append(x[:, top : top + size, left : left + size])
    return torch.stack(found)


def noisy(x: Tensor) -> Tensor:
    return fa.ops.typical_noise(x, sigma=SIGMA, typicality=None, seed=0, clean=x)


STRATEGIES = {  # as in scripts/ts_experiment.py
    "TS training": lambda: training.ts(
        fa.TypicalSetSampler(sigma=SIGMA, spectrum=Spectrum("adversarial", 0.4), typicality=(0.0, 0.3), seed=0)
    ),
    "adversarial training": lambda: training.pgd(sigma=SIGMA, eps=EPS, steps=3, preserve_noise=False, seed=0),
    "plain training": lambda: training.plain(sigma=SIGMA, seed=0),
}


@cache
def photographs() -> list[Tensor]:
    return [read_image(p, 1) for p in find_images(SHARED / "data" / "train400")]


def tuned(folder: Path, name: str, steps: int) -> nn.Module:
    """The small DnCNN of this package, trained further in one way; kept in the folder."""
    path = folder / f"dncnn-{name.split()[0]}-{steps}.safetensors"
    if not path.is_file():
        patches = Patches(photographs(), size=PATCH, batch=BATCH, seed=0, steps_per_epoch=steps)
        model = small()
        config = TrainConfig(steps=steps, lr=LR, channels_last=True)
        with tempfile.TemporaryDirectory() as out:
            training.train(model, patches, STRATEGIES[name](), config, out=Path(out), progress=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((Path(out) / "model.safetensors").read_bytes())
    return fa.models.load("dncnn", weights=path)


def small() -> nn.Module:
    return fa.models.load("embedded", sigma=25)


def published(channels: int) -> nn.Module:
    name = "dncnn_gray_sigma25" if channels == 1 else "dncnn_color_blind"
    return fa.models.load("dncnn", weights=SHARED / "weights" / f"{name}.safetensors", sigma=25, channels=channels)


def free(model: Any, *, steps: int, eot: int) -> fa.PGD:
    return fa.PGD(model, eps=EPS, steps=steps, eot=eot)


def kept(model: Any, *, steps: int, eot: int) -> fa.DenoisingPGD:
    return fa.DenoisingPGD(model, eps=EPS, steps=steps, eot=eot, preserve_noise=True)


ATTACKS = {"free": free, "noise kept": kept}


def case(x: Tensor, plain: nn.Module, effort: Effort) -> Case:
    return Case(noisy(x), x, plain, EPS, fa.objectives.mse, psnr, ATTACKS, None, effort)


def in_front(purifier: fa.Purifier) -> fa.Purifier:
    """For noisy images, and for a denoiser of one level behind it."""
    return purifier.replaced(sigma=LEVEL, input_sigma=SIGMA, output_sigma=SIGMA, sampler="ddim")


def rows(
    purifier: fa.Purifier | None,
    count: int,
    effort: Effort,
    store: Any,
    *,
    folder: Path,
    size: int = 48,
    steps: int = 60,
) -> Iterator[str]:
    """Make the rows that the store lacks; names of those that are there. ``steps`` of further training."""
    effort = replace(effort, steps=min(STEPS, effort.steps))
    cases = {
        "DnCNN-17": case(crops("bsd68", 1, size, count), published(1), effort),
        "colour DnCNN-20": case(crops("cbsd68", 3, size, COLOURED), published(3), effort),
        "small DnCNN": case(crops("bsd68", 1, size, count), small(), effort),
    }
    for words, main in cases.items():
        yield store(f"{words}, no defence", main.row)
        for defense in (Blur(0.5), Median(3)):
            yield store(f"{words}, {defense}", partial(main.row, defense))
        if words == "DnCNN-17":
            yield store(f"{words}, Bm3d(sigma=10/255)", partial(main.row, Bm3d(10 / 255), count=SLOW))
        if purifier is not None:
            seen = in_front(purifier if main.x.shape[1] == 1 else each_channel(purifier, store.weights))
            yield store(f"{words}, purifier", partial(main.row, seen), seen)
    for name in STRATEGIES:
        yield store(
            f"small DnCNN, {name}", lambda name=name: cases["small DnCNN"].row(model=tuned(folder, name, steps))
        )


def each_channel(purifier: fa.Purifier, weights: str) -> fa.Purifier:
    """The same, shown each channel of colour images alone."""
    options = purifier.options
    diffusion = fa.diffusion.load(weights, channels=3)
    return fa.Purifier(diffusion, t_star=options.t_star, steps=options.steps, surrogate_steps=options.surrogate_steps)
