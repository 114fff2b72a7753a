"""`fastattack train-registration`: from images to a net that registers such images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import device_of, use_threads
from .noise import interval

if TYPE_CHECKING:
    from ..models import LLMMorph
    from ..registration import RegistrationLoss, RegistrationValidation, Synthetic
    from ..training import Batches, Strategy

_OPTION = typer.Option
SIMILARITIES = ("mind", "nmi", "correlation", "none")


def train_registration(
    out: Annotated[Path, _OPTION(help="folder for checkpoint.pt, log.csv and model.safetensors")],
    data: Annotated[
        list[Path] | None,
        _OPTION(help="folder or file of images, gray or NIfTI; may be given again; default: nilearn's brain template"),
    ] = None,
    plane: Annotated[str, _OPTION(help="of the template: axial, coronal or sagittal slices, or volume")] = "axial",
    mm: Annotated[int, _OPTION(help="of the template: edge of a voxel")] = 2,
    val: Annotated[
        list[Path] | None, _OPTION(help="images to validate on after each epoch; of the template its held-out slices")
    ] = None,
    patch: Annotated[int | None, _OPTION(help="edge of random patches of 2D images; none: whole images")] = None,
    weights: Annotated[Path | None, _OPTION(help="weight file of an LLM-Morph to go on with")] = None,
    language: Annotated[
        str | None, _OPTION(help="language model: a folder, or a name on the hub; none: plain transformer blocks")
    ] = None,
    layers: Annotated[str | None, _OPTION(help="of the language model, first:last+1, such as 0:4; none: all")] = None,
    lora: Annotated[
        bool | None,
        _OPTION("--lora/--no-lora", help="the language model's layers learn by LoRA (default); else they stay"),
    ] = None,
    causal: Annotated[
        bool | None, _OPTION("--causal/--no-causal", help="the language model's tokens see only those before them")
    ] = None,
    width: Annotated[int | None, _OPTION(help="channels of the finest scale of a new net; default: 16")] = None,
    levels: Annotated[int | None, _OPTION(help="scales of a new net; default: 4")] = None,
    finest: Annotated[
        int | None, _OPTION(help="voxels in one of a new net's finest scale along an axis: 1, 2 (default) or 4")
    ] = None,
    amplitude: Annotated[str, _OPTION(help="longest velocity of the deformations in voxels, or low:high")] = "4:6",
    scale: Annotated[float, _OPTION(help="how smooth the deformations are, in voxels")] = 10.0,
    contrast: Annotated[str, _OPTION(help="of the moving image: random, t2 or none")] = "random",
    similarity: Annotated[str, _OPTION(help="mind, nmi, correlation or none")] = "mind",
    smoothness: Annotated[float, _OPTION(help="weight of the field's slopes in the loss")] = 0.05,
    supervised: Annotated[float, _OPTION(help="weight of the distance from the true field")] = 0.25,
    eps: Annotated[
        str | None, _OPTION(help="adversarial training: radius of attacks on both images, such as 4/255")
    ] = None,
    attack_steps: Annotated[int, _OPTION(help="steps of these attacks")] = 3,
    steps: Annotated[int, _OPTION(help="steps of the optimiser, in all")] = 2000,
    epoch_steps: Annotated[int | None, _OPTION(help="steps of an epoch; default: all images once")] = None,
    batch: Annotated[int, _OPTION(help="pairs in a batch")] = 4,
    lr: Annotated[str, _OPTION(help="highest learning rate")] = "2e-3",
    warmup: Annotated[int, _OPTION(help="steps over which the learning rate rises")] = 0,
    ema: Annotated[str | None, _OPTION(help="decay of an average of the weights, such as 0.999")] = None,
    clip: Annotated[str | None, _OPTION(help="longest gradient, or none")] = "1.0",
    bf16: Annotated[bool, _OPTION(help="bfloat16 autocast")] = False,
    seed: Annotated[int, _OPTION(help="of new weights, images, deformations and attacks")] = 0,
    save_every: Annotated[int | None, _OPTION(help="steps between checkpoints besides one an epoch")] = None,
    log_every: Annotated[int, _OPTION(help="steps between rows of the log")] = 100,
    log: Annotated[str, _OPTION(help="csv, tensorboard or none")] = "csv",
    resume: Annotated[bool, _OPTION("--resume", help="go on from the checkpoint in --out, if there is one")] = False,
    overwrite: Annotated[bool, _OPTION("--overwrite", help="replace an earlier run in --out")] = False,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    threads: Annotated[int | None, _OPTION(help="CPU threads of torch")] = None,
) -> None:
    """Train an LLM-Morph, or the net without a language model, on pairs made of images by known deformations."""
    from .. import registration, training
    from ..numbers import parse_number

    use_threads(threads)
    synthetic = registration.Synthetic(amplitude=interval(amplitude, "amplitude"), scale=scale, contrast=contrast)
    loss = _loss(similarity, smoothness, supervised)
    strategy: Strategy = registration.synthesised(synthetic, seed=seed)
    if eps is not None:
        strategy = training.attacked(
            strategy, eps=parse_number(eps, "eps"), steps=attack_steps, bounds=(0, 1), seed=seed, objective=loss
        )  # fmt: skip
    config = training.TrainConfig(
        steps=steps, lr=parse_number(lr, "lr"), warmup=warmup, ema=None if ema is None else parse_number(ema, "ema"),
        clip=None if clip in (None, "none") else parse_number(clip, "clip"), autocast="bf16" if bf16 else None,
        seed=seed, log_every=log_every, save_every=save_every,
    )  # fmt: skip
    sizes = {"patch": patch, "batch": batch, "seed": seed, "steps_per_epoch": epoch_steps}
    batches, validation, dims = _data(data, val, plane, mm, synthetic, sizes)
    inside = {"layers": layers, "lora": lora, "causal": causal}
    sizes_of_net = {"width": width, "levels": levels, "finest": finest}
    net = _net(weights, language, inside, sizes_of_net, dims=dims, seed=seed).to(device_of(device))
    result = registration.train_registration(
        net, batches, config, out=out, strategy=strategy, loss=loss, validation=validation, resume=resume,
        overwrite=overwrite, log=None if log == "none" else log,
    )  # fmt: skip
    last = result.rows[-1]
    unit = "voxels" if data else "mm"
    error = f", field error {last['valid']:.3f} {unit}" if "valid" in last else ""
    print(f"step {last['step']}, loss {last['loss']:.4f}{error}")
    print(f"weights: {result.weights}")


def _loss(similarity: str, smoothness: float, supervised: float) -> RegistrationLoss:
    from .. import registration as r

    known: dict[str, Any] = {"mind": r.mind_ssc(), "nmi": r.nmi(), "correlation": r.local_correlation(), "none": None}
    if similarity not in known:
        raise ValueError(f"similarity: wanted one of {', '.join(SIMILARITIES)}, got {similarity!r}")
    return r.RegistrationLoss(similarity=known[similarity], smoothness=smoothness, supervised=supervised)


def _data(
    data: list[Path] | None,
    val: list[Path] | None,
    plane: str,
    mm: int,
    synthetic: Synthetic,
    sizes: dict[str, Any],
) -> tuple[Batches, RegistrationValidation | None, int]:
    """Batches, what is validated on, and the number of dimensions."""
    from .. import job_train_registration as job
    from ..registration import ImageBatches, RegistrationValidation

    patch, how = sizes["patch"], {key: value for key, value in sizes.items() if key != "patch"}
    if data:
        images = job.read_images(data)
        batches, dims = job.batches_of_images(images, **sizes), images[0].dim() - 1
    elif patch is not None:
        raise ValueError(f"patch: wanted with --data alone, got {patch}")
    else:
        heads = job.template(plane, mm, "train")
        batches, dims = ImageBatches(heads.images, heads.labels, heads.masks, **how), heads.images.dim() - 2
    if val and data is None:
        raise ValueError("val: wanted with --data alone, the template has held-out slices of its own")
    if val:
        truth = job.pairs_of(job.middle(job.read_images(val), patch), None, None, synthetic, seed=how["seed"])
    elif data or plane == job.VOLUME:
        return batches, None, dims
    else:
        held = job.some(job.template(plane, mm, "held-out"))
        measured = replace(synthetic, spacing=held.spacing)
        truth = job.pairs_of(held.images, held.labels, held.masks, measured, seed=how["seed"])
    return batches, RegistrationValidation(truth=truth, what="field_error"), dims


def _layers(text: str) -> slice:
    first, colon, last = text.partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (first, last)):
        raise ValueError(f"layers: wanted first:last+1, such as 0:4, got {text!r}")
    return slice(int(first) if first else None, int(last) if last else None)


def _net(
    weights: Path | None, language: str | None, inside: dict[str, Any], sizes: dict[str, Any], *, dims: int, seed: int
) -> LLMMorph:
    """The one of the file, or a new one; ``inside`` (the language model's) and ``sizes`` are None where not given."""
    from ..models.llm_morph import LLMMorph, load

    given = {name: value for name, value in {**inside, **sizes}.items() if value is not None}
    for name, value in given.items():
        if weights is not None:
            raise ValueError(f"{name}: wanted none with --weights, whose file says it, got {value!r}")
        if language is None and name in inside:
            raise ValueError(f"{name}: wanted with --language alone, got {value!r}")
    if weights is not None:
        return load(weights, language=language)
    if "layers" in given:
        given["layers"] = _layers(given["layers"])
    return LLMMorph(dims=dims, language=language, seed=seed, **given)
