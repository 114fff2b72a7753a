"""The main job, without a terminal: images, noise, denoise, attack, measure. `cli` shows it, `report` writes it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .attacks import APGD, BIM, FGSM, MIFGSM, NIFGSM, PGD, AttackResult, DenoisingPGD, ObsAtk, SimBA, Square
from .attacks.base import Attack
from .engine import Model, Progress
from .engine.naming import draws_differ
from .images import find_images, read_image

ATTACKS: dict[str, type[Attack]] = {
    "denoising-pgd": DenoisingPGD,
    "pgd": PGD,
    "apgd": APGD,
    "bim": BIM,
    "fgsm": FGSM,
    "mi-fgsm": MIFGSM,
    "ni-fgsm": NIFGSM,
    "obsatk": ObsAtk,
    "square": Square,
    "simba": SimBA,
}
_WITHOUT_A_STEP, BY_QUERIES = ("fgsm", "square"), ("square", "simba")
_IN_ONE_STEP, _FROM_THE_INPUT = ("fgsm",), ("fgsm", "bim", "mi-fgsm", "ni-fgsm")


Row = dict[str, Any]
"""What a report says of an image: figures and words by name."""


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """What every job is told. Lengths (eps, step) on the [0, 1] scale, sigma on the 0-255 scale."""

    sigma: float = 25.0
    eps: float = 5 / 255
    steps: int | None = None
    step: float | None = None
    norm: str | None = None
    preserve_noise: bool = True
    restarts: int = 1
    seed: int = 0
    max_batch: int = 4
    device: str = "cpu"
    backend: str = "auto"
    precision: str = "fp32"

    def check_scales(self) -> None:
        """Raises ValueError where a length is on the wrong scale."""
        if not 0 < self.sigma <= 255:
            raise ValueError(f"sigma: wanted a noise level on the 0-255 scale, 0 < sigma <= 255, got {self.sigma:g}")
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(
                f"eps: wanted a radius for images in [0, 1], such as 5/255, got {self.eps:g} (sigma alone is on the "
                "0-255 scale)"
            )


@dataclass(frozen=True, kw_only=True)
class JobConfig(CommonConfig):
    """What to attack, with what, on which images. Lengths (eps, step) on the [0, 1] scale, sigma on the 0-255 scale.

    steps=None and norm=None become those of the attack: 10 and "linf", one step for fgsm, "l2" for obsatk. eot: draws
    averaged at each step where a model draws by name, as a purified one does; with 1 the attack knows its noise.
    """

    attack: str = "denoising-pgd"
    eot: int = 1

    def __post_init__(self) -> None:
        if self.attack not in ATTACKS:
            raise ValueError(f"attack: wanted one of {', '.join(ATTACKS)}, got {self.attack!r}")
        if self.attack in _IN_ONE_STEP and self.steps not in (None, 1):
            raise ValueError(f"steps: wanted none for {self.attack}, which takes one, got {self.steps}")
        if self.attack in _WITHOUT_A_STEP and self.step is not None:
            raise ValueError(f"step: wanted none for {self.attack}, which has no length to choose, got {self.step:g}")
        if self.attack == "obsatk" and self.norm not in (None, "l2"):
            raise ValueError(f"norm: wanted l2 for obsatk, got {self.norm}")
        if self.steps is None:
            object.__setattr__(self, "steps", 1 if self.attack in _IN_ONE_STEP else 10)
        if self.norm is None:
            object.__setattr__(self, "norm", "l2" if self.attack == "obsatk" else "linf")
        if isinstance(self.eot, bool) or not isinstance(self.eot, int) or self.eot < 1:
            raise ValueError(f"eot: wanted a whole number >= 1, got {self.eot!r}")
        self.check_scales()


@dataclass(frozen=True)
class ImageResult:
    """One image: tensors (C, H, W) and the row of the report."""

    row: Row
    clean: Tensor = field(repr=False)
    noisy: Tensor = field(repr=False)
    attacked: Tensor = field(repr=False)
    denoised: Tensor = field(repr=False)
    denoised_attacked: Tensor = field(repr=False)


def build_attack(model: Model, config: JobConfig) -> Attack:
    """The attack that the configuration names."""
    return ATTACKS[config.attack](model, **options_of(model, config))


def options_of(model: Model, config: JobConfig) -> dict[str, Any]:
    """The options of that attack."""
    name = config.attack
    options: dict[str, Any] = {"eps": config.eps, "seed": config.seed, "backend": config.backend}
    if name not in BY_QUERIES:
        options["precision"] = config.precision
    elif config.precision != "fp32":
        raise ValueError(f"precision: wanted fp32 for {name}, which takes no gradient, got {config.precision}")
    if name not in _IN_ONE_STEP:
        options |= {"queries" if name in BY_QUERIES else "steps": config.steps}
        if config.step is not None:
            options["step"] = config.step
    if name not in _FROM_THE_INPUT:
        options["restarts"] = config.restarts
    elif config.restarts > 1:
        raise ValueError(f"restarts: wanted 1 for {name}, which starts from the input itself, got {config.restarts}")
    if name != "obsatk":
        options["norm"] = config.norm
    if config.eot > 1 and draws_differ(model):
        options["eot"] = config.eot
    if name == "denoising-pgd":
        options |= {"preserve_noise": config.preserve_noise, "sigma": config.sigma / 255}
    return options


def image_names(paths: list[Path]) -> list[str]:
    """A name for each file: its stem, with a number behind where stems repeat; different on every file system."""
    taken = {path.stem.casefold() for path in paths}
    used: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name.casefold() in used or (number > 1 and name.casefold() in taken):
            number += 1
            name = f"{path.stem}_{number}"
        used.add(name.casefold())
        names.append(name)
    return names


def load_images(data: list[Path], channels: int) -> list[tuple[str, Tensor]]:
    """(name, image (C, H, W)) for each file in ``data``; every file is read before anything is attacked."""
    paths = find_images(data)
    return [(name, read_image(path, channels)) for name, path in zip(image_names(paths), paths, strict=True)]


def add_noise(clean: Tensor, sigma: float, seed: int, index: int) -> Tensor:
    """clean + N(0, (sigma / 255)^2); depends on (seed, index) alone, so a batch split changes nothing."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return clean + sigma / 255 * torch.randn(clean.shape, generator=generator)


