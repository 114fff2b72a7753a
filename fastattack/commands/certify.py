"""`fastattack certify`: for each image the radius within which no perturbation changes a smoothed classifier."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .attacking import load_data
from .common import device_name, device_of, versions

if TYPE_CHECKING:
    from ..job import Row

_OPTION = typer.Option


def certify(
    task: Annotated[str, _OPTION(help="the classifier: FILE.py:function, torchscript:FILE or export:FILE")],
    out: Annotated[Path, _OPTION(help="folder for certificates.json, curves and report.html")],
    data: Annotated[
        list[Path] | None, _OPTION(help="folder or image file; may be given again; default: packaged images")
    ] = None,
    labels: Annotated[
        Path | None, _OPTION(help="JSON file {image name: class number or name}; default: every answer counts as right")
    ] = None,
    noise: Annotated[
        str, _OPTION(help="gaussian:SIGMA, laplace:B or uniform:HALF_WIDTH, for images in [0, 1]")
    ] = "gaussian:0.25",
    norm: Annotated[str | None, _OPTION(help="of the mean radius: l1, l2 or linf; default: the noise's own")] = None,
    n: Annotated[int, _OPTION(help="noisy copies of each image that its probability is estimated from")] = 10_000,
    n0: Annotated[int, _OPTION(help="other copies, that its class is chosen from")] = 100,
    alpha: Annotated[str, _OPTION(help="failure probability of an image's certificate")] = "0.001",
    whole_report: Annotated[
        bool, _OPTION("--whole-report", help="alpha is for all images together (Bonferroni)")
    ] = False,
    channels: Annotated[int, _OPTION(help="of the images, 1 or 3")] = 1,
    seed: Annotated[int, _OPTION(help="of the noise")] = 0,
    max_batch: Annotated[int | None, _OPTION(help="copies at a time; default: as suits the memory")] = None,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    backend: Annotated[str, _OPTION(help="auto, reference, cpu, triton, cuda or cupy")] = "auto",
    resume: Annotated[bool, _OPTION("--resume", help="go on with a run that was killed")] = False,
    overwrite: Annotated[bool, _OPTION("--overwrite", help="replace an earlier certification in --out")] = False,
) -> None:
    """Certify the answers of a classifier behind noise; each image's certificate is kept as soon as it is there."""
    from ..job_certify import CertifyConfig, CertifyJob, parse_noise, summarise_certificates
    from ..job_miga import open_task
    from ..numbers import parse_number
    from ..report.certify import CertificationFolder

    if channels not in (1, 3):
        raise ValueError(f"channels: wanted 1 or 3, got {channels}")
    if resume and overwrite:
        raise ValueError("resume: wanted not together with --overwrite")
    config = CertifyConfig(
        task=task, labels=labels, noise=noise, norm=norm, n=n, n0=n0, alpha=parse_number(alpha, "alpha"),
        whole_report=whole_report, seed=seed, max_batch=max_batch, device=str(device_of(device_name(device))),
        backend=backend,
    )  # fmt: skip
    folder = CertificationFolder(out, resume=resume, overwrite=overwrite)
    model, opened = open_task(task, sigma=0.0, channels=channels, device=config.device)
    job = CertifyJob(model, load_data(data, channels), config)
    folder.begin(job.identity(opened.sha256))
    rows = list(_with_bar(job.run(folder.shards), len(job.images)))
    summary = summarise_certificates(rows, config.own_norm, parse_noise(noise), config.alpha, job.family)
    described = {
        "data": [str(d) for d in data] if data else "packaged images", **asdict(config),
        "labels": None if labels is None else str(labels), "task_sha256": opened.sha256, **versions(),
    }  # fmt: skip
    folder.finish(described, rows, summary)
    _show(rows, summary)
    print(f"report: {out / 'report.html'}")


def _with_bar(rows: Iterator[Row], total: int) -> Iterator[Row]:
    """Rows as they come, under a progress bar with what is certified so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("certifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[so_far]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task, certified = bar.add_task("images", total=total, so_far=""), 0
        for done, row in enumerate(rows, 1):
            certified += bool(row.get("right", row["answer"] is not None))
            bar.update(task, advance=1, so_far=f"certified {certified / done:.1%}")
            yield row


def _show(rows: list[Row], summary: dict[str, Any]) -> None:
    known = "right" in rows[0]
    what = "right and certified" if known else "certified"
    table = Table(title=f"{summary['certified']:.1%} of {len(rows)} images {what}, {summary['abstained']:.1%} abstain")
    table.add_column("image")
    for title in (*(("label",) if known else ()), "answer"):
        table.add_column(title)
    for title in ("probability", "l1 radius", "l2 radius", "linf radius"):
        table.add_column(title, justify="right")
    for row in rows:
        words = [*([row["label"]] if known else []), row["answer"] or "abstains"]
        radii = [f"{row[f'radius_{norm}']:.4f}" for norm in ("l1", "l2", "linf")]
        table.add_row(escape(row["name"]), *map(escape, words), f">= {row['p']:.4f}", *radii)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"mean {summary['norm']} radius {summary['average_radius']:.4f}; {summary['seconds']:.1f} s")
