"""`fastattack attack`: what an attack costs a denoiser on some images."""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .common import device_name, load_model, versions

_OPTION = typer.Option


def attack(
    model: Annotated[
        str, _OPTION(help="dncnn, ffdnet, ecndnet, n2n, or embedded (the small DnCNN in the package)")
    ] = "embedded",
    weights: Annotated[Path | None, _OPTION(help="weight file of the model (.safetensors, .pt, .pth)")] = None,
    data: Annotated[
        list[Path] | None, _OPTION(help="folder or image file; may be given again; default: packaged images")
    ] = None,
    attack: Annotated[
        str, _OPTION(help="denoising-pgd, pgd, apgd, bim, fgsm, mi-fgsm, ni-fgsm, obsatk or square")
    ] = "denoising-pgd",
    sigma: Annotated[str, _OPTION(help="noise level on the 0-255 scale")] = "25",
    eps: Annotated[
        str, _OPTION(help="radius of the ball for images in [0, 1], such as 5/255 (l2, obsatk: of the whole image)")
    ] = "5/255",
    steps: Annotated[int | None, _OPTION(help="gradient steps, default 10; for square: queries; fgsm: none")] = None,
    step: Annotated[str | None, _OPTION(help="length of a step, default 2.5 eps / steps; fgsm, square: none")] = None,
    norm: Annotated[str | None, _OPTION(help="linf, l2 or l1, default linf; obsatk: always l2")] = None,
    preserve_noise: Annotated[bool, _OPTION(help="keep mean and norm of the noise (denoising-pgd)")] = True,
    restarts: Annotated[int, _OPTION(help="independent random starts; the best is kept")] = 1,
    seed: Annotated[int, _OPTION(help="of the noise and the random starts")] = 0,
    max_batch: Annotated[int, _OPTION(help="images of one size attacked together")] = 4,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    backend: Annotated[str, _OPTION(help="auto, reference, cpu, triton, cuda or cupy")] = "auto",
    precision: Annotated[str, _OPTION(help="of the gradients: fp32, tf32, bf16, fp16 or auto")] = "fp32",
    out: Annotated[Path | None, _OPTION(help="folder for report.json, attacked inputs and pictures")] = None,
    overwrite: Annotated[bool, _OPTION(help="replace an earlier report in --out")] = False,
) -> None:
    """Add noise to images, denoise them, attack the denoiser, and report what the attack cost."""
    from ..job import JobConfig, build_attack, load_images
    from ..numbers import parse_number

    device = device_name(device)
    if max_batch < 1:
        raise ValueError(f"max-batch: wanted a whole number >= 1, got {max_batch}")
    config = JobConfig(
        attack=attack, sigma=parse_number(sigma, "sigma"), eps=parse_number(eps, "eps"), steps=steps,
        step=None if step is None else parse_number(step, "step"), norm=norm, preserve_noise=preserve_noise,
        restarts=restarts, seed=seed, max_batch=max_batch, device=device, backend=backend,
        precision=precision,
    )  # fmt: skip
    if out is not None:
        from ..report import ReportFolder

        folder = ReportFolder(out, overwrite=overwrite)
    denoiser = load_model(model, weights, config.sigma, device)
    build_attack(denoiser, config)  # complains about options before any file is read
    with resources.as_file(resources.files("fastattack") / "assets" / "images") as packaged:
        images = load_images(list(data) if data else [packaged], denoiser.channels)
    described = {
        "model": model, "weights": None if weights is None else str(weights),
        "data": [str(d) for d in data] if data else "packaged images", **asdict(config), **versions(),
    }  # fmt: skip
    if out is None:
        _show(list(_attacked(denoiser, images, config)))
        return
    with folder:
        rows = []
        for result in _attacked(denoiser, images, config):
            folder.add(result)
            rows.append(result)
        folder.finish(described)
    _show(rows)
    print(f"report: {out / 'report.json'}")


def _attacked(model: Any, images: list[Any], config: Any) -> Any:
    """Results as they come, under a progress bar that shows the mean PSNR of the batch at hand."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ..job import run_job

    console = Console(stderr=True)
    columns = (TextColumn("attacking"), BarColumn(), TextColumn("{task.fields[psnr]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        steps = config.steps * config.restarts
        task = bar.add_task("attack", total=len(images) * steps, psnr="")

        def progress(size: int, now: Any) -> None:
            if console.is_terminal:
                psnr = -10 * now.loss.double().log10().mean().item()
                bar.update(task, advance=size, psnr=f"PSNR {psnr:.2f} dB")

        yield from run_job(model, images, config, progress)


def _show(results: list[Any]) -> None:
    from ..job import summarise

    summary = summarise([r.row for r in results])
    table = Table(title=f"PSNR drop {summary['psnr_drop']:.2f} dB over {len(results)} images")
    table.add_column("image")
    for title in ("noisy dB", "denoised dB", "attacked dB", "linf x255", "mean shift", "norm ratio", "typicality"):
        table.add_column(title, justify="right")
    for row in [r.row for r in results] + [{"name": "mean", **summary}]:
        table.add_row(
            str(row["name"]), f"{row['psnr_noisy']:.2f}", f"{row['psnr_denoised']:.2f}", f"{row['psnr_attacked']:.2f}",
            f"{row['linf'] * 255:.3f}", f"{row['mean_shift']:+.1e}", f"{row['norm_ratio']:.6f}",
            f"{row['typicality_before']:+.4f} -> {row['typicality_after']:+.4f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)
