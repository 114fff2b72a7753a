"""Strategies for restorers: degraded inputs, and any strategy's inputs purified or attacked.

Wrappers name the samples for the strategy inside them, so that all draws of a pair follow from one (seed, epoch, sample
id); the seed of the strategy inside stays its own. See `fastattack.training.strategies` for what all have in common.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..attacks import PGD
from ..defenses import Purifier
from ..engine import Model
from ..guard import Rowwise, rows_of, samples_in
from ..numbering import Numbering, seed_of_draw
from ..objectives import Objective, mse
from ..ops import check
from ..ops.reference_random import STREAM_CHOICE, sample_words
from .config import require_number, require_whole
from .describing import describe_purifier, described
from .strategies import SampleIds, Strategy, step_of


@dataclass(frozen=True)
class Numbered(ABC):
    """A strategy that numbers its samples itself where nobody else does."""

    numbering: Numbering

    def __call__(
        self, model: Model, clean: Any, *, sample_ids: SampleIds | None = None, epoch: int | None = None
    ) -> tuple[Tensor, Any]:
        """Training pairs for a batch; arguments and errors as for `fastattack.training.Plain`."""
        count = self._count(clean)
        now = self.numbering.epoch if epoch is None else epoch
        seed, ids = self.numbering.key(count, sample_ids=sample_ids, epoch=now, device=_device_of(clean))
        if sample_ids is None:
            self.numbering.step += 1
        return self._pairs(model, clean, seed, ids, now) if count else (clean, clean)

    def _count(self, clean: Any) -> int:
        """How many samples; complains about what cannot be."""
        check.require_images(check.as_tensor(clean, "clean"), "clean")
        if clean.dim() != 4:
            raise ValueError(f"clean: wanted images (B, C, H, W), got shape {tuple(clean.shape)}")
        return len(clean)

    @abstractmethod
    def _pairs(self, model: Model, clean: Any, seed: int, ids: Tensor, epoch: int) -> tuple[Tensor, Any]:
        """Inputs and targets of a batch that is not empty."""

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch."""
        self.numbering.set_epoch(epoch, step)

    def state_dict(self) -> dict[str, int]:
        """Where the numbering stands."""
        return self.numbering.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.numbering.load_state_dict(state)


