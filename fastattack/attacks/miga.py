"""MIGA: the restored image stays clean to the eye and says something else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import engine
from ..engine import Model
from ..engine.schedule import number_of
from ..guard import fresh, left_as_found, rows_of
from ..inputs import check_input
from ..models.weights import cache_dir
from ..objectives import Objective, cross_entropy, deviation_target, lpips, ssim
from ..objectives.semantic import Meant, Weight, scheduled, semantic
from .base import Attack, AttackResult, Options, Unpack
from .pipeline import Pipeline, judge, right

_PERCEPTUAL = "'ssim', 'ms-ssim', 'lpips', a function of two batches of images, or None"
FEW, SOME = 4, 16
"""A task model that is right on none of the first SOME samples, FEW at least, may want other images."""


class MIGA(Attack):
    """MIGA (arXiv 2503.06966): goes down lambda_mi L_MI + lambda_rec L_rec + lambda_com L_com over |y' - y|_p <= eps.

    L_rec = mse + perceptual of D(y') beside D(y) keeps the output clean, L_com the same of y' beside y keeps the input
    close, and L_MI takes the meaning out of the output. With a ``task`` model T, L_MI is minus its loss on T(D(y')) and
    the labels, or its loss on the wanted ``target``. Called as attack(noisy, labels), or as attack(noisy) to a target.
    The paper's objective as this project reads it; images in [0, 1].

    The best iterate by L is returned. Weights that change with the steps make the L of two steps two functions: then it
    is the last one.

    Args:
        denoiser: called as denoiser(y); one model.
        task: a differentiable model of what the output is for, called on D(y').
        eps: radius on the scale of the images; a float or (B,).
        lambda_mi, lambda_rec, lambda_com: weights of the losses: a number >= 0 (0 leaves the loss out), a pair (first,
            last) that is walked in a straight line, or a function of (step, steps).
        perceptual: "ssim" or "ms-ssim" (`fastattack.objectives`), "lpips", a function of two batches of images that
            gives one distance for each sample, or None.
        lpips_weights: file of LPIPS's linear layers; None means lpips_alex.pth (or _vgg) in $FASTATTACK_CACHE.
        lpips_net: "alex", "vgg" or a feature network, see `fastattack.objectives.lpips`.
        task_loss: of (T(D(y')), labels), one for each sample; None means cross_entropy.
        target: what the task model shall say: a class, or a tensor with a row for each sample as task_loss takes it.
        preserve_noise: keep mean and norm of the noise; needs ``clean=`` in the call.
        sigma: standard deviation of the noise on the scale of the images, for the typicality in the result, or None.
        options: see `fastattack.attacks.base.Options`, without objective, targeted and ensemble.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
        FileNotFoundError: no weights for LPIPS where they are looked for.
    """

    def __init__(
        self,
        denoiser: Model,
        task: Callable[[Tensor], Any] | None = None,
        *,
        eps: float | Tensor,
        lambda_mi: Weight = 1.0,
        lambda_rec: Weight = 1.0,
        lambda_com: Weight = 1.0,
        perceptual: str | Objective | None = "ssim",
        lpips_weights: str | Path | None = None,
        lpips_net: Any = "alex",
        task_loss: Objective | None = None,
        target: int | Tensor | None = None,
        preserve_noise: bool = False,
        sigma: float | Tensor | None = None,
        **options: Unpack[Options],
    ) -> None:
        _check_model(denoiser, "denoiser")
        _check_model(task, "task")
        for name in ("objective", "targeted", "ensemble"):
            if name in options:
                hint = "; target= says where to" if name == "targeted" else ""
                raise TypeError(f"MIGA: {name} has no place here{hint}")
        weights = (lambda_mi, lambda_rec, lambda_com)
        _check_weights(weights)
        if task_loss is not None and not callable(task_loss):
            raise TypeError(f"task_loss: wanted a function of (verdict, labels), got {type(task_loss).__name__}")
        _check_target(target)
        base = semantic(
            task_loss=cross_entropy if task_loss is None else task_loss,
            perceptual=perceptual_of(perceptual, lpips_weights, lpips_net),
            towards=target is not None,
        )
        changing = any(not isinstance(w, (int, float)) for w in weights)
        whole = scheduled(base=base, weights=weights)
        self.denoiser, self.task, self.wanted = denoiser, task, target
        self.uses_task = changing or lambda_mi != 0
        pipeline = Pipeline(denoiser, task if self.uses_task else None)
        self.compose(
            pipeline, options, objective=whole if changing else whole.at(0, 1), eps=eps, steps=20,
            keep="last" if changing else "best", preserve_noise=preserve_noise, sigma=sigma,
        )  # fmt: skip

    def __call__(self, x: Tensor, target: Any = None, **options: Any) -> Tensor:
        """The adversarial inputs alone; arguments as for `run`."""
        return super().__call__(x, target, **options)

    def run(self, x: Tensor, target: Any = None, **options: Any) -> AttackResult:
        """Attack the batch x.

        Args:
            x: (B, C, H, W) float, noisy images.
            target: what the output shall no longer say: labels (B,), or what task_loss takes; None to a target of MIGA.
            options: see `fastattack.attacks.base.Attack.run`.

        Raises:
            TypeError, ValueError, NonFiniteError, MemoryError: as there; the message names the argument.
        """
        return super().run(x, target, **options)

    def _outcome(self, x: Tensor, target: Any, **options: Any) -> engine.Outcome:
        return super()._outcome(x, self.meant(x, target), **options)

    def meant(self, noisy: Tensor, labels: Any) -> Meant:
        """What the attack on ``noisy`` compares with; the models are left as found."""
        check_input(noisy, self.threat.bounds)
        plan = self.schedule
        meaning = self._meaning(labels, noisy)
        restored = deviation_target(self.denoiser, noisy, eval_mode=plan.eval_mode, max_batch=plan.max_batch)
        if self.wanted is None and self.task is not None and self.uses_task:
            with torch.inference_mode(False), torch.no_grad():
                few = restored[: min(SOME, plan.max_batch or SOME)]
                with left_as_found(self.task, few.device, eval_mode=plan.eval_mode):
                    _warn_if_lost(right(judge(self.task, few), rows_of(meaning, slice(len(few)), len(noisy))))
        return Meant(fresh(noisy), restored, meaning)

    def _meaning(self, labels: Any, noisy: Tensor) -> Any:
        wanted = labels if self.wanted is None else self.wanted
        if wanted is None and self.uses_task:
            raise ValueError("labels: wanted what the task model shall no longer say, or target= in MIGA, got neither")
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            return torch.full((noisy.shape[0],), wanted, device=noisy.device)
        if not isinstance(wanted, Tensor):
            return wanted
        if wanted.dim() == 0 or wanted.shape[0] != noisy.shape[0]:
            name = "labels" if self.wanted is None else "target"
            raise ValueError(f"{name}: wanted {noisy.shape[0]} rows, one for each sample, got {tuple(wanted.shape)}")
        return fresh(wanted)


def _warn_if_lost(hits: Tensor | None) -> None:
    if hits is not None and len(hits) >= FEW and not bool(hits.any()):
        warnings.warn(
            f"task: right on none of the first {len(hits)} samples before the attack; does it want images of another "
            "size, range or normalisation?",
            stacklevel=6,
        )


def _check_model(model: Any, name: str) -> None:
    """One model, or for the task none."""
    if model is None and name == "task":
        return
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"{name}: wanted one model, called as {name}(images), got {_told(model)}")


def _told(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _check_weights(weights: tuple[Weight, Weight, Weight]) -> None:
    """Numbers >= 0 at the ends of the walk, not all of them 0 throughout."""
    for name, weight in zip(("lambda_mi", "lambda_rec", "lambda_com"), weights, strict=True):
        if isinstance(weight, tuple) and len(weight) != 2:
            raise ValueError(f"{name}: wanted a number, (first, last) or a function, got {len(weight)} numbers")
        if callable(weight):
            continue
        for number in weight if isinstance(weight, tuple) else (weight,):
            if not 0 <= number_of(number, name) < math.inf:
                raise ValueError(f"{name}: wanted a finite weight >= 0, got {number!r}")
    if all(not callable(w) and not any(w if isinstance(w, tuple) else (w,)) for w in weights):
        raise ValueError("lambda_mi, lambda_rec, lambda_com: wanted one above 0 at least, got 0 for all")


def _check_target(target: Any) -> None:
    if target is None or (isinstance(target, int) and not isinstance(target, bool)):
        return
    if not isinstance(target, Tensor):
        raise TypeError(f"target: wanted a class, a tensor with a row for each sample, or None, got {_told(target)}")


def perceptual_of(kind: str | Objective | None, weights: str | Path | None, net: Any) -> Objective | None:
    """The perceptual distance that is meant; never another one in its place."""
    if weights is not None and kind != "lpips":
        raise ValueError(f"lpips_weights: wanted None where perceptual is not 'lpips', got {str(weights)!r}")
    if kind is None or (callable(kind) and not isinstance(kind, type)):
        return kind
    if kind == "ssim":
        return ssim()
    if kind != "lpips":
        raise ValueError(f"perceptual: wanted {_PERCEPTUAL}, got {kind!r}")
    if weights is None:
        name = net if isinstance(net, str) else "alex"
        weights = cache_dir() / f"lpips_{name}.pth"
        if not weights.is_file():
            raise FileNotFoundError(
                f"lpips_weights: wanted the file of LPIPS's linear layers ({name}.pth of its version 0.1) here or as "
                f"{weights}, where there is none; perceptual='ssim' needs no weights"
            )
    return lpips(weights, net=net)
