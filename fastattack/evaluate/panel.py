"""The models of a study and the measures by which they are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from .. import metrics
from ..defenses.spec import PURIFIER, OpenedDefense, open_defense
from ..engine import Model
from ..engine.naming import draws_by_name
from ..metrics import WINDOW as SSIM_WINDOW
from ..models.spec import OpenedModel, check_labels, open_model, parse_spec
from .measure import PSNR, Quality
from .pictures import Pictures
from .study import Study

_PLIABLE = ("deepinv", "diffusion")  # made for the channels of the others


@dataclass(frozen=True)
class Behind:
    """What stands behind a label such as "dncnn+purifier": which model, and which defence before it."""

    model: str
    defense: OpenedDefense


@dataclass(frozen=True)
class Panel:
    """Attributes:
    opened: every model by label, those that are attacked first.
    sources: labels of those.
    channels: of the images that all of them take.
    defended: labels of those of them that stand behind a defence.
    """

    opened: dict[str, OpenedModel]
    sources: tuple[str, ...]
    channels: int
    defended: dict[str, Behind] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """Labels of those that are scored alone."""
        return tuple(name for name in self.opened if name not in self.sources)

    def models(self, names: Sequence[str]) -> dict[str, Model]:
        return {name: self.opened[name].model for name in names}

    def checksums(self) -> dict[str, str | None]:
        return {name: one.sha256 for name, one in self.opened.items()}

    def defense_checksums(self) -> dict[str, str | None]:
        """Of the weights of each defence, by its label."""
        return {one.defense.label: one.defense.sha256 for one in self.defended.values()}


def open_panel(study: Study, device: str | torch.device) -> Panel:
    """Open every model of a study, and each of them once more behind each of its defences.

    Raises:
        ValueError: two of one label, a source without gradients, models of different channels, a defence beside a
            precision other than fp32; names them.
        OSError, RuntimeError: a file or a package is missing.
    """
    specs = [parse_spec(text) for text in (*study.models, *study.targets)]
    check_labels(specs)
    found: dict[str, OpenedModel] = {}
    channels = study.channels
    for spec in sorted(specs, key=lambda spec: spec.kind in _PLIABLE):
        wanted = channels if spec.kind in _PLIABLE else study.channels
        found[spec.label] = open_model(spec, sigma=study.sigma, channels=wanted, device=device)
        channels = channels or found[spec.label].channels
    opened = {spec.label: found[spec.label] for spec in specs}
    sources = tuple(spec.label for spec in specs[: len(study.models)])
    for name in sources:
        if not opened[name].differentiable and study.attack != "square":
            raise ValueError(
                f"models: {name} has no gradient for {study.attack}; name it with --targets, or attack it with square"
            )
    taken = {name: one.channels for name, one in opened.items() if one.channels is not None}
    if len(set(taken.values())) > 1:
        told = ", ".join(f"{name} takes {n}" for name, n in taken.items())
        raise ValueError(f"models: wanted models of as many channels, but {told}; evaluate gray and colour apart")
    if channels is None:
        raise ValueError("channels: wanted 1 or 3, since no model says which it takes; pass --channels")
    return _with_defenses(Panel(opened, sources, channels), study, device)


def _with_defenses(panel: Panel, study: Study, device: str | torch.device) -> Panel:
    """Every model behind every defence: the noise that it takes away and leaves is that of the study."""
    opened: dict[str, OpenedModel] = {}
    defended: dict[str, Behind] = {}
    for spec in study.defenses:
        defense = open_defense(
            spec, channels=panel.channels, device=device, input_sigma=study.sigma, output_sigma=study.sigma,
            seed=study.seed,
        )  # fmt: skip
        for name, one in panel.opened.items():
            label, model = f"{name}+{defense.label}", defense(one.model)
            if label in panel.opened or label in opened:
                raise ValueError(f"defense: wanted another label, {label!r} is the name of a model already")
            if draws_by_name(model) and study.precision != "fp32":
                more = " (it has a precision= of its own)" if spec.kind == PURIFIER else ", which filters in fp32"
                raise ValueError(
                    f"precision: wanted fp32 beside the defense {defense.spec!r}{more}, got {study.precision}"
                )
            defended[label] = Behind(name, defense)
            opened[label] = replace(
                one, label=label, spec=f"{one.spec} behind {defense.spec}", model=model,
                differentiable=one.differentiable and bool(getattr(model, "differentiable", True)),
            )  # fmt: skip
    sources = [label for label, one in defended.items() if one.model in panel.sources]
    further = [label for label in defended if label not in sources]
    order = [*panel.sources, *sources, *panel.targets, *further]
    every = {**panel.opened, **opened}
    return replace(
        panel, opened={label: every[label] for label in order}, sources=(*panel.sources, *sources), defended=defended
    )


def check_sizes(panel: Panel, pictures: Pictures, study: Study) -> None:
    """Raises ValueError where the images have not the one shape that an exported model takes, or no window of SSIM."""
    for batch in pictures.batches(study.max_batch):
        if "ssim" in study.quality and min(batch[0].size) < SSIM_WINDOW:
            raise ValueError(
                f"{batch[0].path}: wanted at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels for SSIM, "
                f"got {batch[0].size[0]} x {batch[0].size[1]}; see --quality"
            )
        came = (len(batch), panel.channels, *batch[0].size)
        for name, one in panel.opened.items():
            if any(want is not None and want != have for want, have in zip(one.shape or came, came, strict=True)):
                wanted = " x ".join("any" if n is None else str(n) for n in one.shape or ())
                raise ValueError(
                    f"models: {name} takes batches of {wanted} alone, and {batch[0].path} comes as "
                    f"{' x '.join(map(str, came))}; see --crop and --max-batch"
                )


def qualities(study: Study) -> Quality:
    """PSNR, and what else the study measures.

    Raises:
        RuntimeError, OSError, ValueError: a package or the weights are missing.
    """
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(PSNR)
    for name in study.quality:
        found[name] = metrics.ssim if name == "ssim" else partial(metrics.lpips, weights=study.lpips_weights or "")
    probe = torch.zeros(1, 1, 64, 64)
    for measure in found.values():
        measure(probe, probe)
    return found
