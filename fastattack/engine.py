"""The attack loop: start, gradient, step, best so far. The only one in the project.

Nothing in the loop waits for the device: the best iterate and the search for non-finite numbers live in tensors that
are read once, at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .guard import fresh, left_as_found
from .inputs import check_clean, check_input, check_target, dense
from .objectives import Objective
from .ops import check
from .ops.backend import Backend, Bounds, Scalar
from .ops.dispatch import known_backend, resolve
from .threat import Threat

Model = Callable[[Tensor], Any]


class NonFiniteError(ArithmeticError):
    """A loss or gradient was NaN or infinite; the message names step and sample."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the loop walks.

    Attributes:
        steps: gradient steps for each restart, >= 1.
        step: length of a step on the scale of the images, a float or (B,); None means 2 eps / steps.
        random_start: start at a uniform point of the ball instead of its centre.
        restarts: independent starts; the best of all is kept.
        minimise: go down the objective instead of up (targeted attacks).
        keep: "best" returns each sample's best iterate, the last one included, at the price of one more forward pass;
            "last" returns the last.
        seed: of the random starts.
        max_batch: at most this many samples at a time go through the model; None means all.
        eval_mode: run the model in eval mode (its flags are restored); False attacks it in the mode that it is in.
        backend: see fastattack.ops.
    """

    steps: int = 10
    step: float | Tensor | None = None
    random_start: bool = True
    restarts: int = 1
    minimise: bool = False
    keep: str = "best"
    seed: int = 0
    max_batch: int | None = None
    eval_mode: bool = True
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("restarts", self.restarts), ("max_batch", self.max_batch)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: wanted a whole number >= 1, got {value!r}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts: wanted 1 where random_start=False (every restart would be the same)")
        if self.keep not in ("best", "last"):
            raise ValueError(f"keep: wanted 'best' or 'last', got {self.keep!r}")
        check.seed_of(self.seed)
        known_backend(self.backend)


@dataclass(frozen=True)
class Progress:
    """What a progress callback sees after each gradient; ``loss`` is (B,) on the device, reading it waits for it."""

    step: int
    steps: int
    restart: int
    first_sample: int
    loss: Tensor


@dataclass(frozen=True)
class Outcome:
    """What the loop returns: (B, ...) adversarial; loss, best_step and best_restart (B,)."""

    adversarial: Tensor
    loss: Tensor
    best_step: Tensor
    best_restart: Tensor
    seconds: float


@dataclass
class _Job:
    """One micro-batch with everything resolved: checked once, then only kernels run."""

    model: Model
    objective: Objective
    origin: Tensor
    target: Any
    clean: Tensor | None
    mask: Tensor | None
    zero_mean: bool
    norm: str
    eps: Scalar
    step: Scalar
    bounds: Bounds
    table: Backend
    ids: Tensor
    best: Tensor = field(init=False)
    best_loss: Tensor = field(init=False)
    best_step: Tensor = field(init=False)
    best_restart: Tensor = field(init=False)
    bad: Tensor = field(init=False)

    def __post_init__(self) -> None:
        batch, device = self.origin.shape[0], self.origin.device
        self.best = self.origin.clone(memory_format=torch.preserve_format)
        self.best_loss = torch.full((batch,), float("-inf"), dtype=torch.float64, device=device)
        self.best_step = torch.zeros(batch, dtype=torch.int64, device=device)
        self.best_restart = torch.zeros_like(self.best_step)
        self.bad = torch.full_like(self.best_step, -1)

    def start(self, adv: Tensor, seed: int) -> None:
        self.table.random_start(adv, self.origin, self.norm, self.eps, self.bounds, seed, self.ids)
        if self.mask is not None:
            self.table.project(adv, self.origin, self.mask, self.norm, self.eps, self.bounds)
        if self.zero_mean:
            adv.copy_(self.origin + without_mean(adv - self.origin))
        self.keep_noise(adv)

    def move(self, adv: Tensor, grad: Tensor) -> None:
        grad = grad.contiguous() if grad.dim() > 5 else grad
        if self.zero_mean:  # a step along the hyperplane stays on it, and so does the way back into the ball
            grad = without_mean(grad)
        self.table.pgd_step(adv, grad, self.origin, self.mask, self.norm, self.eps, self.step, self.bounds)
        torch.autograd.graph.increment_version(adv)
        self.keep_noise(adv)

    def keep_noise(self, adv: Tensor) -> None:
        if self.clean is not None:
            self.table.preserve_noise(adv, self.origin, self.clean, self.norm, self.eps)

    def loss(self, x: Tensor) -> Tensor:
        loss = self.objective(self.model(x), self.target)
        if not isinstance(loss, Tensor) or loss.shape != x.shape[:1]:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"objective: wanted one loss for each sample, shape ({x.shape[0]},), got {got}")
        return loss

    def gradient(self, adv: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, gradient) at adv, with respect to the input alone."""
        with torch.enable_grad():
            x = adv.detach().requires_grad_(True)
            loss = self.loss(x)
            if not loss.requires_grad:
                raise ValueError("model: wanted an output that depends on its input through autograd, got no gradient")
            (grad,) = torch.autograd.grad(loss.sum(), x, allow_unused=True)
        if grad is None:
            raise ValueError("model: wanted an output that depends on its input through autograd, got no gradient")
        return loss.detach(), grad

    def watch(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        """Remember the first step at which a sample's loss or gradient was not finite."""
        sound = loss.isfinite()
        if grad is not None:
            inner = tuple(range(1, grad.dim()))
            sound = sound & torch.linalg.vector_norm(grad, float("inf"), dim=inner).isfinite()
        self.bad = torch.where((self.bad < 0) & ~sound, step, self.bad)

    def take(self, adv: Tensor, loss: Tensor, step: int, restart: int, sign: float, *, always: bool = False) -> None:
        """Keep adv where it is the best so far (``always``: where it is the last)."""
        value = loss.double() * sign
        better = value > self.best_loss
        if always and restart == 0:
            better = torch.ones_like(better)
        self.best_loss = torch.where(better, value, self.best_loss)
        self.best_step = torch.where(better, step, self.best_step)
        self.best_restart = torch.where(better, restart, self.best_restart)
        wide = better.reshape(-1, *[1] * (adv.dim() - 1))
        torch.where(wide, adv, self.best, out=self.best)


def without_mean(x: Tensor) -> Tensor:
    """x (B, ...) less the mean of each sample."""
    inner = tuple(range(1, x.dim()))
    return x - x.mean(inner, keepdim=True)


def _run(job: _Job, schedule: Schedule, progress: Callable[[Progress], None] | None, first: int) -> None:
    sign = -1.0 if schedule.minimise else 1.0
    adv = job.origin.clone(memory_format=torch.preserve_format)
    for restart in range(schedule.restarts):
        if schedule.random_start:
            job.start(adv, (schedule.seed + restart * 0x9E3779B97F4A7C15) % 2**64)
        for step in range(schedule.steps):
            loss, grad = job.gradient(adv)
            job.watch(step, loss, grad)
            if schedule.keep == "best":
                job.take(adv, loss, step, restart, sign)
            if progress is not None:
                progress(Progress(step, schedule.steps, restart, first, loss))
            job.move(adv, grad)
            del grad
        with torch.no_grad():
            loss = job.loss(adv)
        job.watch(schedule.steps, loss, None)
        job.take(adv, loss, schedule.steps, restart, sign, always=schedule.keep == "last")


def _raise_if_bad(bad: Tensor, first: int) -> None:
    steps = bad.tolist()  # the one wait
    samples = [i for i, step in enumerate(steps) if step >= 0]
    if samples:
        worst = min(samples, key=lambda i: steps[i])
        also = f", and {len(samples) - 1} more samples" if len(samples) > 1 else ""
        raise NonFiniteError(
            f"model or objective: NaN or infinity at step {steps[worst]} for sample {first + worst}{also}"
        )


def _part(value: Any, rows: slice, batch: int) -> Any:
    """The rows of a per-sample tensor; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch:
        return value[rows]
    return value


def attack(
    model: Model,
    origin: Tensor,
    target: Any,
    *,
    objective: Objective,
    threat: Threat,
    schedule: Schedule,
    mask: Tensor | None = None,
    sample_ids: Tensor | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Run the loop.

    Args:
        model: called as model(x) on a batch; an nn.Module or any callable.
        origin: (B, ...) float, the input to attack.
        target: what the objective compares with; a tensor with B rows is cut into micro-batches, anything else passes.
            The clean images where threat.preserve_noise.
        mask: broadcastable to origin, 0 keeps the pixel.
        sample_ids: (B,) integers that name the samples for the random start; 0 .. B-1 by default.

    Raises:
        TypeError, ValueError: input, model or objective do not fit. NonFiniteError: NaN or infinity on the way.
    """
    began = time.perf_counter()
    check_input(origin, threat.bounds)
    clean = check_clean(target, origin, mask) if threat.preserve_noise else None
    if threat.zero_mean and mask is not None:
        raise ValueError("mask: wanted None with zero_mean=True (the mean is that of every pixel)")
    check_target(target)
    batch = origin.shape[0]
    table = resolve(origin.device, schedule.backend)
    eps = check.per_sample(threat.eps, "eps", origin, least=0.0, down=threat.norm == "linf")
    default = eps * (2.0 / schedule.steps)
    step = check.per_sample(default if schedule.step is None else schedule.step, "step", origin)
    step = -step if schedule.minimise else step
    where = check.mask_of(mask, origin)
    given = check.ids_of(sample_ids, origin)
    ids = torch.arange(batch, device=origin.device) if given is None else given
    bounds = check.bounds_of(threat.bounds, origin.dtype)
    size = schedule.max_batch or batch
    jobs = []
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        left_as_found(model, origin.device, eval_mode=schedule.eval_mode),
    ):
        source = dense(fresh(origin))
        goal = fresh(target) if isinstance(target, Tensor) else target
        known = None if clean is None else dense(fresh(clean))
        for first in range(0, batch, size):
            rows = slice(first, min(first + size, batch))
            job = _Job(
                model, objective, source[rows], _part(goal, rows, batch), None if known is None else known[rows],
                None if where is None else where[rows], threat.zero_mean, threat.norm, _part(eps, rows, batch),
                _part(step, rows, batch), bounds, table, ids[rows],
            )  # fmt: skip
            _run(job, schedule, progress, first)
            _raise_if_bad(job.bad, first)
            jobs.append(job)
    sign = -1.0 if schedule.minimise else 1.0
    best = [torch.cat(parts) if len(jobs) > 1 else parts[0] for parts in _columns(jobs)]
    return Outcome(best[0], best[1] * sign, best[2], best[3], time.perf_counter() - began)


def _columns(jobs: list[_Job]) -> list[list[Tensor]]:
    return [
        [job.best for job in jobs],
        [job.best_loss for job in jobs],
        [job.best_step for job in jobs],
        [job.best_restart for job in jobs],
    ]
