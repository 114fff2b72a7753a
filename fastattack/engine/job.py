"""One micro-batch with everything resolved: checked once, then only kernels run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..guard import rows_of
from ..objectives import Objective
from ..ops import l1
from ..ops.backend import Backend, Bounds, Scalar
from ..threat import Threat
from .schedule import Schedule
from .source import Moment, Source


@dataclass
class Job:
    """The samples, their threat, and the best that was found for each."""

    source: Source
    objective: Objective
    schedule: Schedule
    threat: Threat
    origin: Tensor
    target: Any
    clean: Tensor | None
    mask: Tensor | None
    eps: Scalar
    step: Scalar
    share: Scalar
    bounds: Bounds
    table: Backend
    ids: Tensor
    judged: bool = True
    begin: Tensor | None = None
    enough: float | None = None
    best: Tensor = field(init=False)
    best_loss: Tensor = field(init=False)
    best_value: Tensor = field(init=False)
    best_success: Tensor = field(init=False)
    best_step: Tensor = field(init=False)
    best_restart: Tensor = field(init=False)
    used: Tensor = field(init=False)
    bad: Tensor = field(init=False)
    reference: Tensor = field(init=False)
    reference_success: Tensor = field(init=False)
    stale: Tensor = field(init=False)
    grid_buffer: Tensor | None = field(init=False, default=None)

    STATE = ("best", "best_loss", "best_value", "best_success", "best_step", "best_restart", "used", "bad")

    def __post_init__(self) -> None:
        device = self.origin.device
        self.best = self.origin.clone(memory_format=torch.preserve_format)
        self.best_loss = torch.full((self.batch,), float("nan"), dtype=torch.float64, device=device)
        self.best_value = torch.full_like(self.best_loss, float("-inf"))
        self.best_success = torch.zeros(self.batch, dtype=torch.bool, device=device)
        self.best_step = torch.full((self.batch,), -1, dtype=torch.int64, device=device)
        self.best_restart = torch.zeros_like(self.best_step)
        self.used = torch.zeros_like(self.best_step)
        self.bad = torch.full_like(self.best_step, -1)
        self.reference = self.best_value.clone()
        self.reference_success = self.best_success.clone()
        self.stale = torch.zeros_like(self.best_step)

    @property
    def batch(self) -> int:
        return self.origin.shape[0]

    @property
    def sign(self) -> float:
        """-1 where the objective is minimised."""
        return -1.0 if self.schedule.minimise else 1.0

    @property
    def norm(self) -> str:
        return self.threat.norm

    # -- geometry ------------------------------------------------------------------------------------------------------

    def start(self, adv: Tensor, restart: int) -> None:
        """adv <- the given start (in the first restart), a random point of the threat, or its centre."""
        if self.begin is not None and restart == 0:
            self.project(adv.copy_(self.begin))
        elif self.schedule.random_start:
            seed = self.schedule.restart_seed(restart)
            l1.random_start(
                self.table, adv, self.origin, self.norm, self.eps, self.bounds, seed, self.ids, mask=self.mask
            )
            if (self.mask is not None and self.norm != "l1") or self.threat.zero_mean:
                self.project(adv)
        else:
            adv.copy_(self.origin)
        self.keep_noise(adv)

    def move(self, adv: Tensor, grad: Tensor, step: Scalar | None = None) -> None:
        """adv <- P(adv + step * direction(grad))."""
        length = self.step if step is None else step
        if self.threat.zero_mean:  # a step along the hyperplane stays on it, and so does the way back into the ball
            self.table.zero_mean_step(adv, grad, self.origin, self.eps, length)
        elif self.norm == "l1":
            self.table.l1_step(adv, grad, self.origin, self.mask, self.eps, length, self.share, self.bounds)
        else:
            self.table.pgd_step(adv, grad, self.origin, self.mask, self.norm, self.eps, length, self.bounds)
        self.changed(adv)

    def project(self, adv: Tensor, eps: Scalar | None = None) -> None:
        """adv <- P(adv), onto ball, bounds, mask and zero mean; not onto the noise's mean and norm."""
        radius = self.eps if eps is None else eps
        if self.threat.zero_mean:
            self.table.zero_mean_step(adv, None, self.origin, radius, 0.0)
        else:
            l1.project(self.table, adv, self.origin, self.mask, self.norm, radius, self.bounds)

    def keep_noise(self, adv: Tensor) -> None:
        """adv <- the nearest point whose noise has the mean and norm of the original noise, where the threat asks."""
        if self.clean is not None:
            self.table.preserve_noise(adv, self.origin, self.clean, self.norm, self.eps)

    def changed(self, adv: Tensor) -> None:
        """After a step by a kernel that autograd did not see."""
        torch.autograd.graph.increment_version(adv)
        self.keep_noise(adv)

    def on_grid(self, adv: Tensor) -> Tensor:
        """adv, or where the threat has a grid its nearest point of the grid inside the threat, in a buffer."""
        if self.threat.grid is None:
            return adv
        if self.grid_buffer is None:
            self.grid_buffer = torch.empty_like(adv)
        self.grid_buffer.copy_(adv)
        self.table.quantise(
            self.grid_buffer, self.origin, self.mask, self.norm, self.eps, self.threat.grid, self.bounds
        )
        return self.grid_buffer

    # -- losses --------------------------------------------------------------------------------------------------------

    def moment(self, step: int, restart: int) -> Moment:
        return Moment(self.schedule.restart_seed(restart), step, self.ids)

    def _objective(self, step: int) -> Objective:
        """The objective of this step: some change with the steps (SegPGD)."""
        at = getattr(self.objective, "at", None)
        return self.objective if at is None else at(step, self.schedule.steps)

    def value(self, x: Tensor, step: int, restart: int) -> Tensor:
        with torch.no_grad():
            return self.source.value(x, self.target, self._objective(step), self.moment(step, restart))

    def gradient(self, x: Tensor, step: int, restart: int) -> tuple[Tensor, Tensor]:
        loss, grad = self.source.gradient(x, self.target, self._objective(step), self.moment(step, restart))
        return loss, grad.contiguous() if grad.dim() > 5 else grad  # kernels walk four inner dimensions

    def watch(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        """Remember the first step at which a sample's loss or gradient was not finite."""
        odd = loss - loss  # 0, but NaN for what is not finite; isfinite() is four ops
        if grad is not None:
            inner = tuple(range(1, grad.dim()))
            top, low = grad.amax(inner), grad.amin(inner)  # each lets a NaN through
            odd = odd + (top - top) + (low - low)
        self.bad = self.bad.masked_fill((self.bad < 0) & (odd != 0), step)

    def count(self) -> None:
        """One more step or query for each sample that has not ended."""
        self.used += 1 if self.schedule.stop is None else ~self.finished()

    # -- the best so far -----------------------------------------------------------------------------------------------

    def take(
        self, x: Tensor, loss: Tensor, score: tuple[Tensor | None, Tensor], step: int, restart: int, *,
        always: bool = False,
    ) -> None:  # fmt: skip
        """Keep x where it is the best so far (``always``: where it is the last of the first restart)."""
        success, value = score
        better = (value > self.best_value) | (self.best_step < 0)
        if success is not None:
            better = torch.where(success == self.best_success, better, success)
        if always and restart == 0:
            better = torch.ones_like(better)
        if self.schedule.stop is not None:  # ended, also while its batch goes on
            better = better & ~self.finished()
        found = self.best_success if success is None else torch.where(better, success, self.best_success)
        numbers = (
            torch.where(better, loss.double(), self.best_loss), torch.where(better, value, self.best_value), found,
            self.best_step.masked_fill(better, step), self.best_restart.masked_fill(better, restart),
        )  # fmt: skip
        wide = better.reshape(-1, *[1] * (x.dim() - 1))
        # No call between these two lines: an interrupt, let in at calls, finds images and numbers that agree.
        self.best_loss, self.best_value, self.best_success, self.best_step, self.best_restart = numbers
        torch.where(wide, x, self.best, out=self.best)
        if self.schedule.stop == "converged":
            self._age(success, value)

    def _age(self, success: Tensor | None, value: Tensor) -> None:
        """Count the steps since this restart last rose by more than the tolerance, or first succeeded."""
        rise = self.schedule.tolerance * self.reference.abs().nan_to_num(posinf=0.0)
        rose = value > self.reference + rise
        if success is not None:
            rose = torch.where(success == self.reference_success, rose, success)
        rose = rose & ~self.finished()  # a sample that has ended does not come back
        if success is not None:
            self.reference_success = torch.where(rose, success, self.reference_success)
        self.reference = torch.where(rose, value, self.reference)
        self.stale = torch.where(rose, 0, self.stale + 1)

    def settle(self, loss: Tensor, score: tuple[Tensor | None, Tensor]) -> None:
        """The best again, as the exact loss sees it, where there is one."""
        there = self.best_step >= 0
        self.best_loss = torch.where(there, loss.double(), self.best_loss)
        self.best_value = torch.where(there, score[1], self.best_value)
        if score[0] is not None:
            self.best_success = there & score[0]

    def finished(self) -> Tensor:
        """(B,) bool: samples that need no further step of this restart."""
        if self.schedule.stop == "success":
            threshold = self.schedule.threshold
            assert threshold is not None, "checked by the schedule"
            if self.enough is not None:  # a perturbation of this size, in a search for the smallest
                return self.best_success & (self.best_value >= -self.enough)
            return (self.best_loss - threshold) * self.sign > 0
        return self.stale >= self.schedule.patience

    def fresh_start(self) -> None:
        """A new restart has not converged, whatever the ones before it reached."""
        self.reference = torch.full_like(self.reference, float("-inf"))
        self.reference_success = torch.zeros_like(self.reference_success)
        self.stale = torch.zeros_like(self.stale)

    def rows(self, index: Tensor) -> Job:
        """A job of fewer samples, with what was found for them."""

        names = ("origin", "target", "clean", "mask", "eps", "step", "share", "ids", "begin")
        found = replace(self, **{name: rows_of(getattr(self, name), index, self.batch) for name in names})
        for name in (*self.STATE, "reference", "reference_success", "stale"):
            setattr(found, name, rows_of(getattr(self, name), index, self.batch))
        return found

    def adopt(self, part: Job, index: Tensor) -> None:
        """Take over what ``rows(index)`` found since."""
        for name in self.STATE:
            getattr(self, name).index_copy_(0, index, getattr(part, name))
