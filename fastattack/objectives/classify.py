"""Losses of logits (B, classes, ...) against labels (B, ...): the mean over positions where outputs are dense.

The label -100 marks a position that counts 0, as in torch. Labels out of range are named on the CPU; a device reports
them its own way, because looking would make every step wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .base import require_flag, require_positive, sample_mean, widened

IGNORED = -100


def logits_of(output: Any, name: str, least: int = 2) -> Tensor:
    """Logits of at least ``least`` classes, in float32 at least."""
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise ValueError(f"model: wanted logits (B, classes, ...) for {name}")
    if output.shape[1] < least:
        raise ValueError(f"model: wanted logits of {least} classes at least for {name}, got {output.shape[1]}")
    return widened(output)


class LabelRange(ValueError, IndexError):
    """Labels that no logit belongs to; torch raises IndexError for them."""


def labels_of(target: Any, logits: Tensor, per_position: tuple[int, ...] = ()) -> Tensor:
    """Labels (B, *per_position, ...) in int64."""
    if not isinstance(target, Tensor):
        raise TypeError(f"target: wanted integer labels, got {type(target).__name__}")
    wanted = (logits.shape[0], *per_position, *logits.shape[2:])
    if target.is_floating_point() or target.is_complex() or tuple(target.shape) != wanted:
        raise ValueError(f"target: wanted integer labels of shape {wanted}, got {tuple(target.shape)} {target.dtype}")
    labels = target.long()
    if labels.device.type == "cpu" and bool(((labels >= logits.shape[1]) | (labels < 0) & (labels != IGNORED)).any()):
        raise LabelRange(
            f"target: wanted labels from 0 to {logits.shape[1] - 1}, got {labels.min().item()} to {labels.max().item()}"
        )
    return labels


def logit_at(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of each position's label; that of class 0 where the position is ignored."""
    return logits.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best other logit less the label's, (B, ...)."""
    label = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels.clamp(min=0).unsqueeze(1), True)
    return logits.masked_fill(label, float("-inf")).amax(1) - logit_at(logits, labels)


def _mean(loss: Tensor, *labels: Tensor) -> Tensor:
    for some in labels:
        loss = torch.where(some == IGNORED, 0.0, loss)
    return sample_mean(loss)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (B, classes, ...) to labels (B, ...) int64."""
    logits = logits_of(output, "cross_entropy", least=1)
    return sample_mean(functional.cross_entropy(logits, labels_of(target, logits), reduction="none"))


def kl_divergence(output: Tensor, target: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(output)) of logits (B, classes, ...): how far an output has gone from another one.

    The loss of TRADES (Zhang et al., arXiv 1901.08573, section 4), where target is the output for the clean image.
    """
    logits = logits_of(output, "kl_divergence", least=1)
    if not isinstance(target, Tensor) or target.shape != output.shape:
        got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"target: wanted logits {tuple(output.shape)} as the output's, got {got}")
    wanted = target.detach().to(logits).log_softmax(1)
    each = functional.kl_div(logits.log_softmax(1), wanted, reduction="none", log_target=True)
    return sample_mean(each.sum(1))


@dataclass(frozen=True, kw_only=True)
class cw_margin:
    """The best other logit less that of the label (Carlini & Wagner, arXiv 1608.04644, f6 before its clamp).

    Labels are the true classes: above 0 is misclassified. In a targeted attack they are the wanted classes: below 0 is
    classified as wanted.

    Args:
        kappa: confidence to stop at: no gradient where the margin has gone further, or None.
        targeted: labels are wanted classes; it tells which side kappa is on and has no effect without it.
    """

    kappa: float | None = None
    targeted: bool = False

    def __post_init__(self) -> None:
        require_flag(self.targeted, "targeted")
        if self.kappa is not None and self.kappa != 0:
            require_positive(self.kappa, "kappa")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        logits = logits_of(output, "cw_margin")
        labels = labels_of(target, logits)
        loss = margin(logits, labels)
        if self.kappa is not None:
            loss = loss.clamp(min=-self.kappa) if self.targeted else loss.clamp(max=self.kappa)
        return _mean(loss, labels)


def dlr(output: Tensor, target: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein, arXiv 2003.01690, eq. 6) of >= 3 classes; labels (B, ...) int64.

    Unchanged by an offset or a factor of the logits. 1e-12 is added to the denominator, as the authors do: three equal
    logits on top of the label's give a huge finite loss.
    """
    logits = logits_of(output, "dlr", least=3)
    labels = labels_of(target, logits)
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return _mean(margin(logits, labels) / (first - third + 1e-12), labels)


def dlr_targeted(output: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR (arXiv 2003.01690, eq. 7, its sign turned) of >= 4 classes, for attacks with ``targeted=True``.

    Target: (B, 2, ...) int64, the true class before the wanted one: torch.stack((labels, wanted), 1). Going down leads
    from the one to the other.
    """
    logits = logits_of(output, "dlr_targeted", least=4)
    labels, wanted = labels_of(target, logits, per_position=(2,)).unbind(1)
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    gap = logit_at(logits, labels) - logit_at(logits, wanted)
    return _mean(gap / (first - (third + fourth) / 2 + 1e-12), labels, wanted)


def logit_difference(output: Tensor, target: Tensor) -> Tensor:
    """The logit of one class less that of another; above 0 the first is likelier.

    Target: (B, 2, ...) int64, the class that is subtracted before the other: torch.stack((labels, wanted), 1).
    """
    logits = logits_of(output, "logit_difference")
    labels, wanted = labels_of(target, logits, per_position=(2,)).unbind(1)
    return _mean(logit_at(logits, wanted) - logit_at(logits, labels), labels, wanted)
