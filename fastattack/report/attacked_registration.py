"""The folder of an attack on registration: report.json, pairs and fields, lossless, and a picture of each pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ..job import Row
from ..job_attack_registration import PairResult, summarise_registration
from ..registration.fields import folded
from ..registration.pictures import enlarged, grid_picture, middle_fields, middle_slices, zoom_for
from .folder import OutputFolder
from .picture import panel, sheet

_LEAST = 224  # pixels, to which small images are enlarged


class AttackedRegistrationFolder(OutputFolder):
    """``with AttackedRegistrationFolder(out) as folder: folder.add(result) ...; folder.finish(config)``.

    attacked.safetensors holds each pair as it was attacked (2, *spatial), by its name; fields.safetensors the fields
    (d, *spatial) in voxels as "NAME/before" and "NAME/after".
    """

    kind = "report of an attack on registration"
    record = "report.json"
    files = frozenset({"attacked.safetensors", "fields.safetensors"})
    folders = frozenset({"pictures"})

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        super().__init__(out, overwrite=overwrite)
        self._rows: list[Row] = []
        self._attacked: dict[str, Tensor] = {}
        self._fields: dict[str, Tensor] = {}

    def add(self, result: PairResult) -> None:
        """Write the picture of one pair and keep the rest."""
        name = str(result.row["name"])
        with self.named():
            pictures = self.work / "pictures"
            pictures.mkdir(exist_ok=True)
            picture_of(result).save(pictures / f"{name}.png")
        self._rows.append(result.row)
        self._attacked[name] = result.attacked.float().contiguous()
        for when, field in (("before", result.before), ("after", result.after)):
            self._fields[f"{name}/{when}"] = field.float().contiguous()

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the tensors and report.json, and put the folder in its place; returns the report."""
        report: dict[str, Any] = {
            "config": config, "summary": summarise_registration(self._rows), "pairs": self._rows,
        }  # fmt: skip
        with self.named():
            save_file(self._attacked, self.work / "attacked.safetensors")
            save_file(self._fields, self.work / "fields.safetensors")
            self.write_record(report)
            self.place()
        return report


def picture_of(result: PairResult) -> Image.Image:
    """Above as it was, below as it became: both images, the warped one, the grid as it is deformed, and the change.

    Changes are scaled so that the largest of both images fills the range around grey; of a volume two rows for each of
    the three slices through its middle.
    """
    change = result.attacked - result.pair
    gain = 0.5 / max(float(change.abs().max()), 1e-12)
    panels = []
    for k in range(1 if result.before.shape[0] == 2 else 3):
        for key, images, warped, field in (
            ("before", result.pair, result.warped_before, result.before),
            ("after", result.attacked, result.warped_after, result.after),
        ):
            now, side = ("", "moving") if key == "before" else (", attacked", "fixed")
            moved = 0.5 + gain * change[int(side == "fixed")]
            grays = [middle_slices(image)[k] for image in (images[0], images[1], warped[0], moved)]
            zoom = zoom_for(grays[0].shape, _LEAST)
            cells = [enlarged(gray[None], zoom) for gray in grays]
            folds = middle_slices(folded(field[None])[0])[k]
            cells.insert(3, grid_picture(middle_fields(field)[k], zoom=zoom, folds=folds))
            titles = (
                f"moving{now}", f"fixed{now}", f"moving, warped{now}",
                f"grid{now}, folds {100 * float(result.row[f'folded_{key}']):.2f} %", f"change of {side}, x{gain:.0f}",
            )  # fmt: skip
            panels += [(title, "", panel(cell)) for title, cell in zip(titles, cells, strict=True)]
    return _sheet_of_sizes(panels)


def _sheet_of_sizes(panels: list[tuple[str, str, Image.Image]]) -> Image.Image:
    """Slices of a volume differ in size: each on white of the largest."""
    width, height = (max(cell.size[axis] for _, _, cell in panels) for axis in (0, 1))
    placed = []
    for title, words, cell in panels:
        whole = Image.new("RGB", (width, height), "white")
        whole.paste(cell, (0, 0))
        placed.append((title, words, whole))
    return sheet(placed, columns=5)
