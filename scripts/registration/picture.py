"""One pair before and after an attack, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastattack as fa
from fastattack.images import save_png
from fastattack.objectives import registration as objectives
from fastattack.registration.attacking import attack_registration
from fastattack.registration.fields import warp
from fastattack.registration.pictures import beside, checkerboard, enlarged, grid_picture

from .data import Pairs
from .rows import STEPS

ZOOM, SCALE = 2, 6.0  # mm of error that is white


def save(path: Path, model: Any, some: Pairs, *, row: int, eps: int) -> None:
    """Two rows, before and after PGD on both images: moving, fixed, warped, checkerboard of warped and fixed image,
    grid of the field (red where it folds), error of the field (white: 6 mm)."""
    found = attack_registration(
        model, some.pair, some.truth, attack=fa.PGD, objective=objectives.field_error(), eps=eps / 255, steps=STEPS
    )
    true = some.truth.field
    assert true is not None
    space = 1.0 if some.truth.spacing is None else float(some.truth.spacing[row, 0])
    lines = []
    for pair, field in ((some.pair, found.harm.field_before), (found.adversarial, found.harm.field_after)):
        moving, fixed = pair[row]
        warped = warp(pair[row : row + 1, :1], field[row : row + 1])[0, 0]
        error = space * (field[row] - true[row]).norm(dim=0) / SCALE
        plain = [moving, fixed, warped]
        shown = [_grey(x) for x in plain] + [enlarged(checkerboard(warped, fixed), ZOOM)]
        lines.append(beside([*shown, grid_picture(field[row], zoom=ZOOM), _grey(error)]))
    gap = torch.ones(3, 4, lines[0].shape[2])
    save_png(path, torch.cat([lines[0], gap, lines[1]], 1).clamp(0, 1))


def _grey(image: Tensor) -> Tensor:
    return enlarged(image.clamp(0, 1).expand(3, -1, -1), ZOOM)
