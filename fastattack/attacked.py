"""Attacked versions of images: reports of `fastattack attack`, or folders of images of the same names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .images import find_images, read_image
from .job import image_names

PLAIN = "input"
"""The version of an image that nobody attacked."""
LOSSLESS = "attacked.safetensors"


def labels_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names; of "attacked" inside a report the report's; numbered where they repeat."""
    found: list[str] = []
    for folder in folders:
        place = folder.resolve()
        name = place.parent.name if place.name == "attacked" else place.stem if place.is_file() else place.name
        label, number = name, 1
        while label in (PLAIN, *found):
            number += 1
            label = f"{name}_{number}"
        found.append(label)
    return found


def check_report(folder: Path, *, sigma: float | None, seed: int | None) -> None:
    """Where a report of `attack` says how its images were made, their noise is this.

    Args:
        sigma: 0-255 scale; None: there is none. seed: None where nobody adds noise.

    Raises:
        ValueError: another sigma or seed, or a report that cannot be read; names it.
    """
    place = folder.resolve()
    path = (place.parent if place.name == "attacked" else place) / "report.json"
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        if "attack" not in config:
            return
        told = (("sigma", config["sigma"], sigma), ("seed", config["seed"], seed))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as a report of attack: {error!r}") from error
    for name, wanted, got in told:
        if got != wanted and not (name == "seed" and seed is None):
            raise ValueError(f"{name}: wanted the {wanted} of {path}, got {got}")


class Versions:
    """The attacked versions in one folder, by the images' names."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"attacked: wanted a folder, got {folder}")
        self.folder, self.file = folder, folder / LOSSLESS
        self.paths = {}
        if not self.file.is_file():
            paths = find_images(folder)
            self.paths = dict(zip(image_names(paths), paths, strict=True))

    def read(self, name: str, like: Tensor) -> Tensor:
        found = self._lossless(name) if self.file.is_file() else self._image(name, like.shape[0])
        if found is None:
            raise ValueError(f"attacked: wanted an image {name!r} in {self.folder}, as in --data, got none")
        if found.shape != like.shape:
            hint = f"; see --channels {found.shape[0]}" if found.shape[1:] == like.shape[1:] else ""
            raise ValueError(
                f"attacked: wanted {name!r} in {self.folder} as {tuple(like.shape)}, which --data has, "
                f"got {tuple(found.shape)}{hint}"
            )
        return found

    def _lossless(self, name: str) -> Tensor | None:
        try:
            with safe_open(self.file, framework="pt") as file:
                return file.get_tensor(name).float() if name in file.keys() else None  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{self.file}: cannot be read as attacked inputs: {error}") from error

    def _image(self, name: str, channels: int) -> Tensor | None:
        path = self.paths.get(name)
        return None if path is None else read_image(path, channels)
