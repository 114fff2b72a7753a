"""What an attack did to the meaning of restored images, and how far it can be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import metrics
from ..attacks.base import Attack
from ..attacks.miga_checks import check_scale
from ..attacks.pipeline import judge, right
from ..guard import left_as_found
from ..objectives.classify import LabelRange
from ..objectives.multiscale import most_scales

Call = Callable[[Tensor], Any]


@dataclass(frozen=True)
class SemanticChange:
    """Figures of each sample, (B,) float64 or bool; None where nothing was given to tell them by.

    Attributes:
        input_psnr, input_ssim, input_ms_ssim, input_lpips: of y' beside y; LPIPS is a distance.
        output_psnr, output_ssim, output_ms_ssim, output_lpips: of D(y') beside D(y).
        right_before, right_after: the task model's likeliest class of D(y), of D(y'), is the label; with texts: it
            reads the reference.
        success: right before and not after.
        text_before, text_after: ROUGE-L of what is read in D(y), in D(y'), beside the reference.
        semantic: cosine of an encoder's features of D(y') and D(y).
        scales: of the MS-SSIM: five where the images allow, else as many as fit.
    """

    input_psnr: Tensor
    input_ssim: Tensor
    input_ms_ssim: Tensor
    input_lpips: Tensor | None
    output_psnr: Tensor
    output_ssim: Tensor
    output_ms_ssim: Tensor
    output_lpips: Tensor | None
    right_before: Tensor | None
    right_after: Tensor | None
    success: Tensor | None
    text_before: Tensor | None
    text_after: Tensor | None
    semantic: Tensor | None
    scales: int

    def summary(self) -> dict[str, float]:
        """The mean of each figure; accuracies of right_*; success as the share of those that were right before.

        A sample whose input is as it was has an infinite PSNR: means of PSNR are over the others, and ``unmoved`` is
        the share of such samples.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        means = {name: _mean(v) for name, v in found.items() if isinstance(v, Tensor)}
        means["unmoved"] = float(self.input_psnr.isinf().double().mean())
        if self.success is not None and self.right_before is not None:
            before = int(self.right_before.sum())
            means["success"] = int(self.success.sum()) / before if before else float("nan")
        return means


def _mean(values: Tensor) -> float:
    """Over what is not infinite, where anything is not."""
    wide = values.double()
    finite = wide[~wide.isinf()]
    return float((finite if finite.numel() else wide).mean())


def semantic_change(
    denoiser: Call,
    task: Call | None,
    noisy: Tensor,
    adversarial: Tensor,
    labels: Tensor | Sequence[str] | None = None,
    *,
    read: Callable[[Any], Sequence[str]] | None = None,
    encoder: Call | None = None,
    lpips_weights: str | Path | None = None,
    lpips_net: Any = "alex",
    data_range: float = 1.0,
    max_batch: int | None = None,
) -> SemanticChange:
    """What became of D(y) when y became y': for the eye, and for a task model.

    Args:
        denoiser: called as denoiser(y).
        task: called on the denoised images; None without one.
        noisy, adversarial: y and y', (B, C, H, W), H and W at least 11.
        labels: (B,) classes, or B texts where ``read`` is given. None: what the task model makes of D(y) is right.
        read: B texts from the task model's output, for recognisers.
        encoder: images to features (B, ...), best not one that the attack has seen.
        lpips_weights, lpips_net: see `fastattack.metrics.lpips`; no LPIPS without weights.
        data_range: distance from black to white.
        max_batch: as many samples go through the models at a time; None means all.

    Raises:
        TypeError, ValueError: an argument does not fit, or the task model's output is neither logits (B, classes) nor
            read as texts; the message names it.
    """
    for name, images in (("noisy", noisy), ("adversarial", adversarial)):
        _check_images(images, name, data_range)
    if noisy.shape != adversarial.shape:
        raise ValueError(f"adversarial: wanted the shape {tuple(noisy.shape)} of noisy, got {tuple(adversarial.shape)}")
    before, after = (_outputs(denoiser, t, max_batch, "denoiser") for t in (noisy, adversarial))
    scales = max(1, min(most_scales(noisy.shape), most_scales(before.shape)))
    figures: dict[str, Any] = {}
    for name, a, b in (("input", adversarial, noisy), ("output", after, before)):
        figures[f"{name}_psnr"] = metrics.psnr(a, b, data_range)
        figures[f"{name}_ssim"] = metrics.ssim(a, b, data_range)
        figures[f"{name}_ms_ssim"] = metrics.ms_ssim(a, b, data_range, scales=scales)
        lpips = None if lpips_weights is None else metrics.lpips(a, b, weights=lpips_weights, net=lpips_net)
        figures[f"{name}_lpips"] = lpips
    told = _verdicts(task, before, after, labels, read, max_batch)
    semantic = None if encoder is None else _likeness(encoder, after, before, max_batch)
    return SemanticChange(**figures, **told, semantic=semantic, scales=scales)


