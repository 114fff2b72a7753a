"""The models of a study and the measures by which they are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import metrics
from ..engine import Model
from ..metrics import WINDOW as SSIM_WINDOW
from ..models.spec import OpenedModel, check_labels, open_model, parse_spec
from .measure import PSNR, Quality
from .pictures import Pictures
from .study import Study


@dataclass(frozen=True)
class Panel:
    """Attributes:
    opened: every model by label, those that are attacked first.
    sources: labels of those.
    channels: of the images that all of them take.
    """

    opened: dict[str, OpenedModel]
    sources: tuple[str, ...]
    channels: int

    @property
    def targets(self) -> tuple[str, ...]:
        """Labels of those that are scored alone."""
        return tuple(name for name in self.opened if name not in self.sources)

    def models(self, names: Sequence[str]) -> dict[str, Model]:
        return {name: self.opened[name].model for name in names}

    def checksums(self) -> dict[str, str | None]:
        return {name: one.sha256 for name, one in self.opened.items()}


def open_panel(study: Study, device: str | torch.device) -> Panel:
    """Open every model of a study.

    Raises:
        ValueError: two of one label, a source without gradients, models of different channels; names them.
        OSError, RuntimeError: a file or a package is missing.
    """
    specs = [parse_spec(text) for text in (*study.models, *study.targets)]
    check_labels(specs)
    found: dict[str, OpenedModel] = {}
    channels = study.channels
    for spec in sorted(specs, key=lambda spec: spec.kind == "deepinv"):  # those are made for the channels of the others
        wanted = channels if spec.kind == "deepinv" else study.channels
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
    return Panel(opened, sources, channels)


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
