"""Registration of two image files without a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .job import Row
from .registration.fields import warp
from .registration.measures import Measures
from .registration.opening import OpenedRegistration
from .registration.registering import Registered, register
from .registration.similarity import mind_ssc, nmi
from .registration.volumes import Volume, read_labels, read_pair, read_volume


@dataclass(frozen=True, kw_only=True)
class RegisterFiles:
    """Which files. Labels are on their image's grid, whole numbers, 0 the background; None: there are none."""

    moving: Path
    fixed: Path
    labels_moving: Path | None = None
    labels_fixed: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RegisterResult:
    """What `run_register` found for one pair, on the CPU.

    Attributes:
        moving, fixed: the images that the model saw, in [0, 1], (*spatial).
        warped: the moving image with its own grey values, (*spatial).
        found: see `Registered`, B = 1.
        like: the fixed image with its grid.
        measures: figures of the report: name -> {"before": number or None, "after": ...}; folding always.
    """

    moving: Tensor
    fixed: Tensor
    warped: Tensor
    found: Registered
    like: Volume
    measures: dict[str, Row]


class RegisterJob:
    """Reads and checks the files; ``run`` registers them.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as for `read_pair` and `read_labels`; images of different shape or
            spacing, labels of another grid.
    """

    def __init__(self, files: RegisterFiles) -> None:
        self.pair, self.moving, self.fixed = read_pair(files.moving, files.fixed)
        self.raw = read_volume(files.moving).data  # read_pair scales NIfTI to [0, 1]
        self.labels: dict[str, Tensor | None] = {}
        for side, volume in (("moving", self.moving), ("fixed", self.fixed)):
            path = getattr(files, f"labels_{side}")
            self.labels[f"labels_{side}"] = None if path is None else read_labels(path, like=volume).data[None, None]

    @property
    def dims(self) -> int:
        """Of the images."""
        return self.fixed.dims

    @property
    def same_place(self) -> bool:
        """The grids lie at one place (affines, to 0.001 mm); a displacement is on the grid and leaves out the rest."""
        a, b = self.moving.affine, self.fixed.affine
        return a is None or b is None or bool(abs(a - b).max() <= 1e-3)

    def run(self, opened: OpenedRegistration) -> RegisterResult:
        """Register the pair.

        Raises:
            TypeError, ValueError: as for `register`.
        """
        moving, fixed = self.pair[:, :1], self.pair[:, 1:]
        found = register(opened.model, moving, fixed, spacing=self.fixed.spacing, **self.labels)
        warped = warp(self.raw[None, None].double(), found.field.double())[0, 0].float()
        return RegisterResult(
            moving=moving[0, 0],
            fixed=fixed[0, 0],
            warped=warped,
            found=found,
            like=self.fixed,
            measures=_figures(found, moving, fixed),
        )


def _figures(found: Registered, moving: Tensor, fixed: Tensor) -> dict[str, Row]:
    """Before and after; lengths in mm, distances of similarity as `mind_ssc` and `nmi` give them."""
    kinds: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mind_ssc": mind_ssc(), "nmi": nmi()}
    rows: dict[str, Row] = {
        name: {"before": float(distance(moving, fixed)), "after": float(distance(found.warped, fixed))}
        for name, distance in kinds.items()
    }
    for name in ("dice", "folded", "least_determinant"):
        before, after = (_number(m, name) for m in (found.measures_before, found.measures))
        if after is not None:
            rows[name] = {"before": before, "after": after}
    return rows


def _number(measures: Measures, name: str) -> float | None:
    value = getattr(measures, name)
    return None if value is None else float(value)


def lengths(found: Registered, spacing: tuple[float, ...]) -> Row:
    """Mean and largest length of the displacement, in the units of the spacing."""
    scale = found.field.new_tensor(spacing).view(1, -1, *[1] * len(spacing))
    far = torch.linalg.vector_norm(found.field * scale, dim=1)
    return {"mean_displacement": float(far.mean()), "largest_displacement": float(far.max())}
