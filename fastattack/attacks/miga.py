"""MIGA: the restored image stays clean to the eye and says something else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import engine
from ..engine import Model, Rule, Steepest
from ..guard import fresh, left_as_found, rows_of
from ..inputs import check_clean, check_input, check_target, misfit, out_of_memory, told
from ..objectives import Objective, cw_margin, deviation_target
from ..objectives.named import perceptual_of
from ..objectives.semantic import Meant, Weight, scheduled, semantic
from .apgd import MomentumWalk
from .base import Attack, AttackResult, Options, Unpack
from .miga_checks import check_meaning, check_model, check_options, check_radius, check_scale, check_weights
from .mining import Examples, Mining, Original, features_of, information
from .pipeline import Pipeline, judge, right

FEW, SOME = 4, 16
"""A task model that is right on none of the first SOME samples, FEW at least, may want other images."""


class MIGA(Attack):
    """MIGA (arXiv 2503.06966): goes down lambda_mi L_MI + lambda_rec L_rec + lambda_com L_com over |y' - y|_p <= eps.

    L_rec = mse + perceptual of D(y') beside D(y) keeps the output clean, L_com the same of y' beside y keeps the input
    close, and L_MI takes the meaning out of the output: the paper's objective as read here. Images in [0, 1].

    **Known task**: with a ``task`` model T, L_MI is minus its loss on T(D(y')) and the labels, or its loss on the
    wanted ``target``. Called as attack(noisy, labels), or as attack(noisy) to a target. The steps are APGD's, from y
    itself, and the best iterate by L is returned.

    **Unknown task**: without, L_MI is an estimate of the information that D(y') has of the clean image (MINE, arXiv
    1801.04062), by a critic trained beside the attack: see `fastattack.attacks.Mining`. Called as attack(noisy, clean).
    The estimates of two steps are those of two critics and do not compare, so the steps are plain and the last iterate
    is returned; the same holds where weights change with the steps.

    Args:
        denoiser: called as denoiser(y); one model.
        task: a differentiable model of what the output is for, called on D(y'); None: unknown.
        eps: radius on the scale of the images; a float or (B,).
        lambda_mi, lambda_rec, lambda_com: weights of the losses: a number >= 0 (0 leaves the loss out), a pair (first,
            last) that is walked in a straight line, or a function of (step, steps).
        perceptual: "ssim" or "ms-ssim" (`fastattack.objectives`), "lpips", a function of two batches of images that
            gives one distance for each sample, or None.
        lpips_weights: file of LPIPS's linear layers; None means lpips_alex.pth (or _vgg) in $FASTATTACK_CACHE.
        lpips_net: "alex", "vgg" or a feature network, see `fastattack.objectives.lpips`.
        task_loss: of (T(D(y')), labels), one for each sample. None means cw_margin(kappa=1): the paper's cross_entropy
            has no slope where the task model is sure, and what does not pay for L_rec at first stays where it is.
        target: what the task model shall say: a class, or a tensor with a row for each sample as task_loss takes it;
            labels in the call are not looked at then.
        estimator: for an unknown task: "dv", "infonce", "nwj", or a `fastattack.attacks.Mining` with more options.
        encoder: for an unknown task: a differentiable network that stands for it; the information is then that of its
            features of D(y') and of the clean image. None: the critic has a convolutional trunk of its own, which tells
            images apart but not what they mean: on digits it changed nothing (docs/results/miga.md).
        bank: for an unknown task: (N, C, H, W) more clean images like the attacked ones, that the critic learns from.
        adaptive: the steps of `fa.APGD`; None: yes where the losses of steps compare and the norm is "linf" or "l2".
        preserve_noise: keep mean and norm of the noise; with a known task it needs ``clean=`` in the call.
        sigma: standard deviation of the noise on the scale of the images, for the typicality in the result, or None.
        options: see `fastattack.attacks.base.Options`, without objective, targeted and ensemble; ``steps`` is 20.

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
        lambda_rec: Weight = 10.0,
        lambda_com: Weight = 1.0,
        perceptual: str | Objective | None = "ssim",
        lpips_weights: str | Path | None = None,
        lpips_net: Any = "alex",
        task_loss: Objective | None = None,
        target: int | Tensor | None = None,
        estimator: str | Mining | None = None,
        encoder: Callable[[Tensor], Any] | None = None,
        bank: Tensor | None = None,
        adaptive: bool | None = None,
        preserve_noise: bool = False,
        sigma: float | Tensor | None = None,
        **options: Unpack[Options],
    ) -> None:
        for name, model in (("denoiser", denoiser), ("task", task), ("encoder", encoder)):
            check_model(model, name)
        weights = (lambda_mi, lambda_rec, lambda_com)
        check_weights(weights)
        check_radius(eps, options.get("norm", "linf"))
        check_meaning(task, task_loss, target, estimator, encoder, bank)
        self.denoiser, self.task, self.encoder, self.bank, self.wanted = denoiser, task, encoder, bank, target
        self.means = callable(lambda_mi) or lambda_mi != 0
        constant = not any(callable(w) or isinstance(w, tuple) for w in weights)
        mined = self.means and task is None
        check_options(options, mined)
        if mined:
            self.wrap = estimator if isinstance(estimator, Mining) else Mining(estimator=estimator or "dv")
        whole = scheduled(
            base=semantic(
                task_loss=information if mined else task_loss or cw_margin(kappa=1.0, targeted=target is not None),
                perceptual=perceptual_of(perceptual, lpips_weights, lpips_net),
                towards=mined or target is not None,
            ),
            weights=weights,
        )
        comparable = constant and not mined
        seeing = (encoder if task is None else task) if self.means else None
        self.compose(
            Pipeline(denoiser, seeing, "encoder" if task is None else "task"), options,
            rule=_rule(adaptive, comparable, options), objective=whole.at(0, 1) if constant else whole, eps=eps,
            steps=20, random_start=False, keep="best" if comparable else "last", preserve_noise=preserve_noise,
            sigma=sigma,
        )  # fmt: skip

    def __call__(self, x: Tensor, target: Any = None, **options: Any) -> Tensor:
        """The adversarial inputs alone; arguments as for `run`."""
        return super().__call__(x, target, **options)

    def run(self, x: Tensor, target: Any = None, **options: Any) -> AttackResult:
        """Attack the batch x.

        Args:
            x: (B, C, H, W) float, noisy images.
            target: with a task model what it shall no longer say, labels (B,) or what task_loss takes, and None to a
                target of MIGA; without one the clean images (B, C, H, W).
            options: see `fastattack.attacks.base.Attack.run`.

        Raises:
            TypeError, ValueError, NonFiniteError, MemoryError: as there; the message names the argument.
        """
        return super().run(x, target, **options)

    def _outcome(self, x: Tensor, target: Any, **options: Any) -> engine.Outcome:
        check_input(x, self.threat.bounds)
        check_scale(x, "input")
        if self.task is None and options.get("clean") is None and isinstance(target, Tensor):
            options["clean"] = target
        if self.threat.preserve_noise and options.get("clean") is None:
            raise TypeError("clean: wanted the clean images with preserve_noise=True, got None")
        with torch.inference_mode(False), torch.no_grad():  # autograd cannot save what inference mode makes
            meant = self.meant(x, target)
        return super()._outcome(x, meant, **options)

    def meant(self, noisy: Tensor, labels: Any) -> Meant:
        """What the attack on ``noisy`` compares with; the models are left as found."""
        if not self.means:
            return Meant(fresh(noisy), self._restored(noisy), None)
        if self.task is None:
            clean = _clean_like(labels, noisy)
            restored = self._restored(noisy)
            return Meant(fresh(noisy), restored, self._original(noisy, fresh(clean), restored))
        meaning = self._wanted(labels, noisy)
        restored = self._restored(noisy)
        if self.wanted is None:
            _warn_if_lost(self.task, restored, meaning, self.schedule)
        return Meant(fresh(noisy), restored, meaning)

    def _restored(self, noisy: Tensor) -> Tensor:
        plan = self.schedule
        try:
            return deviation_target(self.denoiser, noisy, eval_mode=plan.eval_mode, max_batch=plan.max_batch)
        except (RuntimeError, TypeError, IndexError, AssertionError) as error:
            if out_of_memory(error):
                raise
            reason = misfit([self.denoiser], noisy, None) or told(error)
            raise ValueError(
                f"denoiser: wanted a model called as denoiser(y) that takes y {tuple(noisy.shape)} {noisy.dtype} on "
                f"{noisy.device} (fa.with_sigma is for model(y, sigma)), got {reason}"
            ) from error

    def _wanted(self, labels: Any, noisy: Tensor) -> Any:
        wanted = labels if self.wanted is None else self.wanted
        if wanted is None:
            raise ValueError("labels: wanted what the task model shall no longer say, or target= in MIGA, got neither")
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            return torch.full((noisy.shape[0],), wanted, device=noisy.device)
        if not isinstance(wanted, Tensor):
            return wanted
        if wanted.dim() == 0 or wanted.shape[0] != noisy.shape[0]:
            name = "labels" if self.wanted is None else "target"
            raise ValueError(f"{name}: wanted {noisy.shape[0]} rows, one for each sample, got {tuple(wanted.shape)}")
        return fresh(wanted)

    def _original(self, noisy: Tensor, clean: Tensor, restored: Tensor) -> Original:
        """The clean images, or their features, among the examples that the critic learns from."""
        place = torch.arange(len(clean), device=clean.device)
        if self.bank is None and len(clean) < 2:
            raise ValueError(
                "bank: wanted clean images beside a batch of one, since the information needs samples to tell apart, "
                "got None"
            )
        if self.bank is not None:
            bank = self._bank_like(clean)
            spread = (noisy - clean).flatten(1).std(1).mean()
            draw = torch.Generator().manual_seed(self.schedule.seed)
            noise = torch.randn(bank.shape, generator=draw).to(bank)
            restored = torch.cat([restored, self._restored(bank + spread * noise)])
            clean_and_bank = torch.cat([clean, bank])
        else:
            clean_and_bank = clean
        if self.encoder is None:
            return Original(clean, place, Examples(clean_and_bank, restored))
        with left_as_found(self.encoder, clean.device, eval_mode=self.schedule.eval_mode):
            most = self.schedule.max_batch
            known = features_of(self.encoder, clean_and_bank, most)
            return Original(known[: len(clean)], place, Examples(known, features_of(self.encoder, restored, most)))

    def _bank_like(self, clean: Tensor) -> Tensor:
        assert self.bank is not None
        if self.bank.shape[1:] != clean.shape[1:] or len(self.bank) == 0:
            raise ValueError(
                f"bank: wanted clean images (N, {', '.join(map(str, clean.shape[1:]))}) like the attacked ones, got "
                f"{tuple(self.bank.shape)}"
            )
        check_target(self.bank, "bank")
        return fresh(self.bank).to(clean)


def _rule(adaptive: bool | None, comparable: bool, options: Options) -> Rule:
    """APGD's steps need losses that compare, and a ball of which they know."""
    if adaptive is not None and not isinstance(adaptive, bool):
        raise TypeError(f"adaptive: wanted True, False or None, got {adaptive!r}")
    ball = options.get("norm", "linf") in ("linf", "l2") and not options.get("zero_mean", False)
    fits = comparable and options.get("keep", "best") == "best" and ball
    if adaptive and not fits:
        raise ValueError(
            "adaptive: wanted False or None where the losses of two steps do not compare (an unknown task, weights "
            "that change), or with keep='last', norm='l1' or zero_mean=True, got True"
        )
    return MomentumWalk if fits and adaptive is not False else Steepest


def _clean_like(clean: Any, noisy: Tensor) -> Tensor:
    if not isinstance(clean, Tensor):
        raise TypeError(f"target: wanted the clean images for an unknown task, got {type(clean).__name__}")
    check_target(clean)
    return check_clean(clean, noisy, None)


def _warn_if_lost(task: Callable[[Tensor], Any], restored: Tensor, labels: Any, schedule: engine.Schedule) -> None:
    few = restored[: min(SOME, schedule.max_batch or SOME)]
    with torch.inference_mode(False), torch.no_grad(), left_as_found(task, few.device, eval_mode=schedule.eval_mode):
        hits = right(judge(task, few), rows_of(labels, slice(len(few)), len(restored)))
    if hits is not None and len(hits) >= FEW and not bool(hits.any()):
        warnings.warn(
            f"task: right on none of the first {len(hits)} samples before the attack; does it want images of another "
            "size, range or normalisation?",
            stacklevel=6,
        )
