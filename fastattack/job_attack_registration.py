"""The job of `fastattack attack --task registration`, without a terminal: pairs, a model, an attack, measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .engine import Model
from .job import ATTACKS, BY_QUERIES, JobConfig, Row, Watch, add_noise, batches_of, options_of
from .objectives import Objective
from .objectives import registration as objectives
from .registration.attacking import attack_registration
from .registration.cases import Case, joined
from .registration.fields import warp
from .registration.harm import MEASURES, Harm, fields_of
from .registration.opening import OpenedRegistration
from .registration.sides import channels_of

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "field-error": objectives.field_error,
    "tre": objectives.target_registration_error,
    "overlap": objectives.overlap,
    "folding": objectives.folding,
}
NAMES = tuple(name for name in ATTACKS if name != "denoising-pgd")


@dataclass(frozen=True, kw_only=True)
class RegistrationConfig:
    """What to attack, and how. Lengths (eps, step) on the [0, 1] scale, sigma on the 0-255 scale.

    Attributes:
        side: "moving", "fixed" or "both".
        objective: a name of OBJECTIVES; None: "field-error" where the true field is known, else "tre" or "overlap" by
            what is; where nothing is, "field-error", the distance to the model's own.
        attack: a name of `fastattack.job.ATTACKS`, but denoising-pgd, which is pgd with preserve_noise.
        sigma: of noise on the pairs; None: none. preserve_noise: the attack keeps its mean and norm.
        others: as of `fastattack.job.JobConfig`.
    """

    side: str = "both"
    objective: str | None = None
    attack: str = "pgd"
    sigma: float | None = None
    preserve_noise: bool = False
    eps: float = 5 / 255
    steps: int | None = None
    step: float | None = None
    norm: str | None = None
    restarts: int = 1
    seed: int = 0
    max_batch: int = 4
    device: str = "cpu"
    backend: str = "auto"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        channels_of(self.side)
        if self.objective not in (None, *OBJECTIVES):
            raise ValueError(f"objective: wanted one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if self.attack not in NAMES:
            hint = "; pgd with preserve-noise is it" if self.attack == "denoising-pgd" else ""
            raise ValueError(
                f"attack: wanted one of {', '.join(NAMES)} with task registration, got {self.attack!r}{hint}"
            )
        if self.preserve_noise and self.sigma is None:
            raise ValueError("sigma: wanted a noise level on the 0-255 scale with preserve-noise, got none")
        found = self.job  # complains about what does not fit
        for name in ("steps", "norm"):
            object.__setattr__(self, name, getattr(found, name))

    @property
    def job(self) -> JobConfig:
        """What the attack itself is told."""
        own = {k: v for k, v in asdict(self).items() if k not in ("side", "objective")}
        return JobConfig(**(own | ({"sigma": 25.0} if self.sigma is None else {})))


@dataclass(frozen=True)
class PairResult:
    """A pair: its row of the report, and tensors without their first axis.

    Attributes:
        pair, attacked: (2, *spatial). before, after: fields (d, *spatial), in voxels.
        warped_before, warped_after: (1, *spatial), the moving image as it was and as it became, each by its own field.
    """

    row: Row
    pair: Tensor = field(repr=False)
    attacked: Tensor = field(repr=False)
    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)
    warped_before: Tensor = field(repr=False)
    warped_after: Tensor = field(repr=False)


def run_registration(
    model: Model, cases: Sequence[Case], config: RegistrationConfig, progress: Watch | None = None
) -> Iterator[PairResult]:
    """Attack each pair; results come batch by batch.

    Raises:
        TypeError, ValueError: what `attack_registration` raises, and a side or objective that does not fit the pairs.
    """
    kind, options = ATTACKS[config.attack], options_of(model, config.job)
    if config.preserve_noise:
        options["preserve_noise"] = True
    elif config.sigma is not None and config.attack != "obsatk":  # which has none anyway
        options["bounds"] = None
    objective = None if config.objective is None else OBJECTIVES[config.objective]()
    for indices in batches_of((case.pair.shape for case in cases), config.max_batch):
        chosen = [cases[i] for i in indices]
        clean = torch.stack([case.pair for case in chosen]).to(config.device)
        pair = clean if config.sigma is None else _noisy(indices, chosen, config)
        known = joined([case.truth for case in chosen])
        truth = known.each(lambda part: None if part is None else part.to(config.device))
        ids = torch.tensor(indices, device=config.device)
        if config.objective == "field-error" and truth.field is None:  # labels are known: the model's own field beside
            truth = replace(truth, field=fields_of(model, pair, ids=ids, max_batch=config.max_batch))
        found = attack_registration(
            model, pair, truth, side=config.side, attack=kind, objective=objective,
            clean=clean if config.preserve_noise else None, sample_ids=ids,
            progress=None if progress is None else partial(progress, len(indices)), **options,
        )  # fmt: skip
        harm = found.harm
        numbers = {name: getattr(found.result, name) for name in ("loss", "best_step", "steps_used")}
        rows = _rows([case.name for case in chosen], pair, found.adversarial, harm, numbers)
        images = (
            pair, found.adversarial, harm.field_before, harm.field_after, warp(pair[:, :1], harm.field_before),
            warp(found.adversarial[:, :1], harm.field_after),
        )  # fmt: skip
        for k, row in enumerate(rows):
            yield PairResult(row, *(t[k].cpu() for t in images))


def check_objective(config: RegistrationConfig, cases: Sequence[Case]) -> None:
    """Raises ValueError for an objective that needs what two files do not tell."""
    known = cases[0].truth
    if config.objective == "tre" and known.landmarks is None:
        raise ValueError(
            "objective: wanted another than 'tre' for two images: landmarks are known of --data's pairs alone"
        )
    if config.objective == "overlap" and (known.labels_moving is None or known.labels_fixed is None):
        raise ValueError("objective: 'overlap' wants labels of both images: --labels-moving and --labels-fixed")


def check_gradient(opened: OpenedRegistration, config: RegistrationConfig) -> None:
    """Raises ValueError for an attack with gradients on a model that has none."""
    if not opened.differentiable and config.attack not in BY_QUERIES:
        raise ValueError(
            f"attack: wanted {' or '.join(BY_QUERIES)} for {opened.label}, which has no gradient, got {config.attack!r}"
        )


def _noisy(indices: list[int], cases: list[Case], config: RegistrationConfig) -> Tensor:
    assert config.sigma is not None
    pairs = [add_noise(case.pair, config.sigma, config.seed, i) for i, case in zip(indices, cases, strict=True)]
    return torch.stack(pairs).to(config.device)


def _rows(names: list[str], pair: Tensor, adversarial: Tensor, harm: Harm, numbers: dict[str, Tensor]) -> list[Row]:
    """The figures of the report, in float64."""
    delta = (adversarial.double() - pair.double()).flatten(2)
    columns = {}
    for name in MEASURES:
        for when in ("before", "after"):
            value = getattr(getattr(harm, when), name)
            if value is not None:
                columns[f"{name}_{when}"] = value
    for channel, side in enumerate(("moving", "fixed")):
        columns[f"linf_{side}"] = delta[:, channel].abs().amax(1)
        columns[f"l2_{side}"] = delta[:, channel].norm(dim=1)
    lists = {name: values.tolist() for name, values in {**columns, **numbers}.items()}
    return [{"name": name, **{key: values[k] for key, values in lists.items()}} for k, name in enumerate(names)]


def summarise_registration(rows: list[Row]) -> dict[str, Any]:
    """Means over the pairs, and the rise of each measure; NaN where a pair has none, as Dice without labels."""
    keys = [key for key in rows[0] if key not in ("name", "best_step", "steps_used")]
    means = {key: sum(float(row[key]) for row in rows) / len(rows) for key in keys}
    rises = {f"{n}_rise": means[f"{n}_after"] - means[f"{n}_before"] for n in MEASURES if f"{n}_after" in means}
    return {"pairs": len(rows), **means, **rises}
