"""`fastattack attack`: what an attack costs a denoiser on some images, or a registration model on some pairs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .attack_miga import MIGA, OPTIONS, attack_with_miga
from .attack_registration import OPTIONS as OF_REGISTRATION
from .attack_registration import REGISTRATION, attack_on_registration
from .attacking import deliver, load_data, with_bar
from .common import device_name, load_model, versions

_OPTION = typer.Option


def attack(
    model: Annotated[
        str,
        _OPTION(
            help="dncnn, ffdnet, ecndnet, n2n, or embedded (the small DnCNN in the package); for registration: "
            "llm-morph:FILE, bspline, syn, FILE.py:function, torchscript:FILE or export:FILE"
        ),
    ] = "embedded",
    weights: Annotated[Path | None, _OPTION(help="weight file of the model (.safetensors, .pt, .pth)")] = None,
    data: Annotated[
        list[Path] | None,
        _OPTION(
            help="folder or image file; may be given again; default: packaged images; registration: synthetic pairs "
            "are made of them, of NIfTI files too"
        ),
    ] = None,
    attack: Annotated[
        str | None,
        _OPTION(
            help="denoising-pgd (default), pgd (registration's default), apgd, bim, fgsm, mi-fgsm, ni-fgsm, obsatk, "
            "square, simba or miga"
        ),
    ] = None,
    sigma: Annotated[
        str | None, _OPTION(help="noise level on the 0-255 scale, default 25; registration: default none")
    ] = None,
    eps: Annotated[
        str, _OPTION(help="radius of the ball for images in [0, 1], such as 5/255 (l2, obsatk: of the whole image)")
    ] = "5/255",
    steps: Annotated[
        int | None, _OPTION(help="gradient steps, default 10, miga 20; for square and simba: queries; fgsm: none")
    ] = None,
    step: Annotated[str | None, _OPTION(help="length of a step, default 2.5 eps / steps; fgsm, square: none")] = None,
    norm: Annotated[str | None, _OPTION(help="linf, l2 or l1, default linf; obsatk: always l2")] = None,
    preserve_noise: Annotated[
        bool | None,
        _OPTION(
            "--preserve-noise/--no-preserve-noise",
            help="keep mean and norm of the noise (denoising-pgd, where it is the default, miga, and registration)",
        ),
    ] = None,
    restarts: Annotated[int, _OPTION(help="independent random starts; the best is kept")] = 1,
    seed: Annotated[int, _OPTION(help="of the noise and the random starts")] = 0,
    max_batch: Annotated[int, _OPTION(help="images of one size attacked together")] = 4,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    backend: Annotated[str, _OPTION(help="auto, reference, cpu, triton, cuda or cupy")] = "auto",
    precision: Annotated[str, _OPTION(help="of the gradients: fp32, tf32, bf16, fp16 or auto")] = "fp32",
    task: Annotated[
        str | None,
        _OPTION(
            help="registration: attack a registration model on pairs; miga: the task model, FILE.py:function, "
            "torchscript:FILE or export:FILE, default unknown"
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        _OPTION(
            help="miga: JSON file {image name: class number or text}, what the attack takes away; default: what the "
            "task model says of the denoised image"
        ),
    ] = None,
    target: Annotated[str | None, _OPTION(help="miga: class (or text) that the task model shall say")] = None,
    bank: Annotated[
        Path | None, _OPTION(help="miga, unknown task: folder with more clean images of the same sizes")
    ] = None,
    estimator: Annotated[str | None, _OPTION(help="miga, unknown task: dv, infonce or nwj, default dv")] = None,
    lambda_mi: Annotated[
        str | None, _OPTION(help="miga: weight of the meaning, default 1; first:last changes it")
    ] = None,
    lambda_rec: Annotated[str | None, _OPTION(help="miga: weight of a clean output, default 10")] = None,
    lambda_com: Annotated[str | None, _OPTION(help="miga: weight of an input like the noisy one, default 1")] = None,
    perceptual: Annotated[str | None, _OPTION(help="miga: ssim (default), ms-ssim, lpips or none")] = None,
    lpips_weights: Annotated[Path | None, _OPTION(help="miga: file with the weights of LPIPS")] = None,
    moving: Annotated[Path | None, _OPTION(help="registration: the moving image, NIfTI or gray")] = None,
    fixed: Annotated[Path | None, _OPTION(help="registration: the fixed image")] = None,
    labels_moving: Annotated[Path | None, _OPTION(help="registration: label map of the moving image")] = None,
    labels_fixed: Annotated[Path | None, _OPTION(help="registration: label map of the fixed image")] = None,
    side: Annotated[str | None, _OPTION(help="registration: moving, fixed or both (default)")] = None,
    objective: Annotated[
        str | None, _OPTION(help="registration: field-error (default), tre, overlap (default with labels) or folding")
    ] = None,
    language: Annotated[
        Path | None, _OPTION(help="registration: where the language model of llm-morph:FILE is now")
    ] = None,
    out: Annotated[Path | None, _OPTION(help="folder for report.json, attacked inputs and pictures")] = None,
    overwrite: Annotated[bool, _OPTION(help="replace an earlier report in --out")] = False,
) -> None:
    """Add noise to images, denoise them, attack the denoiser, and report what the attack cost.

    miga changes what the denoised image means; the report has what the task model says of each picture. With --task
    registration a registration model is attacked, on two images or on synthetic pairs whose true field is known.
    """
    from ..job import ATTACKS, JobConfig, build_attack, run_job
    from ..numbers import parse_number

    device = device_name(device)
    pairs = task == REGISTRATION
    if max_batch < 1:
        raise ValueError(f"max-batch: wanted a whole number >= 1, got {max_batch}")
    attack = attack or ("pgd" if pairs else "denoising-pgd")
    if attack not in (*ATTACKS, MIGA):
        raise ValueError(f"attack: wanted one of {', '.join((*ATTACKS, MIGA))}, got {attack!r}")
    sigma = sigma or (None if pairs else "25")
    common: dict[str, Any] = {
        "sigma": None if sigma is None else parse_number(sigma, "sigma"), "eps": parse_number(eps, "eps"),
        "steps": steps, "step": None if step is None else parse_number(step, "step"), "norm": norm,
        "restarts": restarts, "seed": seed, "max_batch": max_batch, "device": device, "backend": backend,
        "precision": precision,
    }  # fmt: skip
    told = (moving, fixed, labels_moving, labels_fixed, side, objective, language)
    of_pairs = _given(OF_REGISTRATION, told)
    given = (
        None if pairs else task,
        labels,
        target,
        bank,
        estimator,
        lambda_mi,
        lambda_rec,
        lambda_com,
        perceptual,
        lpips_weights,
    )
    own = _given(OPTIONS, given)
    if pairs:
        _refuse(own, f"with task {REGISTRATION}", "miga")
        common |= {"attack": attack, "preserve_noise": bool(preserve_noise)}
        attack_on_registration(model, weights, data, common, of_pairs, out=out, overwrite=overwrite)
        return
    _refuse(of_pairs, "for a denoiser", f"task {REGISTRATION}")
    if attack == MIGA:
        common["preserve_noise"] = bool(preserve_noise)
        attack_with_miga(model, weights, data, common, own, out=out, overwrite=overwrite)
        return
    _refuse(own, f"for {attack}", MIGA)
    config = JobConfig(attack=attack, preserve_noise=preserve_noise is not False, **common)
    folder = None
    if out is not None:
        from ..report import ReportFolder

        folder = ReportFolder(out, overwrite=overwrite)
    denoiser = load_model(model, weights, config.sigma, device)
    build_attack(denoiser, config)  # complains about options before any file is read
    images = load_data(data, denoiser.channels)
    described = {
        "model": model, "weights": None if weights is None else str(weights),
        "data": [str(d) for d in data] if data else "packaged images", "attack": attack, **asdict(config), **versions(),
    }  # fmt: skip
    assert config.steps is not None
    total = len(images) * config.steps * config.restarts
    results = with_bar(lambda watch: run_job(denoiser, images, config, watch), total, _decibels)
    deliver(results, folder, described, _show, out)


def _given(names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    """Options that have a value."""
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _refuse(options: dict[str, Any], where: str, owner: str) -> None:
    for name, value in options.items():
        raise ValueError(f"{name.replace('_', '-')}: wanted none {where}, it is of {owner}, got {str(value)!r}")


def _decibels(loss: Any) -> str:
    return f"PSNR {-10 * loss.log10().mean().item():.2f} dB"


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
