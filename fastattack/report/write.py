"""The folder of an attack's report: report.json, the attacked inputs, lossless and as PNG, and a picture of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ..images import save_png
from ..job import ImageResult, summarise
from .folder import OutputFolder
from .picture import comparison


class ReportFolder(OutputFolder):
    """``with ReportFolder(out) as folder: folder.add(result) ...; folder.finish(config)``."""

    kind = "report"
    record = "report.json"
    files = frozenset({"attacked.safetensors"})
    folders = frozenset({"attacked", "pictures"})

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        super().__init__(out, overwrite=overwrite)
        self._rows: list[dict[str, str | float]] = []
        self._attacked: dict[str, Any] = {}

    def add(self, result: ImageResult) -> None:
        """Write the pictures of one image and keep its row."""
        name = str(result.row["name"])
        with self.named():
            save_png(self.work / "attacked" / f"{name}.png", result.attacked)
            pictures = self.work / "pictures"
            pictures.mkdir(exist_ok=True)
            comparison(result).save(pictures / f"{name}.png")
        self._rows.append(result.row)
        self._attacked[name] = result.attacked.float().contiguous()

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write report.json and the lossless inputs, and put the folder in its place; returns the report."""
        report = {"config": config, "summary": summarise(self._rows), "images": self._rows}
        with self.named():
            save_file(self._attacked, self.work / "attacked.safetensors")
            self.write_record(report)
            self.place()
        return report
