"""The job of distillation, without a terminal: images, a target to ask, a student, and the folder that keeps it."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .distillation import (
    Answered,
    Augment,
    Cached,
    DistillResult,
    Endpoint,
    Generate,
    Learning,
    SmallCNN,
    as_lists,
    as_png,
    collect,
    learn,
)
from .distillation.learning import Student, Watch, check_start, output_for
from .distillation.queries import Plan
from .distillation.students import weights_of
from .files import check_writable, write_atomic
from .job import add_noise, load_images
from .job_miga import read_labels
from .models import DnCNN, initialise, open_model, parse_spec
from .training import checkpoint as checkpoints
from .training.identity import checksum

WEIGHTS, MANIFEST, ANSWERS = "student.safetensors", "manifest.json", "answers"
RUN = (WEIGHTS, MANIFEST, checkpoints.NAME, checkpoints.PREVIOUS)
PARTIAL = ".partial"  # in the output folder: a run that is to replace the one there
STUDENTS = ("cnn", "dncnn")
ENCODINGS = {"lists": as_lists, "png": as_png}


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What `fastattack distill` is told.

    Attributes:
        query: a model as `fastattack.models.parse_spec` reads it, or an http(s) address.
        student: "cnn" (`SmallCNN`), "dncnn", or FILE.py:function that gives a module.
        data: folders and image files, all of one size.
        labels: JSON file with the class number of each image's name, for the accuracy alone.
        sigma: noise on the 0-255 scale that is added to the images and told to the target's model; None: none.
        classes: of a new "cnn"; None: as many as the answers have.
        features, depth: of a new student: channels after the first convolution, and convolutions of a dncnn.
        encode, rate, timeout: of an address: "lists" or "png", requests a second, seconds; ``retries`` too.
        cache: folder of the answers; None: "answers" in the output folder.
        others: as for `fastattack.distill`.
    """

    query: str
    student: str = "cnn"
    data: tuple[Path, ...]
    budget: int
    channels: int = 1
    labels: Path | None = None
    held_out: float = 0.1
    sigma: float | None = None
    loss: str = "l1"
    answers: str = "auto"
    augment: Augment | None = None
    generated: Generate | None = None
    bounds: tuple[float, float] | None = None
    steps: int = 1000
    batch: int = 64
    lr: float = 3e-3
    noise: float = 0.0
    seed: int = 0
    classes: int | None = None
    features: int = 32
    depth: int = 7
    encode: str = "lists"
    rate: float | None = None
    timeout: float = 30.0
    retries: int = 4
    query_batch: int | None = None
    cache: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels: wanted 1 or 3, got {self.channels}")
        if self.encode not in ENCODINGS:
            raise ValueError(f"encode: wanted one of {', '.join(ENCODINGS)}, got {self.encode!r}")
        if not self.is_address and self.rate is not None:
            raise ValueError(f"rate: wanted none beside a model on this machine, got {self.rate}")
        if self.sigma is not None and not 0 < self.sigma <= 255:
            raise ValueError(f"sigma: wanted a noise level on the 0-255 scale, 0 < sigma <= 255, got {self.sigma:g}")
        if self.student not in STUDENTS and not self.student.rpartition(":")[0].endswith(".py"):
            wanted = ", ".join((*STUDENTS, "FILE.py:function"))
            raise ValueError(f"student: wanted one of {wanted}, got {self.student!r}")

    @property
    def is_address(self) -> bool:
        return self.query.startswith(("http://", "https://"))


