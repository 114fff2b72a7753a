"""The job of MIGA, without a terminal: images, noise, denoise, attack what the output means, and ask a task model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import job
from .attacks.miga import MIGA
from .engine import Model
from .evaluate.semantic import SemanticChange, semantic_change
from .extras import require
from .job import Batch, CommonConfig, ImageResult, Row, Watch, batches_of, load_images
from .metrics import WINDOW
from .models.spec import OpenedModel, open_model, parse_spec
from .objectives.named import perceptual_of
from .tasks import Task

PLACES = ("noisy", "attacked", "denoised", "denoised_attacked")
"""The pictures of an image that the task model is asked about, by the names of `ImageResult`."""
_PROGRAMS = ("python", "torchscript", "export")
_KNOWN, _UNKNOWN = ("labels", "target"), ("bank", "estimator")


@dataclass(frozen=True, kw_only=True)
class MigaConfig(CommonConfig):
    """What MIGA is to do. Lengths (eps, step) on the [0, 1] scale, sigma on the 0-255 scale.

    Attributes:
        task: the task model as a text, see `open_task`; None: unknown.
        labels: JSON file with a class number or text for each image's name; None: what the task model says of the
            denoised image.
        target: class (a number or a name) or text that the task model shall say.
        lambda_mi, lambda_rec, lambda_com, perceptual, lpips_weights, estimator: see `fastattack.MIGA`.
        bank: for an unknown task, a folder with more clean images of the same sizes.
        steps, norm: None become 20 and "linf".
    """

    preserve_noise: bool = False
    task: str | None = None
    labels: Path | None = None
    target: str | None = None
    lambda_mi: float | tuple[float, float] = 1.0
    lambda_rec: float | tuple[float, float] = 10.0
    lambda_com: float | tuple[float, float] = 1.0
    perceptual: str | None = "ssim"
    lpips_weights: Path | None = None
    estimator: str | None = None
    bank: Path | None = None

    def __post_init__(self) -> None:
        for name in (_KNOWN if self.task is None else ()) + (() if self.mined else _UNKNOWN):
            if (value := getattr(self, name)) is not None:
                place = "without a task model" if name in _KNOWN else "but for an unknown task with lambda_mi above 0"
                raise ValueError(f"{name}: wanted none {place}, got {str(value)!r}")
        for name, value in (("steps", 20), ("norm", "linf")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self.check_scales()

    @property
    def mined(self) -> bool:
        """The information is estimated, by a critic that learns from other images."""
        return self.task is None and self.lambda_mi != 0


def open_task(text: str, *, sigma: float, channels: int, device: str) -> tuple[Task, OpenedModel]:
    """The task model of a text, FILE.py:function, torchscript:FILE or export:FILE: see `fastattack.models.spec`.

    Raises:
        ValueError: no such model, or one of the denoisers; and what `fastattack.tasks.Task` raises.
    """
    try:
        spec = parse_spec(text)
        if spec.kind not in _PROGRAMS:
            raise ValueError(
                f"wanted FILE.py:function, torchscript:FILE or export:FILE, got the denoiser {spec.kind!r} in {text!r}"
            )
        opened = open_model(spec, sigma=sigma, channels=channels, device=device)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise ValueError(f"task: {str(error).removeprefix('model: ')}") from error
    return Task(opened.model), opened


def read_labels(path: Path, names: list[str]) -> dict[str, int | str]:
    """The labels of the images in a JSON file, {name: class number or text}; those of other images are left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else, or nothing for an image.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"labels: {path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"labels: wanted {{image name: class number or text}} in {path}, got {found!r:.80}")
    for name in names:
        label = found.get(name)
        if isinstance(label, bool) or not isinstance(label, int | str):
            got = "nothing" if name not in found else repr(label)
            raise ValueError(f"labels: wanted a class number or text for {name!r} in {path}, got {got}")
    return {name: found[name] for name in names}


def build_miga(model: Model, task: Task | None, config: MigaConfig, **more: Any) -> MIGA:
    """The attack that the configuration names; ``more``: options of MIGA, a wanted target or a bank."""
    options: dict[str, Any] = {"perceptual": config.perceptual, "lpips_weights": config.lpips_weights} | more
    for name in (
        "eps", "steps", "step", "norm", "restarts", "seed", "backend", "precision", "preserve_noise", "lambda_mi",
        "lambda_rec", "lambda_com",
    ):  # fmt: skip
        options[name] = getattr(config, name)
    if config.mined:
        options["estimator"] = config.estimator
    elif config.restarts > 1:
        options["random_start"] = True
    if task is not None and task.reads:
        options["graph"] = "never"  # texts are looked up on the CPU
    loss = None if task is None else task.loss
    return MIGA(model, None if task is None else task.model, task_loss=loss, sigma=config.sigma / 255, **options)


