"""Rows that are kept as soon as they are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastattack as fa
from fastattack.files import write_atomic


class Store:
    """The rows of one section in a JSON file; a row is made again where its settings differ.

    Args:
        path: of the file, which holds all sections.
        settings: of every row.
        weights: of the purifier's model, "embedded" or a file; rows with a purifier depend on its numbers.
    """

    def __init__(self, path: Path, section: str, settings: dict[str, Any], weights: str) -> None:
        self.path, self.section, self.settings, self.weights = path, section, settings, weights
        self.rows: dict[str, Any] = self._all().get(section, {})

    def __call__(self, name: str, make: Callable[[], dict[str, Any]], purifier: fa.Purifier | None = None) -> str:
        """The row's name; it is there afterwards."""
        settings = self.settings if purifier is None else self.settings | {"purifier": identity(purifier)}
        if self.rows.get(name, {}).get("settings") != settings:
            self.rows[name] = json.loads(json.dumps(make() | {"settings": settings}))
            everything = self._all() | {self.section: self.rows}
            write_atomic(self.path, (json.dumps(everything, indent=1) + "\n").encode())
        return name

    def _all(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.is_file() else {}


def identity(purifier: fa.Purifier) -> str:
    """Its options and the first digits of the SHA-256 of its weights."""
    total = hashlib.sha256()
    for value in purifier.diffusion.state_dict().values():
        total.update(value.contiguous().numpy().tobytes())
    return f"{purifier!r}, weights {total.hexdigest()[:12]}"
