"""Models that are programs: functions of a user's file, TorchScript, torch.export. Each runs its author's code."""

from __future__ import annotations

import hashlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Any]


def from_python(path: Path, function: str, *, sigma: float | None, channels: int | None, device: torch.device) -> Model:
    """The model that ``function(...)`` of a Python file returns, an nn.Module in eval mode on the device.

    The function is given ``sigma`` (0-255 scale) and ``channels`` by name where its signature takes them. The file runs
    as a module of its own; its folder is on the path meanwhile, and after it neither that nor its neighbours that it
    imported remain. A returned model may say what it is by attributes ``channels`` and ``differentiable``.

    Raises:
        ValueError: no such function, or one that wants other arguments.
        TypeError: it returns nothing callable.
        RuntimeError: the file or the function raises; says what.
    """
    name = f"{path}:{function}"
    with _neighbours(path.resolve().parent):
        module = _run(path)
        found = getattr(module, function, None)
        if not callable(found):
            raise ValueError(f"model: {path} has no function {function!r}; {_nearest(module, function)}")
        options = _options(name, found, {"sigma": sigma, "channels": channels})
        try:
            model = found(**options)
        except Exception as error:
            raise RuntimeError(f"model: {name} raised {type(error).__name__}: {error}") from error
    if not callable(model):
        raise TypeError(f"model: wanted {name} to return something callable as model(y), got {type(model).__name__}")
    made: Model = model.to(device).eval() if isinstance(model, nn.Module) else model
    return made


def _run(path: Path) -> ModuleType:
    private = f"_fastattack_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = spec_from_file_location(private, path, loader=SourceFileLoader(private, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    before = sys.modules.get(private)
    sys.modules[private] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(private)
        if before is not None:
            sys.modules[private] = before
        raise RuntimeError(f"model: {path} cannot be run: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Inside, files of the folder can be imported; after, they are forgotten: another user's file has its own."""
    path, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if not name.startswith("_fastattack_user_") and file and folder in Path(file).resolve().parents:
                del sys.modules[name]


def _nearest(module: ModuleType, function: str) -> str:
    known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    near = get_close_matches(function, known, n=3, cutoff=0.4) or known
    return f"the nearest: {', '.join(near)}" if near else "it has none"


def _options(name: str, function: Callable[..., Any], known: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return known
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    others = [
        p.name for p in parameters
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and (p not in named or p.name not in known)
    ]  # fmt: skip
    if others:
        raise ValueError(
            f"model: wanted {name} to be a function that returns the model and needs no arguments but sigma and "
            f"channels, got one that needs {', '.join(others)}"
        )
    return {p.name: known[p.name] for p in named if p.name in known}


def torchscript(path: Path, device: torch.device) -> nn.Module:
    """A program of torch.jit.save, in eval mode.

    Raises:
        ValueError: not such a file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of torch.jit: such files are still about
            model: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged file makes it raise almost anything
        raise ValueError(f"{path}: cannot be read as TorchScript: {_first_line(error)}") from error
    return model.eval()


class Exported(nn.Module):
    """A program of torch.export as a module; it has no training mode.

    Args:
        program: what ExportedProgram.module() returns.
        shape: sizes that its input must have, None where any.
        name: for errors.
    """

    def __init__(self, program: nn.Module, shape: tuple[int | None, ...], name: str) -> None:
        super().__init__()
        self.program = program
        self.shape = shape
        self.name = name
        self.channels = shape[1] if len(shape) == 4 else None
        self.training = False

    def train(self, mode: bool = True) -> Exported:
        return self

    def forward(self, y: Tensor) -> Any:
        fits = len(self.shape) == y.dim() and all(
            want in (None, got) for want, got in zip(self.shape, y.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in self.shape)
            batch = "; export it with a dynamic batch dimension" if self.shape[:1] != (None,) else ""
            raise ValueError(f"{self.name}: exported for images ({wanted}), got {tuple(y.shape)}{batch}")
        try:
            return self.program(y)
        except AssertionError as error:  # of torch's guards: sizes may be tied to one another or bounded
            raise ValueError(f"{self.name}: not exported for images {tuple(y.shape)}: {_first_line(error)}") from error


def exported(path: Path, device: torch.device) -> Exported:
    """A program of torch.export.save with one input, the images.

    Raises:
        ValueError: not such a file, or a program with other inputs.
    """
    from torch.export.passes import move_to_device_pass

    try:
        program = torch.export.load(path)
    except Exception as error:  # a damaged file makes it raise almost anything
        raise ValueError(f"{path}: cannot be read as a program of torch.export: {_first_line(error)}") from error
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ValueError(
            f"{path}: wanted a program of one input, the images, got {len(inputs)}: {', '.join(map(str, inputs))}"
        )
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == inputs[0])
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    if device.type != "cpu" or value.device.type != "cpu":
        program = move_to_device_pass(program, device)
    return Exported(program.module(), shape, str(path))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
