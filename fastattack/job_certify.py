"""The job of `fastattack certify`, without a terminal: a certificate for each image, kept as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .certify import ABSTAIN, Gaussian, Laplace, Noise, Smoothed, Uniform, certified_accuracy
from .certify.bounds import least_n, require_n
from .certify.noise import image_level
from .certify.norms import exponent
from .files import write_atomic
from .job import Row
from .job_miga import read_labels
from .numbers import parse_number
from .tasks import Task

NOISES: Mapping[str, type[Gaussian] | type[Laplace] | type[Uniform]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "uniform": Uniform,
}
NORMS = ("l1", "l2", "linf")
POINTS = 21
"""Of a curve, from radius 0 to the largest."""


def parse_noise(text: str) -> Noise:
    """Noise as a text: gaussian:0.25 (sigma), laplace:0.2 (b) or uniform:64/255 (half the width); at most 1.

    Raises:
        ValueError: anything else.
    """
    kind, colon, level = text.partition(":")
    if kind not in NOISES or not colon:
        raise ValueError(f"noise: wanted gaussian:SIGMA, laplace:B or uniform:HALF_WIDTH, got {text!r}")
    found = NOISES[kind](parse_number(level, "noise"))
    image_level(found.scale, "noise")
    return found


@dataclass(frozen=True, kw_only=True)
class CertifyConfig:
    """What to certify with. Lengths for images in [0, 1].

    Attributes:
        task: the classifier as a text, see `fastattack.job_miga.open_task`.
        labels: JSON file {image name: class number or name}; None: nothing is known to be right.
        noise: see `parse_noise`.
        norm: of the radius that decides; None: the one in which the noise certifies best.
        n, n0, alpha, seed, max_batch, backend: see `fastattack.Smoothed`.
        whole_report: alpha is for all images together.
        device: where.
    """

    task: str
    labels: Path | None = None
    noise: str = "gaussian:0.25"
    norm: str | None = None
    n: int = 10_000
    n0: int = 100
    alpha: float = 0.001
    whole_report: bool = False
    seed: int = 0
    max_batch: int | None = None
    device: str = "cpu"
    backend: str = "auto"

    def __post_init__(self) -> None:
        parse_noise(self.noise)
        if self.norm is not None and self.norm not in NORMS:
            raise ValueError(f"norm: wanted one of {', '.join(NORMS)}, got {self.norm!r}")

    @property
    def own_norm(self) -> str:
        return self.norm or parse_noise(self.noise).home


class CertifyJob:
    """Images to certify; everything that can be wrong is found out before the first of them.

    Args:
        task: the classifier.
        images: (name, image (C, H, W)).
        config: its labels are read here.

    Raises:
        ValueError, TypeError, OSError, RuntimeError: an option, a file or a model does not fit; the message says which.
    """

    def __init__(self, task: Task, images: list[tuple[str, Tensor]], config: CertifyConfig) -> None:
        self.task, self.images, self.config = task, images, config
        self.family = len(images) if config.whole_report else 1
        noise = parse_noise(config.noise)
        options = {k: getattr(config, k) for k in ("n", "n0", "alpha", "seed", "max_batch", "backend")}
        self.smoothed = Smoothed(task.model, noise=noise, **options)
        each = config.alpha / self.family
        require_n(config.n, each, least_n(each), why=f" ({config.alpha:g} over {self.family} images)")
        verdict = task.verdict(images[0][1][None].to(config.device))
        if task.reads or not isinstance(verdict, Tensor) or verdict.dim() != 2:
            raise ValueError(
                "task: wanted a classifier, images (B, C, H, W) -> logits (B, classes), got another output"
            )
        task.words(verdict)
        labels = None if config.labels is None else read_labels(config.labels, [name for name, _ in images])
        self.labels: dict[str, str] | None = None
        if labels is not None:
            self.labels = {k: task.answer(v, verdict, f"labels: {k!r}") for k, v in labels.items()}

    def identity(self, task_sha256: str | None) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was killed."""
        config = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.config).items() if k != "device"}
        pixels = hashlib.sha256()
        for name, image in self.images:
            pixels.update(name.encode() + b"\0" + image.contiguous().numpy().tobytes())
        return {
            **config, "task_sha256": task_sha256, "images": len(self.images), "images_sha256": pixels.hexdigest(),
            "right": None if self.labels is None else self.labels,
        }  # fmt: skip

    def run(self, shards: Path | None = None) -> Iterator[Row]:
        """The row of each image in order; those in the folder of shards are read, the others made and put there."""
        for number, (name, image) in enumerate(self.images):
            path = None if shards is None else shards / f"{number:06d}.json"
            row = None if path is None else _read(path, name, self.labels is not None)
            if row is None:
                row = self._row(number, name, image)
                if path is not None:
                    write_atomic(path, json.dumps(row).encode())
            yield row

    def _row(self, number: int, name: str, image: Tensor) -> Row:
        start = time.perf_counter()
        x, ids = image[None].to(self.config.device), torch.tensor([number], device=self.config.device)
        found = self.smoothed.certify(x, sample_ids=ids, family=self.family)
        label, selected = int(found.label[0]), int(found.selected[0])
        row: Row = {
            "name": name,
            "answer": None if label == ABSTAIN else self._word(label),
            "likeliest": self._word(selected),
            "count": int(found.count[0]),
            "p": float(found.p[0]),
        }
        row |= {f"radius_{norm}": float(found.radius(norm)[0]) for norm in NORMS}
        if self.labels is not None:
            row |= {"label": self.labels[name], "right": row["answer"] == self.labels[name]}
        return row | {"seconds": time.perf_counter() - start}

    def _word(self, number: int) -> str:
        return str(number) if self.task.classes is None else self.task.classes[number]


