"""Registration models as the command line names them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from .registering import Registers

CLASSICAL = ("bspline", "syn")
GRAMMAR = (
    "[label=]llm-morph:FILE, bspline or syn (classical), FILE.py:function, torchscript:FILE or export:FILE "
    "(called with a pair, gives the field)"
)
_LABEL = re.compile(r"([^=:/]+)=(.+)", re.DOTALL)
_PROGRAMS = ("python", "torchscript", "export")


@dataclass(frozen=True)
class OpenedRegistration:
    """A registration model ready for use.

    Attributes:
        label: what tables and reports call it.
        spec: the text that named it.
        model: pair -> field.
        dims: of the images, 2 or 3; None: it does not say.
        differentiable: False: attacks without gradients alone.
        sha256: of its file, hexadecimal; None without a file.
    """

    label: str
    spec: str
    model: Registers
    dims: int | None
    differentiable: bool
    sha256: str | None


def open_registration(
    text: str, *, dims: int, language: str | Path | None = None, device: str | torch.device = "cpu"
) -> OpenedRegistration:
    """The registration model that a text names, in eval mode, for images of ``dims`` dimensions.

        llm-morph:FILE                                     what `train_registration` or `LLMMorph.save` wrote
        bspline  syn                                       classical methods, see `Classical`
        FILE.py:function  torchscript:FILE  export:FILE    yours, called with a pair; these run code of their author's

    each after ``label=`` where it shall be called otherwise.

    Args:
        language: folder of the language model of an llm-morph, where it is no longer where it was.

    Raises:
        ValueError: none of these, a file of another kind, a model for other dimensions, or ``language`` beside a model
            that has none. OSError: a file is missing. RuntimeError: a package is missing; names the extra.
    """
    match = _LABEL.fullmatch(text.strip())
    body = match[2] if match else text.strip()
    kind, _, source = body.partition(":")
    if language is not None and kind != "llm-morph":
        raise ValueError(f"language: wanted with llm-morph:FILE alone, got it beside {text!r}")
    if kind == "llm-morph":
        found = _llm_morph(text, source, language, device)
    elif body in CLASSICAL:
        found = _classical(text, body, dims)
    else:
        found = _program(text, body, device)
    if match:
        found = OpenedRegistration(match[1].strip(), *list(vars(found).values())[1:])
    if found.dims not in (None, dims):
        raise ValueError(f"model: wanted one for {dims}D images, got {text!r}, which is for {found.dims}D")
    return found


def _llm_morph(text: str, source: str, language: str | Path | None, device: str | torch.device) -> OpenedRegistration:
    from ..models.llm_morph import load
    from ..models.weights import sha256_of

    if not source:
        raise ValueError(f"model: wanted llm-morph:FILE, got {text!r}")
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"model: {text!r}: no such file: {path}")
    model = load(path, language=language, device=device)
    label = path.absolute().parent.name if path.stem == "model" else path.stem  # training writes OUT/model.safetensors
    return OpenedRegistration(label or path.stem, text, model, model.dims, True, sha256_of(path))


def _classical(text: str, method: str, dims: int) -> OpenedRegistration:
    from .classical import Classical

    return OpenedRegistration(method, text, Classical(method, dims=dims), dims, False, None)


def _program(text: str, body: str, device: str | torch.device) -> OpenedRegistration:
    from ..models import open_model, parse_spec

    try:
        spec = parse_spec(body)
    except ValueError:
        spec = None
    if spec is None or spec.kind not in _PROGRAMS:
        raise ValueError(f"model: wanted {GRAMMAR}, got {text!r}")
    opened = open_model(spec, sigma=None, device=device)
    dims = getattr(opened.model, "dims", None)
    return OpenedRegistration(
        opened.label, text, opened.model, dims if dims in (2, 3) else None, opened.differentiable, opened.sha256
    )
