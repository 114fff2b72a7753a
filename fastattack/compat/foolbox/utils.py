"""foolbox.utils."""

from __future__ import annotations

from typing import Any

from .native import unwrap


def accuracy(fmodel: Any, inputs: Any, labels: Any) -> float:
    """The share of the inputs (B, ...) whose predicted class is their label (B,).

    Raises:
        ValueError: labels of another shape than the predictions.
    """
    predictions, wanted = unwrap(fmodel(inputs), "model").argmax(-1), unwrap(labels, "labels")
    if predictions.shape != wanted.shape:
        raise ValueError(f"labels: wanted shape {tuple(predictions.shape)}, got {tuple(wanted.shape)}")
    return float((predictions == wanted).float().mean())
