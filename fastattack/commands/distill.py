"""`fastattack distill`: a white-box student of a model that can only be queried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import device_name, device_of, use_threads

if TYPE_CHECKING:
    from ..distillation import Augment, Generate
    from ..distillation.learning import Watch
    from ..training.log import Row

_OPTION = typer.Option


def distill(
    query: Annotated[
        str, _OPTION(help="the target: [label=]kind[:source] as for evaluate, FILE.py:function, or http(s)://...")
    ],
    data: Annotated[list[Path], _OPTION(help="folder or file of images to ask about; may be given again")],
    budget: Annotated[int, _OPTION(help="images that may be asked, held-out ones and retries included")],
    out: Annotated[Path, _OPTION(help="folder for student.safetensors, manifest.json, checkpoint.pt and answers/")],
    student: Annotated[str, _OPTION(help="cnn (a small classifier), dncnn, or FILE.py:function")] = "cnn",
    channels: Annotated[int, _OPTION(help="of the images, 1 or 3")] = 1,
    labels: Annotated[
        Path | None, _OPTION(help="JSON file {image name: class number}, to measure accuracy; never learnt from")
    ] = None,
    held_out: Annotated[float, _OPTION(help="share of the images to measure fidelity on")] = 0.1,
    sigma: Annotated[
        str | None, _OPTION(help="noise on the 0-255 scale that is added to the images, for a denoiser")
    ] = None,
    loss: Annotated[str, _OPTION(help="l1 (on logits, or on images), kl or ce")] = "l1",
    answers: Annotated[
        str, _OPTION(help="what the target gives: auto, logits, probabilities, labels or images")
    ] = "auto",
    hflip: Annotated[bool, _OPTION("--hflip", help="varied queries: mirror")] = False,
    vflip: Annotated[bool, _OPTION("--vflip", help="varied queries: turn upside down")] = False,
    shift: Annotated[int, _OPTION(help="varied queries: move by up to so many pixels")] = 0,
    query_noise: Annotated[str, _OPTION(help="varied queries: standard deviation of noise, images in [0, 1]")] = "0",
    mixup: Annotated[bool, _OPTION("--mixup", help="made queries: mixtures of two images")] = False,
    typical: Annotated[bool, _OPTION("--typical", help="made queries: noise of the images' mean and spread")] = False,
    clip: Annotated[bool, _OPTION(help="cut varied and made images to [0, 1]; not with --sigma")] = True,
    steps: Annotated[int, _OPTION(help="steps of the optimiser")] = 1000,
    batch: Annotated[int, _OPTION(help="images in a step")] = 64,
    lr: Annotated[str, _OPTION(help="learning rate at the start")] = "3e-3",
    noise: Annotated[
        str, _OPTION(help="noise on the student's inputs, images in [0, 1]; costs no queries, for a later smoothing")
    ] = "0",
    classes: Annotated[int | None, _OPTION(help="of a cnn; default: as many as the answers have")] = None,
    features: Annotated[int, _OPTION(help="channels inside a new student")] = 32,
    depth: Annotated[int, _OPTION(help="convolutions of a dncnn")] = 7,
    encode: Annotated[str, _OPTION(help="how images are sent to an address: lists or png")] = "lists",
    header: Annotated[
        list[str] | None, _OPTION(help="of every request, 'Name: value'; may be given again; not written anywhere")
    ] = None,
    rate: Annotated[float | None, _OPTION(help="requests a second at most, to an address")] = None,
    timeout: Annotated[float, _OPTION(help="seconds to wait for an address")] = 30.0,
    retries: Annotated[int, _OPTION(help="how often a failed call is made again")] = 4,
    query_batch: Annotated[
        int | None, _OPTION(help="images in one call or request; each is kept; default: 64, of an address 32")
    ] = None,
    cache: Annotated[Path | None, _OPTION(help="folder of the answers; default: OUT/answers")] = None,
    seed: Annotated[int, _OPTION(help="of everything that is drawn")] = 0,
    resume: Annotated[bool, _OPTION("--resume", help="go on from the checkpoint in --out, if there is one")] = False,
    overwrite: Annotated[
        bool, _OPTION("--overwrite", help="replace an earlier run in --out, but for its answers")
    ] = False,
    device: Annotated[str, _OPTION(help="cpu, cuda, cuda:1, ... or auto")] = "auto",
    threads: Annotated[int | None, _OPTION(help="CPU threads of torch")] = None,
) -> None:
    """Distil a target that can only be queried into a student whose weights are known."""
    from ..job_distill import WEIGHTS, DistillConfig, run_distill
    from ..numbers import parse_number

    use_threads(threads)
    config = DistillConfig(
        query=query, student=student, data=tuple(data), budget=budget, channels=channels, labels=labels,
        held_out=held_out, sigma=None if sigma is None else parse_number(sigma, "sigma"), loss=loss, answers=answers,
        augment=_augment(hflip, vflip, shift, parse_number(query_noise, "query-noise")),
        generated=_generate(mixup, typical), bounds=(0.0, 1.0) if clip and sigma is None else None,
        steps=steps, batch=batch, lr=parse_number(lr, "lr"), noise=parse_number(noise, "noise"), seed=seed,
        classes=classes, features=features,
        depth=depth, encode=encode, rate=rate, timeout=timeout, retries=retries, query_batch=query_batch, cache=cache,
        device=str(device_of(device_name(device))),
    )  # fmt: skip
    with _bars(steps) as show:
        result = run_distill(config, out, headers=_headers(header), resume=resume, overwrite=overwrite, progress=show)
    print(result)
    print(f"student: {out / WEIGHTS}")


def _augment(hflip: bool, vflip: bool, shift: int, noise: float) -> Augment | None:
    from ..distillation import Augment

    return Augment(hflip=hflip, vflip=vflip, shift=shift, noise=noise) if hflip or vflip or shift or noise else None


def _generate(mixup: bool, typical: bool) -> Generate | None:
    from ..distillation import Generate

    return Generate(mixup=mixup, typical=typical) if mixup or typical else None


def _headers(given: list[str] | None) -> dict[str, str]:
    found = {}
    for text in given or []:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"header: wanted 'Name: value', got a text of {len(text)} characters without that form")
        found[name.strip()] = value.strip()
    return found


@contextmanager
def _bars(steps: int) -> Iterator[Watch | None]:
    """Told of answers and rows; None where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        asking, learning = bar.add_task("asking", total=None, text=""), bar.add_task("learning", total=steps, text="")

        def show(row: Row) -> None:
            if "answered" in row:
                bar.update(asking, completed=row["answered"], total=row["planned"])
                return
            fidelity = f"  fidelity {row['fidelity']:.3f}" if "fidelity" in row else ""
            bar.update(learning, completed=row["step"], text=f"loss {row['loss']:.4f}{fidelity}")

        yield show
