"""How a student learns from answers: Adam with a cosine, every batch a function of (seed, step), so that it resumes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import NonFiniteError
from ..guard import left_as_found
from ..objectives import Objective
from ..training import checkpoint
from ..training.config import require_number, require_whole
from ..training.identity import checksum
from ..training.log import Row
from ..training.state import surroundings_kept
from .answers import check_classes, check_output, fidelity, loss_for
from .queries import sampler_of

Watch = Callable[[Row], object]
_TESTED = 256  # images at a time where fidelity is measured


@dataclass(frozen=True)
class Answered:
    """Images and what a target said of them.

    Attributes:
        images: (T, C, H, W).
        answers: (T, ...) on the CPU.
        kind: of the answers, see `fastattack.distillation.KINDS`.
        held: the first so many are held out from learning.
        labels: (held,) known labels of those, or None.
        queries: images handed to the target.
        cached: images answered without it.
        planned: checksum of all images that were to be asked; "" where nobody planned.
    """

    images: Tensor
    answers: Tensor
    kind: str
    held: int
    labels: Tensor | None = None
    queries: int = 0
    cached: int = 0
    planned: str = ""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How a student learns; see `fastattack.distill`."""

    loss: str | Objective = "l1"
    steps: int = 1000
    batch: int = 64
    lr: float = 3e-3
    noise: float = 0.0
    seed: int = 0
    log_every: int | None = None

    def __post_init__(self) -> None:
        require_whole(self.steps, "steps", 1)
        require_whole(self.batch, "batch", 1)
        if self.log_every is not None:
            require_whole(self.log_every, "log_every", 1)
        if not 0 < require_number(self.lr, "lr") < float("inf"):
            raise ValueError(f"lr: wanted a finite number above 0, got {self.lr!r}")
        sampler_of(self.noise, self.seed, "noise")

    @property
    def row_every(self) -> int:
        return max(self.steps // 20, 1) if self.log_every is None else self.log_every

    def rate(self, step: int) -> float:
        """The learning rate of a step: from ``lr`` down to 0 along a cosine."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Student:
    """A student in the middle of its lessons; ``step`` counts those that are done."""

    def __init__(self, model: nn.Module, answered: Answered, options: Learning) -> None:
        self.model, self.answered, self.options = model, answered, options
        self.weights = weights_to_learn(model)
        self.device, self.dtype = self.weights[0].device, self.weights[0].dtype
        self.loss = loss_for(options.loss, answered.kind)
        self.noise = sampler_of(options.noise, options.seed, "noise")
        self.count = len(answered.images) - answered.held
        self.batch = min(options.batch, self.count)
        self.optimiser = torch.optim.Adam(self.weights, lr=options.lr)
        self.step, self.rows = 0, list[Row]()
        self.total = 0.0  # of the losses since the last row
        self.since = 0
        self.identity = {
            **_identity(model, options, answered.planned), "images": checksum(answered.images),
            "answers": checksum(answered.answers), "held": answered.held,
        }  # fmt: skip

    def run(self, folder: Path | None, watch: Watch | None) -> None:
        """All steps that are left; a row, and with a folder a checkpoint, after every ``row_every`` of them."""
        self.require_fit()
        with surroundings_kept(self.model, self.device):
            while self.step < self.options.steps:
                self.advance()
                if self.step % self.options.row_every and self.step != self.options.steps:
                    continue
                self.rows.append(self.row())
                if folder is not None:
                    self.save(folder)
                if watch is not None:
                    watch(self.rows[-1])
        if not all(bool(p.isfinite().all()) for p in self.weights):
            raise NonFiniteError("distill: NaN or infinite weights after the last step; take a smaller lr")

    def advance(self) -> None:
        """One step of the optimiser."""
        epoch, within = divmod(self.step, self.count // self.batch)
        order = torch.randperm(self.count, generator=_generator(self.options.seed, epoch))
        rows = self.answered.held + order[within * self.batch : (within + 1) * self.batch]
        images, answers = self.pick(rows)
        if self.noise is not None:
            images = self.noise(images, sample_ids=rows.to(self.device), epoch=epoch)
        _seed_all(self.options.seed, self.step, self.device)
        loss = self.loss(self.model(images), answers).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(f"distill: NaN or infinite loss in step {self.step}; take a smaller lr than "
                                 f"{self.options.lr:g}")  # fmt: skip
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate(self.step)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.total, self.since, self.step = self.total + value, self.since + 1, self.step + 1

    def pick(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images and answers on the student's device; images in its number type."""
        where = rows if isinstance(rows, slice) else rows.to(self.answered.images.device)
        images = self.answered.images[where].to(self.device, self.dtype)
        return images, self.answered.answers[rows].to(self.device)

    def row(self) -> Row:
        """What the log says now."""
        found = {"step": self.step, "loss": self.total / max(self.since, 1)}
        if self.answered.held:
            found["fidelity"] = self.fidelity()
        self.total, self.since = 0.0, 0
        return found

    def outputs(self) -> list[tuple[Tensor, Tensor]]:
        """(outputs, answers) of the held-out images, batch by batch, in eval mode."""
        found = []
        with torch.no_grad(), left_as_found(self.model, self.device, eval_mode=True):
            for first in range(0, self.answered.held, _TESTED):
                images, answers = self.pick(slice(first, min(first + _TESTED, self.answered.held)))
                found.append((self.model(images), answers))
        return found

    def fidelity(self) -> float:
        """The mean over the held-out images; NaN without any."""
        each = [fidelity(output, answers, self.answered.kind) for output, answers in self.outputs()]
        return float(torch.cat(each).mean()) if each else math.nan

    def require_fit(self) -> None:
        """Raises where the student's output is not what the answers can be compared with."""
        images, answers = self.pick(slice(0, 2))
        output = output_for(self.model, images)
        classes = int(self.answered.answers.max()) + 1 if self.answered.kind == "labels" else 0
        check_output(output, answers, self.answered.kind, classes)
        if self.answered.kind != "images":
            check_classes(self.answered.labels, output, "labels")

    def save(self, folder: Path) -> None:
        checkpoint.save(folder, {
            "identity": self.identity, "step": self.step, "rows": self.rows,
            "optimiser": self.optimiser.state_dict(), "model": self.model.state_dict(),
        })  # fmt: skip

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same student, answers and options.

        Raises:
            ValueError: it is damaged, or another run's; nothing has been taken from it.
        """
        content = checkpoint.load(path, self.identity)
        self.optimiser.load_state_dict(content["optimiser"])
        self.model.load_state_dict(content["model"])
        self.step, self.rows = content["step"], content["rows"]


def weights_to_learn(model: nn.Module) -> list[nn.Parameter]:
    """Those that require grad, one at least."""
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise ValueError("student: wanted parameters that require grad, got none")
    return found


def output_for(model: nn.Module, images: Tensor) -> Any:
    """What a student says of these images, in eval mode and without gradients.

    Raises:
        ValueError: it does not take them.
    """
    first = weights_to_learn(model)[0]
    with torch.no_grad(), left_as_found(model, first.device, eval_mode=True):
        try:
            return model(images.to(first.device, first.dtype))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"student: it does not take images {tuple(images.shape[1:])}: {error}") from error


def check_start(start: Path, model: nn.Module, options: Learning, planned: str) -> None:
    """Before anything is asked: a checkpoint is whole, and of this student, these options and these images."""
    mine = _identity(model, options, planned)
    checkpoint.load(start, mine, known=mine)


def _identity(model: nn.Module, options: Learning, planned: str) -> dict[str, Any]:
    """What is known of a run before anything is answered."""
    named = options.loss if isinstance(options.loss, str) else _name(options.loss)
    return {
        "learning": {**asdict(options), "loss": named}, "student": checkpoint.shapes(model), "planned": planned,
    }  # fmt: skip


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)


def _seed_all(seed: int, step: int, device: torch.device) -> None:
    """What the student draws in this step (dropout) follows from the step; torch's state is restored after the run."""
    number = (seed * 0x9E3779B1 + step) % 2**63
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)


def _name(loss: Any) -> str:
    """A function's name, or an objective's options: no address, which would differ from process to process."""
    return str(getattr(loss, "__qualname__", None) or repr(loss))
