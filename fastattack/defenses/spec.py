"""Defences as they are named on the command line, `[label=]kind[:options]`: one grammar for all commands."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion import load
from ..engine.naming import draws_differ
from ..fast.speed import PRECISIONS
from ..models.spec import check_labels
from ..models.tweedie import sha256_of_diffusion
from ..models.weights import sha256_of
from .auxiliary import Auxiliary
from .guide import SCHEDULES, LatentGuide
from .purifier import GRADIENTS, SAMPLERS, Purifier
from .simple import Blur, Bm3d, Jpeg, Median
from .values import level, number, one_of, whole

PURIFIER = "purifier"

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "weights": str, "t_star": whole, "sigma": level, "sampler": one_of(SAMPLERS), "steps": whole,
    "input_sigma": level, "output_sigma": level, "gradient": one_of(GRADIENTS), "surrogate_steps": whole,
    "seed": whole, "precision": one_of(PRECISIONS), "max_batch": whole, "guide": str, "guide_scale": number,
    "guide_schedule": one_of(SCHEDULES),
}  # fmt: skip
"""Of a purifier; names and meanings are those of `Purifier`, but noise levels are on the 0-255 scale."""

_LEVELS = ("sigma", "input_sigma", "output_sigma")

Simple = Blur | Median | Jpeg | Bm3d

_SIMPLE: dict[str, tuple[Callable[[Any], Simple], str, Callable[[str], Any]]] = {
    "blur": (Blur, "sigma", number),
    "median": (Median, "size", whole),
    "jpeg": (Jpeg, "quality", whole),
    "bm3d": (lambda sigma: Bm3d(sigma / 255), "sigma", level),
}
"""Kind -> (what makes it of its one argument, the argument's name, what reads that)."""

KINDS = (PURIFIER, *_SIMPLE)
GRAMMAR = "[label=]purifier:key=value,... or [label=]blur:SIGMA, median:SIZE, jpeg:QUALITY, bm3d:SIGMA"
_LABEL = re.compile(r"([^=:/]+)=(.+)", re.DOTALL)
_BETWEEN = re.compile(r",(?=[A-Za-z_]+=)")  # so that names of files may have commas


@dataclass(frozen=True)
class DefenseSpec:
    """What one text of the command line names.

    Args:
        text: the text itself.
        label: what tables and reports call the defence.
        kind: one of KINDS.
        options: values by name, noise levels on the 0-255 scale; of the simple kinds the one argument.
    """

    text: str
    label: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenedDefense:
    """A defence ready for use.

    Args:
        label, spec: from the DefenseSpec; spec is its text.
        before: what happens to the images: a `Purifier`, or one of `fastattack.defenses.simple`.
        sha256: of its weights, hexadecimal; with a guide of both; None without any.
        random: its result depends on draws.
    """

    label: str
    spec: str
    before: Purifier | Simple
    sha256: str | None = None
    random: bool = False

    @property
    def how(self) -> str:
        """How gradients are made, in words."""
        return self.before.how

    def purify(self, x: Tensor, sample_ids: Tensor) -> Tensor:
        """Images (B, C, H, W) as the model gets them, without autograd; samples are named by ``sample_ids`` (B,)."""
        with torch.no_grad():
            return self.before.purify(x, sample_ids=sample_ids)

    def __call__(self, model: Callable[[Tensor], Any]) -> nn.Module:
        """The model behind it; its attribute ``draws`` says whether EOT has anything to average."""
        made: nn.Module = self.before(model)
        made.__dict__["draws"] = self.random or draws_differ(model)
        return made


def parse_defense(text: str) -> DefenseSpec:
    """The defence that a text names, in one of the forms

        purifier:t_star=60                       the embedded diffusion model, noise up to level 60
        purifier:sigma=35,sampler=ddim,steps=3   the same by a noise level, 0-255 scale, and other options of `Purifier`
        purifier:weights=FILE,t_star=60          another diffusion model: what `fastattack.diffusion.load` takes
        purifier:guide=FILE,t_star=60            led by the network of a file of `Auxiliary.save` (`LatentGuide`)
        blur:SIGMA                               Gaussian blur, standard deviation in pixels
        median:SIZE                              median of SIZE x SIZE pixels
        jpeg:QUALITY                             JPEG there and back, quality 1 .. 100
        bm3d:SIGMA                               BM3D, noise level on the 0-255 scale

    each of them after ``label=`` where it shall be called otherwise than after its text's kind and number. Keys:
    weights, t_star, sigma, sampler, steps, input_sigma, output_sigma, gradient, surrogate_steps, seed, precision,
    max_batch, guide, guide_scale, guide_schedule. Nothing is opened here.

    Raises:
        ValueError: not of this form; names the text, the key, what was wanted, and the nearest known one.
    """
    text = text.strip()
    found = _parse(text, text, None)
    if found is None and (match := _LABEL.fullmatch(text)):
        found = _parse(text, match[2].strip(), match[1].strip())
    if found is None:
        kind = text.partition(":")[0].rpartition("=")[2].strip()
        raise ValueError(f"defense: {text!r} has the unknown kind {kind!r}; {_nearest(kind, KINDS)}wanted {GRAMMAR}")
    return found


def _parse(text: str, body: str, label: str | None) -> DefenseSpec | None:
    """`body` without its label; None where it has no known kind."""
    kind, _, rest = body.partition(":")
    if kind == PURIFIER:
        return DefenseSpec(text, label or kind, kind, _purifier_options(text, rest))
    if kind not in _SIMPLE:
        return None
    _, name, read = _SIMPLE[kind]
    value = _value(text, name, rest.removeprefix(f"{name}="), read, f"{kind}:{name.upper()}")
    return DefenseSpec(text, label or f"{kind}{value:g}", kind, {name: value})


def _purifier_options(text: str, rest: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in _BETWEEN.split(rest) if rest else []:
        key, equals, value = part.partition("=")
        key = key.strip()
        if key not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise ValueError(f"defense: {text!r} has the unknown key {key!r}; {_nearest(key, _OPTIONS)}known: {known}")
        if key in options:
            raise ValueError(f"defense: {text!r} has the key {key!r} twice")
        options[key] = _value(text, key, value.strip() if equals else "", _OPTIONS[key], f"{key}=VALUE")
    if "t_star" in options and "sigma" in options:
        raise ValueError(f"defense: {text!r}: sigma: wanted none beside t_star, they say the same")
    if alone := [key for key in options if key.startswith("guide_") and "guide" not in options]:
        raise ValueError(f"defense: {text!r}: {alone[0]}: wanted guide=FILE beside it")
    if not options.keys() & {"t_star", "sigma", "input_sigma"}:
        raise ValueError(f"defense: {text!r}: wanted t_star=LEVEL or sigma=LEVEL (0-255 scale), got neither")
    return options


def _value(text: str, key: str, value: str, read: Callable[[str], Any], form: str) -> Any:
    if not value:
        raise ValueError(f"defense: {text!r}: {key}: wanted {form}, got nothing")
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"defense: {text!r}: {key}: {error}, got {value!r}") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def check_defense_labels(specs: Iterable[DefenseSpec]) -> None:
    """Every label once.

    Raises:
        ValueError: two defences of one label; names both.
    """
    check_labels(specs, "defense")


def open_defense(
    spec: DefenseSpec,
    *,
    channels: int,
    device: str | torch.device = "cpu",
    input_sigma: float = 0.0,
    output_sigma: float = 0.0,
    seed: int = 0,
    precision: str = "fp32",
) -> OpenedDefense:
    """The defence of a spec on its device.

    Args:
        spec: from `parse_defense`.
        channels: of the images. A diffusion model for gray images sees each channel alone.
        input_sigma, output_sigma, seed, precision: of a purifier whose text does not name them, noise levels on the
            0-255 scale: what the images hold, and what the model behind it wants to see.

    Raises:
        ValueError: weights that are something else, or options that do not fit them; names the text.
        OSError: the weights are missing.
        RuntimeError: an optional package that it needs is missing; names the extra.
    """
    if spec.kind != PURIFIER:
        return OpenedDefense(spec.label, spec.text, _simple(spec))
    run = {"input_sigma": input_sigma, "output_sigma": output_sigma, "seed": seed, "precision": precision}
    told: dict[str, Any] = {**run, **spec.options}
    path, guide = (_path(spec, told.pop(key, None), key) for key in ("weights", "guide"))
    if guide is not None:
        told["guide"] = _guide(spec, guide, told, channels, device)
    if told.get("sigma", 255) < told["input_sigma"]:
        raise ValueError(
            f"defense: {spec.text!r}: sigma: wanted at least the {told['input_sigma']:g} of the noise that the images "
            f"hold (input_sigma), got {told['sigma']:g}"
        )
    told |= {name: told[name] / 255 for name in _LEVELS if name in told}
    try:
        before = Purifier(load(path or "embedded", channels=channels, device=device), **told)
    except ValueError as error:
        raise ValueError(f"defense: {spec.text!r}: {error}") from error
    digest = sha256_of_diffusion(path)
    if guide is not None:
        digest = hashlib.sha256(f"{digest} {sha256_of(guide)}".encode()).hexdigest()
    return OpenedDefense(spec.label, spec.text, before, digest, random=before.process.steps > 0)


def _path(spec: DefenseSpec, name: str | None, key: str) -> Path | None:
    """The file or folder that a key names; None for "embedded", and where there is none."""
    if name is None or (key, name) == ("weights", "embedded"):
        return None
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"defense: {spec.text!r}: {key}: no such file or folder: {path}")
    return path


def _guide(
    spec: DefenseSpec, path: Path, told: dict[str, Any], channels: int, device: str | torch.device
) -> LatentGuide:
    """Takes its options out of ``told``."""
    named = {key: told.pop(f"guide_{key}") for key in ("scale", "schedule") if f"guide_{key}" in told}
    try:
        auxiliary = Auxiliary.load(path)
        if auxiliary.channels != channels:
            raise ValueError(
                f"wanted a network for {channels} channel(s) as the images have, got one for {auxiliary.channels}"
            )
        return LatentGuide(auxiliary.to(device), **named)
    except ValueError as error:
        raise ValueError(f"defense: {spec.text!r}: guide: {error}") from error


def _simple(spec: DefenseSpec) -> Simple:
    make, name, _ = _SIMPLE[spec.kind]
    try:
        return make(spec.options[name])
    except ValueError as error:
        raise ValueError(f"defense: {spec.text!r}: {error}") from error
