"""`fastattack sample`: typical-set samples of some images, and where they lie beside plain and attacked noise."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import device_name, load_model, versions
from .noise import NoiseOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ..job import ImageResult, JobConfig
    from ..report.samples import SampleRow
    from ..sampler import TypicalSetSampler
    from ..typical import SpectrumFit

_OPTION = typer.Option


def sample(
    out: Annotated[Path, _OPTION(help="folder for the samples, typicality.json, typicality.png and fit.json")],
    sigma: Annotated[str | None, _OPTION(help="noise level on the 0-255 scale; default: the fit's, or 25")] = None,
    typicality: Annotated[
        str | None, _OPTION(help="gap in nats per pixel, or low:high; default: the fit's, or 0")
    ] = None,
    mean: Annotated[
        str | None, _OPTION(help="of the noise for images in [0, 1], or low:high; default: the fit's, or 0")
    ] = None,
    spectrum: Annotated[
        str | None, _OPTION(help="none, adversarial, or the fit.json of an earlier call; default: the fit's, or none")
    ] = None,
    share: Annotated[str | None, _OPTION(help="part of the energy that has the spectrum; default: its own")] = None,
    fit: Annotated[bool, _OPTION(help="fit gap, mean and spectrum to the attacked noise; writes fit.json")] = False,
    bands: Annotated[int, _OPTION(help="radial bands of the fitted spectrum")] = 16,
    data: Annotated[
        list[Path] | None, _OPTION(help="folder or image file; may be given again; default: packaged images")
    ] = None,
    model: Annotated[str, _OPTION(help="the denoiser that is attacked, as for attack")] = "embedded",
    weights: Annotated[Path | None, _OPTION(help="weight file of the model (.safetensors, .pt, .pth)")] = None,
    eps: Annotated[str, _OPTION(help="radius of the attack for images in [0, 1]")] = "5/255",
    steps: Annotated[int, _OPTION(help="gradient steps of the attack")] = 10,
    seed: Annotated[int, _OPTION(help="of the noise, the samples and the attack")] = 0,
    max_batch: Annotated[int, _OPTION(help="images of one size attacked together")] = 4,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    backend: Annotated[str, _OPTION(help="auto, reference, cpu, triton, cuda or cupy")] = "auto",
    overwrite: Annotated[bool, _OPTION(help="replace an earlier sample set in --out")] = False,
) -> None:
    """Draw typical-set noise for images, and plot its typicality beside that of plain and of attacked noise."""
    from .. import typical
    from ..job import JobConfig, load_images
    from ..numbers import parse_number
    from ..report.samples import SamplesFolder, require_matplotlib

    device = device_name(device)
    if max_batch < 1:
        raise ValueError(f"max-batch: wanted a whole number >= 1, got {max_batch}")
    wanted = NoiseOptions(
        typicality=typicality, mean=mean, spectrum=spectrum, share=share, plain_share=0.0, seed=seed, backend=backend
    )
    fitted = wanted.fit()
    level = parse_number(sigma, "sigma") if sigma is not None else 25.0 if fitted is None else 255 * fitted.sigma
    config = JobConfig(
        sigma=level, eps=parse_number(eps, "eps"), steps=steps, seed=seed, max_batch=max_batch, device=device,
        backend=backend,
    )  # fmt: skip
    wanted.sampler(level / 255, fitted)  # complains about options before any file is read
    require_matplotlib()
    folder = SamplesFolder(out, overwrite=overwrite)
    denoiser = load_model(model, weights, level, device)
    with resources.as_file(resources.files("fastattack") / "assets" / "images") as packaged:
        images = load_images(list(data) if data else [packaged], denoiser.channels)
    if fit and len(images) < typical.LEAST_SAMPLES:
        raise ValueError(f"fit: wanted at least {typical.LEAST_SAMPLES} images, got {len(images)}")
    described = {
        "model": model, "weights": None if weights is None else str(weights),
        "data": [str(d) for d in data] if data else "packaged images", "sigma": level, "eps": config.eps,
        "steps": steps, "seed": seed, "device": device, "backend": backend, "fit": fit, **versions(),
    }  # fmt: skip
    with folder:
        free, kept = (_attacked(denoiser, images, config, preserve) for preserve in (False, True))
        made = _fitted(free, level / 255, bands) if fit else None
        sampler = wanted.sampler(level / 255, made or fitted)
        rows = []
        for index, (name, clean) in enumerate(images):
            noisy = sampler(clean[None].to(device), sample_ids=[index])[0].cpu()
            folder.add(name, noisy)
            rows.append(_row(name, noisy - clean, free[name], kept[name], level / 255))
        folder.finish({**described, **_described(sampler)}, rows, made)
    _show(rows)
    print(f"samples: {out / 'samples'}")


def _attacked(
    model: Any, images: list[tuple[str, Tensor]], config: JobConfig, preserve: bool
) -> dict[str, ImageResult]:
    """denoising-PGD on plain noise, by image name."""
    from dataclasses import replace

    from ..job import run_job

    results = run_job(model, images, replace(config, preserve_noise=preserve))
    return {str(result.row["name"]): result for result in results}


def _fitted(results: dict[str, ImageResult], sigma: float, bands: int) -> SpectrumFit:
    from ..typical import fit

    perturbations = [r.attacked - r.noisy for r in results.values()]
    return fit(perturbations, [r.noisy - r.clean for r in results.values()], sigma=sigma, bands=bands)


def _row(name: str, noise: Tensor, free: ImageResult, kept: ImageResult, sigma: float) -> SampleRow:
    from ..report.samples import SampleRow
    from ..typical import expected_spread, typicality_gap

    return SampleRow(
        name=name,
        spread=expected_spread(noise.numel()),
        plain=float(free.row["typicality_before"]),
        sampled=float(typicality_gap(noise[None].double(), sigma=sigma)),
        attacked=float(free.row["typicality_after"]),
        attacked_preserved=float(kept.row["typicality_after"]),
    )


def _described(sampler: TypicalSetSampler) -> dict[str, Any]:
    """The sampler's own options for the record."""
    spectrum = sampler.spectrum
    return {
        "typicality": sampler.typicality,
        "mean": sampler.mean,
        "spectrum": None if spectrum is None else spectrum.power,
        "share": None if spectrum is None else spectrum.share,
    }


def _show(rows: list[SampleRow]) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    from ..report.samples import KINDS, summarise

    table = Table(title=f"typicality gap over {len(rows)} images, nats per pixel")
    for column in ("noise", "mean", "smallest", "largest"):
        table.add_column(column, justify="left" if column == "noise" else "right")
    for kind, found in summarise(rows).items():
        table.add_row(KINDS[kind], *(f"{found[key]:+.4f}" for key in ("mean", "min", "max")))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
