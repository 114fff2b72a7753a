"""Models as they are named on the command line, `[label=]kind[:source]`: one grammar for all commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastattack.models.loading import embedded_file, load
from fastattack.models.weights import official_weights, sha256_of

Model = Callable[[Tensor], Any]

_PUBLISHED = ("dncnn", "ffdnet", "ecndnet", "n2n", "udc_unet")
_PROGRAMS = ("torchscript", "export")
KINDS = (*_PUBLISHED, "embedded", "diffusion", "deepinv", "bm3d", *_PROGRAMS)
PYTHON = "FILE.py:function"
GRAMMAR = (
    f"[label=]kind[:source] with kind {', '.join(KINDS)}, or {PYTHON}; "
    "dncnn:FILE, deepinv:DRUNet, deepinv:DRUNet=FILE, torchscript:FILE, for example"
)
_LABEL = re.compile(r"([^=:/]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class ModelSpec:
    """What one text of the command line names.

    Args:
        text: the text itself.
        label: what tables and reports call the model.
        kind: one of KINDS, or "python" for FILE.py:function.
        path: its file; None where there is none, or where the published one is to be fetched.
        name: the function of FILE.py:function, or deepinv's class (with "pnp-" before it: in a plug-and-play loop).
    """

    text: str
    label: str
    kind: str
    path: Path | None = None
    name: str | None = None


@dataclass(frozen=True)
class OpenedModel:
    """A model ready for use.

    Args:
        label, spec: from the ModelSpec; spec is its text.
        model: called as model(y), y (B, C, H, W) of nominal range [0, 1]; returns the restored images, not clipped.
        channels: image channels it takes; None when unknown.
        differentiable: False for a target only, whose gradient does not exist.
        parameters: how many numbers it has learnt; None when unknown.
        sha256: of its file, hexadecimal; None without a file.
        shape: the sizes (B, C, H, W) that it takes, None where any; only exported programs have some.
    """

    label: str
    spec: str
    model: Model
    channels: int | None = None
    differentiable: bool = True
    parameters: int | None = None
    sha256: str | None = None
    shape: tuple[int | None, ...] | None = None


def parse_spec(text: str) -> ModelSpec:
    """The model that a text names, in one of the forms

        dncnn:FILE  ffdnet:FILE  ecndnet:FILE  n2n:FILE  udc_unet:FILE   weight files as `models.load` takes them
        dncnn                                             (without a file) the published weights, fetched
        embedded                                          the small DnCNN of this package
        diffusion  diffusion:FILE                         one step of a diffusion model, the embedded one or another,
                                                          from the noise level to the clean image
        deepinv:CLASS  deepinv:CLASS=FILE                 a denoiser of deepinv, with its own weights or those of a file
        deepinv:pnp-CLASS                                 the same in a plug-and-play loop
        bm3d                                              BM3D (not differentiable)
        FILE.py:function                                  yours: function() or function(sigma=..., channels=...)
        torchscript:FILE  export:FILE                     programs of torch.jit.save and torch.export.save

    each of them after ``label=`` where it shall be called otherwise than after its file, function or kind. Files may
    have ':' and '=' in their names. Nothing is opened here.

    Raises:
        ValueError: not of this form, or of an unknown kind (the nearest known one is named).
    """
    text = text.strip()
    found = _parse(text, text, None)
    if found is not None and (found.kind != "python" or (found.path is not None and found.path.is_file())):
        return found
    if match := _LABEL.fullmatch(text):
        found = _parse(text, match[2], match[1].strip()) or found
    if found is None:
        kind = (match[2] if match else text).partition(":")[0]
        near = get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"model: {text!r} has the unknown kind {kind!r}; {hint}wanted {GRAMMAR}")
    return found


def _parse(text: str, body: str, label: str | None) -> ModelSpec | None:
    """`body` without its label; None where it has no known kind."""
    kind, colon, source = body.partition(":")
    if kind in KINDS:
        if colon and not source:
            raise ValueError(f"model: {text!r} names nothing after the ':'; wanted {GRAMMAR}")
        return _parse_kind(text, kind, source, label)
    file, _, function = body.rpartition(":")
    if body.endswith(".py"):
        raise ValueError(f"model: {text!r} names a file without a function; wanted {PYTHON}")
    if not file.endswith(".py"):
        return None
    if not function.isidentifier():
        raise ValueError(f"model: wanted the name of a function in {file}, got {function!r}")
    path = Path(file).expanduser()
    return ModelSpec(text, label or f"{path.stem}.{function}", "python", path, function)


def _parse_kind(text: str, kind: str, source: str, label: str | None) -> ModelSpec:
    if kind in ("embedded", "bm3d"):
        if source:
            raise ValueError(f"model: {kind} takes no source, got {text!r}")
        return ModelSpec(text, label or kind, kind)
    if kind == "deepinv":
        name, _, file = source.partition("=")
        if not name.removeprefix("pnp-").isidentifier():
            raise ValueError(f"model: wanted deepinv:CLASS such as deepinv:DRUNet or deepinv:pnp-DRUNet, got {text!r}")
        return ModelSpec(text, label or name, kind, Path(file).expanduser() if file else None, name)
    if not source and kind in _PROGRAMS:
        raise ValueError(f"model: wanted {kind}:FILE, got {text!r}")
    path = Path(source).expanduser() if source else None
    return ModelSpec(text, label or (path.stem if path else kind), kind, path)


class Labelled(Protocol):
    """A text of the command line and what it is called: a model's or a defence's."""

    @property
    def text(self) -> str: ...

    @property
    def label(self) -> str: ...


def check_labels(specs: Iterable[Labelled], name: str = "models") -> None:
    """Every label once.

    Raises:
        ValueError: two of one label; names both, and the option ``name``.
    """
    seen: dict[str, Labelled] = {}
    for spec in specs:
        if spec.label in seen:
            raise ValueError(
                f"{name}: {seen[spec.label].text!r} and {spec.text!r} would both be called {spec.label!r}; "
                f"give one a label: {spec.label}-2={spec.text.removeprefix(f'{spec.label}=')}"
            )
        seen[spec.label] = spec


def open_model(
    spec: ModelSpec, *, sigma: float | None, channels: int | None = None, device: str | torch.device = "cpu"
) -> OpenedModel:
    """The model of a spec on its device, in eval mode; torch's random state is left as found.

    Files of the kinds FILE.py, torchscript and export run code of their author's: open only those you trust.

    Args:
        spec: from `parse_spec`.
        sigma: noise level on the 0-255 scale, for the models that want one (ffdnet, deepinv, diffusion, bm3d, a
            user's); None when unknown. Models trained for one level are opened whatever it is: how they do at another
            is worth measuring.
        channels: image channels that it must have; None accepts what it has.
        device: where to put it.

    Raises:
        ValueError: the file holds something else, or channels or sigma do not fit.
        OSError: the file is missing or cannot be fetched.
        RuntimeError: an optional package that it needs is missing or does not import; names the extra.
    """
    if spec.path is not None and not spec.path.is_file() and not (spec.kind == "diffusion" and spec.path.is_dir()):
        raise FileNotFoundError(f"model: {spec.text!r}: no such file: {spec.path}")
    where = torch.device(device)
    path = spec.path
    if spec.kind in _PUBLISHED and path is None:
        path = official_weights(spec.kind, channels, sigma)
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):  # initial weights are drawn
        model = _build(spec, path, sigma, channels, where)
    found = getattr(model, "channels", None)
    if channels is not None and found is not None and found != channels:
        raise ValueError(f"model: {spec.text!r}: wanted {channels} channel(s), it is for {found}")
    return OpenedModel(
        label=spec.label,
        spec=spec.text,
        model=model,
        channels=found if isinstance(found, int) else None,
        differentiable=bool(getattr(model, "differentiable", True)),
        parameters=sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else None,
        sha256=_hash(spec, path),
        shape=getattr(model, "shape", None),
    )


def _hash(spec: ModelSpec, path: Path | None) -> str | None:
    if spec.kind == "diffusion":
        from fastattack.models.tweedie import sha256_of_diffusion

        return sha256_of_diffusion(path)
    if spec.kind == "embedded":
        with embedded_file() as packaged:
            return sha256_of(packaged)
    return None if path is None else sha256_of(path)


def _build(
    spec: ModelSpec, path: Path | None, sigma: float | None, channels: int | None, device: torch.device
) -> Model:
    if spec.kind == "embedded":
        return load("embedded", channels=channels, device=device)
    if spec.kind in (*_PUBLISHED, "deepinv", "diffusion"):
        name = spec.kind if spec.name is None else f"deepinv:{spec.name}"
        asks = spec.kind in ("ffdnet", "deepinv", "diffusion")
        told = sigma if asks else None  # the others have learnt theirs, whatever it is
        return load(name, channels=channels, sigma=told, weights=path, device=device)
    if spec.kind == "bm3d":
        from fastattack.models.bm3d import BM3D

        return BM3D(sigma)
    from fastattack.models import programs

    assert path is not None  # every other kind has a file
    if spec.kind == "python":
        assert spec.name is not None
        return programs.from_python(path, spec.name, sigma=sigma, channels=channels, device=device)
    open_program = programs.torchscript if spec.kind == "torchscript" else programs.exported
    return open_program(path, device)
