"""What a query answers with, the losses that a student learns from it, and how far the two agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..metrics import psnr
from ..objectives import Objective, cross_entropy, kl_divergence, mae
from ..objectives.base import pair, sample_mean

KINDS = ("logits", "probabilities", "labels", "images")
LOSSES = ("l1", "kl", "ce")
FLOOR = 1e-6
"""A probability below it counts as this much: its logarithm would be that of rounding, or infinite."""


def kind_of(answers: Tensor, images: Tensor, wanted: str = "auto") -> str:
    """What the answers of a batch are: one of `KINDS`.

    "auto": whole numbers (B, ...) are labels; answers of the images' own shape are images; numbers >= 0 whose sum over
    dim 1 is 1 (to 1e-3) are probabilities; other 4-dimensional answers are images; all else are logits.

    Raises:
        ValueError: an unknown kind, or answers that are not of the wanted one.
    """
    if wanted not in (*KINDS, "auto"):
        raise ValueError(f"answers: wanted one of {', '.join(map(repr, (*KINDS, 'auto')))}, got {wanted!r}")
    found = _kind(answers, images) if wanted == "auto" else wanted
    whole = not answers.is_floating_point()
    fits = {
        "labels": whole and bool((answers >= 0).all()),
        "images": not whole and answers.dim() >= 3,
        "logits": not whole and answers.dim() >= 2 and answers.shape[1] >= 2,
        "probabilities": not whole and answers.dim() >= 2 and answers.shape[1] >= 2 and _sum_to_one(answers),
    }
    if not fits[found]:
        raise ValueError(f"answers: wanted {_WORDS[found]}, got {tuple(answers.shape)} {_dtype(answers)}")
    return found


_WORDS = {
    "labels": "whole numbers >= 0 as labels",
    "images": "images (B, C, H, W)",
    "logits": "logits (B, classes >= 2, ...)",
    "probabilities": "probabilities (B, classes >= 2, ...) of sum 1",
}


def _kind(answers: Tensor, images: Tensor) -> str:
    if not answers.is_floating_point():
        return "labels"
    if answers.dim() == 4 and answers.shape == images.shape:
        return "images"
    if answers.dim() >= 2 and answers.shape[1] >= 2 and _sum_to_one(answers):
        return "probabilities"
    return "images" if answers.dim() == 4 else "logits"


def _sum_to_one(answers: Tensor) -> bool:
    return bool((answers >= 0).all()) and bool(((answers.double().sum(1) - 1).abs() < 1e-3).all())


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def logarithms(probabilities: Tensor) -> Tensor:
    """log max(p, `FLOOR`): logits of those probabilities."""
    return probabilities.clamp(min=FLOOR).log()


def centred(logits: Tensor) -> Tensor:
    """Less their mean over dim 1, the offset that probabilities do not tell."""
    return logits - logits.mean(1, keepdim=True)


def loss_for(loss: str | Objective, kind: str) -> Objective:
    """The loss (student's output, answers) -> (B,) for answers of a kind.

    Raises:
        ValueError: an unknown loss, or one that these answers do not suffice for; says which ones they do.
    """
    if not isinstance(loss, str):
        if not callable(loss):
            raise TypeError(f"loss: wanted one of {', '.join(LOSSES)} or an objective, got {type(loss).__name__}")
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss: wanted one of {', '.join(LOSSES)} or an objective, got {loss!r}")
    if kind == "labels" and loss != "ce":
        raise ValueError(
            f"loss: {loss!r} needs logits or probabilities, and the query answers with labels alone; use loss='ce'"
        )
    if kind == "images" and loss != "l1":
        raise ValueError(
            f"loss: {loss!r} needs the answers of a classifier, and the query answers with images; use loss='l1', or "
            "an objective of images such as fastattack.objectives.mse"
        )
    return _TABLE[loss, kind]


def _l1(output: Tensor, answers: Tensor) -> Tensor:
    """sum_i |t_i - a_i| over the classes, arXiv 2408.10647; the mean over positions where outputs are dense."""
    a, b = pair(output, answers)
    return sample_mean((a - b).abs().sum(1))


def _l1_centred(output: Tensor, answers: Tensor) -> Tensor:
    a, b = pair(output, answers)
    return _l1(centred(a), centred(logarithms(b)))


def _kl_of_probabilities(output: Tensor, answers: Tensor) -> Tensor:
    return kl_divergence(output, logarithms(answers))


def _ce_of_scores(output: Tensor, answers: Tensor) -> Tensor:
    return cross_entropy(output, answers.argmax(1))


_TABLE: dict[tuple[str, str], Callable[[Any, Any], Tensor]] = {
    ("l1", "logits"): _l1,
    ("l1", "probabilities"): _l1_centred,
    ("l1", "images"): mae,
    ("kl", "logits"): kl_divergence,
    ("kl", "probabilities"): _kl_of_probabilities,
    ("ce", "logits"): _ce_of_scores,
    ("ce", "probabilities"): _ce_of_scores,
    ("ce", "labels"): cross_entropy,
}


def labels_of_answers(answers: Tensor, kind: str) -> Tensor:
    """The class that each answer says, int64."""
    return answers if kind == "labels" else answers.argmax(1)


def fidelity(output: Tensor, answers: Tensor, kind: str) -> Tensor:
    """(B,) float64: whether both say the same class (of dense outputs the share of positions); of images PSNR in dB."""
    if kind == "images":
        return psnr(output, answers.to(output))
    return sample_mean((output.argmax(1) == labels_of_answers(answers, kind)).double())


def check_output(output: Any, answers: Tensor, kind: str, classes: int = 0) -> None:
    """The student's output is what a loss against these answers takes; ``classes``: how many it must tell, at least."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        came = _dtype(output) if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"student: wanted a float tensor as output, got {came}")
    got = tuple(output.shape)
    if kind != "labels":
        if got != tuple(answers.shape):
            raise ValueError(f"student: wanted an output {tuple(answers.shape)} as the query's answers, got {got}")
        return
    if output.dim() < 2 or (got[0], *got[2:]) != tuple(answers.shape) or got[1] < max(classes, 2):
        wanted = ", ".join(["B", f"classes >= {max(classes, 2)}", *map(str, answers.shape[1:])])
        raise ValueError(f"student: wanted logits ({wanted}) for the labels that the query answers with, got {got}")


def check_classes(labels: Tensor | None, scores: Tensor, name: str) -> None:
    """Known labels are among the classes of scores (B, classes, ...) and have as many places."""
    if labels is None:
        return
    if labels.shape[1:] != scores.shape[2:]:
        wanted = ", ".join(["N", *map(str, scores.shape[2:])])
        raise ValueError(f"{name}: wanted ({wanted}) for scores {tuple(scores.shape)}, got {tuple(labels.shape)}")
    if len(labels) and int(labels.max()) >= scores.shape[1]:
        raise ValueError(f"{name}: wanted classes from 0 to {scores.shape[1] - 1}, got {int(labels.max())}")


def as_answers(found: Any, count: int) -> Tensor:
    """What a query returned, as float32 or int64 on the CPU with a row for each image.

    Raises:
        TypeError, ValueError: something else, another number of rows, or NaN or infinity.
    """
    try:
        answers = found.detach() if isinstance(found, Tensor) else torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"wanted a tensor, an array or nested lists of numbers, got {type(found).__name__}") from error
    if answers.dtype == torch.bool or answers.is_complex():
        raise TypeError(f"wanted real numbers, got {_dtype(answers)}")
    if answers.dim() < 1 or len(answers) != count:
        raise ValueError(f"wanted an answer for each of {count} images, got shape {tuple(answers.shape)}")
    answers = answers.to("cpu", torch.float32 if answers.is_floating_point() else torch.int64)
    if answers.is_floating_point() and not bool(answers.isfinite().all()):
        raise ValueError("wanted finite numbers, got NaN or infinity")
    return answers.contiguous()
