"""How to train, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

#: Fields that change no weight: a resumed run may have others.
FREE = ("log_every", "save_every", "valid_every")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the loop walks.

    Attributes:
        steps: of the optimiser, in all.
        lr: highest learning rate; a cosine over all steps leads from it to ``lr_end * lr``.
        lr_end: share of lr at the end, 0 to 1.
        warmup: steps over which the rate first rises linearly, at most all.
        optimiser: "adam" or "adamw"; weight_decay is its own.
        clip: longest gradient (l2 norm over all parameters); None leaves it as it is. The loss is in units of the
            noise, so one value serves every noise level.
        ema: decay of the exponential moving average of the weights (0.999), or None. It is min(ema, (1 + t) / (10 + t))
            at step t, so that the first weights are forgotten. Where there is one, it is what is validated and saved.
        autocast: "bf16" runs model and attack in bfloat16 where torch's autocast allows; None in the model's own type.
        channels_last: memory format of the model and of what it is given.
        seed: of what the model itself draws (dropout). Patches and noise have their own.
        log_every: steps between two rows of the log; each epoch ends with one.
        valid_every: epochs between validations; the last epoch always has one.
        save_every: steps between checkpoints, besides the one after each epoch; None for no others.

    Raises:
        TypeError, ValueError: a field that cannot be; the message names it.
    """

    steps: int
    lr: float = 1e-3
    lr_end: float = 0.002
    warmup: int = 0
    optimiser: str = "adam"
    weight_decay: float = 0.0
    clip: float | None = 0.5
    ema: float | None = None
    autocast: str | None = None
    channels_last: bool = False
    seed: int = 0
    log_every: int = 100
    valid_every: int = 1
    save_every: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("warmup", 0), ("seed", 0), ("log_every", 1), ("valid_every", 1)):
            require_whole(getattr(self, name), name, least)
        if self.save_every is not None:
            require_whole(self.save_every, "save_every", 1)
        for name in ("lr", "lr_end", "weight_decay", "clip", "ema"):
            if (value := getattr(self, name)) is not None or name not in ("clip", "ema"):
                object.__setattr__(self, name, require_number(value, name))  # Python's: they go into checkpoints
        _require(self.warmup <= self.steps, "warmup", f"at most steps = {self.steps}", self.warmup)
        _require(0 < self.lr < math.inf, "lr", "a number > 0", self.lr)
        _require(0 <= self.lr_end <= 1, "lr_end", "a share of lr, 0 to 1", self.lr_end)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "a number >= 0", self.weight_decay)
        _require(self.clip is None or self.clip > 0, "clip", "a gradient norm > 0 or None", self.clip)
        _require(self.ema is None or 0 < self.ema < 1, "ema", "a decay between 0 and 1 or None", self.ema)
        _require(self.optimiser in ("adam", "adamw"), "optimiser", "'adam' or 'adamw'", self.optimiser)
        _require(self.autocast in (None, "bf16"), "autocast", "'bf16' or None", self.autocast)
        _require(isinstance(self.channels_last, bool), "channels_last", "True or False", self.channels_last)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr * rise * (self.lr_end + (1 - self.lr_end) * fall)

    def binding(self) -> dict[str, Any]:
        """The fields that the weights depend on."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


def require_whole(value: Any, name: str, least: int) -> None:
    """A whole number, not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")


def require_number(value: Any, name: str) -> float:
    """A real number, NumPy's too, as Python's float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: wanted a number, got {value!r}")
    return float(value)


def _require(holds: bool, name: str, wanted: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name}: wanted {wanted}, got {value!r}")
