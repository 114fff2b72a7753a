"""One batch: craft on every source, restore with every target, and write down what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import metrics
from ..attacks import AttackResult
from ..attacks.base import Attack
from ..engine import Model
from ..engine.naming import naming
from ..guard import left_as_found
from .statistics import attack_statistics
from .table import Table, table_of

Craft = Callable[[Any], Attack]
"""Makes the attack of one model: ``lambda m: fa.PGD(m, eps=8/255)``."""
Quality = Mapping[str, Callable[[Tensor, Tensor], Tensor]]
"""Name -> function of (restored, clean), both (B, C, H, W), that gives (B,)."""

PSNR: Quality = {"psnr": metrics.psnr}
_KINDS = (TypeError, ValueError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class Batch:
    """Images of one shape.

    Attributes:
        ids: number of each sample; names its random start.
        names: of the images.
        clean, noisy: (B, C, H, W).
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    clean: Tensor
    noisy: Tensor


@dataclass
class Measured:
    """What a batch gave.

    Attributes:
        scores, attacks: the rows.
        adversarial: (B, C, H, W) on the CPU for each (place in the list of attacks, source).
        failures: for each model that failed, why, by name.
    """

    scores: Table = field(default_factory=dict)
    attacks: Table = field(default_factory=dict)
    adversarial: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(
    batch: Batch,
    sources: Mapping[str, Model],
    targets: Mapping[str, Model],
    attacks: Sequence[Craft],
    *,
    sigma: float | None = None,
    quality: Quality = PSNR,
    go_on: bool = False,
) -> Measured:
    """Every attack once on every source, scored on all of sources and targets.

    Args:
        sources: models to attack; differentiable, unless the attack needs no gradient.
        targets: further models, which only restore.
        attacks: for example one for each eps.
        sigma: of the noise, on the scale of the images, for the typicality.
        go_on: a model that raises is written down as failed on this batch, and the others go on.

    Raises:
        TypeError, ValueError, ArithmeticError, MemoryError, else RuntimeError: what a model or an attack raised, with
            the model's name in front, where not ``go_on``. What a measure raises, always.
    """
    run = _Run(batch, {**sources, **targets}, quality, sigma, go_on)
    for name in run.models:
        run.restore_noisy(name)
    for place, craft in enumerate(attacks):
        for source in sources:
            run.attack(place, source, craft)
    run.measured.scores, run.measured.attacks = table_of(run.scores), table_of(run.attacks)
    return run.measured


def restore(model: Model, y: Tensor, ids: Sequence[int]) -> Tensor:
    """D(y), without a trace: the model in eval mode, left as it was found.

    ``ids`` name the samples: a model that draws by name draws the same for them in every batch, as it is (draw 0).

    Raises:
        TypeError, ValueError: the output is not an image like y.
    """
    named = torch.tensor(ids, device=y.device)
    with left_as_found(model, y.device, eval_mode=True), torch.no_grad(), naming(named, 0):
        out: Any = model(y)
    if not isinstance(out, Tensor):
        raise TypeError(f"output: wanted a tensor, got {type(out).__name__}")
    if out.shape != y.shape:
        raise ValueError(f"output: wanted shape {tuple(y.shape)}, as the input, got {tuple(out.shape)}")
    if not bool(out.isfinite().all()):
        raise ArithmeticError("output: wanted finite numbers, got NaN or infinity")
    return out


class _Run:
    """The rows of one batch as they grow."""

    def __init__(
        self, batch: Batch, models: Mapping[str, Model], quality: Quality, sigma: float | None, go_on: bool
    ) -> None:
        self.batch, self.models, self.quality, self.sigma, self.go_on = batch, models, quality, sigma, go_on
        self.measured = Measured()
        self.scores: dict[str, list[Any]] = {}
        self.attacks: dict[str, list[Any]] = {}
        self.restored: dict[str, Tensor] = {}
        self.before: dict[str, dict[str, list[float]]] = {}

    def failed(self, name: str, error: Exception) -> None:
        if not self.go_on:
            kind = next((k for k in _KINDS if isinstance(error, k)), RuntimeError)
            raise kind(f"{name}: {error}") from error
        self.measured.failures.setdefault(name, f"{type(error).__name__}: {' '.join(str(error).split())}")

    def restored_by(self, name: str, y: Tensor) -> Tensor | None:
        """None where the model failed."""
        try:
            return restore(self.models[name], y, self.batch.ids)
        except Exception as error:
            self.failed(name, error)
            return None

    def restore_noisy(self, name: str) -> None:
        out = self.restored_by(name, self.batch.noisy)
        if out is not None:
            self.restored[name], self.before[name] = out, self.measure_quality(out)

    def measure_quality(self, restored: Tensor) -> dict[str, list[float]]:
        return {kind: of(restored, self.batch.clean).tolist() for kind, of in self.quality.items()}

    def attack(self, place: int, source: str, craft: Craft) -> None:
        batch = self.batch
        if source in self.measured.failures:
            return
        try:
            attack = craft(self.models[source])
            found = attack.run(batch.noisy, batch.clean, sample_ids=torch.tensor(batch.ids, device=batch.noisy.device))
        except Exception as error:
            self.failed(source, error)
            return
        self.measured.adversarial[place, source] = found.adversarial.cpu()
        head = {"sample": list(batch.ids), "image": list(batch.names), "attack": place, "eps": eps_of(attack)}
        head["source"] = source
        outputs = {target: self.score(head, found, target) for target in self.models}
        if (out := outputs[source]) is not None:
            figures = attack_statistics(
                batch.clean, batch.noisy, found.adversarial, self.restored[source], out, sigma=self.sigma
            )
            figures |= {"steps_used": found.steps_used, "best_step": found.best_step}
            self.add(self.attacks, head | {name: values.tolist() for name, values in figures.items()})

    def score(self, head: dict[str, Any], found: AttackResult, target: str) -> Tensor | None:
        """Rows of one target; its output, or None where it failed."""
        if target in self.measured.failures:
            return None
        out = self.restored_by(target, found.adversarial)
        if out is None:
            return None
        after = self.measure_quality(out)
        columns = {f"{kind}_before": self.before[target][kind] for kind in self.quality}
        columns |= {f"{kind}_after": after[kind] for kind in self.quality}
        self.add(self.scores, head | {"target": target} | columns)
        return out

    def add(self, rows: dict[str, list[Any]], columns: dict[str, Any]) -> None:
        """A row for each sample; what is one value for the batch stands in each."""
        count = len(self.batch.ids)
        for name, value in columns.items():
            rows.setdefault(name, []).extend(value if isinstance(value, list) else [value] * count)


def eps_of(attack: Attack) -> float:
    """The radius; NaN where there is none, or one for each sample."""
    eps = attack.threat.eps
    return float(eps) if isinstance(eps, (int, float)) else float("nan")
