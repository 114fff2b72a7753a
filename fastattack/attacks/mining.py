"""The information that an output has of the clean image, by a critic that is trained beside the attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..engine import Moment, Source, Wrapped
from ..guard import Rowwise
from ..information import Critic, MemoryBank, StatisticsNetwork
from ..objectives import Objective
from ..objectives.base import require_positive, widened
from ..objectives.semantic import Meant, semantic
from ..ops.backend import Backend
from .pipeline import judge


@dataclass(frozen=True)
class Examples:
    """Pairs that the critic learns from before the attack: clean samples (N, ...), and what became of them (N, ...).

    They are no tensors with a row for each sample of the batch, and no micro-batch cuts them.
    """

    clean: Tensor
    restored: Tensor


@dataclass(frozen=True)
class Original(Rowwise):
    """What an output is to tell less of: ``clean`` (B, ...), its ``place`` (B,) among the examples, and these."""

    clean: Tensor
    place: Tensor
    examples: Examples


@dataclass(frozen=True, kw_only=True)
class Mining:
    """How the information is estimated while an attack lowers it.

    Attributes:
        estimator: "dv", "infonce" or "nwj", see `fastattack.information.bounds`.
        warmup: steps of the critic before the attack, on the examples.
        critic_steps: steps of the critic after each gradient of the attack, on the batch as the attack has it.
        lr: of the critic.
        batch: examples in a step of the warm-up.
        limit: of the scores while the critic learns, see `fastattack.information.Critic`.
    """

    estimator: str = "dv"
    warmup: int = 100
    critic_steps: int = 1
    lr: float = 1e-3
    batch: int = 64
    limit: float = 10.0

    def __post_init__(self) -> None:
        from ..information.bounds import require_estimator

        require_estimator(self.estimator)
        require_positive(self.lr, "lr")
        require_positive(self.limit, "limit")
        for name, least in (("warmup", 0), ("critic_steps", 0), ("batch", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
        if self.warmup + self.critic_steps == 0:
            raise ValueError("warmup, critic_steps: wanted a critic that learns, got 0 for both")

    def __call__(self, source: Source, table: Backend) -> Mined:
        return Mined(source, self)


def information(verdict: Tensor, meaning: Original) -> Tensor:
    """Stands for the critic's estimate where an attack is declared; `Mined` puts its critic in the place."""
    raise RuntimeError("the information is known to the critic that an attack call trains, and to nothing else")


class Mined(Wrapped):
    """A source whose objective asks a critic how much the output tells of the clean image.

    The critic begins anew with the first gradient of a restart or micro-batch, from their seed; it learns from the
    examples first, and from the batch after each gradient. So a sample's result depends on which others it is with.
    """

    def __init__(self, inner: Source, mining: Mining) -> None:
        super().__init__(inner)
        self.mining = mining
        self.critic: Critic | None = None
        self.seen: tuple[Original, Tensor] | None = None

    def _with(self, critic: Critic, objective: Objective) -> Objective:
        def ask(verdict: Tensor, meaning: Original) -> Tensor:
            flat = meaning.clean.dim() == 2 and isinstance(verdict, Tensor)  # features, as `features_of` has them
            seen = widened(verdict).flatten(1) if flat else widened(verdict)
            self.seen = (meaning, seen.detach())
            return critic.each(meaning.clean, seen, own=meaning.place)

        assert isinstance(objective, semantic)
        return replace(objective, task_loss=ask)

    def value(self, x: Tensor, target: Meant, objective: Objective, moment: Moment) -> Tensor:
        critic = self.critic or self._begin(target.meaning, moment)
        return self.inner.value(x, target, self._with(critic, objective), moment)

    def gradient(self, x: Tensor, target: Meant, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        critic = self.critic
        if critic is None or moment.step == 0:
            critic = self._begin(target.meaning, moment)
        self.seen = None
        found = self.inner.gradient(x, target, self._with(critic, objective), moment)
        if self.seen is not None:  # the weight of the information may be 0 at this step
            meaning, verdict = self.seen
            for _ in range(self.mining.critic_steps):
                critic.learn(meaning.clean, verdict, own=meaning.place)
        return found

    def _begin(self, meaning: Original, moment: Moment) -> Critic:
        clean, restored = meaning.examples.clean, widened(meaning.examples.restored)
        images = clean.dim() == restored.dim() == 4
        network = StatisticsNetwork.of(clean, restored, convolve=images, seed=moment.seed)
        plan, bank = self.mining, MemoryBank(clean)
        critic = Critic(network, estimator=plan.estimator, lr=plan.lr, limit=plan.limit, bank=bank)
        generator = moment.generator(0)
        drawn = [torch.randperm(len(clean), generator=generator)[: plan.batch] for _ in range(plan.warmup)]
        for rows in torch.stack(drawn).to(clean.device) if drawn else ():  # one copy, for each waits for the device
            critic.learn(clean[rows], restored[rows], own=rows)
        self.critic, self.seen = critic, None
        return critic


def features_of(encoder: Callable[[Tensor], Any], images: Tensor, max_batch: int | None) -> Tensor:
    """Flat features (N, F) of images, as a constant."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([_features(encoder, part) for part in torch.split(images, max_batch or len(images))])


def _features(encoder: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    found = judge(encoder, images, "encoder")
    if not isinstance(found, Tensor) or found.dim() < 2 or len(found) != len(images) or not found.is_floating_point():
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"encoder: wanted float features ({len(images)}, ...), got {got}")
    return widened(found).flatten(1)
