"""Training of robust denoisers: one loop, and strategies that fit into anybody's.

strategy = fa.training.ts(fa.TypicalSetSampler(sigma=25 / 255))
inputs, targets = strategy(model, clean)  # in a loop of your own, or
fa.training.train(model, fa.training.Patches(images), strategy, fa.training.TrainConfig(steps=50_000), out="run")
"""

from .config import TrainConfig
from .data import Batches, Patches
from .loop import TrainResult, train
from .losses import Weighted
from .restoration import Attacking, Degraded, Purifying, attacked, degraded, purified
from .strategies import HAT, PGDTraining, Plain, Strategy, TypicalSet, hat, pgd, plain, ts
from .validation import Validation

__all__ = [
    "HAT",
    "Attacking",
    "Batches",
    "Degraded",
    "PGDTraining",
    "Patches",
    "Plain",
    "Purifying",
    "Strategy",
    "TrainConfig",
    "TrainResult",
    "TypicalSet",
    "Validation",
    "Weighted",
    "attacked",
    "degraded",
    "hat",
    "pgd",
    "plain",
    "purified",
    "train",
    "ts",
]
