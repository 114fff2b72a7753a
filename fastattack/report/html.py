"""report.html of an evaluation: one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import require
from ..files import write_atomic
from . import study
from .conclusions import conclude, warnings
from .defended import DefendedRow, defended_rows
from .figures import figure_name, write_figures
from .study import MEASURES, NBSP, QUALITY, Cell, Estimate, Measure, Results, estimate, grid, quality

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

PICTURES = {
    "clean": "Clean",
    "noisy": "Noisy",
    "attacked": "Attacked",
    "purified": "Attacked, purified",
    "restored": "Restored",
    "restored_attacked": "Restored, attacked",
    "perturbation": "Perturbation",
}
"""Key in an example's files -> its label; one is purified where the model stands behind a defence."""

STATISTICS = (
    Measure("typicality_before", "τ before", "Typicality gap of the noise, nats per pixel.", digits=4),
    Measure("typicality_after", "τ after", "Typicality gap of noise and perturbation together.", digits=4),
    Measure("correlation_noise", "ρ(δ, n)", "Correlation of the perturbation with the noise."),
    Measure("correlation_error", "ρ(δ, e)", "Correlation of the perturbation with the denoiser's error."),
    Measure("gain", "Gain", "‖D(y + δ) − D(y)‖ / ‖δ‖."),
    Measure("linf", "‖δ‖∞ · 255", "Largest pixel of the perturbation, on the 0-255 scale.", factor=255.0),
    Measure("l2", "‖δ‖₂", "Length of the perturbation, [0, 1] scale."),
    Measure(
        "mean_shift", "Shift · 255", "How far the mean of the noise moved, on the 0-255 scale.", digits=3, factor=255.0
    ),
    Measure("norm_ratio", "‖n + δ‖ / ‖n‖", "How the length of the noise changed.", digits=4),
    Measure("steps_used", "Steps", "Steps until the best was found.", digits=1),
)


@dataclass(frozen=True)
class Picture:
    """One image of an example, as a data: URI; ``caption``: its label and what is known of it."""

    key: str
    label: str
    detail: str
    uri: str
    width: int
    height: int


def write_report(out: Path, results: Results) -> None:
    """Write ``out``/figures/ and ``out``/report.html; each file is whole or as it was.

    Args:
        out: folder that holds the example images named in ``results``.
        results: what results.json holds.

    Raises:
        RuntimeError: no jinja2 or no matplotlib; they come with the extra "evaluate".
        OSError: an example cannot be read, or a file cannot be written.
        ValueError: an example is not a PNG image.
    """
    require("jinja2", what="report", extra="evaluate")
    examples = _examples(out, results)
    figures = write_figures(out / "figures", results)
    write_atomic(out / "report.html", _render(results, examples, figures).encode())


