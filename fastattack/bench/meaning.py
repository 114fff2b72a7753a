"""MIGA's trials: a step beside the passes of denoiser and task model alone, and beside a plain loop for its losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import attacks as fa
from ..objectives import cross_entropy
from . import loops
from .cases import Case, Loss
from .classifier import resnet18
from .judge import Judge, Run
from .trial import Trial, Way, Wrong

WEIGHTS = (100.0, 0.1, 0.1)
"""An untrained classifier's loss rises little: it has to be what decides, or rounding does."""
BANK = 64
NAMES = ("MIGA dncnn", "MIGA-unknown dncnn")


class Gray(nn.Module):
    """A classifier of colour images that is shown gray ones."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Any:
        return self.net(z.expand(-1, 3, -1, -1))


class Both(nn.Module):
    """(y, D(y), T(D(y))): what the losses are made of."""

    def __init__(self, denoiser: nn.Module, task: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.task = denoiser, task

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor, Any]:
        restored = self.denoiser(y)
        return y, restored, self.task(restored)


def _bell(like: Tensor) -> Tensor:
    line = torch.tensor([math.exp(-0.5 * ((i - 5) / 1.5) ** 2) for i in range(11)])
    return (line / line.sum()).to(like)[None, None, None].expand(like.shape[1], 1, 1, 11)


def dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM as one writes it with two depthwise convolutions."""
    window, channels = _bell(a), a.shape[1]

    def blur(t: Tensor) -> Tensor:
        rows = functional.conv2d(t, window, groups=channels)
        return functional.conv2d(rows, window.transpose(2, 3), groups=channels)

    u, v = blur(a), blur(b)
    spread, shared = blur(a * a) - u * u + blur(b * b) - v * v, blur(a * b) - u * v
    c, d = 0.01**2, 0.03**2
    found = (2 * u * v + c) * (2 * shared + d) / ((u * u + v * v + c) * (spread + d))
    return 1 - found.flatten(1).mean(1)


def by_hand(noisy: Tensor, restored: Tensor, labels: Tensor) -> Loss:
    """MIGA's loss of labels, its sign turned, in plain PyTorch."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(1) + dissimilarity(a, b)

    def loss(output: Any, _target: Tensor) -> Tensor:
        seen, image, logits = output
        entropy = functional.cross_entropy(logits, labels, reduction="none")
        mi, rec, com = WEIGHTS
        return mi * entropy - rec * distance(image, restored) - com * distance(seen, noisy)

    return loss


def known(case: Case) -> Case:
    """The case with a classifier behind the denoiser, whose classes are to be left."""
    model = Both(case.model, Gray(resnet18()).to(case.x.device)).eval()
    with torch.no_grad():
        _, restored, logits = model(case.x)
    labels = logits.argmax(1)
    return replace(case, model=model, target=labels, by_hand=by_hand(case.x, restored, labels))


def ours(case: Case, **speed: Any) -> Run:
    """Plain steps and the last iterate, as the loop has them."""
    assert isinstance(case.model, Both)
    mi, rec, com = WEIGHTS
    attack = fa.MIGA(
        case.model.denoiser, case.model.task, eps=case.eps, steps=case.steps, step=case.step, lambda_mi=mi,
        lambda_rec=rec, lambda_com=com, task_loss=cross_entropy, adaptive=False, keep="last", **speed,
    )  # fmt: skip
    return Run(lambda: attack(case.x, case.target))


def passes(case: Case) -> Callable[[], None]:
    """Forward and backward through both models, and no loss but a sum."""

    def total(output: Any, _target: Any) -> Tensor:
        found: Tensor = output[-1].flatten(1).sum(1)
        return found

    return loops.passes(replace(case, by_hand=total))


def mined(case: Case, *, critic: bool = True) -> Run:
    """An unknown task: a critic with a trunk of its own, and a bank. No warm-up, which is no part of a step."""
    draw = torch.Generator().manual_seed(0)
    more: dict[str, Any] = {
        "bank": torch.rand(BANK, *case.x.shape[1:], generator=draw).to(case.x),
        "estimator": fa.Mining(warmup=0),
    }
    mi, rec, com = WEIGHTS
    attack = fa.MIGA(
        case.model, eps=case.eps, steps=case.steps, step=case.step, lambda_mi=mi if critic else 0, lambda_rec=rec,
        lambda_com=com, adaptive=False, keep="last", **(more if critic else {}),
    )  # fmt: skip
    return Run(lambda: attack(case.x, case.target))


def inside(case: Case, call: Callable[[], Any]) -> float:
    """Raises `Wrong` for what is not finite, not in the ball, or still the input: there is no loss to compare."""
    found = call()
    reach = float((found - case.x).abs().max())
    if not 0 < reach <= case.eps:  # NaN is neither
        raise Wrong(f"reached {reach:g} from the input, wanted above 0 and at most {case.eps:g}")
    return 0.0


def trial_of(name: str, case: Case) -> Trial:
    """The trial of one of NAMES; ``case``: of a denoiser."""
    options: dict[str, Any] = {
        "suite": "attacks", "case": name, "dtype": str(case.x.dtype).removeprefix("torch."),
        "shape": tuple(case.x.shape),
    }  # fmt: skip
    if name.startswith("MIGA-unknown"):
        ways = [
            Way("ours without the critic", "plain", partial(mined, case, critic=False)),
            Way("ours", "ours", partial(mined, case)),
        ]
        floor = loops.passes(case)
        return Trial(**options, ways=ways, judge=partial(inside, case), floor=floor, floor_name="passes of the model")
    made = known(case)
    ways = [
        Way("plain", "plain", partial(loops.pgd, made)),
        Way("plain channels_last", "plain", partial(loops.pgd, made, form=loops.CHANNELS_LAST)),
        Way("ours", "ours", partial(ours, made)),
    ]
    judge = Judge(made, loops.pgd(made))
    return Trial(**options, ways=ways, judge=judge, floor=passes(made), floor_name="passes of both models")
