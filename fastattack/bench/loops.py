"""Whole attacks in plain PyTorch, as a careful user writes them: frozen weights, the gradient of the input alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .cases import Case
from .judge import EXACT, REDUCED, Run

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last


def frozen(model: nn.Module, form: torch.memory_format = CONTIGUOUS) -> nn.Module:
    """A copy of the model that gives the gradient of its input alone: its fastest form."""
    found: Any = copy.deepcopy(model).eval().requires_grad_(False)
    made: nn.Module = found.to(memory_format=form)
    return made


def losses(case: Case, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """(B,) of the images."""

    def of(adv: Tensor) -> Tensor:
        return case.by_hand(model(adv), case.target)

    return of


def gradient(loss: Callable[[Tensor], Tensor], adv: Tensor) -> tuple[Tensor, Tensor]:
    """The losses and their gradient."""
    adv.requires_grad_(True)
    found = loss(adv)
    (grad,) = torch.autograd.grad(found.sum(), adv)
    adv.requires_grad_(False)
    return found.detach(), grad


def passes(case: Case) -> Callable[[], None]:
    """The forward and backward passes that the attack needs, and nothing else."""
    loss, x = losses(case, frozen(case.model)), case.x.clone()

    def run() -> None:
        for _ in range(case.steps):
            gradient(loss, x)

    return run


def pgd(case: Case, form: torch.memory_format = CONTIGUOUS, *, bf16: bool = False) -> Run:
    """Steps in place. ``bf16``: the model under autocast."""
    model = frozen(case.model, form)
    origin = case.x.to(memory_format=form)
    ends = (origin - case.eps, origin + case.eps)  # of the ball and the bounds, once for all steps
    if case.bounds is not None:
        ends = (ends[0].clamp_(*case.bounds), ends[1].clamp_(*case.bounds))

    def low(adv: Tensor) -> Tensor:
        with torch.autocast(adv.device.type, dtype=torch.bfloat16, cache_enabled=False):
            output = model(adv)
        return case.by_hand(output.float(), case.target)

    loss = low if bf16 else losses(case, model)

    def run() -> Tensor:
        adv = origin.clone()
        for _ in range(case.steps):
            _, grad = gradient(loss, adv)
            adv.add_(grad.sign_(), alpha=case.step)
            adv.clamp_(*ends)
        return adv

    return Run(run, REDUCED["bf16"] if bf16 else EXACT)


def pgd_compiled(case: Case) -> Run:
    """torch.compile of the loss, whose backward pass is compiled with it, and of the step: two calls each time round.

    The compiler chooses the memory format.
    """
    loss = torch.compile(losses(case, frozen(case.model)), dynamic=False)

    @torch.compile(dynamic=False)
    def moved(adv: Tensor, grad: Tensor) -> Tensor:
        delta = (adv + case.step * grad.sign() - case.x).clamp(-case.eps, case.eps)
        return case.x + delta if case.bounds is None else (case.x + delta).clamp(*case.bounds)

    def run() -> Tensor:
        adv = case.x.clone()
        for _ in range(case.steps):
            _, grad = gradient(loss, adv)
            adv = moved(adv, grad)
        return adv

    return Run(run)


def apgd(case: Case, form: torch.memory_format = CONTIGUOUS) -> Run:
    """Algorithm 1 of arXiv 2003.01690 for the linf ball, from a random point; ``steps`` counts every gradient."""
    loss = losses(case, frozen(case.model, form))
    origin = case.x.to(memory_format=form)
    low, high = case.bounds or (-math.inf, math.inf)
    checks = periods(case.steps - 1)

    def inside(adv: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(adv, origin - case.eps), origin + case.eps).clamp(low, high)

    def run() -> Tensor:
        adv = inside(origin + case.eps * (2 * torch.rand_like(origin) - 1))
        value, grad = gradient(loss, adv)
        best = checked = value
        peak, slope, before, rises = adv, grad, adv, torch.zeros_like(value)
        size, reduced = torch.full_like(value, 2 * case.eps), torch.ones_like(value, dtype=torch.bool)
        for k in range(case.steps - 1):
            share = 0.75 if k else 1.0
            there = inside(adv + wide(size) * grad.sign())
            adv, before = inside(adv + share * (there - adv) + (1 - share) * (adv - before)), adv
            last, (value, grad) = value, gradient(loss, adv)
            rises = rises + (value > last)
            better = value > best
            best, peak, slope = (
                best.where(~better, value),
                peak.where(~wide(better), adv),
                slope.where(~wide(better), grad),
            )
            if k + 1 in checks:
                reduced = (rises <= 0.75 * checks[k + 1]) | (~reduced & (best <= checked))
                checked, rises, size = best, torch.zeros_like(rises), size.where(~reduced, size / 2)
                adv, grad = adv.where(~wide(reduced), peak), grad.where(~wide(reduced), slope)
        return peak

    return Run(run)


def wide(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


def periods(steps: int) -> dict[int, int]:
    """Step -> the number of steps since the last checkpoint, for each checkpoint: 22 % of all, then 3 % less each time
    and 6 % at least, as the authors' code has them."""
    period, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = {}, period
    while at <= steps:
        found[at] = period
        period = max(period - shorter, least)
        at += period
    return found
