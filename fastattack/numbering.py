"""What names random numbers: a seed and a draw; of a training run an epoch, a step and sample ids. No other state."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .ops import check
from .ops.reference_random import STREAM_DRAW, STREAM_EPOCH, sample_words

_IDS_PER_STEP = 2**32


class Numbering:
    """Seed, epoch and step. Without the caller's ids a sample is named by step * 2**32 + its place in the batch.

    Args:
        seed: 0 <= seed < 2**64.

    Raises:
        TypeError, ValueError: a seed that cannot be.
    """

    def __init__(self, seed: int) -> None:
        self.seed = check.seed_of(seed)
        self.step = 0
        # Shared, so that set_epoch reaches the workers of a DataLoader that keeps them from epoch to epoch.
        self._epoch: Tensor = torch.zeros(1, dtype=torch.int64, device="cpu").share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch. Loader workers see the epoch, so call it before the loader is iterated."""
        epoch, self.step = _whole(epoch, "epoch", 2**63), _whole(step, "step", 2**31)
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict[str, int]:
        """Where the numbering stands: seed, epoch and step say all."""
        return {"seed": self.seed, "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state_dict`` was taken.

        Raises:
            ValueError: the state lacks a number, or is another seed's, whose numbers these would not be.
        """
        if missing := [key for key in ("seed", "epoch", "step") if key not in state]:
            raise ValueError(f"state: wanted seed, epoch and step, got one without {', '.join(missing)}")
        if state["seed"] != self.seed:
            raise ValueError(f"state: wanted that of a sampler with seed {self.seed}, got seed {state['seed']}")
        self.set_epoch(state["epoch"], state["step"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # a plain pickle brings the number alone

    def key(
        self,
        batch: int,
        *,
        sample_ids: Tensor | Sequence[int] | None = None,
        epoch: int | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[int, Tensor]:
        """What names the noise of a batch: the epoch's 64-bit seed and the (B,) int64 sample ids. Moves no counter."""
        seed = _epoch_seed(self.seed, self.epoch if epoch is None else _whole(epoch, "epoch", 2**63))
        ids = check.ids_of(sample_ids, torch.empty(batch, 0, device=device))
        if ids is None:
            ids = torch.arange(batch, device=device) + self.step * _IDS_PER_STEP
        return seed, ids


@lru_cache(maxsize=64)
def _epoch_seed(seed: int, epoch: int) -> int:
    """Epochs have streams of their own, which no other seed's epochs share."""
    return _derived(seed, epoch, STREAM_EPOCH)


@lru_cache(maxsize=1024)
def seed_of_draw(seed: int, draw: int) -> int:
    """Draws (below 2**63) of what is random by seed and draw have streams of their own."""
    return _derived(seed, check.whole(draw, "draw", 63), STREAM_DRAW)


def _derived(seed: int, number: int, stream: int) -> int:
    """64 bits of Philox."""
    first, name = torch.zeros(1, dtype=torch.int64, device="cpu"), torch.tensor([number], device="cpu")
    words = sample_words(first, name, seed, stream)[0, 0].tolist()
    return int(words[0] | words[1] << 32)


def _whole(value: Any, name: str, end: int) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < end:
        raise ValueError(f"{name}: wanted a whole number, 0 <= {name} < 2**{end.bit_length() - 1}, got {value!r}")
    return number
