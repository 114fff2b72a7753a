"""Training of registration models, by the loop that trains denoisers: what a step sees, and what is measured.

strategy = fa.registration.synthesised(fa.registration.Synthetic())
data = fa.registration.ImageBatches(images)
fa.registration.train_registration(model, data, fa.training.TrainConfig(steps=2000), strategy=strategy, out="run")

Adversarial training is `fastattack.training.attacked` around a strategy, with the loss as its objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import Model
from ..guard import Rowwise, left_as_found, rows_of, samples_in
from ..numbering import Numbering
from ..training import Batches, Strategy, TrainConfig, TrainResult, train
from ..training.config import require_whole
from ..training.describing import described
from ..training.log import Log
from ..training.restoration import Numbered
from .batches import Images, check_pairs
from .losses import RegistrationLoss
from .measures import measure
from .synthetic import Synthetic
from .truth import Truth


@dataclass(frozen=True)
class _Pairs(Numbered):
    """Pairs as inputs, and a Truth that holds them as the target."""

    @property
    def level(self) -> float:
        """The loss is in units of its own."""
        return 1.0


@dataclass(frozen=True)
class Synthesised(_Pairs):
    """Pairs made of images, each batch anew."""

    synthetic: Synthetic

    def _count(self, clean: Any) -> int:
        if not isinstance(clean, Tensor | Images):
            raise TypeError(f"clean: wanted images (B, 1, *spatial), or an Images of them, got {type(clean).__name__}")
        return samples_in(clean)

    def _pairs(self, model: Model, clean: Any, seed: int, ids: Tensor, epoch: int) -> tuple[Tensor, Truth]:
        given = clean if isinstance(clean, Images) else Images(images=clean)
        with torch.no_grad(), torch.autocast(given.images.device.type, enabled=False):
            pair, truth = self.synthetic.pairs(given.images, given.labels, given.masks, seed=seed, ids=ids)
        return pair, replace(truth, pair=pair)

    def describe(self) -> dict[str, Any]:
        return {
            "strategy": "Synthesised", "seed": self.numbering.seed, "synthetic": described(self.synthetic),
        }  # fmt: skip


@dataclass(frozen=True)
class AsGiven(_Pairs):
    """Pairs as they are."""

    def _count(self, clean: Any) -> int:
        return len(check_pairs(clean, "clean"))

    def _pairs(self, model: Model, clean: Any, seed: int, ids: Tensor, epoch: int) -> tuple[Tensor, Truth]:
        return clean.pair, clean

    def describe(self) -> dict[str, Any]:
        return {"strategy": "AsGiven"}


def synthesised(synthetic: Synthetic | None = None, *, seed: int = 0) -> Synthesised:
    """A strategy for `ImageBatches`: a pair of each image, by a deformation of (seed, epoch, sample id).

    Args:
        synthetic: how pairs are made; no landmarks are looked for. None: the default.
        seed: 0 <= seed < 2**64.

    Raises:
        TypeError, ValueError: an option that cannot be.
    """
    chosen = Synthetic() if synthetic is None else synthetic
    if not isinstance(chosen, Synthetic):
        raise TypeError(f"synthetic: wanted a fastattack.registration.Synthetic, got {type(chosen).__name__}")
    return Synthesised(Numbering(seed), replace(chosen, points=0))


def as_given() -> AsGiven:
    """A strategy for `PairBatches`: the pairs themselves, with what is known of them."""
    return AsGiven(Numbering(0))


VALID = ("field_error", "tre", "dice")


@dataclass(frozen=True, kw_only=True)
class RegistrationValidation:
    """A measure's mean over pairs, as "valid" in the log. The model runs in eval mode and is left as found.

    Attributes:
        truth: the pairs, truth.pair, and what is known of them.
        what: "field_error" or "tre" (mm) or "dice", as `measure` gives it; None: the first that the truth knows.
        batch: pairs at a time.

    Raises:
        TypeError, ValueError: pairs that cannot be, or a measure for which the truth lacks something.
    """

    truth: Truth = field(repr=False)
    what: str | None = None
    batch: int = 8

    def __post_init__(self) -> None:
        pair = check_pairs(self.truth)
        require_whole(self.batch, "batch", 1)
        found = vars(measure(pair.new_zeros(1, pair.dim() - 2, *pair.shape[2:]), self._rows(0, 1)))
        known = [name for name in VALID if found[name] is not None]
        if not known or (self.what is not None and self.what not in known):
            raise ValueError(f"what: wanted one of {', '.join(known) or 'what the truth knows'}, got {self.what!r}")
        object.__setattr__(self, "what", self.what or known[0])

    def _rows(self, first: int, last: int) -> Truth:
        found: Truth = rows_of(self.truth, slice(first, last), samples_in(self.truth.pair))
        return found

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """{"valid": the mean}; NaN where a pair has none."""
        where = next(model.parameters()).device
        count, total = samples_in(self.truth.pair), 0.0
        with left_as_found(model, where, eval_mode=True), torch.no_grad():
            for first in range(0, count, self.batch):
                rows = self._rows(first, first + self.batch).each(lambda t: None if t is None else t.to(where))
                assert rows.pair is not None
                total += float(getattr(measure(model(rows.pair), rows), str(self.what)).sum())
        return {"valid": total / count}


def train_registration(
    model: nn.Module,
    data: Batches,
    config: TrainConfig,
    *,
    out: str | Path,
    strategy: Strategy | None = None,
    loss: Callable[[Tensor, Truth], Tensor] | None = None,
    validation: RegistrationValidation | Callable[[nn.Module], dict[str, float]] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    log: Log = "csv",
    progress: bool = True,
) -> TrainResult:
    """Train a registration model in place; its weights (with ``ema`` their average) also go to OUT/model.safetensors.

    By `fastattack.training.train`, with its checkpoints, log and errors. "loss" in the log is that of the objective; it
    has no "psnr". "valid" is in mm, or Dice.

    Args:
        model: called as model(pair) -> field, on the device to train on. The weight file of an `LLMMorph` is one that
            `LLMMorph.load` reads; of another module it holds the tensors.
        data: `ImageBatches`, `PairBatches`, or any batches that the strategy takes.
        config: see `TrainConfig`; ``clip`` is in units of the loss.
        strategy: None: `as_given` for `PairBatches`, else `synthesised`.
        loss: (field, truth) -> (B,); None: `RegistrationLoss()`.
        validation, resume, overwrite, log, progress: as for `fastattack.training.train`.

    Raises:
        TypeError, ValueError, FileExistsError, NonFiniteError, OSError: as for `fastattack.training.train`. Images of
            another dimension than the model's (where it tells ``dims``): nothing has been written.
    """
    first = data.batch_at(0, 0)
    if strategy is None:
        strategy = as_given() if isinstance(first, Truth) else synthesised()
    _require_dims(model, first)
    return train(
        model, data, strategy, config, out=out, validation=validation, resume=resume, overwrite=overwrite,
        loss=RegistrationLoss() if loss is None else loss, save=_writer_of(model), log=log, progress=progress,
    )  # fmt: skip


def _require_dims(model: nn.Module, batch: Tensor | Rowwise) -> None:
    images = batch.pair if isinstance(batch, Truth) else batch.images if isinstance(batch, Images) else batch
    dims = getattr(model, "dims", None)
    if isinstance(images, Tensor) and dims is not None and images.dim() - 2 != dims:
        raise ValueError(f"data: wanted images of {dims} dimensions as the model's are, got {tuple(images.shape)}")


def _writer_of(model: nn.Module) -> Callable[[Any, Path], object] | None:
    from ..models.llm_morph import LLMMorph, save

    return save if isinstance(model, LLMMorph) else None
