"""`fastattack attack --attack miga`: what an attack makes a restored image say."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .attacking import deliver, load_data, with_bar
from .common import load_model, versions

if TYPE_CHECKING:
    from ..job import ImageResult

MIGA = "miga"
OPTIONS = (
    "task", "labels", "target", "bank", "estimator", "lambda_mi", "lambda_rec", "lambda_com", "perceptual",
    "lpips_weights",
)  # fmt: skip
"""Those of the command that are for this attack alone."""


def attack_with_miga(
    model: str,
    weights: Path | None,
    data: list[Path] | None,
    common: dict[str, Any],
    own: dict[str, Any],
    *,
    out: Path | None,
    overwrite: bool,
) -> None:
    """``common``: options of every attack; ``own``: those of OPTIONS that were given."""
    from ..job_miga import MigaConfig, MigaJob, build_miga, open_task

    config = MigaConfig(**common, **_parsed(own))
    folder = None
    if out is not None:
        from ..report.miga import MigaFolder

        folder = MigaFolder(out, overwrite=overwrite)
    denoiser = load_model(model, weights, config.sigma, config.device)
    task, told = None, {}
    if config.task is not None:
        task, opened = open_task(config.task, sigma=config.sigma, channels=denoiser.channels, device=config.device)
        told = {"task_sha256": opened.sha256}
    build_miga(denoiser, task, config)  # complains about options before any image is read
    job = MigaJob(denoiser, task, load_data(data, denoiser.channels), config)
    paths = {name: str(value) for name in ("labels", "bank", "lpips_weights") if (value := getattr(config, name))}
    described = {
        "model": model, "weights": None if weights is None else str(weights),
        "data": [str(d) for d in data] if data else "packaged images", "attack": MIGA, **asdict(config), **paths,
        "labels": paths.get("labels", None if task is None else "what the task model says of the denoised image"),
        **told, **versions(),
    }  # fmt: skip
    assert config.steps is not None
    results = with_bar(job.run, len(job.images) * config.steps * config.restarts, _loss)
    deliver(results, folder, described, _show, out)


def _loss(loss: Any) -> str:
    return f"loss {-loss.mean().item():.3f}"


def _parsed(own: dict[str, Any]) -> dict[str, Any]:
    found = dict(own)
    for name in ("lambda_mi", "lambda_rec", "lambda_com"):
        if name in found:
            found[name] = _weight(found[name], name.replace("_", "-"))
    if found.get("perceptual") == "none":
        found["perceptual"] = None
    return found


def _weight(text: str, name: str) -> float | tuple[float, float]:
    """A number, or first:last."""
    from ..numbers import parse_number

    first, colon, last = text.partition(":")
    return (parse_number(first, name), parse_number(last, name)) if colon else parse_number(first, name)


def _show(results: list[ImageResult]) -> None:
    from ..job_miga import summarise_miga

    rows = [r.row for r in results]
    summary = summarise_miga(rows)
    asked = "label" in rows[0]
    table = Table(title=_title(summary, len(rows)))
    table.add_column("image")
    for title in ("label", "denoised", "attacked") if asked else ():
        table.add_column(title)
    for title in ("input dB", "SSIM", "output dB", "SSIM", "denoised dB", "attacked dB", "linf x255"):
        table.add_column(title, justify="right")
    for row in [*rows, {"name": "mean", **summary}]:
        words = [str(row.get(key, "")) for key in ("label", "says_denoised", "says_denoised_attacked")] if asked else []
        figures = [f"{row[f'{side}_{key}']:{how}}" for side in ("input", "output") for key, how in _FIGURES]
        table.add_row(
            escape(str(row["name"])), *map(escape, words), *figures, f"{row['psnr_denoised']:.2f}",
            f"{row['psnr_attacked']:.2f}", f"{row['linf'] * 255:.3f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)


_FIGURES = (("psnr", ".2f"), ("ssim", ".4f"))


def _title(summary: dict[str, Any], images: int) -> str:
    if "accuracy_before" not in summary:
        return f"Output {summary['output_psnr']:.2f} dB from the unattacked one over {images} images"
    rate = summary["success_rate"]
    changed = "none was right before" if rate is None else f"{rate:.0%} of what was right says something else"
    reached = f", {summary['target_rate']:.0%} say the target" if "target_rate" in summary else ""
    before, after = summary["accuracy_before"], summary["accuracy_after"]
    return f"Accuracy {before:.1%} -> {after:.1%} over {images} images: {changed}{reached}"
