"""`fastattack evaluate`: how far attacks carry between models, as tables, figures and one page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .common import device_name, device_of

if TYPE_CHECKING:
    from ..distributed import Team
    from ..evaluate.run import Progress

_OPTION = typer.Option


def evaluate(
    out: Annotated[Path, _OPTION(help="folder for results.json, tables, figures and report.html")],
    config: Annotated[Path | None, _OPTION(help="YAML file with these options; those given here win")] = None,
    models: Annotated[
        list[str] | None, _OPTION(help="to attack and to score: [label=]kind[:source], such as dncnn:FILE")
    ] = None,
    targets: Annotated[list[str] | None, _OPTION(help="models to score alone, such as bm3d")] = None,
    defense: Annotated[
        list[str] | None,
        _OPTION(help="every model also behind it: [label=]purifier:t_star=60, blur:1.5, median:3, jpeg:75, bm3d:25"),
    ] = None,
    data: Annotated[list[str] | None, _OPTION(help="folders and image files")] = None,
    sigma: Annotated[str | None, _OPTION(help="noise level on the 0-255 scale, default 25")] = None,
    attack: Annotated[str | None, _OPTION(help="as for `fastattack attack`, default denoising-pgd")] = None,
    eps: Annotated[list[str] | None, _OPTION(help="radii for images in [0, 1], default 5/255")] = None,
    steps: Annotated[int | None, _OPTION(help="gradient steps, or queries of square; default 10")] = None,
    step: Annotated[str | None, _OPTION(help="length of a step, default 2.5 eps / steps")] = None,
    norm: Annotated[str | None, _OPTION(help="linf, l2 or l1, default linf; obsatk: l2")] = None,
    preserve_noise: Annotated[
        bool | None, _OPTION("--preserve-noise/--no-preserve-noise", help="keep mean and norm of the noise (default)")
    ] = None,
    restarts: Annotated[int | None, _OPTION(help="independent random starts, default 1")] = None,
    eot: Annotated[
        int | None,
        _OPTION(help="draws of a purifier averaged at each step; default 1: the attack knows the noise it will meet"),
    ] = None,
    seed: Annotated[
        int | None, _OPTION(help="of noise, random starts, purifiers and confidence intervals, default 0")
    ] = None,
    max_batch: Annotated[int | None, _OPTION(help="images of one size at a time, default 4")] = None,
    channels: Annotated[int | None, _OPTION(help="of the images, 1 or 3; default: what the models take")] = None,
    crop: Annotated[int | None, _OPTION(help="edge of central crops; default: whole images")] = None,
    limit: Annotated[int | None, _OPTION(help="only the first so many images")] = None,
    quality: Annotated[list[str] | None, _OPTION(help="beside PSNR: ssim (default), lpips, or none")] = None,
    lpips_weights: Annotated[str | None, _OPTION(help="file with the weights of LPIPS")] = None,
    shared_db: Annotated[
        str | None, _OPTION(help="loss in dB from which an attack counts as shared, default 1")
    ] = None,
    confidence: Annotated[str | None, _OPTION(help="of the bootstrap intervals, default 0.95")] = None,
    draws: Annotated[int | None, _OPTION(help="bootstrap resamples, default 2000")] = None,
    save_attacked: Annotated[
        bool | None, _OPTION("--save-attacked/--no-save-attacked", help="keep every attacked input (default)")
    ] = None,
    precision: Annotated[str | None, _OPTION(help="of the gradients, default fp32")] = None,
    backend: Annotated[str | None, _OPTION(help="of the kernels, default auto")] = None,
    device: Annotated[
        str, _OPTION(help="cpu, cuda, cuda:1, ... or auto; under torchrun auto is a GPU for each")
    ] = "auto",
    resume: Annotated[bool, _OPTION("--resume", help="go on with a run that was killed or partly failed")] = False,
    overwrite: Annotated[bool, _OPTION("--overwrite", help="replace an earlier evaluation in --out")] = False,
    skip_bad: Annotated[bool, _OPTION("--skip-bad", help="leave out images that cannot be read")] = False,
    report: Annotated[bool, _OPTION(help="draw figures and write report.html")] = True,
    patience: Annotated[int, _OPTION(help="seconds without a sign of life after which a process is dead")] = 60,
) -> None:
    """Attack every model, score every model on every attack. Exit code 1 where a model failed on the way.

    Run it under torchrun to share the work: torchrun --nproc-per-node 2 -m fastattack evaluate ...
    """
    given = {
        "models": models, "targets": targets, "defense": defense, "data": data, "sigma": sigma, "attack": attack,
        "eps": eps, "steps": steps, "step": step, "norm": norm, "preserve_noise": preserve_noise, "restarts": restarts,
        "eot": eot, "seed": seed, "max_batch": max_batch, "channels": channels, "crop": crop, "limit": limit,
        "quality": [] if quality == ["none"] else quality, "lpips_weights": lpips_weights, "shared_db": shared_db,
        "confidence": confidence, "draws": draws, "save_attacked": save_attacked, "precision": precision,
        "backend": backend,
    }  # fmt: skip
    from ..distributed import RankError, Team
    from ..evaluate.run import run_study
    from ..evaluate.study import study_file, study_from

    options = {} if config is None else study_file(config)
    study = study_from(options | {k: v for k, v in given.items() if v is not None})
    if resume and overwrite:
        raise ValueError("resume: wanted not together with --overwrite")
    try:
        with Team(patience=patience) as team, _Shown(team) as shown:
            results = run_study(
                study, out=out, device=device_of(_device(device, team)), team=team, resume=resume, overwrite=overwrite,
                skip_bad=skip_bad, report=report, show=None if shown.quiet else shown.show,
            )  # fmt: skip
    except RankError as error:
        raise RankError(f"{error}; what is done is kept: go on with --resume") from error
    if team.rank == 0:
        _tell(results, out)
    if any(model["failed"] for model in results["models"].values()):
        sys.exit(1)


def _device(name: str, team: Team) -> str:
    """Each process of a machine takes a GPU of its own."""
    chosen = device_name(name)
    return f"cuda:{team.local_rank}" if chosen == "cuda" and "LOCAL_RANK" in os.environ else chosen


class _Shown:
    """A progress bar of rank 0: images, time left, and dB so far."""

    def __init__(self, team: Team) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True)
        self.quiet = team.rank > 0 or not self.console.is_terminal
        columns = (
            TextColumn("evaluating"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[so_far]}"),
        )
        self.bar = Bar(*columns, console=self.console, disable=self.quiet)

    def __enter__(self) -> _Shown:
        self.bar.__enter__()
        self.task = self.bar.add_task("images", total=None, so_far="")
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    def show(self, now: Progress) -> None:
        so_far = "  ".join(f"{name} {before:.2f}->{after:.2f} dB" for name, (before, after) in now.psnr.items())
        self.bar.update(self.task, total=now.images, completed=now.done, so_far=so_far)


def _tell(results: dict[str, Any], out: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    for matrix in results["matrices"]:
        eps = f"eps {matrix['eps'] * 255:.3g}/255"
        title = f"PSNR lost in dB, {eps}, {matrix['images']} images: crafted on (down), restored by"
        console.print(title, markup=False, highlight=False)
        table = Table("", *map(escape, matrix["targets"]))
        for source, row in zip(matrix["sources"], matrix["drop"]["mean"], strict=True):
            table.add_row(escape(source), *("failed" if drop is None else f"{drop:.2f}" for drop in row))
        console.print(table)
    _tell_defended(console, results)
    for name, model in results["models"].items():
        if model["failed"]:
            console.print(f"{name} failed: {model['failed']}", markup=False, style="bold")
    for skipped in results["skipped"]:
        console.print(f"left out: {skipped['why']}", markup=False)
    print(f"report: {out / ('report.html' if (out / 'report.html').is_file() else 'results.json')}")


def _tell_defended(console: Console, results: dict[str, Any]) -> None:
    """Every defence under the blind and the adaptive attack, side by side."""
    from ..report.defended import defended_rows, defended_warnings

    if not (rows := defended_rows(results)):
        return
    columns = ("PSNR in dB", "eps", "undefended", "not attacked", "blind", "adaptive", "gradients", "its noise")
    table = Table(*columns)
    for row in rows:
        figures = ["failed" if f is None else f"{f.mean:.2f}" for f in (row.alone, row.clean, row.blind, row.adaptive)]
        table.add_row(escape(row.name), f"{row.eps * 255:.3g}/255", *figures, escape(row.how), row.noise or "none")
    console.print(table)
    for text in defended_warnings(results):
        console.print(text, markup=False, style="bold")