def _read(path: Path, name: str, labelled: bool) -> Row | None:
    """None where it is not there, or damaged.

    Raises:
        ValueError: the row of this image, but not a whole one.
    """
    try:
        row: Row = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(row, dict) or row.get("name") != name:
        return None
    wanted = {"name", "answer", "likeliest", "count", "p", "seconds", *(f"radius_{norm}" for norm in NORMS)}
    if missing := sorted((wanted | ({"label", "right"} if labelled else set())) - row.keys()):
        raise ValueError(f"{path}: wanted the row of an image, got one without {', '.join(missing)}; remove the file")
    return row


def summarise_certificates(rows: list[Row], norm: str, noise: Noise, alpha: float, family: int) -> dict[str, Any]:
    """Shares, mean radius and curves; without labels every answer counts as right.

    A curve is a list of [radius, share of the images that are right and certified to it], for each norm.
    """
    exponent(norm)
    right = torch.tensor([row.get("right", row["answer"] is not None) for row in rows])
    curves = {}
    for name in NORMS:
        radius = torch.tensor([row[f"radius_{name}"] for row in rows], dtype=torch.float64)
        at = torch.linspace(0, max(float(radius.max()), 1e-9), POINTS, dtype=torch.float64)
        curves[name] = [list(pair) for pair in zip(at.tolist(), _shares(radius, right, at), strict=True)]
    own = torch.tensor([row[f"radius_{norm}"] for row in rows], dtype=torch.float64)
    return {
        "images": len(rows),
        "norm": norm,
        "certified": sum(curves[norm][0][1:]),
        "abstained": sum(row["answer"] is None for row in rows) / len(rows),
        "average_radius": float(torch.where(right, own, 0.0).mean()),
        "failure": alpha + noise.failure,
        "failure_is_of": "the whole report" if family > 1 else "each image",
        "seconds": sum(row["seconds"] for row in rows),
        "curves": curves,
    }  # fmt: skip


def _shares(radius: Tensor, right: Tensor, at: Tensor) -> list[float]:
    shares: list[float] = certified_accuracy(radius, right, at).tolist()
    return shares
