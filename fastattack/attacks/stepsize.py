"""The step size of APGD, kept on the device (Croce & Hein, arXiv 2003.01690, section 3.1 and algorithm 1).

Nothing here waits for the device: checkpoints depend on the iteration alone, all else stays in tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RHO = 0.75


def checkpoints(steps: int) -> tuple[int, ...]:
    """w_1 < w_2 < ... <= steps, where w_j = ceil(p_j steps), p_0 = 0, p_1 = 0.22 and
    p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).

    In hundredths and whole numbers: sums of such floats can lie above a whole number, and their ceiling one too high.
    """
    found, before, at = [], 0, 22
    while at <= 100:
        found.append(-(-at * steps // 100))
        before, at = at, at + max(at - before - 3, 6)
    return tuple(sorted(set(found)))


class Halving:
    """Halves a sample's step size where it no longer pays, and says which samples must restart from their best point.

    At a checkpoint w_j a sample's step is halved if, since w_{j-1}, fewer than ``rho`` of its iterations raised the
    loss (condition 1), or if neither its step nor its best loss has changed since w_{j-1} (condition 2; a step that was
    halved there has changed). The loss is maximised: who minimises passes its negative.

    Attributes:
        step: (B,) step sizes for the next iteration; replaced, never written in place.
        best: (B,) best loss so far. A NaN raises nothing and is never best.

    Raises:
        TypeError, ValueError: arguments that do not fit.
    """

    def __init__(self, steps: int, step: Tensor, loss: Tensor, *, rho: float = RHO) -> None:
        """
        Args:
            steps: iterations of the attack, N >= 1.
            step: (B,) first step sizes (2 eps, as published).
            loss: (B,) loss at the start, on the same device.
            rho: share of iterations that must raise the loss, 0 <= rho <= 1.
        """
        if isinstance(steps, bool) or not isinstance(steps, int):
            raise TypeError(f"steps: wanted an integer, got {type(steps).__name__} {steps!r}")
        if steps < 1:
            raise ValueError(f"steps: wanted an integer >= 1, got {steps}")
        if not isinstance(step, Tensor) or not step.is_floating_point() or step.dim() != 1:
            got = f"shape {tuple(step.shape)} {step.dtype}" if isinstance(step, Tensor) else type(step).__name__
            raise ValueError(f"step: wanted a floating tensor of shape (B,), got {got}")
        if not 0 <= rho <= 1:
            raise ValueError(f"rho: wanted a number from 0 to 1, got {rho}")
        self.step = step.detach().clone()
        self._require(loss)
        self.best = _unless_nan(loss.detach())
        self._rho = rho
        self._checkpoints = checkpoints(steps)
        self._last_checkpoint = 0
        self._iteration = 0
        self._loss = loss.detach().clone()
        self._raised = torch.zeros_like(step, dtype=torch.int64)
        self._step_then, self._best_then = self.step, self.best

    def _require(self, loss: Tensor) -> None:
        if loss.shape != self.step.shape or loss.device != self.step.device:
            raise ValueError(
                f"loss: wanted shape {tuple(self.step.shape)} on {self.step.device} as step has, "
                f"got {tuple(loss.shape)} on {loss.device}"
            )

    def tell(self, iteration: int, loss: Tensor) -> Tensor:
        """What came of an iteration.

        Args:
            iteration: 1, 2, ..., N in turn; 1 makes the first step.
            loss: (B,) at the points that this iteration reached.

        Returns:
            (B,) bool: samples that must now go on from their best point, with half the step. The loss there is then
            what the next one is compared with.
        """
        if iteration != self._iteration + 1:
            raise ValueError(f"iteration: wanted {self._iteration + 1}, got {iteration}")
        self._require(loss)
        self._iteration = iteration
        loss = loss.detach()
        self._raised = self._raised + (loss > self._loss)
        self.best = torch.where(loss > self.best, loss, self.best)
        self._loss = loss.clone()
        if iteration not in self._checkpoints:
            return torch.zeros_like(loss, dtype=torch.bool)
        return self._check(iteration)

    def _check(self, iteration: int) -> Tensor:
        few = self._raised < self._rho * (iteration - self._last_checkpoint)
        stuck = (self.step == self._step_then) & (self.best == self._best_then)
        halve = few | stuck
        self._step_then, self._best_then = self.step, self.best
        self.step = torch.where(halve, self.step / 2, self.step)
        self._loss = torch.where(halve, self.best, self._loss)
        self._raised = torch.zeros_like(self._raised)
        self._last_checkpoint = iteration
        return halve


def _unless_nan(loss: Tensor) -> Tensor:
    return torch.where(loss.isnan(), -math.inf, loss)
