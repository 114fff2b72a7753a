"""What whole attacks are measured on: published denoisers on their images, and a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import fastattack as fa
from bench.classifier import resnet18

SHARED = Path(__file__).resolve().parents[2] / "shared"
NAMES = ("dncnn", "ffdnet", "n2n", "ecndnet", "resnet18")
FILES = {
    "dncnn": ("dncnn_gray_sigma25.safetensors", 1),
    "ffdnet": ("ffdnet_gray.safetensors", 1),
    "ecndnet": ("ecndnet_gray_sigma25.pth", 1),
    "n2n": ("n2n_color_gaussian.pt", 3),
}


@dataclass(frozen=True)
class Case:
    """One model with its inputs, and the attack that every way makes.

    ``bounds``: for every way the same; those of a classifier's images, to which some peers always clip.
    """

    model: nn.Module
    x: Tensor
    target: Tensor
    objective: Callable[[Any, Any], Tensor]
    steps: int = 10
    eps: float = 5 / 255
    step: float = 1 / 255
    bounds: tuple[float, float] | None = None


def crops(folder: Path, channels: int, count: int = 4, side: int = 128) -> Tensor:
    mode = "L" if channels == 1 else "RGB"
    files = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".bmp"))[:count]
    images = [np.asarray(Image.open(p).convert(mode), dtype=np.float32) / 255 for p in files]
    tensors = [torch.from_numpy(i.reshape(*i.shape[:2], channels)).permute(2, 0, 1)[:, :side, :side] for i in images]
    return torch.stack(tensors).contiguous()


def denoiser(name: str, shared: Path | None, steps: int, device: str) -> Case:
    """``shared`` None: random weights on random images, which cost the same."""
    weights, channels = FILES[name]
    options = {"sigma": 25} if name == "ffdnet" else {}
    generator = torch.Generator().manual_seed(0)
    if shared is None:
        model, clean = untrained(name), torch.rand(4, channels, 128, 128, generator=generator)
    else:
        model = fa.models.load(name, weights=shared / "weights" / weights, **options)
        clean = crops(shared / "data" / ("set12" if channels == 1 else "cbsd68"), channels)
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return Case(model.eval().to(device), noisy.to(device), clean.to(device), fa.objectives.mse, steps)


def untrained(name: str) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {
        "dncnn": fa.models.DnCNN,
        "ffdnet": lambda: fa.models.FFDNet(sigma=25),
        "ecndnet": fa.models.ECNDNet,
        "n2n": fa.models.N2NUNet,
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return makers[name]()


def classifier(steps: int, device: str) -> Case:
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.rand(16, 3, 32, 32, generator=generator), torch.randint(10, (16,), generator=generator)
    model = resnet18().to(device)
    return Case(model, x.to(device), labels.to(device), fa.objectives.cross_entropy, steps, bounds=(0.0, 1.0))


def case_of(name: str, *, shared: Path | None, steps: int = 10, device: str = "cpu") -> Case:
    """A case by its name, of NAMES."""
    if name not in NAMES:
        raise ValueError(f"name: wanted one of {', '.join(NAMES)}, got {name!r}")
    return classifier(steps, device) if name == "resnet18" else denoiser(name, shared, steps, device)
