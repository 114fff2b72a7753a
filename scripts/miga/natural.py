"""Photographs: published denoisers, a task that nobody knows, and an encoder that no attack has seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

import fastattack as fa
from fastattack.files import write_atomic
from fastattack.images import central, find_images, read_image

from .data import noisy
from .encoder import SHARED, TRAIN, embed
from .measure import intervals
from .networks import load_network

SIGMA, SIZE, SEED = 25, 96, 0


@dataclass(frozen=True)
class Scene:
    """A published denoiser and the folder whose first crops it is attacked on."""

    name: str
    model: str
    weights: str
    folder: str
    channels: int
    count: int


SCENES = (
    Scene("FFDNet, gray, bsd68", "ffdnet", "ffdnet_gray.safetensors", "bsd68", 1, 6),
    Scene("FFDNet, colour, cbsd68", "ffdnet", "ffdnet_color.safetensors", "cbsd68", 3, 4),
)
ATTACKS = ("MIGA-surrogate", "denoising-PGD", "PGD")


def available() -> bool:
    return TRAIN.is_dir() and all((SHARED / "weights" / scene.weights).is_file() for scene in SCENES)


def gallery(scene: Scene) -> Tensor:
    """The central crops of the whole folder: who an image is looked up among."""
    found = find_images(SHARED / "data" / scene.folder)
    return torch.stack([central(read_image(path, scene.channels), SIZE) for path in found])


def bank(scene: Scene) -> Tensor:
    """Crops of training images, for the attack's statistics network."""
    found = find_images(TRAIN)[:64]
    return torch.stack([central(read_image(path, scene.channels), SIZE) for path in found])


def craft(seen: nn.Module, scene: Scene, model: nn.Module, name: str, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    if name == "PGD":
        return fa.PGD(model, **options)(y, x)
    if name == "denoising-PGD":
        return fa.DenoisingPGD(model, preserve_noise=True, **options)(y, x)
    assert isinstance(seen, nn.Sequential)
    return fa.MIGA(model, encoder=seen[:-1], bank=bank(scene), **options)(y, x)


def rows(networks: Path, out: Path, *, radii: Sequence[float], steps: int) -> list[dict[str, Any]]:
    """One row for each scene, eps and attack."""
    encoder, seen, found = load_network(networks, "encoder"), load_network(networks, "surrogate"), []
    for scene, eps in product(SCENES, radii):
        model = fa.models.load(scene.model, weights=SHARED / "weights" / scene.weights, sigma=SIGMA)
        model.requires_grad_(False)
        everybody = gallery(scene)
        x = everybody[: scene.count]
        y = noisy(x, SIGMA, SEED)
        for name in ATTACKS:
            path = out / f"natural_{scene.folder}_{name}_eps{eps:g}_steps{steps}.safetensors"
            if not path.is_file():
                began = time.process_time()
                adversarial = craft(seen, scene, model, name, x, y, eps=eps / 255, steps=steps, seed=SEED)
                spent = f"{time.process_time() - began:.2f}"
                write_atomic(path, serialise({"adversarial": adversarial}, metadata={"seconds": spent}))
                print(f"{path.stem}: {spent} s", flush=True)
            with safe_open(path, framework="pt") as file:
                adversarial, seconds = file.get_tensor("adversarial"), float(file.metadata()["seconds"])
            columns = looked_up(encoder, seen, model, everybody, y, adversarial)
            found.append({
                "scene": scene.name, "attack": name, "eps": eps, "steps": steps, "images": scene.count,
                "gallery": len(everybody), "seconds": seconds, "means": intervals(columns),
            })  # fmt: skip
    return found


@torch.no_grad()
def looked_up(
    encoder: nn.Module, seen: nn.Module, model: nn.Module, everybody: Tensor, y: Tensor, adversarial: Tensor
) -> dict[str, Tensor]:
    """Image quality as `fa.semantic_change` measures it, and what the encoder says of D(y').

    ``similarity`` is the cosine of D(y') and D(y) after the gallery's mean has been taken off, ``similarity_seen``
    that of the encoder which MIGA saw; ``own`` and ``own_before`` tell whether the nearest image of the gallery is the
    image's own.
    """
    change = fa.semantic_change(model, None, y, adversarial)
    columns = {name: getattr(change, name) for name in ("input_psnr", "input_ms_ssim", "output_psnr", "output_ms_ssim")}
    mine = torch.arange(len(y))
    for name, one in (("similarity", encoder), ("similarity_seen", seen)):
        known = embed(one, everybody)
        before, after = (nn.functional.normalize(embed(one, model(t)) - known.mean(0)) for t in (y, adversarial))
        columns[name] = (before * after).sum(1)
        if one is encoder:
            known = nn.functional.normalize(known - known.mean(0))
            columns["own_before"], columns["own"] = ((t @ known.T).argmax(1) == mine for t in (before, after))
    return columns
