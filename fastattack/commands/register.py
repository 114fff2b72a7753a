"""`fastattack register`: one image onto another one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .common import device_of, use_threads, versions

_OPTION = typer.Option


def register(
    moving: Annotated[Path, typer.Argument(help="image to be moved: .nii, .nii.gz, or a gray image file")],
    fixed: Annotated[Path, typer.Argument(help="image that it shall fit, of the same shape and spacing")],
    out: Annotated[Path, _OPTION(help="folder for the warped image, the field, pictures and report.json")],
    model: Annotated[
        str, _OPTION(help="bspline or syn (classical), llm-morph:FILE, FILE.py:function or torchscript:FILE")
    ] = "bspline",
    language: Annotated[
        str | None, _OPTION(help="of an llm-morph: folder of its language model, where that has moved")
    ] = None,
    labels_moving: Annotated[Path | None, _OPTION(help="labels of the moving image; they are warped with it")] = None,
    labels_fixed: Annotated[Path | None, _OPTION(help="labels of the fixed image, for Dice")] = None,
    overwrite: Annotated[bool, _OPTION("--overwrite", help="replace an earlier registration in --out")] = False,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    threads: Annotated[int | None, _OPTION(help="CPU threads of torch")] = None,
) -> None:
    """Register two images of any two modalities; say how well they fit, and where the field folds."""
    from ..job_register import RegisterFiles, RegisterJob
    from ..registration.opening import open_registration
    from ..report.registration import RegistrationFolder

    use_threads(threads)
    if labels_fixed is not None and labels_moving is None:
        raise ValueError(f"labels-moving: wanted a file beside labels-fixed ({labels_fixed}), got none")
    where = str(device_of(device))
    folder = RegistrationFolder(out, overwrite=overwrite)
    job = RegisterJob(RegisterFiles(moving=moving, fixed=fixed, labels_moving=labels_moving, labels_fixed=labels_fixed))
    opened = open_registration(model, dims=job.dims, language=language, device=where)
    described = {
        "moving": str(moving), "fixed": str(fixed), "model": opened.spec, "model_sha256": opened.sha256,
        "language": language, "labels_moving": None if labels_moving is None else str(labels_moving),
        "labels_fixed": None if labels_fixed is None else str(labels_fixed), "shape": list(job.fixed.data.shape),
        "spacing": list(job.fixed.spacing), "device": where, "same_place": job.same_place, **versions(),
    }  # fmt: skip
    with folder:
        report = folder.finish(job.run(opened), described)
    _show(report, opened.label)
    print(f"report: {out / 'report.json'}")


_TITLES = {
    "mind_ssc": ("MIND-SSC distance", ".4f"), "nmi": ("2 - NMI", ".4f"), "dice": ("Dice", ".3f"),
    "folded": ("folded voxels", ".2%"), "least_determinant": ("least determinant", ".3f"),
}  # fmt: skip


def _show(report: dict[str, Any], label: str) -> None:
    config = report["config"]
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(f"by {escape(label)}")
    for head in ("before", "after"):
        table.add_column(head, justify="right")
    for name, row in report["measures"].items():
        title, how = _TITLES[name]
        table.add_row(title, *(format(row[when], how) for when in ("before", "after")))
    console.print(escape(f"{config['moving']} onto {config['fixed']}"))
    console.print(table)
    far, mean, unit = report["largest_displacement"], report["mean_displacement"], report["unit"]
    if not config["same_place"]:
        told = (
            "the two grids lie at different places (affines): the field is on the grid, without what lies between them"
        )
        console.print(told, style="yellow")
    console.print(f"displacement: {mean:.2f} {unit} on average, {far:.2f} at most")
    if report["folds"]:
        share = report["measures"]["folded"]["after"]
        told = f"the field folds at {share:.2%} of the voxels, red in grid.png and determinant.png"
        console.print(told, style="bold red")