def batches_of(shapes: Iterable[Hashable], size: int) -> Iterator[list[int]]:
    """Indices of images of one shape, at most ``size`` together, in order of first appearance."""
    by_shape: dict[Hashable, list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    for indices in by_shape.values():
        for first in range(0, len(indices), size):
            yield indices[first : first + size]


Watch = Callable[[int, Progress], None]
"""Told (images in the batch, the engine's progress) after each gradient."""


@dataclass(frozen=True)
class Batch:
    """Images of one size that are attacked together: tensors (B, C, H, W), and which of all images they are."""

    indices: list[int]
    names: list[str]
    clean: Tensor = field(repr=False)
    noisy: Tensor = field(repr=False)
    denoised: Tensor = field(repr=False)

    def how(self, progress: Watch | None) -> dict[str, Any]:
        """Options of `Attack.run`: by what its samples are known, and who hears of the progress."""
        shown = None if progress is None else (lambda p: progress(len(self.names), p))
        return {"sample_ids": torch.tensor(self.indices), "progress": shown}


def noisy_batches(model: Model, images: list[tuple[str, Tensor]], config: CommonConfig) -> Iterator[Batch]:
    """The images with noise, and what the model makes of them, batch by batch."""
    for indices in batches_of((image.shape for _, image in images), config.max_batch):
        clean = torch.stack([images[i][1] for i in indices])
        noisy = torch.stack([add_noise(images[i][1], config.sigma, config.seed, i) for i in indices])
        clean, noisy = clean.to(config.device), noisy.to(config.device)
        with torch.no_grad():
            denoised = model(noisy)
        yield Batch(indices, [images[i][0] for i in indices], clean, noisy, denoised)


def results_of(model: Model, batch: Batch, found: AttackResult, config: CommonConfig) -> list[ImageResult]:
    """What the report says of each image of an attacked batch."""
    with torch.no_grad():
        denoised_attacked = model(found.adversarial)
    tensors = (batch.clean, batch.noisy, found.adversarial, batch.denoised, denoised_attacked)
    rows = _rows(batch, found, denoised_attacked, config)
    return [ImageResult(row, *(t[k].cpu() for t in tensors)) for k, row in enumerate(rows)]


def run_job(
    model: Model, images: list[tuple[str, Tensor]], config: JobConfig, progress: Watch | None = None
) -> Iterator[ImageResult]:
    """Attack each image; results come batch by batch."""
    attack = build_attack(model, config)
    for batch in noisy_batches(model, images, config):
        found = attack.run(batch.noisy, batch.clean, **batch.how(progress))
        yield from results_of(model, batch, found, config)


def _rows(batch: Batch, found: AttackResult, denoised_attacked: Tensor, config: CommonConfig) -> list[Row]:
    """The figures of the report, in float64."""
    clean, noisy, denoised = batch.clean, batch.noisy, batch.denoised
    x, y, adv = clean.double(), noisy.double(), found.adversarial.double()
    before, after, delta = y - x, adv - x, adv - y
    sigma = config.sigma / 255
    columns = {
        "psnr_noisy": metrics.psnr(noisy, clean),
        "psnr_denoised": metrics.psnr(denoised, clean),
        "psnr_attacked": metrics.psnr(denoised_attacked, clean),
        "linf": delta.abs().flatten(1).amax(1),
        "l2": delta.flatten(1).norm(dim=1),
        "mean_shift": after.flatten(1).mean(1) - before.flatten(1).mean(1),
        "norm_ratio": after.flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1),
        "typicality_before": 0.5 * (before.square().flatten(1).mean(1) / sigma**2 - 1),
        "typicality_after": 0.5 * (after.square().flatten(1).mean(1) / sigma**2 - 1),
        "best_step": found.best_step,
    }
    lists = {name: values.tolist() for name, values in columns.items()}
    return [{"name": name, **{key: values[k] for key, values in lists.items()}} for k, name in enumerate(batch.names)]


def summarise(rows: list[Row]) -> dict[str, float]:
    """Means over the images, and psnr_drop = mean(psnr_denoised - psnr_attacked)."""
    keys = [key for key in rows[0] if key not in ("name", "best_step")]
    means = {key: sum(float(row[key]) for row in rows) / len(rows) for key in keys}
    return {"images": len(rows), **means, "psnr_drop": means["psnr_denoised"] - means["psnr_attacked"]}
