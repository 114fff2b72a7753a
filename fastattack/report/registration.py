"""The folder of `fastattack register`: warped image, field, pictures and a record."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..images import save_png
from ..job_register import RegisterResult, lengths
from ..registration.fields import folded
from ..registration.pictures import (
    beside,
    checkerboard,
    determinant_picture,
    enlarged,
    grid_picture,
    middle_fields,
    middle_slices,
    zoom_for,
)
from ..registration.volumes import Volume, write_field, write_volume
from .folder import OutputFolder

PICTURES = ("checkerboard_before.png", "checkerboard.png", "grid.png", "determinant.png")


class RegistrationFolder(OutputFolder):
    """``with RegistrationFolder(out) as folder: folder.finish(result, config)``."""

    kind = "registration"
    record = "report.json"
    files = frozenset(
        {"warped.png", "warped.nii.gz", "field.npz", "field.nii.gz", "labels.png", "labels.nii.gz", *PICTURES}
    )

    def finish(self, result: RegisterResult, config: dict[str, Any]) -> dict[str, Any]:
        """Write everything and put the folder in its place; returns the record."""
        names = _names(result)
        report = {
            "config": config,
            "measures": result.measures,
            **lengths(result.found, result.like.spacing),
            "unit": result.like.unit,
            "folds": result.measures["folded"]["after"] > 0,
            "files": names,
        }
        with self.named():
            write_volume(self.work / names["warped"], result.warped, like=result.like)
            write_field(self.work / names["field"], result.found.field[0], like=result.like)
            if "labels" in names and result.found.labels_warped is not None:
                write_volume(self.work / names["labels"], result.found.labels_warped[0, 0], like=result.like)
            for name, picture in pictures(result).items():
                save_png(self.work / name, picture)
            self.write_record(report)
            self.place()
        return report


def pictures(result: RegisterResult) -> dict[str, Tensor]:
    """Name of the file -> (3, H, W); of volumes the three middle slices side by side."""
    upright = _is_nifti(result.like)
    fixed, moving = middle_slices(result.fixed), middle_slices(result.moving)
    warped = middle_slices(result.found.warped[0, 0])
    fields = middle_fields(result.found.field[0])
    folds = middle_slices(folded(result.found.field)[0])
    zoom = zoom_for(result.fixed.shape)
    grids = [grid_picture(f, zoom=zoom, folds=at) for f, at in zip(fields, folds, strict=True)]
    determinants = middle_slices(result.found.determinant[0])
    stretched = [determinant_picture(d, at, zoom=zoom) for d, at in zip(determinants, folds, strict=True)]

    def boards(images: list[Tensor]) -> Tensor:
        found = [enlarged(checkerboard(a, b), zoom) for a, b in zip(images, fixed, strict=True)]
        return beside(found, upright=upright)

    return {
        "checkerboard_before.png": boards(moving),
        "checkerboard.png": boards(warped),
        "grid.png": beside(grids, upright=upright),
        "determinant.png": beside(stretched, upright=upright),
    }


def _names(result: RegisterResult) -> dict[str, str]:
    nifti = _is_nifti(result.like)
    names = {"warped": "warped.nii.gz" if nifti else "warped.png", "field": "field.nii.gz" if nifti else "field.npz"}
    if result.found.labels_warped is not None:
        names["labels"] = "labels.nii.gz" if nifti else "labels.png"
    return names


def _is_nifti(volume: Volume) -> bool:
    return volume.affine is not None
