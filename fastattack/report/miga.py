"""The folder of a report on MIGA: what a task model says stands in pictures, rows and summary; and one page of it."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from ..extras import require
from ..job import ImageResult, Row
from ..job_miga import PLACES, summarise_miga
from .html import own_text, page_environment
from .picture import comparison, panel
from .write import ReportFolder

SHOWN = 12
"""Images on the page at most; those that came to say something else first."""
LEAST = 192  # pixels, to which pictures of smaller images are enlarged
_LABELS = dict(zip(PLACES, ("Input", "Attacked input", "Denoised", "Denoised, attacked"), strict=True))
_COLUMNS = (
    ("input_psnr", "input, dB", ".2f"), ("input_ssim", "input, SSIM", ".4f"), ("output_psnr", "output, dB", ".2f"),
    ("output_ssim", "output, SSIM", ".4f"), ("psnr_denoised", "denoised, dB", ".2f"),
    ("psnr_attacked", "attacked, dB", ".2f"),
)  # fmt: skip


class MigaFolder(ReportFolder):
    """A `ReportFolder` with report.html, which needs no network.

    Raises:
        RuntimeError: no jinja2; it comes with the extra "evaluate".
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        require("jinja2", what="report", extra="evaluate")
        super().__init__(*arguments, **options)
        self._shown: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])

    def picture(self, result: ImageResult) -> Image.Image:
        return comparison(result, least=LEAST)

    def summary(self, rows: list[Row]) -> dict[str, Any]:
        return summarise_miga(rows)

    def add(self, result: ImageResult) -> None:
        super().add(result)
        kept = self._shown[0 if result.row.get("changed") else 1]
        if len(kept) < SHOWN:
            kept.append(_example(result))

    def complete(self, report: dict[str, Any]) -> None:
        changed, others = self._shown
        (self.work / "report.html").write_text(_page(report, [*changed, *others][:SHOWN]), encoding="utf-8")


def _example(result: ImageResult) -> dict[str, Any]:
    pictures = [(_LABELS[place], result.row.get(f"says_{place}"), _uri(result, place)) for place in PLACES]
    return {"row": result.row, "pictures": pictures}


def _uri(result: ImageResult, place: str) -> str:
    file = io.BytesIO()
    panel(getattr(result, place)).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _page(report: dict[str, Any], examples: list[dict[str, Any]]) -> str:
    config, rows = report["config"], report["images"]
    environment = page_environment()
    asked = "label" in rows[0]
    words = ("label", "says_denoised", "says_denoised_attacked") if asked else ()
    lines = [[row["name"], *(row[key] for key in words), *_figures(row)] for row in rows]
    return environment.get_template("miga.html.j2").render(
        version=config["fastattack"],
        facts=_facts(report),
        titles=["image", *(("label", "denoised says", "attacked says") if asked else ()), *(t for _, t, _ in _COLUMNS)],
        texts=1 + len(words),
        rows=[*lines, ["mean", *("" for _ in words), *_figures(report["summary"])]],
        examples=examples,
        least=LEAST,
        config=config,
        style=own_text(environment, "report.css"),
    )


def _figures(row: Row) -> list[str]:
    return [f"{row[key]:{how}}".replace("inf", "∞") for key, _, how in _COLUMNS]


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    config, summary = report["config"], report["summary"]
    found = [
        ("Images", str(summary["images"])),
        ("Task model", config["task"] or "unknown"),
        ("Attack", f"{config['steps']} steps, ε = {255 * config['eps']:.3g}/255 ({config['norm']})"),
        ("Noise", f"σ = {config['sigma']:g}"),
    ]
    if "accuracy_before" in summary:
        found.append(("Accuracy", f"{summary['accuracy_before']:.1%} → {summary['accuracy_after']:.1%}"))
        rate = summary["success_rate"]
        found.append(("Success, of what was right", "–" if rate is None else f"{rate:.0%}"))
        found.append(("Labels", config["labels"]))
    if "target_rate" in summary:
        found.append(("Says the target", f"{summary['target_rate']:.0%}"))
    return found
