"""Diffusion models from files."""

from __future__ import annotations

import json
from contextlib import nullcontext
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import torch

from ..models.weights import read_weights
from .adapters import from_diffusers
from .model import Diffusion
from .net import DiffusionUNet
from .schedule import Schedule

EMBEDDED = "diffusion_small_gray.safetensors"
TILE, OVERLAP = 64, 16


def load(
    name: str | Path = "embedded", *, channels: int | None = None, device: str | torch.device = "cpu"
) -> Diffusion:
    """A trained diffusion model in eval mode, its parameters without gradients.

    Args:
        name: "embedded" (small, gray, in this package); a .safetensors file of ``scripts/train_diffusion.py``; or a
            folder that the package diffusers wrote (extra "purify"): a pipeline's, with ``unet`` and ``scheduler`` in
            it. Nothing is downloaded.
        channels: of the images; None: the model's. With 3 a model of 1 channel sees each channel alone.
        device: where to put it.

    Raises:
        ValueError: not such a file or folder, or channels that do not fit.
        FileNotFoundError: nothing there.
        RuntimeError: a folder, and diffusers does not import.
    """
    if str(name) == "embedded":
        place: Any = resources.as_file(resources.files("fastattack") / "assets" / EMBEDDED)
    else:
        place = nullcontext(Path(name))
    with place as path:
        found = _folder(path) if path.is_dir() else _file(path)
    if channels is not None and channels != found.channels:
        if found.channels != 1:
            raise ValueError(f"{name}: wanted {channels} channel(s), the model is for {found.channels}")
        found.each_channel = True
    found.requires_grad_(False)
    found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found.to(device)


def _file(path: Path) -> Diffusion:
    state, metadata = read_weights(path)
    kind = metadata.get("architecture")
    if kind != "diffusion_unet":
        raise ValueError(
            f"{path}: wanted metadata of scripts/train_diffusion.py, architecture 'diffusion_unet', got {kind!r}"
        )
    try:
        net = DiffusionUNet(int(metadata["channels"]), tuple(map(int, metadata["widths"].split())))
        net.load_state_dict({k: v.float() for k, v in state.items()})
        schedule = schedule_of(metadata["schedule"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole diffusion model: {' '.join(str(error).split())[:300]}") from error
    return Diffusion(
        net, schedule, channels=net.channels, predicts=metadata.get("predicts", "epsilon"), tile=TILE, overlap=OVERLAP,
        multiple=net.multiple,
    )  # fmt: skip


def schedule_of(words: str) -> Schedule:
    """ "linear STEPS FIRST LAST" or "cosine STEPS"."""
    kind, *numbers = words.split()
    if kind == "linear" and len(numbers) == 3:
        return Schedule.linear(int(numbers[0]), float(numbers[1]), float(numbers[2]))
    if kind == "cosine" and len(numbers) == 1:
        return Schedule.cosine(int(numbers[0]))
    raise ValueError(f"schedule: wanted 'linear STEPS FIRST LAST' or 'cosine STEPS', got {words!r}")


def _folder(path: Path) -> Diffusion:
    parts = [path / "unet", path / "scheduler"]
    if not all(part.is_dir() for part in parts):
        raise ValueError(f"{path}: wanted a folder of diffusers with unet and scheduler in it")
    try:
        diffusers = import_module("diffusers")
    except ImportError as error:
        raise RuntimeError(
            f"diffusion: diffusers does not import: {error}; pip install 'fastattack[purify]'"
        ) from error
    settings = json.loads((parts[1] / "scheduler_config.json").read_text())
    kind = getattr(diffusers, settings.get("_class_name", "DDPMScheduler"))
    scheduler = kind.from_pretrained(str(parts[1]), local_files_only=True)
    unet = diffusers.UNet2DModel.from_pretrained(str(parts[0]), local_files_only=True)
    return from_diffusers(unet, scheduler)
