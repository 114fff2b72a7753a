"""l1_project and l1_step of the cuda and cupy backends: csrc/cuda/l1_project.cuh and l1_step.cuh."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .backend import Bounds, Scalar
from .launch import Samples, Session, doubles, pack, per_sample, samples
from .reference_l1 import ROUNDS

_STATE, _SUMS = 7, 4  # doubles in L1State and L1Sums
_CHOICE, _RADIX = 4, 256  # words of L1Choice, bins of a digit
_DIGITS = {torch.float32: 4, torch.float64: 8, torch.float16: 3, torch.bfloat16: 2}  # as in l1_step.h


def functions(session: Session) -> dict[str, Callable[..., None]]:
    """The fields of Backend that this file fills."""

    def kernels(like: Tensor, at: Samples, stem: str) -> Callable[[str, list[int | float]], None]:
        def run(part: str, words: list[int | float]) -> None:
            name = f"{stem}_{part}" if part else stem
            with session(like.device) as launch:
                launch(stem, f"{name}_kernel<{at.storage}>", at.batch * at.tiles, pack([*at.words, *words]))

        return run

    def l1_project(adv: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, bounds: Bounds) -> None:
        with samples(adv, origin, mask=mask, summed=True) as at:
            states = doubles(adv, 2 * at.batch * _STATE)
            partials = doubles(adv, 2 * at.batch * at.tiles * _SUMS)
            words = [*per_sample(eps), *map(float, bounds), states.data_ptr(), partials.data_ptr()]
            run = kernels(adv, at, "l1_project")
            run("sums", [*words, 0])
            for number in range(ROUNDS):
                run("round", [*words, number])
            run("", [*words, ROUNDS])

    def l1_step(
        adv: Tensor, grad: Tensor, origin: Tensor, mask: Tensor | None, eps: Scalar, step: Scalar, keep: Scalar,
        bounds: Bounds,
    ) -> None:  # fmt: skip
        digits = _DIGITS[adv.dtype]
        choices = torch.empty(len(adv) * digits * _CHOICE, dtype=torch.int64, device=adv.device)
        bins = torch.zeros(len(adv) * digits * _RADIX, dtype=torch.int64, device=adv.device)
        select = [*per_sample(keep), choices.data_ptr(), bins.data_ptr(), digits]
        with samples(grad, mask=mask, summed=True) as at:
            for digit in range(digits):
                kernels(adv, at, "l1_step")("count", [*select, digit])
        with samples(adv, grad, mask=mask, summed=True) as at:
            kernels(adv, at, "l1_step")("", [*per_sample(step), *select])
        l1_project(adv, origin, mask, eps, bounds)

    return {"l1_project": l1_project, "l1_step": l1_step}