class MigaJob:
    """Images to attack, with what is known of them; everything that can be wrong is found out before the first attack.

    Args:
        model: the denoiser.
        task: the task model, or None.
        images: (name, image (C, H, W)).
        config: its files are read here.

    Raises:
        ValueError, TypeError, OSError, RuntimeError: an option, a file or a model does not fit; the message says which.
    """

    def __init__(self, model: Model, task: Task | None, images: list[tuple[str, Tensor]], config: MigaConfig) -> None:
        require("torchmetrics", what="miga", extra="evaluate")
        self.model, self.task, self.images, self.config = model, task, images, config
        self.perceptual = perceptual_of(config.perceptual, config.lpips_weights)
        for name, image in images:
            if min(image.shape[1:]) < WINDOW:
                size = " x ".join(map(str, image.shape[1:]))
                raise ValueError(f"data: wanted images of {WINDOW} x {WINDOW} pixels at least, got {size} in {name!r}")
        self.bank = self._bank()
        labels = None if config.labels is None else read_labels(config.labels, [name for name, _ in images])
        self.labels: dict[str, str] | None = None
        self.target: str | None = None
        if task is not None:
            verdict = task.verdict(images[0][1][None].to(config.device))  # tells its classes, and whether it takes them
            task.words(verdict)
            if labels is not None:
                self.labels = {k: task.answer(v, verdict, f"labels: {k!r}") for k, v in labels.items()}
            if config.target is not None:
                self.target = task.answer(config.target, verdict, "target")

    def _bank(self) -> dict[torch.Size, Tensor]:
        """Clean images by their size, for an unknown task."""
        found: dict[torch.Size, list[Tensor]] = {}
        if self.config.bank is not None:
            for _, image in load_images([self.config.bank], self.images[0][1].shape[0]):
                found.setdefault(image.shape, []).append(image)
        shapes = [image.shape for _, image in self.images]
        for indices in batches_of(shapes, self.config.max_batch) if self.config.mined else ():
            name, shape = self.images[indices[0]][0], shapes[indices[0]]
            size = " x ".join(map(str, shape[1:]))
            if self.config.bank is not None and shape not in found:
                raise ValueError(f"bank: wanted images of {size} like {name!r}, got none in {self.config.bank}")
            if self.config.bank is None and len(indices) < 2:
                raise ValueError(
                    f"bank: wanted a folder with more clean images of {size}, since {name!r} is attacked alone and the "
                    "information needs samples to tell apart (max-batch says how many go together), got none"
                )
        return {shape: torch.stack(images) for shape, images in found.items()}

    def run(self, progress: Watch | None = None) -> Iterator[ImageResult]:
        """Attack each image; results come batch by batch."""
        for batch in job.noisy_batches(self.model, self.images, self.config):
            answers, labels, more = self._meaning(batch)
            attack = build_miga(
                self.model, self.task, replace(self.config, lpips_weights=None), **more, perceptual=self.perceptual
            )
            found = attack.run(batch.noisy, labels, clean=batch.clean, **batch.how(progress))
            results = job.results_of(self.model, batch, found, self.config)
            rows = self._rows(batch, found.adversarial, answers)
            for result, row in zip(results, self._said(results, rows), strict=True):
                yield replace(result, row={**result.row, **row})

    def _meaning(self, batch: Batch) -> tuple[list[str] | None, Tensor | None, dict[str, Any]]:
        """What is right for each image, what the attack is called with, and more options of it."""
        if self.task is None:
            return None, batch.clean, {"bank": self.bank.get(batch.clean.shape[1:])} if self.config.mined else {}
        verdict = self.task.verdict(batch.denoised)
        answers = self.task.answers(verdict)
        labels = self.task.said(verdict)
        if self.labels is not None:
            answers = [self.labels[name] for name in batch.names]
            labels = self.task.labels(answers, verdict)
        if self.target is None:
            return answers, labels, {}
        return answers, None, {"target": self.task.labels([self.target] * len(answers), verdict)}

    def _rows(self, batch: Batch, adversarial: Tensor, answers: list[str] | None) -> list[Row]:
        """What became of the meaning, and how far it can be seen."""
        change = semantic_change(
            self.model, None if self.task is None else self.task.model, batch.noisy, adversarial, answers,
            read=None if self.task is None else self.task.answers, lpips_weights=self.config.lpips_weights,
        )  # fmt: skip
        rows = _by_image(change, len(batch.names), texts=self.task is not None and self.task.reads)
        for row, answer in zip(rows, answers or (), strict=False):
            success = row.pop("success")
            row |= {"label": answer, "changed": success if row["right_before"] else None}
        return rows

    def _said(self, results: list[ImageResult], rows: list[Row]) -> list[Row]:
        """The rows with what the task model says of the four pictures."""
        if self.task is None:
            return rows
        for place in PLACES:
            images = torch.stack([getattr(result, place) for result in results]).to(self.config.device)
            verdict = self.task.verdict(images)
            for row, words in zip(rows, self.task.words(verdict), strict=True):
                row[f"says_{place}"] = words
        if self.target is not None:
            for row, answer in zip(rows, self.task.answers(verdict), strict=True):
                row["reached"] = answer == self.target
        return rows


def _by_image(change: SemanticChange, count: int, *, texts: bool) -> list[Row]:
    """A row for each image; likeness of texts is for a model that reads."""
    found = {f.name: getattr(change, f.name) for f in fields(change)}
    lists = {name: v.tolist() for name, v in found.items() if isinstance(v, Tensor)}
    return [{k: v[i] for k, v in lists.items() if texts or not k.startswith("text_")} for i in range(count)]


def summarise_miga(rows: list[Row]) -> dict[str, Any]:
    """Means over the images; with a task model its accuracy before and after, and the success rate.

    ``success_rate`` is the share of the images that changed among those that were right before, None where there are
    none; ``target_rate`` the share of which the model says the target.
    """
    words = {"label", "changed", "reached", *(f"says_{place}" for place in PLACES)}
    found: dict[str, Any] = job.summarise([{k: v for k, v in row.items() if k not in words} for row in rows])
    if "right_before" in found:
        found["accuracy_before"], found["accuracy_after"] = found.pop("right_before"), found.pop("right_after")
        changed = [row["changed"] for row in rows if row["changed"] is not None]
        found["success_rate"] = sum(changed) / len(changed) if changed else None
    if "reached" in rows[0]:
        found["target_rate"] = sum(row["reached"] for row in rows) / len(rows)
    return found
