"""The folder of `fastattack purify`: purified and restored images, lossless and as PNG, a record and one page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..attacked import PLAIN
from ..extras import require
from ..images import save_png
from ..job import Row
from ..job_purify import FIGURES, PurifyResult, summarise_purify
from .folder import OutputFolder
from .html import own_text, page_environment
from .picture import panel
from .study import number

SHOWN = 24
"""Examples on the page at most: the first of each image, version and defence."""
LEAST = 192  # pixels, to which pictures of smaller images are enlarged
TITLES = {
    "psnr_input": "input, dB", "psnr_purified": "purified, dB", "psnr_undefended": "restored without it, dB",
    "psnr_restored": "restored, dB", "seconds": "seconds an image",
}  # fmt: skip
"""Figure of a row -> the head of its column."""


class PurifyFolder(OutputFolder):
    """``with PurifyFolder(out) as folder: folder.add(result) ...; folder.finish(config)``.

    Raises:
        RuntimeError: no jinja2; it comes with the extra "evaluate".
    """

    kind = "purification"
    record = "report.json"
    files = frozenset({"purified.safetensors", "restored.safetensors", "report.html"})
    folders = frozenset({"purified", "restored"})

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        require("jinja2", what="report", extra="evaluate")
        super().__init__(out, overwrite=overwrite)
        self._rows: list[Row] = []
        self._tensors: dict[str, dict[str, Tensor]] = {"purified": {}, "restored": {}}
        self._examples: list[dict[str, Any]] = []

    def add(self, result: PurifyResult) -> None:
        """Write the images of one result and keep its row."""
        row = result.row
        place = f"{safe_name(row['defense'])}/{safe_name(row['version'])}/{row['name']}"
        if place in self._tensors["purified"]:
            raise ValueError(f"defense: wanted labels that differ as names of folders, got {place!r} twice")
        with self.named():
            for kind, image in (("purified", result.purified), ("restored", result.restored)):
                if image is not None:
                    save_png(self.work / kind / f"{place}.png", image)
                    self._tensors[kind][place] = image.float().contiguous()
        self._rows.append({**row, "image": f"{place}.png"})
        if len(self._examples) < SHOWN:
            self._examples.append(_example(result))

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the record, the lossless images and the page, and put the folder in its place; returns the record."""
        report = {"config": config, "summary": summarise_purify(self._rows), "images": self._rows}
        with self.named():
            for kind, tensors in self._tensors.items():
                if tensors:
                    save_file(tensors, self.work / f"{kind}.safetensors")
            self.write_record(report)
            (self.work / "report.html").write_text(_page(report, self._examples), encoding="utf-8")
            self.place()
        return report


def safe_name(name: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60].strip("-.") or "unnamed"


def cells(row: Row) -> list[str]:
    """The figures of a row as text, those that it has."""
    return [_text(key, row[key]) for key in FIGURES if key in row]


def heads(row: Row) -> list[str]:
    """The heads of the columns that `cells` fills."""
    return [TITLES[key] for key in FIGURES if key in row]


def _text(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return "∞" if value == float("inf") else number(value, 3 if key == "seconds" else 2)


def _example(result: PurifyResult) -> dict[str, Any]:
    row, attacked = result.row, result.row["version"] != PLAIN
    stages = [
        ("Input", "" if attacked else "psnr_input", result.plain),
        *([("Attacked", "psnr_input", result.given)] if attacked else []),
        ("Purified", "psnr_purified", result.purified),
        *([("Restored", "psnr_restored", result.restored)] if result.restored is not None else []),
    ]
    pictures = [(label, _decibels(row.get(key)), _uri(image)) for label, key, image in stages]
    return {"row": row, "attacked": attacked, "pictures": pictures}


def _decibels(value: Any) -> str:
    return "" if value is None or value == float("inf") else f"{value:.2f} dB"


def _uri(image: torch.Tensor) -> str:
    file = io.BytesIO()
    panel(image).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _page(report: dict[str, Any], examples: list[dict[str, Any]]) -> str:
    config, rows, summary = report["config"], report["images"], report["summary"]
    environment = page_environment()
    return environment.get_template("purify.html.j2").render(
        version=config["fastattack"],
        facts=_facts(config, rows),
        defenses=config["defenses"],
        titles=heads(rows[0]),
        means=[[one["defense"], one["version"], one["images"], *cells(one)] for one in summary],
        rows=[[row["name"], row["version"], row["defense"], *cells(row)] for row in rows],
        known=rows[0]["psnr_input"] is not None,
        examples=examples,
        least=LEAST,
        config={key: value for key, value in config.items() if key != "defenses"},
        style=own_text(environment, "report.css"),
    )


def _facts(config: dict[str, Any], rows: list[Row]) -> list[tuple[str, str]]:
    sigma = config["sigma"]
    noise = "none" if sigma is None else f"σ = {sigma:g}" + ("" if config["add_noise"] else ", in the images already")
    return [
        ("Images", str(len({row["name"] for row in rows}))),
        ("Versions", ", ".join(dict.fromkeys(row["version"] for row in rows))),
        ("Noise", noise),
        ("Restored by", config["model"] or "nothing"),
    ]