def _check_images(images: Any, name: str, data_range: float) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name}: wanted a float tensor of images (B, C, H, W), got {got}")
    if not bool(images.isfinite().all()):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
    check_scale(images / data_range, name)


def _outputs(model: Call, x: Tensor, max_batch: int | None, name: str) -> Any:
    """(B, ...) of all batches; a task model's one batch as it is, for what is read may be no tensor."""
    found, parts = [], torch.split(x.detach(), max_batch or len(x))
    with torch.no_grad(), left_as_found(model, x.device, eval_mode=True):
        for part in parts:
            out = judge(model, part) if name == "task" else model(part)
            if name == "task" and len(parts) == 1:
                return out
            if not isinstance(out, Tensor) or out.dim() == 0 or len(out) != len(part):
                got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ValueError(f"{name}: wanted a tensor ({len(part)}, ...) as output, got {got}")
            found.append(out)
    return torch.cat(found)


def _likeness(encoder: Call, after: Tensor, before: Tensor, max_batch: int | None) -> Tensor:
    pairs = zip(*(torch.split(t, max_batch or len(t)) for t in (after, before)), strict=True)
    return torch.cat([metrics.semantic_similarity(a, b, encoder) for a, b in pairs])


def _verdicts(
    task: Call | None, before: Tensor, after: Tensor, labels: Any, read: Any, max_batch: int | None
) -> dict[str, Any]:
    names = ("right_before", "right_after", "success", "text_before", "text_after")
    if task is None:
        for name, value in (("labels", labels), ("read", read)):
            if value is not None:
                raise ValueError(f"{name}: wanted None without a task model, got {type(value).__name__}")
        return dict.fromkeys(names)
    first, second = (_outputs(task, t, max_batch, "task") for t in (before, after))
    if read is not None:
        return _as_texts(read(first), read(second), labels)
    if not isinstance(first, Tensor) or first.dim() != 2:
        got = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(f"task: wanted logits (B, classes), or read= for texts, got {got}")
    known = first.argmax(1) if labels is None else labels
    hits = [right(verdict, known) for verdict in (first, second)]
    if hits[0] is None or hits[1] is None:
        got = f"{tuple(known.shape)} {known.dtype}" if isinstance(known, Tensor) else type(known).__name__
        raise ValueError(f"labels: wanted integer classes ({len(first)},), got {got}")
    if bool(((known < 0) | (known >= first.shape[1])).any()):
        low, high = int(known.min()), int(known.max())
        raise LabelRange(f"labels: wanted classes from 0 to {first.shape[1] - 1}, got {low} to {high}")
    return {**dict.fromkeys(names), "right_before": hits[0], "right_after": hits[1], "success": hits[0] & ~hits[1]}


def _as_texts(first: Sequence[str], second: Sequence[str], labels: Any) -> dict[str, Any]:
    wanted = list(first) if labels is None else list(labels)
    if len(wanted) != len(first) or not all(isinstance(text, str) for text in wanted):
        raise ValueError(f"labels: wanted {len(first)} texts with read=, got {len(wanted)}")
    before, after = (torch.tensor([a == b for a, b in zip(t, wanted, strict=True)]) for t in (first, second))
    return {
        "right_before": before, "right_after": after, "success": before & ~after,
        "text_before": metrics.text_similarity(first, wanted), "text_after": metrics.text_similarity(second, wanted),
    }  # fmt: skip


@dataclass(frozen=True)
class TradeoffCurve:
    """``values`` of what was varied, and the `SemanticChange` at each."""

    values: tuple[float, ...]
    changes: tuple[SemanticChange, ...]

    def table(self) -> list[dict[str, float]]:
        """One row a value: the value and the summary of its change."""
        return [{"value": v, **c.summary()} for v, c in zip(self.values, self.changes, strict=True)]


def tradeoff_curve(
    denoiser: Call,
    task: Call | None,
    noisy: Tensor,
    target: Any,
    attack: Callable[[float], Attack],
    *,
    values: Sequence[float],
    labels: Any = None,
    **measured: Any,
) -> TradeoffCurve:
    """How much meaning an attack changes against how clean it looks, along one of its options.

    ``tradeoff_curve(D, T, y, labels, lambda w: fa.MIGA(D, T, eps=8 / 255, lambda_rec=w), values=[1, 10, 100])``.

    Args:
        denoiser, task, noisy: as for `semantic_change`.
        target: what the attack is called with beside ``noisy``: labels, or the clean images for an unknown task.
        attack: makes the attack for a value.
        values: one or more.
        labels: for the task model where ``target`` is something else.
        measured: more options of `semantic_change`.

    Raises:
        ValueError: no values; and as `semantic_change`.
    """
    if not values:
        raise ValueError("values: wanted one or more numbers, got none")
    is_labels = labels is None and task is not None and isinstance(target, Tensor) and not target.is_floating_point()
    known = target if is_labels else labels
    changes = [
        semantic_change(denoiser, task, noisy, attack(value)(noisy, target), known, **measured) for value in values
    ]
    return TradeoffCurve(tuple(float(v) for v in values), tuple(changes))
