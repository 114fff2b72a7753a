"""Purification without a terminal: images, attacked versions of them, defences, and a model behind them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .attacked import PLAIN, Versions, check_report, labels_of
from .defenses.purifier import Purifier
from .defenses.spec import DefenseSpec, OpenedDefense, open_defense, parse_defense
from .engine import Model
from .evaluate.measure import restore
from .images import find_images, read_image, stored_channels
from .job import Row, add_noise, batches_of, image_names


@dataclass(frozen=True, kw_only=True)
class PurifyConfig:
    """What every purification is told.

    Attributes:
        sigma: of Gaussian noise, 0-255 scale: added to the images, or in them already; None: there is none.
        add_noise: False where the images hold it.
        seed: of noise and purifiers.
        max_batch: images of one shape at a time.
        precision: of diffusion models whose defence names none.
    """

    sigma: float | None = None
    add_noise: bool = True
    seed: int = 0
    max_batch: int = 4
    device: str = "cpu"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.sigma is not None and not 0 < self.sigma <= 255:
            raise ValueError(f"sigma: wanted a noise level on the 0-255 scale, 0 < sigma <= 255, got {self.sigma:g}")
        if self.sigma is None and not self.add_noise:
            raise ValueError("add-noise: wanted --no-add-noise together with --sigma, the noise in the images")
        if isinstance(self.max_batch, bool) or not isinstance(self.max_batch, int) or self.max_batch < 1:
            raise ValueError(f"max-batch: wanted a whole number >= 1, got {self.max_batch}")


@dataclass(frozen=True)
class Subject:
    """One image: ``clean`` is None where nobody knows it; its inputs (C, H, W) by version, "input" first."""

    name: str
    number: int
    clean: Tensor | None = field(repr=False)
    versions: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class PurifyResult:
    """One version of one image behind one defence: tensors (C, H, W) on the CPU and the row of the report.

    Attributes:
        plain: the input that nobody attacked; given: the version at hand, which may be the same.
        restored: of the purified version, by the model; None without a model.
    """

    row: Row
    plain: Tensor = field(repr=False)
    given: Tensor = field(repr=False)
    purified: Tensor = field(repr=False)
    restored: Tensor | None = field(repr=False)


def default_defense(sigma: float | None, *, restored: bool = False) -> str:
    """Five DDIM steps from a level that is cheap to come back from; of noisy images some above their noise.

    Fewer steps where there are not as many levels between. ``restored``: see `open_defenses`.
    """
    if sigma is None:
        return "purifier:t_star=60,sampler=ddim,steps=5"
    text = f"purifier:sigma={min(255.0, 1.4 * sigma):g},sampler=ddim"
    left = sigma if restored else 0.0
    every = open_defense(parse_defense(text), channels=1, input_sigma=sigma, output_sigma=left).before
    assert isinstance(every, Purifier)
    return f"{text},steps={min(5, every.process.steps)}"


# -- what is to be purified ----------------------------------------------------------------------------------------


def load_subjects(
    data: Sequence[Path], attacked: Sequence[Path], config: PurifyConfig, channels: int | None
) -> list[Subject]:
    """Every image with its noise and its attacked versions; all are read before anything is done.

    Args:
        data: folders and files of images: clean, unless the config says that they hold the noise.
        attacked: folders with an attacked version of each image: a report of `fastattack attack` (its lossless inputs
            are taken), or images of the same names. Their versions are called after the folders.
        channels: 1 or 3; None: each image's own.

    Raises:
        OSError, ValueError: an image or a version that is not there, cannot be read, or has another size; names it. A
            report of another noise than the config's.
    """
    paths = find_images(list(data))
    folders = {label: Versions(folder) for label, folder in zip(labels_of(attacked), attacked, strict=True)}
    for folder in attacked:
        check_report(folder, sigma=config.sigma, seed=config.seed if config.add_noise else None)
    subjects = []
    for number, (name, path) in enumerate(zip(image_names(paths), paths, strict=True)):
        image = read_image(path, channels or stored_channels(path))
        noisy = config.sigma is not None and config.add_noise
        plain = add_noise(image, config.sigma or 0.0, config.seed, number) if noisy else image
        known = noisy or (bool(attacked) and config.sigma is None)
        versions = {PLAIN: plain} | {label: folder.read(name, image) for label, folder in folders.items()}
        subjects.append(Subject(name, number, image if known else None, versions))
    return subjects


# -- the work ------------------------------------------------------------------------------------------------------


def open_defenses(
    specs: Sequence[DefenseSpec], subjects: Sequence[Subject], config: PurifyConfig, *, restored: bool
) -> dict[int, list[OpenedDefense]]:
    """Each defence for each number of channels of the images.

    ``restored``: a model for the noise follows, so purifiers leave as much as there was; else they take all of it.
    """
    sigma = config.sigma or 0.0
    return {
        channels: [
            open_defense(
                spec, channels=channels, device=config.device, input_sigma=sigma,
                output_sigma=sigma if restored else 0.0, seed=config.seed, precision=config.precision,
            )
            for spec in specs
        ]
        for channels in sorted({subject.versions[PLAIN].shape[0] for subject in subjects})
    }  # fmt: skip


def run_purify(
    subjects: Sequence[Subject],
    defenses: dict[int, list[OpenedDefense]],
    model: Model | None,
    config: PurifyConfig,
    progress: Callable[[int], None] | None = None,
) -> Iterator[PurifyResult]:
    """Every version of every image behind every defence; results come batch by batch.

    Args:
        defenses: see `open_defenses`.
        model: restores the purified images, and for comparison the others; None: there is none.
        progress: told how many results have come.
    """
    for batch in batches_of((subject.versions[PLAIN].shape for subject in subjects), config.max_batch):
        chosen = [subjects[k] for k in batch]
        ids = torch.tensor([subject.number for subject in chosen], device=config.device)
        for version in chosen[0].versions:
            given = torch.stack([subject.versions[version] for subject in chosen]).to(config.device)
            alone = None if model is None else restore(model, given, ids.tolist())
            for defense in defenses[given.shape[1]]:
                yield from _purified(chosen, version, given, alone, defense, model, ids)
                if progress is not None:
                    progress(len(chosen))


def _purified(
    chosen: Sequence[Subject],
    version: str,
    given: Tensor,
    alone: Tensor | None,
    defense: OpenedDefense,
    model: Model | None,
    ids: Tensor,
) -> Iterator[PurifyResult]:
    """The results of one batch; each image's seconds are its share of the batch's."""
    _settle(given)
    began = time.perf_counter()
    purified = defense.purify(given, ids)
    _settle(purified)
    seconds = (time.perf_counter() - began) / len(given)
    restored = None if model is None else restore(model, purified, ids.tolist())
    for k, subject in enumerate(chosen):
        stages = {"input": given, "purified": purified, "undefended": alone, "restored": restored}
        found = {
            f"psnr_{stage}": _psnr(images[k], subject.clean) for stage, images in stages.items() if images is not None
        }
        row: Row = {"name": subject.name, "version": version, "defense": defense.label, **found, "seconds": seconds}
        yield PurifyResult(
            row, subject.versions[PLAIN], subject.versions[version], purified[k].cpu(),
            None if restored is None else restored[k].cpu(),
        )  # fmt: skip


def _settle(x: Tensor) -> None:
    """The device has done what it was told, so that a clock means something."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _psnr(image: Tensor, clean: Tensor | None) -> float | None:
    return None if clean is None else float(metrics.psnr(image[None].cpu(), clean[None]))


FIGURES = ("psnr_input", "psnr_purified", "psnr_undefended", "psnr_restored", "seconds")


def summarise_purify(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Means over the images for each defence and version, in order of appearance."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["defense"], row["version"]), []).append(row)
    return [
        {
            "defense": defense, "version": version, "images": len(group),
            **{key: _mean([row[key] for row in group]) for key in FIGURES if key in group[0]},
        }
        for (defense, version), group in groups.items()
    ]  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there and len(there) == len(values) else None
