"""The folder of an attack's report: report.json, the attacked inputs, lossless and as PNG, and a picture of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file

from ..images import save_png
from ..job import ImageResult, Row, summarise
from .folder import OutputFolder
from .picture import comparison


class ReportFolder(OutputFolder):
    """``with ReportFolder(out) as folder: folder.add(result) ...; folder.finish(config)``."""

    kind = "report"
    record = "report.json"
    files = frozenset({"attacked.safetensors", "report.html"})
    folders = frozenset({"attacked", "pictures"})

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        super().__init__(out, overwrite=overwrite)
        self._rows: list[Row] = []
        self._attacked: dict[str, Any] = {}

    def picture(self, result: ImageResult) -> Image.Image:
        """The picture of one image."""
        return comparison(result)

    def summary(self, rows: list[Row]) -> dict[str, Any]:
        """What is said of all images."""
        return summarise(rows)

    def add(self, result: ImageResult) -> None:
        """Write the pictures of one image and keep its row."""
        name = str(result.row["name"])
        with self.named():
            save_png(self.work / "attacked" / f"{name}.png", result.attacked)
            pictures = self.work / "pictures"
            pictures.mkdir(exist_ok=True)
            self.picture(result).save(pictures / f"{name}.png")
        self._rows.append(result.row)
        self._attacked[name] = result.attacked.float().contiguous()

    def complete(self, report: dict[str, Any]) -> None:
        """Write what else belongs into the folder."""

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write report.json and the lossless inputs, and put the folder in its place; returns the report."""
        report: dict[str, Any] = {"config": config, "summary": self.summary(self._rows), "images": self._rows}
        with self.named():
            save_file(self._attacked, self.work / "attacked.safetensors")
            self.write_record(report)
            self.complete(report)
            self.place()
        return report
