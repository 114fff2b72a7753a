"""The folder of `fastattack sample`: typical-set samples, their typicality beside that of other noise, and its plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import save_file
from torch import Tensor

from ..extras import require
from ..files import write_atomic
from ..images import save_png
from ..typical import SpectrumFit
from .folder import OutputFolder

KINDS = {
    "plain": "plain noise",
    "sampled": "typical-set samples",
    "attacked": "attacked",
    "attacked_preserved": "attacked, noise preserved",
}
"""Column of typicality.json -> legend of the plot."""


@dataclass(frozen=True)
class SampleRow:
    """One image: the typicality gaps of its noises in nats per pixel, and 1/sqrt(2d), their spread under the model."""

    name: str
    spread: float
    plain: float
    sampled: float
    attacked: float
    attacked_preserved: float


class SamplesFolder(OutputFolder):
    """``with SamplesFolder(out) as folder: folder.add(name, noisy) ...; folder.finish(config, rows, fitted)``."""

    kind = "sample set"
    record = "typicality.json"
    files = frozenset({"samples.safetensors", "typicality.png", "fit.json"})
    folders = frozenset({"samples"})

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        super().__init__(out, overwrite=overwrite)
        self._samples: dict[str, Tensor] = {}

    def add(self, name: str, noisy: Tensor) -> None:
        """One noisy image (C, H, W)."""
        with self.named():
            save_png(self.work / "samples" / f"{name}.png", noisy)
        self._samples[name] = noisy.float().contiguous()

    def finish(self, config: dict[str, Any], rows: list[SampleRow], fitted: SpectrumFit | None) -> None:
        """Write the rest and put the folder in its place."""
        with self.named():
            save_file(self._samples, self.work / "samples.safetensors")
            plot_typicality(self.work / "typicality.png", rows)
            if fitted is not None:
                fitted.save(self.work / "fit.json")
            self.write_record(
                {"config": config, "summary": summarise(rows), "images": [dict(vars(row)) for row in rows]}
            )
            self.place()


def summarise(rows: list[SampleRow]) -> dict[str, dict[str, float]]:
    """Mean, smallest and largest gap of each kind of noise."""
    columns = {kind: [float(getattr(row, kind)) for row in rows] for kind in KINDS}
    return {kind: {"mean": sum(v) / len(v), "min": min(v), "max": max(v)} for kind, v in columns.items()}


def require_matplotlib() -> None:
    """Raises RuntimeError where the plots' library is missing."""
    require("matplotlib.figure", what="plot", extra="plot")


def plot_typicality(path: str | Path, rows: list[SampleRow]) -> None:
    """A PNG: the gap of every noise of every image, over the band of two standard deviations of plain noise.

    Raises:
        RuntimeError: no matplotlib; it comes with the extra "plot".
        OSError: the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # no pyplot: it would keep figures and choose a window system

    figure = Figure(figsize=(max(6.0, min(16.0, 2.5 + 0.35 * len(rows))), 4.5), layout="constrained")
    axes = figure.add_subplot()
    places = list(range(len(rows)))
    spread = [2 * row.spread for row in rows]
    axes.bar(
        places,
        [2 * s for s in spread],
        bottom=[-s for s in spread],
        width=1.0,
        color="0.85",
        label=r"$\pm 2/\sqrt{2d}$",
    )
    for (kind, label), marker in zip(KINDS.items(), "os^v", strict=True):
        axes.plot(places, [getattr(row, kind) for row in rows], marker, markersize=5, label=label)
    axes.set_ylabel("typicality gap, nats per pixel")
    if len(rows) <= 30:
        axes.set_xticks(places, [row.name for row in rows], rotation=45, ha="right")
    else:
        axes.set_xlabel("image")
    axes.legend(fontsize="small")

    def save(file: BinaryIO) -> None:
        figure.savefig(file, format="png", dpi=120)

    write_atomic(path, save)
