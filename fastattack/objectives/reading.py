"""CTC, the loss of recognisers that read a text from left to right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .classify import IGNORED, LabelRange, logits_of


@dataclass(frozen=True, kw_only=True)
class ctc:
    """-log P(text) of each sample: connectionist temporal classification (Graves et al., ICML 2006), by torch.

    The model's output is logits (or log-probabilities) (B, classes, T), classes second as everywhere here and T places
    from left to right: what torch calls (T, B, classes) is wanted as ``output.permute(1, 2, 0)``. All T places count.
    The target is (B, L) integers, each text from the left and -100 after its end; a row of -100 alone is the empty
    text. It is the sum over the text, not divided by its length.

    A text that T places cannot hold (one each, and a blank between two equal letters) has probability 0 whatever the
    logits are: an error on the CPU, an infinite loss on a device, where looking would make every step wait.

    Args:
        blank: the class that stands for no letter.

    Raises:
        ValueError: outputs or targets of another kind, padding inside a text, a text too long for T places.
        LabelRange (a ValueError): letters that no class belongs to, or the blank as a letter.
    """

    blank: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.blank, bool) or not isinstance(self.blank, int) or self.blank < 0:
            raise ValueError(f"blank: wanted the number of a class, got {self.blank!r}")

    def __call__(self, output: Any, target: Any) -> Tensor:
        logits = logits_of(output, "ctc")
        if logits.dim() != 3 or logits.shape[2] == 0:
            raise ValueError(f"model: wanted logits (B, classes, T) for ctc, got {tuple(logits.shape)}")
        batch, classes, places = logits.shape
        if self.blank >= classes:
            raise ValueError(f"blank: wanted a class from 0 to {classes - 1}, got {self.blank}")
        texts = self._texts(target, batch)
        lengths = (texts != IGNORED).sum(1)
        if texts.device.type == "cpu":
            self._check(texts, lengths, classes, places)
        return functional.ctc_loss(
            logits.log_softmax(1).permute(2, 0, 1), texts.clamp(min=0), torch.full_like(lengths, places), lengths,
            blank=self.blank, reduction="none",
        )  # fmt: skip

    def _texts(self, target: Any, batch: int) -> Tensor:
        if not isinstance(target, Tensor):
            raise TypeError(f"target: wanted texts as integers (B, L), got {type(target).__name__}")
        integers = not (target.is_floating_point() or target.is_complex() or target.dtype is torch.bool)
        if not integers or target.dim() != 2 or target.shape[0] != batch:
            raise ValueError(
                f"target: wanted texts as integers ({batch}, L) for ctc, got {tuple(target.shape)} {target.dtype}"
            )
        return target.long()

    def _check(self, texts: Tensor, lengths: Tensor, classes: int, places: int) -> None:
        inside = torch.arange(texts.shape[1]) < lengths[:, None]
        if bool((inside != (texts != IGNORED)).any()):
            raise ValueError(f"target: wanted {IGNORED} only after the end of a text")
        letters = texts[inside]
        if bool(((letters < 0) | (letters >= classes) | (letters == self.blank)).any()):
            raise LabelRange(
                f"target: wanted letters from 0 to {classes - 1} that are not the blank ({self.blank}), "
                f"got {sorted(set(letters.tolist()))}"
            )
        doubled = (texts[:, 1:] == texts[:, :-1]) & inside[:, 1:]
        needed = lengths + doubled.sum(1)
        if bool((needed > places).any()):
            raise ValueError(
                f"target: wanted texts that {places} places can hold, got one that needs {int(needed.max())}"
            )