def _render(results: Results, examples: dict[str, list[dict[str, Any]]], figures: dict[str, str]) -> str:
    from markupsafe import Markup

    environment = page_environment()
    script = own_text(environment, "report.js")
    return environment.get_template("report.html.j2").render(
        config=results["config"],
        summary=results["summary"],
        models=results["models"],
        skipped=results["skipped"],
        findings=conclude(results),
        defended=[(row, _purified_cells(results, row)) for row in defended_rows(results)],
        warnings=warnings(results),
        facts=_facts(results),
        confidence=study.confidence(results),
        measures=_measures(results, figures),
        wide=any(len(matrix["targets"]) > 4 for matrix in results["matrices"]),
        all_eps=[matrix["eps"] for matrix in results["matrices"]],
        chosen=(study.largest(results) or {"eps": None})["eps"],
        plots={name: Markup(figure) for name, figure in figures.items() if name in ("robustness", "typicality")},
        spectra=[
            (eps, Markup(figures[name]))
            for eps in sorted({row["eps"] for row in results["statistics"]})
            if (name := figure_name("spectrum", eps)) in figures
        ],
        statistics=STATISTICS,
        rows=_statistics_rows(results),
        examples=examples,
        style=own_text(environment, "report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def page_environment() -> jinja2.Environment:
    """The package's templates: everything put into them is escaped, and what is not there is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(eps=study.eps_label, plain=_plain, grouped=_grouped)
    return environment


def own_text(environment: jinja2.Environment, name: str) -> Markup:
    """The package's own style or script: the only thing beside the figures that is not escaped."""
    from markupsafe import Markup

    return Markup(environment.loader.get_source(environment, name)[0])  # type: ignore[union-attr]


def _facts(results: Results) -> list[tuple[str, str]]:
    """(label, value) of what was run, the shortest things first."""
    config, summary = results["config"], results["summary"]
    sources = sum(model["role"] == "source" for model in results["models"].values())
    others = len(results["models"]) - sources
    return [
        ("Images", _grouped(summary["images"])),
        ("Models", f"{sources} attacked" + (f", {others} more as target{'s' * (others > 1)}" if others else "")),
        ("Attack", f"{config['attack']}, {_plain(config['steps'])} steps"),
        ("ε", ", ".join(study.eps_label(eps) for eps in config["eps"]) + f" ({config['norm']})"),
        ("Noise", f"σ = {_plain(config['sigma'])}" + (", kept by the attack" if config["preserve_noise"] else "")),
        ("Time", _duration(float(summary["seconds"]))),
    ]


def _grouped(count: int) -> str:
    """1 234 567"""
    return f"{count:,}".replace(",", "\u202f")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def _plain(value: Any) -> str:
    """A value of the configuration as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "–"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _measures(results: Results, figures: dict[str, str]) -> list[dict[str, Any]]:
    """Every measure with its grids, one for each eps, and their figures."""
    from markupsafe import Markup

    shown: list[dict[str, Any]] = []
    for measure in MEASURES:
        grids = [grid(results, matrix, measure) for matrix in results["matrices"]]
        pictures = [Markup(figures[figure_name(measure.key, one.eps)]) for one in grids]
        shown.append({"measure": measure, "grids": list(zip(grids, pictures, strict=True)), "main": True})
    for measure in QUALITY:
        after = [one for matrix in results["matrices"] if (one := quality(results, matrix, measure)) is not None]
        shown += [{"measure": measure, "grids": [(one, None) for one in after], "main": False}] if after else []
    return shown


def _statistics_rows(results: Results) -> list[dict[str, Any]]:
    labels = study.short_labels(list(dict.fromkeys(row["source"] for row in results["statistics"])))
    return [
        {
            "source": row["source"],
            "label": labels[row["source"]],
            "eps": row["eps"],
            "shell": "–" if row["spread"] is None else f"±{study.number(2 * row['spread'], 4)}",
            "cells": [_statistic(results, row, measure) for measure in STATISTICS],
        }
        for row in results["statistics"]
    ]


def _statistic(results: Results, row: dict[str, Any], measure: Measure) -> Cell:
    value: Estimate | None = estimate(row[measure.key])
    if value is None:
        return Cell(None, 0.0, "failed" if study.failure(results, row["source"]) else "–", "", "")
    interval = "" if value.low is None else f"{measure.text(value.low)} to {measure.text(value.high)}"
    return Cell(value, 0.0, measure.text(value.mean), interval, f"{measure.title}: {measure.text(value.mean)}")


def _purified_cells(results: Results, row: DefendedRow) -> list[tuple[str, str, bool]]:
    """(PSNR, interval, it is the one that counts) in the order of the table's columns."""
    found = []
    for value in (row.alone, row.clean, row.blind, row.adaptive):
        text = "–" if value is None else study.number(value.mean, 2)
        inside = (
            ""
            if value is None or value.low is None or value.high is None
            else (f"{study.number(value.low, 2)} to {study.number(value.high, 2)}")
        )
        found.append((text, inside, value is not None and value is row.counts))
    return found


def _examples(out: Path, results: Results) -> dict[str, list[dict[str, Any]]]:
    """Source -> its examples, with their pictures."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for example in results["examples"]:
        pictures = [
            _picture(out / file, key, label, example)
            for key, label in PICTURES.items()
            if (file := example["files"].get(key)) is not None or key != "purified"
        ]
        grouped.setdefault(example["source"], []).append({**example, "pictures": pictures})
    return grouped


def _picture(path: Path, key: str, label: str, example: dict[str, Any]) -> Picture:
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 24:
        raise ValueError(f"results: wanted a PNG image as example, got {path}")
    width, height = struct.unpack(">II", data[16:24])
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return Picture(key, label, _detail(key, example["psnr"]), uri, width, height)


def _detail(key: str, psnr: dict[str, float | None]) -> str:
    """What stands beside a picture's label."""
    if key == "perturbation":
        before, after = psnr["restored"], psnr["restored_attacked"]
        return "" if before is None or after is None else f"costs {study.number(before - after, 2)}{NBSP}dB"
    value = psnr.get(key)
    return "" if value is None or not math.isfinite(value) else f"{study.number(value, 2)}{NBSP}dB"
