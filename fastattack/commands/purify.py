"""`fastattack purify`: images through defences, and what a model makes of the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .attacking import packaged_images
from .common import device_name, device_of, versions

if TYPE_CHECKING:
    from ..defenses.spec import OpenedDefense
    from ..job import Row
    from ..job_purify import PurifyConfig, PurifyResult
    from ..models import OpenedModel

_OPTION = typer.Option


def purify(
    out: Annotated[Path, _OPTION(help="folder for report.json, report.html, purified and restored images")],
    data: Annotated[
        list[Path] | None, _OPTION(help="folders and image files, gray or colour; default: packaged images")
    ] = None,
    defense: Annotated[
        list[str] | None,
        _OPTION(
            help="[label=]purifier:t_star=60 (or sigma=35,sampler=ddim,steps=5,weights=FILE, ...), blur:1.5, median:3, "
            "jpeg:75 or bm3d:25; default: a purifier of five DDIM steps, a little above the noise"
        ),
    ] = None,
    attacked: Annotated[
        list[Path] | None,
        _OPTION(help="folders with attacked versions of the images: reports of `attack`, or images of the same names"),
    ] = None,
    model: Annotated[
        str | None, _OPTION(help="what restores the purified images: [label=]kind[:source], as for evaluate")
    ] = None,
    sigma: Annotated[
        str | None, _OPTION(help="noise on the 0-255 scale, added to the images as `attack` does; default: none")
    ] = None,
    add_noise: Annotated[
        bool, _OPTION("--add-noise/--no-add-noise", help="with --sigma: the images hold that noise already")
    ] = True,
    channels: Annotated[
        int | None, _OPTION(help="of the images, 1 or 3; default: the model's, or each image's own")
    ] = None,
    seed: Annotated[int, _OPTION(help="of the noise and of purifiers")] = 0,
    max_batch: Annotated[int, _OPTION(help="images of one size purified together")] = 4,
    precision: Annotated[str, _OPTION(help="of diffusion models: fp32, tf32, bf16, fp16 or auto")] = "fp32",
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    overwrite: Annotated[bool, _OPTION("--overwrite", help="replace an earlier purification in --out")] = False,
) -> None:
    """Purify images, clean, noisy or attacked, and restore them by a model; say what that costs and what is left."""
    from ..defenses.spec import check_defense_labels, parse_defense
    from ..job_purify import PurifyConfig, default_defense, load_subjects, open_defenses, run_purify
    from ..models import open_model, parse_spec
    from ..numbers import parse_number
    from ..report.purify import PurifyFolder

    if channels not in (None, 1, 3):
        raise ValueError(f"channels: wanted 1 or 3, got {channels}")
    config = PurifyConfig(
        sigma=None if sigma is None else parse_number(sigma, "sigma"), add_noise=add_noise, seed=seed,
        max_batch=max_batch, device=str(device_of(device_name(device))), precision=precision,
    )  # fmt: skip
    specs = [parse_defense(text) for text in defense or [default_defense(config.sigma, restored=model is not None)]]
    check_defense_labels(specs)
    folder = PurifyFolder(out, overwrite=overwrite)
    restorer = None
    if model is not None:
        restorer = open_model(parse_spec(model), sigma=config.sigma, channels=channels, device=config.device)
        channels = channels or restorer.channels
    with packaged_images() as packaged:
        subjects = load_subjects(data or [packaged], attacked or [], config, channels)
    opened = open_defenses(specs, subjects, config, restored=restorer is not None)
    described = _described(config, next(iter(opened.values())), restorer, data, attacked)
    with folder:
        total = len(specs) * sum(len(subject.versions) for subject in subjects)
        run = None if restorer is None else restorer.model
        for result in _with_bar(lambda told: run_purify(subjects, opened, run, config, told), total):
            folder.add(result)
        report = folder.finish(described)
    _show(report["summary"])
    print(f"report: {out / 'report.html'}")


def _described(
    config: PurifyConfig,
    defenses: list[OpenedDefense],
    model: OpenedModel | None,
    data: list[Path] | None,
    attacked: list[Path] | None,
) -> dict[str, Any]:
    """For the record: what was run, and the weights that it used."""
    return {
        "data": [str(path) for path in data] if data else "packaged images",
        "attacked": [str(path) for path in attacked or []],
        "defenses": [[one.label, one.spec, one.how, one.sha256 or "-"] for one in defenses],
        "model": None if model is None else model.spec,
        "model_sha256": None if model is None else model.sha256,
        **asdict(config), **versions(),
    }  # fmt: skip


def _with_bar(run: Callable[[Callable[[int], None]], Iterator[PurifyResult]], total: int) -> Iterator[PurifyResult]:
    """Results as they come, under a progress bar over ``total`` of them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("purifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=total)
        yield from run(lambda count: bar.update(task, advance=count))


def _show(summary: list[Row]) -> None:
    from ..report.purify import cells, heads

    table = Table("defence", "version", title=f"{summary[0]['images']} images, means")
    for title in heads(summary[0]):
        table.add_column(title, justify="right")
    for row in summary:
        table.add_row(escape(row["defense"]), escape(row["version"]), *cells(row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
