"""How much of its meaning an image has kept, per sample: what is read in it, and what an encoder makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .guard import left_as_found


def text_similarity(
    texts: Sequence[str], references: Sequence[str], *, units: Literal["characters", "words"] = "characters"
) -> Tensor:
    """ROUGE-L F-measure of each text (Lin, "ROUGE", 2004, section 3), by torchmetrics.

    2 L / (m + n) for two texts of m and n units whose longest common subsequence has L. Texts count as they are: case
    and punctuation are not dropped, as ROUGE's own tokeniser would.

    Args:
        texts: B texts, as a recogniser reads them.
        references: B texts, what should be read.
        units: "characters", white space included, or "words", which white space parts.

    Returns:
        [B], float64 (with the digits of torchmetrics' float32): 1 where the units are the same, two empty texts
        included; 0 where nothing is common.

    Raises:
        TypeError: one string instead of a list of strings, or something else in a list.
        ValueError: lists of different lengths, other units.
        RuntimeError: torchmetrics is not there or does not import.
    """
    for name, some in (("texts", texts), ("references", references)):
        if isinstance(some, str) or not all(isinstance(text, str) for text in some):
            raise TypeError(f"{name}: wanted a list of strings, got {some!r:.80}")
    if len(texts) != len(references):
        raise ValueError(f"references: wanted one for each of {len(texts)} texts, got {len(references)}")
    if units not in ("characters", "words"):
        raise ValueError(f"units: wanted 'characters' or 'words', got {units!r}")
    rouge = _torchmetrics_rouge()
    split: Callable[[str], list[str]] = list if units == "characters" else str.split
    values = []
    for text, reference in zip(texts, references, strict=True):
        if split(text) == split(reference):
            values.append(1.0)  # two empty texts are 0 / 0 by the formula, and equal
        else:
            found = rouge(text, reference, rouge_keys="rougeL", normalizer=str, tokenizer=split)
            values.append(float(found["rougeL_fmeasure"]))
    return torch.tensor(values, dtype=torch.float64)


def semantic_similarity(a: Tensor, b: Tensor, encoder: Callable[[Tensor], Any]) -> Tensor:
    """Cosine of the angle between an encoder's features of two images, per sample.

    The encoder is left as it was found, and run in eval mode without gradients, on the images as they are: what size
    and normalisation it wants is its own matter.

    Args:
        a: images [B, ...].
        b: images of the same shape.
        encoder: images to features [B, ...], a tensor.

    Returns:
        [B], float64, from -1 to 1; NaN where the features of one image are all zero, for they have no direction.

    Raises:
        ValueError: images of different shapes, features that are not [B, ...].
        TypeError: an encoder that gives no tensor.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    with left_as_found(encoder, a.device, eval_mode=True), torch.no_grad():
        u, v = (_vectors(encoder(x), len(x)) for x in (a, b))
    u, v = (w / w.abs().amax(1, keepdim=True) for w in (u, v))  # no square leaves double's range
    cosine: Tensor = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    return cosine.clamp(-1, 1)


def _vectors(features: Any, samples: int) -> Tensor:
    if not isinstance(features, Tensor):
        raise TypeError(f"encoder: wanted a tensor as features, got {type(features).__name__}")
    if features.dim() < 2 or len(features) != samples or features[:1].numel() == 0:
        raise ValueError(f"encoder: wanted features (B, ...) of {samples} samples, got {tuple(features.shape)}")
    return features.double().flatten(1)


def _torchmetrics_rouge() -> Callable[..., Any]:
    try:
        from torchmetrics.functional.text import rouge_score
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(
            f"text_similarity: needs torchmetrics, which does not import here ({error}); "
            "pip install 'fastattack[evaluate]'"
        ) from error
    return rouge_score