@dataclass(frozen=True)
class Degraded(Numbered):
    """Degraded images, and the clean ones as targets."""

    degradation: Callable[..., Tensor]
    unit: float = 0.1

    @property
    def level(self) -> float:
        """The unit of the loss; a degradation has no standard deviation of its own."""
        return self.unit

    def _pairs(self, model: Model, clean: Tensor, seed: int, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        by_name = getattr(self.degradation, "for_samples", None)
        act = self.degradation if by_name is None else by_name(ids, seed >> 1)  # draws have 63 bits
        with torch.no_grad():
            seen = act(clean)
        if not isinstance(seen, Tensor) or seen.shape != clean.shape:
            came = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
            raise ValueError(f"degradation: wanted images {tuple(clean.shape)} as the clean ones, got {came}")
        return seen, clean

    def describe(self) -> dict[str, Any]:
        return {
            "strategy": "Degraded", "seed": self.numbering.seed, "unit": self.unit,
            "degradation": described(self.degradation),
        }  # fmt: skip


@dataclass(frozen=True)
class _Wrapper(Numbered):
    """A strategy around another one."""

    strategy: Strategy

    @property
    def level(self) -> float:
        """That of the strategy inside."""
        return self.strategy.level

    @property
    def depth(self) -> int:
        """1 for a wrapper of no wrapper, 2 for one around that: names what it draws beside those inside."""
        return 1 + (self.strategy.depth if isinstance(self.strategy, _Wrapper) else 0)

    def _count(self, clean: Any) -> int:
        """What is no tensor is for the strategy inside to judge."""
        return samples_in(clean) if isinstance(clean, Rowwise) else super()._count(clean)

    def _inner(self, model: Model, clean: Any, ids: Tensor, epoch: int) -> tuple[Tensor, Any, Tensor]:
        """Inputs, targets, and the names of the inputs: those of HAT come twice."""
        inputs, targets = self.strategy(model, clean, sample_ids=ids, epoch=epoch)
        return inputs, targets, ids.repeat(len(inputs) // len(ids))

    def describe(self) -> dict[str, Any]:
        return {
            "strategy": type(self).__name__, "seed": self.numbering.seed, "inside": self.strategy.describe(),
        }  # fmt: skip


@dataclass(frozen=True)
class Purifying(_Wrapper):
    """Another strategy's inputs, purified; each sample at one of ``levels`` where there are some."""

    purifier: Purifier
    levels: tuple[int, ...] = ()

    def _pairs(self, model: Model, clean: Tensor, seed: int, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        inputs, targets, names = self._inner(model, clean, ids, epoch)
        if not self.levels:
            return _purified(_of_epoch(self.purifier, seed), inputs, names), targets
        chosen = (_uniform(names, seed, self.depth) * len(self.levels)).long()
        out = torch.empty_like(inputs)
        for k, level in enumerate(self.levels):
            if bool((rows := chosen == k).any()):
                out[rows] = _purified(_of_epoch(self.purifier, seed, t_star=level), inputs[rows], names[rows])
        return out, targets

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "levels": self.levels, "purifier": describe_purifier(self.purifier)}


@dataclass(frozen=True)
class Attacking(_Wrapper):
    """Another strategy's inputs, attacked by PGD, through a purifier and then purified where there is one."""

    eps: float
    steps: int
    purifier: Purifier | None = None
    share: float = 1.0
    bounds: tuple[float, float] | None = None
    objective: Objective | None = None

    def _pairs(self, model: Model, clean: Tensor, seed: int, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        inputs, targets, names = self._inner(model, clean, ids, epoch)
        purifier = None if self.purifier is None else _of_epoch(self.purifier, seed)
        rows = _uniform(names, seed, self.depth) < self.share
        if bool(rows.any()):
            attack = PGD(
                model if purifier is None else purifier(model), eps=self.eps, steps=self.steps,
                step=step_of(self.eps, self.steps), bounds=self.bounds, seed=seed, objective=self.objective or mse,
            )  # fmt: skip
            inputs = inputs.clone()
            chosen = rows_of(targets, rows, len(inputs))
            inputs[rows] = attack(inputs[rows], chosen, sample_ids=names[rows])
        return (inputs if purifier is None else _purified(purifier, inputs, names)), targets

    def describe(self) -> dict[str, Any]:
        own = {"eps": self.eps, "steps": self.steps, "share": self.share, "bounds": self.bounds}
        purifier = None if self.purifier is None else describe_purifier(self.purifier)
        climbed = {} if self.objective is None else {"objective": described(self.objective)}
        return {**super().describe(), **own, **climbed, "purifier": purifier}


def _device_of(value: Any) -> torch.device:
    """Of a tensor, or of the first part that is one."""
    if isinstance(value, Rowwise):
        parts = (getattr(value, f.name) for f in fields(value))
        return next((_device_of(part) for part in parts if part is not None), torch.device("cpu"))
    device: torch.device = value.device
    return device


def _of_epoch(purifier: Purifier, seed: int, **options: Any) -> Purifier:
    """The purifier whose draw 0 is that of an epoch, known to attacks and used after them."""
    return purifier.replaced(seed=seed_of_draw(purifier.options.seed, seed >> 1), **options)


def _purified(purifier: Purifier, inputs: Tensor, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return purifier.purify(inputs, sample_ids=ids)


def _uniform(ids: Tensor, seed: int, depth: int) -> Tensor:
    """(B,) float64 in [0, 1), Philox of (seed, sample id, depth >= 1); counter 0 is that of a sampler's plain share."""
    words = sample_words(torch.tensor([depth], device=ids.device), ids, seed, STREAM_CHOICE)
    return (words[:, 0, 0] >> 8).double() * 2.0**-24


def degraded(degradation: Callable[..., Tensor], *, unit: float = 0.1, seed: int = 0) -> Degraded:
    """Training a restorer on degradation(clean).

    Args:
        degradation: a `fastattack.udc.Degradation`, whose noise is then that of (seed, epoch, sample id); or any
            callable on images (B, C, H, W) that draws nothing. `train` wants to tell it from others: ``describe()``, an
            nn.Module's tensors, a dataclass's fields or a function's name.
        unit: of the loss, on the scale of the images: it is the mean of |D(y) - x|^2 / (d unit^2).
        seed: 0 <= seed < 2**64.

    Raises:
        TypeError, ValueError: an option that cannot be; the message names it.
    """
    if not callable(degradation):
        raise TypeError(f"degradation: wanted something callable on images, got {type(degradation).__name__}")
    if not 0 < require_number(unit, "unit") < float("inf"):
        raise ValueError(f"unit: wanted a finite number > 0, got {unit!r}")
    return Degraded(Numbering(seed), degradation, float(unit))


def purified(strategy: Strategy, purifier: Purifier, *, levels: Sequence[int] = (), seed: int = 0) -> Purifying:
    """Another strategy's inputs, purified before the model sees them (fine-tuning, arXiv 2402.13629, section IV).

    Args:
        strategy: whose inputs.
        purifier: its noise is that of (its seed, seed, epoch, sample id).
        levels: t* of the purifier, of which each sample draws one; none: its own (the paper: 50 to 100).
        seed: 0 <= seed < 2**64.

    Raises:
        TypeError, ValueError: an option that cannot be; the message names it.
    """
    _require(strategy, purifier)
    if isinstance(levels, str) or not isinstance(levels, Sequence):
        raise TypeError(f"levels: wanted a sequence of levels, (40, 60), got {levels!r}")
    for level in levels:
        purifier.replaced(t_star=level)  # complains
    return Purifying(Numbering(seed), strategy, purifier, tuple(levels))


def attacked(
    strategy: Strategy,
    *,
    eps: float,
    steps: int,
    purifier: Purifier | None = None,
    share: float = 1.0,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
    objective: Objective | None = None,
) -> Attacking:
    """Adversarial fine-tuning: another strategy's inputs, attacked by PGD (linf) as the model is.

    Args:
        strategy: whose inputs.
        eps: radius on the scale of the images.
        steps: of PGD, each 2 eps / steps long.
        purifier: the attack goes through it, by its ``gradient``, knowing its noise; then all inputs are purified.
        share: probability that a sample is attacked.
        bounds: (low, high) of the pixels, or None.
        seed: 0 <= seed < 2**64.
        objective: what the attack climbs, (output, target) -> (B,); None: the mean squared error.

    Raises:
        TypeError, ValueError: an option that cannot be; the message names it.
    """
    _require(strategy, purifier)
    require_whole(steps, "steps", 1)
    share = require_number(share, "share")
    if not 0 < share <= 1:
        raise ValueError(f"share: wanted a probability above 0, at most 1, got {share!r}")
    eps = require_number(eps, "eps")
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps: wanted a finite radius > 0, got {eps!r}")
    PGD(abs, eps=eps, steps=steps, bounds=bounds, seed=seed)  # complains about its own
    if objective is not None and (not callable(objective) or isinstance(objective, type)):
        raise TypeError(f"objective: wanted a function of (output, target) or None, got {objective!r}")
    return Attacking(Numbering(seed), strategy, eps, steps, purifier, share, bounds, objective)


def _require(strategy: Any, purifier: Any) -> None:
    if not callable(strategy) or not all(hasattr(strategy, name) for name in ("level", "describe", "set_epoch")):
        raise TypeError(f"strategy: wanted a strategy of fastattack.training, got {type(strategy).__name__}")
    if purifier is not None and not isinstance(purifier, Purifier):
        raise TypeError(f"purifier: wanted a fastattack.Purifier, got {type(purifier).__name__}")
