"""`fastattack train`: from folders of images to a weight file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import device_of, use_threads
from .noise import NoiseOptions, interval

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import Denoiser
    from ..sampler import Range
    from ..training import Strategy

_OPTION = typer.Option
STRATEGIES = ("plain", "ts", "pgd", "hat")


def train(
    data: Annotated[list[Path], _OPTION(help="folder or file of training images; may be given again")],
    out: Annotated[Path, _OPTION(help="folder for checkpoint.pt, log.csv and model.safetensors")],
    strategy: Annotated[str, _OPTION(help="plain, ts (typical set), pgd (adversarial) or hat (hybrid)")] = "ts",
    model: Annotated[str, _OPTION(help="dncnn, ffdnet, ecndnet, n2n, or embedded")] = "dncnn",
    weights: Annotated[Path | None, _OPTION(help="weight file to begin with; none: a new dncnn")] = None,
    depth: Annotated[int, _OPTION(help="convolutions of a new dncnn")] = 17,
    features: Annotated[int, _OPTION(help="channels inside a new dncnn")] = 64,
    channels: Annotated[int, _OPTION(help="image channels of a new dncnn, 1 or 3")] = 1,
    sigma: Annotated[str, _OPTION(help="noise level on the 0-255 scale, or an interval such as 15:35")] = "25",
    val: Annotated[list[Path] | None, _OPTION(help="folder or file to validate on after each epoch")] = None,
    val_crop: Annotated[int | None, _OPTION(help="validate on centre crops of this edge")] = None,
    steps: Annotated[int, _OPTION(help="steps of the optimiser, in all")] = 100_000,
    epoch_steps: Annotated[int | None, _OPTION(help="steps of an epoch; default: all pixels once")] = None,
    batch: Annotated[int, _OPTION(help="patches in a batch")] = 16,
    patch: Annotated[int, _OPTION(help="edge of a patch in pixels")] = 48,
    lr: Annotated[str, _OPTION(help="highest learning rate")] = "1e-3",
    warmup: Annotated[int, _OPTION(help="steps over which the learning rate rises")] = 0,
    eps: Annotated[str, _OPTION(help="attack radius for images in [0, 1]; hat: its rms over pixels")] = "5/255",
    attack_steps: Annotated[int, _OPTION(help="steps of the attack, in training and in validation")] = 5,
    preserve_noise: Annotated[bool, _OPTION(help="attacks keep mean and norm of the noise")] = True,
    typicality: Annotated[
        str | None, _OPTION(help="ts: gap in nats per pixel, or low:high; default: the fit's, or 0")
    ] = None,
    mean: Annotated[
        str | None, _OPTION(help="ts: of the noise for images in [0, 1], or low:high; default: the fit's, or 0")
    ] = None,
    spectrum: Annotated[
        str | None, _OPTION(help="ts: none, adversarial, or the JSON file of a fit, which also gives gap and mean")
    ] = None,
    share: Annotated[str | None, _OPTION(help="ts: part of the energy that has the spectrum; default: its own")] = None,
    plain_share: Annotated[str, _OPTION(help="ts: share of samples with plain Gaussian noise")] = "0.5",
    ema: Annotated[str | None, _OPTION(help="decay of an average of the weights, such as 0.999")] = None,
    clip: Annotated[str | None, _OPTION(help="longest gradient, or none")] = "0.5",
    bf16: Annotated[bool, _OPTION(help="bfloat16 autocast")] = False,
    channels_last: Annotated[bool, _OPTION(help="channels_last memory format")] = False,
    seed: Annotated[int, _OPTION(help="of new weights, patches, noise and attacks")] = 0,
    save_every: Annotated[int | None, _OPTION(help="steps between checkpoints besides one an epoch")] = None,
    log_every: Annotated[int, _OPTION(help="steps between rows of the log")] = 100,
    log: Annotated[str, _OPTION(help="csv, tensorboard or none")] = "csv",
    resume: Annotated[bool, _OPTION("--resume", help="go on from the checkpoint in --out, if there is one")] = False,
    overwrite: Annotated[bool, _OPTION("--overwrite", help="replace an earlier run in --out")] = False,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    threads: Annotated[int | None, _OPTION(help="CPU threads of torch")] = None,
) -> None:
    """Train a denoiser: plainly, on typical sets, or on attacked inputs."""
    from .. import training
    from ..numbers import parse_number

    use_threads(threads)
    for name, value in {"typicality": typicality, "mean": mean, "spectrum": spectrum, "share": share}.items():
        if value is not None and strategy != "ts":
            raise ValueError(f"{name}: wanted with --strategy ts alone, got {value} beside {strategy}")
    level = _scaled(interval(sigma, "sigma"))
    noise = NoiseOptions(
        typicality=typicality, mean=mean, spectrum=spectrum, share=share,
        plain_share=parse_number(plain_share, "plain_share"), seed=seed,
    )  # fmt: skip
    chosen = _strategy(strategy, level, parse_number(eps, "eps"), attack_steps, preserve_noise, noise)
    config = training.TrainConfig(
        steps=steps, lr=parse_number(lr, "lr"), warmup=warmup, ema=None if ema is None else parse_number(ema, "ema"),
        clip=None if clip in (None, "none") else parse_number(clip, "clip"), autocast="bf16" if bf16 else None,
        channels_last=channels_last, seed=seed, log_every=log_every, save_every=save_every,
    )  # fmt: skip
    denoiser = _model(model, weights, level, channels, depth, features, seed, device)
    patches = training.Patches(
        _images(data, denoiser), size=patch, batch=batch, seed=seed, steps_per_epoch=epoch_steps
    )  # fmt: skip
    validation = None
    if val:
        validation = training.Validation(
            images=_images(val, denoiser), sigma=chosen.level, eps=parse_number(eps, "eps"), steps=attack_steps,
            preserve_noise=preserve_noise, crop=val_crop,
        )  # fmt: skip
    result = training.train(
        denoiser, patches, chosen, config, out=out, validation=validation, resume=resume, overwrite=overwrite,
        log=None if log == "none" else log,
    )  # fmt: skip
    _show(result.rows[-1], result.weights)


def _scaled(sigma: Range) -> Range:
    """From the 0-255 scale to that of the images."""
    for value in sigma if isinstance(sigma, tuple) else (sigma,):
        if not 0 < value <= 255:
            raise ValueError(f"sigma: wanted a noise level on the 0-255 scale, 0 < sigma <= 255, got {value:g}")
    return (sigma[0] / 255, sigma[1] / 255) if isinstance(sigma, tuple) else sigma / 255


def _strategy(
    name: str, sigma: Range, eps: float, attack_steps: int, preserve_noise: bool, noise: NoiseOptions
) -> Strategy:
    from ..training import hat, pgd, plain, ts

    if name not in STRATEGIES:
        raise ValueError(f"strategy: wanted one of {', '.join(STRATEGIES)}, got {name!r}")
    if name == "plain":
        return plain(sigma=sigma, seed=noise.seed)
    if name == "pgd":
        return pgd(sigma=sigma, eps=eps, steps=attack_steps, preserve_noise=preserve_noise, seed=noise.seed)
    if name == "hat":
        return hat(sigma=sigma, eps=eps, steps=attack_steps, seed=noise.seed)
    return ts(noise.sampler(sigma, noise.fit()))


def _model(
    name: str,
    weights: Path | None,
    sigma: Range,
    channels: int,
    depth: int,
    features: int,
    seed: int,
    device: str,
) -> Denoiser:
    """A trained model to go on with, or a new DnCNN."""
    from .. import models

    if name == "ffdnet" and isinstance(sigma, tuple):
        raise ValueError("sigma: wanted one level for ffdnet, which is told it, got an interval")
    where = device_of(device)
    label = None if isinstance(sigma, tuple) else 255 * sigma
    if weights is not None or name == "embedded":
        denoiser = models.load(name, weights=weights, device=where)  # trained for another level, it may learn this one
        denoiser.sigma = label
        return denoiser
    if name != "dncnn":
        raise ValueError(f"weights: wanted a file to begin with for {name}; only dncnn is made anew")
    if channels not in (1, 3):
        raise ValueError(f"channels: wanted 1 or 3, got {channels}")
    denoiser = models.DnCNN(channels, depth=depth, features=features, sigma=label)
    models.initialise(denoiser, seed)
    return denoiser.to(where)


def _images(paths: list[Path], model: Denoiser) -> list[Tensor]:
    from ..images import find_images, read_image

    return [read_image(path, model.channels) for path in find_images(paths)]


def _show(row: dict[str, float | int], weights: Path) -> None:
    parts = [f"step {row['step']}", f"loss {row['loss']:.4f}"]
    parts += [f"{name} {row[name]:.2f} dB" for name in ("valid", "attacked") if name in row]
    print(", ".join(parts))
    print(f"weights: {weights}")
