"""fa.distill: a white-box student of a model that can only be queried (DUCD, arXiv 2408.10647)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..objectives import Objective
from ..objectives.base import sample_mean
from ..training import checkpoint as checkpoints
from ..training.identity import checksum
from ..training.log import Row
from .answers import labels_of_answers
from .asking import HeldOut, collect
from .cached import Cached, Query
from .learning import Answered, Learning, Student, Watch, check_start, output_for
from .queries import Augment, Bounds, Generate, Plan

ANSWERS = "answers"  # in the folder of the checkpoint


@dataclass(frozen=True)
class DistillResult:
    """What a distillation came to; ``print(result)`` says it.

    Attributes:
        student: the trained one, the very module that was given.
        kind: of the answers: "logits", "probabilities", "labels" or "images".
        fidelity: on the held-out images: the share on which student and target say the same class; of images the mean
            PSNR between both in dB. NaN without held-out images.
        accuracy, target_accuracy: of student and target on the held-out images, where labels are known; else None.
        held_out: how many images that was measured on.
        learnt_from: how many images the student learnt from.
        queries: images handed to the target in this call, retries and held-out ones included; at most the budget.
        cached: images that were answered without it.
        rows: the log: "step", "loss" (mean since the last row), "fidelity".
        seconds: wall-clock time of this call.
    """

    student: nn.Module
    kind: str
    fidelity: float
    accuracy: float | None
    target_accuracy: float | None
    held_out: int
    learnt_from: int
    queries: int
    cached: int
    rows: tuple[Row, ...]
    seconds: float

    def __str__(self) -> str:
        said = f"{self.fidelity:.2f} dB" if self.kind == "images" else f"{self.fidelity:.1%}"
        lines = [
            f"Distilled from {self.learnt_from} answers ({self.kind}) in {self.seconds:.1f} s: {self.queries} queries, "
            f"{self.cached} answered from the cache",
            f"fidelity {said} on {self.held_out} held-out images" if self.held_out else "no images held out",
        ]
        if self.accuracy is not None and self.target_accuracy is not None:
            lines.append(f"accuracy {self.accuracy:.1%}, of the target {self.target_accuracy:.1%}")
        return "\n".join(lines)


def distill(
    query: Query,
    student: nn.Module,
    inputs: Tensor,
    *,
    budget: int,
    labels: Tensor | None = None,
    held_out: HeldOut = 0.1,
    loss: str | Objective = "l1",
    answers: str = "auto",
    augment: Augment | None = None,
    generated: Generate | None = None,
    bounds: Bounds = None,
    steps: int = 1000,
    batch: int = 64,
    lr: float = 3e-3,
    noise: float = 0.0,
    seed: int = 0,
    cache: str | Path | None = None,
    query_batch: int | None = None,
    retries: int = 2,
    source: str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    log_every: int | None = None,
    progress: Watch | None = None,
) -> DistillResult:
    """Train a student to answer as a black box does (arXiv 2408.10647: a surrogate that can be smoothed and certified).

    The target is asked for ``budget`` images at most: some inputs that are held out, the other inputs in random order,
    and when there are no more, varied inputs (``augment``) and made images (``generated``). Then the student takes
    ``steps`` steps of Adam on the answers.

    ``loss`` for each sample, t the student's output and a the answer:

        "l1"   sum_i |t_i - a_i| over logits, the paper's choice. Of probabilities p the logits are known but for an
               offset: a = log max(p, 1e-6), and both t and a are taken less their mean over the classes. Of images the
               mean absolute difference. Labels alone have no such loss.
        "kl"   KL(softmax a || softmax t), the distillation loss at temperature 1.
        "ce"   cross-entropy to the class that the target says; the one that labels suffice for.

    or an objective, a function of (output, answers) that gives (B,).

    Everything that is drawn follows from the seed. torch's random state, the modes of student and query, and the inputs
    are left as found; the student's weights are trained in place and its gradients cleared.

    Args:
        query: called with images (N, C, H, W), gives a row for each: logits, probabilities, labels, or images where the
            target is a denoiser. A model, a function, an `Endpoint`, or a `Cached` (whose own batch, retries and folder
            then count).
        student: any module that gives logits (or images); on its device it learns.
        inputs: (N, C, H, W) images to ask about.
        budget: images that may be handed to the query, held-out ones and retries included; at least 1. Images that a
            cache knows cost nothing, but count as planned: a larger budget plans more.
        labels: (N,) true classes of the inputs; for ``accuracy`` alone, the student never sees them.
        held_out: share of the inputs (at most of the budget) to measure on; or other images, or (images, labels).
        answers: what the query gives, "auto" or one of "logits", "probabilities", "labels", "images"; see
            `fastattack.distillation.kind_of`.
        augment, generated: see `fastattack.distillation.Augment` and `Generate`.
        bounds: (low, high) that made images are cut to; None: not cut.
        steps, batch, lr: of Adam; the rate falls from lr to 0 along a cosine.
        noise: standard deviation of fresh Gaussian noise on the student's inputs in every step, against the answers to
            the images without it. It costs no queries; a student that is to be smoothed wants the smoothing's noise.
        seed: 0 <= seed < 2**63.
        cache: folder where every answer is kept (`Cached`); a call that was interrupted asks only what is missing.
            None: "answers" in the folder ``checkpoint``, if there is one.
        query_batch, retries: see `Cached`.
        source: what names the target, as text; the cache keeps it and refuses another's. Nothing else tells two
            functions apart, so give it wherever a cache is kept. None: an `Endpoint`'s own.
        checkpoint: folder for checkpoint.pt, written with every row of the log.
        resume: go on from the checkpoint, to the same weights as without the interruption.
        log_every: steps between rows; None: 20 rows in all.
        progress: called with each row, and while the target is asked with {"answered": images, "planned": images}.

    Raises:
        TypeError, ValueError: an argument that does not fit (a budget of 0; the l1 loss with labels alone: it says what
            to use).
        QueryError: images that the query gives no answer for; says which. What was answered is in ``cache``.
        FileExistsError: ``checkpoint`` holds a run, and resume is not set.
        NonFiniteError: NaN or infinity in the loss.
    """
    began = time.perf_counter()
    options = Learning(loss=loss, steps=steps, batch=batch, lr=lr, noise=noise, seed=seed, log_every=log_every)
    if not isinstance(student, nn.Module):
        raise TypeError(f"student: wanted a torch.nn.Module, got {type(student).__name__}")
    if resume and checkpoint is None:
        raise ValueError("resume: wanted the folder of the checkpoint with it (checkpoint=FOLDER), got none")
    folder = None if checkpoint is None else Path(checkpoint)
    start = None if folder is None else _start(folder, resume)
    if folder is not None and cache is None and not isinstance(query, Cached):
        cache = folder / ANSWERS

    def before(plan: Plan) -> None:
        output_for(student, plan.images[:2])
        if start is not None:
            check_start(start, student, options, checksum(plan.images))

    answered = collect(
        query, inputs, budget=budget, labels=labels, held_out=held_out, answers=answers, loss=loss, augment=augment,
        generated=generated, bounds=bounds, seed=seed, cache=cache, query_batch=query_batch, retries=retries,
        source=source, progress=progress, before=before,
        first=lambda answered: Student(student, answered, options).require_fit(),
    )  # fmt: skip
    return learn(student, answered, options, folder=folder, start=start, progress=progress, began=began)


def learn(
    student: nn.Module,
    answered: Answered,
    options: Learning,
    *,
    folder: Path | None = None,
    start: Path | None = None,
    progress: Watch | None = None,
    began: float | None = None,
) -> DistillResult:
    """The second half of `distill`: trains the student on what `collect` found, and measures.

    Args:
        folder: where checkpoints go; None: none are written.
        start: a checkpoint to go on from.
        began: `time.perf_counter` at the beginning of what ``seconds`` counts; None: now.
    """
    began = time.perf_counter() if began is None else began
    lessons = Student(student, answered, options)
    if start is not None:
        lessons.restore(start)
    lessons.run(folder, progress)
    accuracy, target = _accuracies(lessons)
    return DistillResult(
        student=student, kind=answered.kind, fidelity=lessons.fidelity(), accuracy=accuracy, target_accuracy=target,
        held_out=answered.held, learnt_from=lessons.count, queries=answered.queries, cached=answered.cached,
        rows=tuple(lessons.rows), seconds=time.perf_counter() - began,
    )  # fmt: skip


def _start(folder: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from."""
    found = checkpoints.latest(folder)
    if found and not resume:
        raise FileExistsError(f"checkpoint: {folder} holds a run; resume it, or name another folder")
    return found


def _accuracies(lessons: Student) -> tuple[float | None, float | None]:
    """Of student and target on the held-out images."""
    answered = lessons.answered
    if answered.labels is None or not answered.held or answered.kind == "images":
        return None, None
    said = torch.cat([output.argmax(1).cpu() for output, _ in lessons.outputs()])
    target = labels_of_answers(answered.answers[: answered.held], answered.kind)
    if said.shape != answered.labels.shape:
        raise ValueError(f"labels: wanted {tuple(said.shape)} as the student says, got {tuple(answered.labels.shape)}")
    return tuple(float(sample_mean((a == answered.labels).double()).mean()) for a in (said, target))  # type: ignore[return-value]