def run_distill(
    config: DistillConfig,
    out: Path,
    *,
    headers: dict[str, str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Watch | None = None,
) -> DistillResult:
    """Ask, train, and write student.safetensors and manifest.json; killed at any moment, it goes on with ``resume``.

    Answers are kept under ``out``/answers (or ``config.cache``) whatever happens, by ``overwrite`` too: they were paid.
    With ``overwrite`` the new run is made in ``out``/.partial and takes the earlier one's place when it is done: one
    that fails leaves the earlier one whole; one that was killed goes on with ``resume``.

    Raises:
        FileExistsError: ``out`` holds a run, and neither ``resume`` nor ``overwrite`` is set.
        TypeError, ValueError, OSError, RuntimeError: see `fastattack.distill`.
    """
    start, folder = _start(out, resume, overwrite)
    check_writable(out / WEIGHTS)
    inputs, labels = _inputs(config)
    query, described = _open(config, headers or {})
    asked = Cached(
        query, config.cache or out / ANSWERS, batch=config.query_batch, source=described["source"],
        retries=0 if config.is_address else config.retries,
    )  # fmt: skip
    options = Learning(
        loss=config.loss, steps=config.steps, batch=config.batch, lr=config.lr, noise=config.noise, seed=config.seed
    )
    ready = None if config.student == "cnn" else make_student(config).to(config.device)  # a cnn waits for the classes

    def before(plan: Plan) -> None:
        if ready is not None:
            output_for(ready, plan.images[:2])
            if start is not None:
                check_start(start, ready, options, checksum(plan.images))

    def first(found: Answered) -> None:
        Student(make_student(config, found).to(config.device), found, options).require_fit()

    answered = collect(
        asked, inputs, budget=config.budget, labels=labels, held_out=config.held_out, answers=config.answers,
        loss=config.loss, augment=config.augment, generated=config.generated, bounds=config.bounds, seed=config.seed,
        progress=progress, before=before, first=first,
    )  # fmt: skip
    student = make_student(config, answered).to(config.device)
    if start is None and folder != out:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        result = learn(student, answered, options, folder=folder, start=start, progress=progress)
        weights = weights_of(student)
        write_atomic(folder / WEIGHTS, weights)
        _write_manifest(folder / MANIFEST, config, described, result, sha256(weights).hexdigest())
    except Exception:
        if folder != out:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if folder != out:
        _move(folder, out)
    return result


def make_student(config: DistillConfig, answered: Answered | None = None) -> nn.Module:
    """A new student for these answers, which a cnn needs; its weights follow from the seed."""
    if config.student == "cnn":
        if answered is None:
            raise ValueError("student: wanted answers that tell a cnn its classes, got none")
        return SmallCNN(config.channels, _classes(config, answered), features=config.features, seed=config.seed)
    if config.student == "dncnn":
        if answered is not None and answered.kind != "images":
            raise ValueError(
                f"student: wanted cnn or your own for a query that answers with {answered.kind}, got dncnn"
            )
        model = DnCNN(config.channels, depth=config.depth, features=config.features, sigma=config.sigma)
        initialise(model, config.seed)
        return model
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        try:
            spec = parse_spec(config.student)
            found = open_model(spec, sigma=config.sigma, channels=config.channels, device=config.device).model
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise ValueError(f"student: {str(error).removeprefix('model: ')}") from error
    if not isinstance(found, nn.Module):
        raise TypeError(f"student: wanted {config.student} to return a torch.nn.Module, got {type(found).__name__}")
    return found


def _classes(config: DistillConfig, answered: Answered) -> int:
    if answered.kind == "images":
        raise ValueError("student: wanted dncnn or your own for a query that answers with images, got cnn")
    if answered.answers.dim() != (1 if answered.kind == "labels" else 2):
        shape = tuple(answered.answers.shape[1:])
        raise ValueError(f"student: wanted your own for answers {shape} to each image, got cnn")
    if answered.kind == "labels":
        return config.classes or int(answered.answers.max()) + 1
    return config.classes or answered.answers.shape[1]


def _start(out: Path, resume: bool, overwrite: bool) -> tuple[Path | None, Path]:
    """The checkpoint to go on from, and the folder where the run is made."""
    if resume and overwrite:
        raise ValueError("resume: wanted either resume or overwrite, got both")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: {out} is a file, wanted a folder")
    aside = out / PARTIAL
    if resume:
        folder = aside if checkpoints.latest(aside) else out
        return checkpoints.latest(folder), folder
    if not any((out / name).exists() for name in RUN):
        return None, out
    if not overwrite:
        raise FileExistsError(f"out: {out} holds a distillation; resume or overwrite it, or name another folder")
    return None, aside


def _move(folder: Path, out: Path) -> None:
    """A finished run takes an earlier one's place; the checkpoint goes last, so that one killed here can be resumed."""
    for name in (WEIGHTS, MANIFEST):
        os.replace(folder / name, out / name)
    (out / checkpoints.PREVIOUS).unlink(missing_ok=True)
    for name in (checkpoints.NAME, checkpoints.PREVIOUS):
        if (folder / name).exists():
            os.replace(folder / name, out / name)
    shutil.rmtree(folder)


def _inputs(config: DistillConfig) -> tuple[Tensor, Tensor | None]:
    images = load_images(list(config.data), config.channels)
    sizes = {tuple(image.shape[1:]): name for name, image in images}
    if len(sizes) > 1:
        told = ", ".join(f"{h} x {w} ({name!r})" for (h, w), name in list(sizes.items())[:3])
        raise ValueError(f"data: wanted images of one size, got {told}")
    inputs = torch.stack([image for _, image in images])
    if config.sigma is not None:
        inputs = torch.stack([add_noise(x, config.sigma, config.seed, k) for k, x in enumerate(inputs)])
    if config.labels is None:
        return inputs, None
    known = read_labels(config.labels, [name for name, _ in images])
    for name, label in known.items():
        if not isinstance(label, int) or label < 0:
            raise ValueError(f"labels: wanted a class number for {name!r} in {config.labels}, got {label!r}")
    return inputs, torch.tensor(list(known.values()))


def _open(config: DistillConfig, headers: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """The target, and what the manifest says of it."""
    if config.is_address:
        batch: dict[str, Any] = {} if config.query_batch is None else {"batch": config.query_batch}
        endpoint = Endpoint(
            config.query, **batch, encode=ENCODINGS[config.encode], rate=config.rate, retries=config.retries,
            timeout=config.timeout, headers=headers,
        )  # fmt: skip
        return endpoint, {"source": endpoint.source, "sha256": None}
    try:
        opened = open_model(
            parse_spec(config.query), sigma=config.sigma, channels=config.channels, device=config.device
        )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise type(error)(f"query: {str(error).removeprefix('model: ')}") from error
    model = opened.model
    query = model if config.device == "cpu" else lambda images: model(images.to(config.device))
    source = f"{opened.spec} {opened.sha256 or ''} {'' if config.sigma is None else f'sigma {config.sigma:g}'}".strip()
    return query, {"source": source, "sha256": opened.sha256}


def _write_manifest(
    path: Path, config: DistillConfig, described: dict[str, Any], result: DistillResult, digest: str
) -> None:
    from .commands.common import versions

    found = {name: getattr(result, name) for name in DistillResult.__dataclass_fields__ if name != "student"}
    found["fidelity"] = result.fidelity if math.isfinite(result.fidelity) else None  # JSON has no NaN
    content = {
        "target": described, "student_sha256": digest, "result": found, "options": asdict(config), **versions()
    }  # fmt: skip
    text = json.dumps(content, indent=1, default=_plain)
    write_atomic(path, (text + "\n").encode())


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else repr(value)
