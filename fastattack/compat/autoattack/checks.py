"""What AutoAttack looks at before and after the attacks: signs that its result may mislead."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ...engine import Model
from ...engine.source import backward
from ...objectives import dlr
from .stages import logits_of

DOC = "see https://github.com/fra31/auto-attack/blob/master/flags_doc.md"
_GRADIENTS = frozenset({"grad", "backward", "_make_grads"})


class Log:
    """Lines to standard output and, with a path, to the end of a file."""

    def __init__(self, path: Any, verbose: bool) -> None:
        self.path, self.verbose = path, verbose

    def log(self, line: str) -> None:
        """One line, where ``verbose``."""
        if self.verbose:
            self.write(line)

    def write(self, line: str) -> None:
        print(line)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def warn(self, message: str) -> None:
        """A line of the log, and a warning of Python's."""
        self.write(f"Warning: {message}")
        warnings.warn(message, UserWarning, stacklevel=4)


def check_data(x: Any, y: Any, bs: Any) -> None:
    """Images in [0, 1] with a label each."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or len(x) == 0:
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x_orig: wanted floating images (N, C, H, W), got {got}")
    if not bool(x.isfinite().all()) or float(x.min()) < 0 or float(x.max()) > 1:
        raise ValueError(f"x_orig: wanted values in [0, 1], got {float(x.min()):g} to {float(x.max()):g}")
    integer = isinstance(y, Tensor) and not (y.is_floating_point() or y.is_complex() or y.dtype is torch.bool)
    if not integer or y.shape != x.shape[:1]:
        got = f"{tuple(y.shape)} {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"y_orig: wanted integer labels of shape ({len(x)},), got {got}")
    if isinstance(bs, bool) or not isinstance(bs, int) or bs < 1:
        raise ValueError(f"bs: wanted a whole number >= 1, got {bs!r}")


def check_classes(classes: int, y: Tensor, attacks: Sequence[str], targets: Mapping[str, int], log: Log) -> None:
    """Enough classes for the losses, and labels among them. Fewer target classes than wanted are told."""
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(f"y_orig: wanted labels from 0 to {classes - 1}, got {low} to {high}")
    for attack, least in (("apgd-dlr", 3), ("apgd-t", 4)):
        if attack in attacks and classes < least:
            rest = [name for name in attacks if name != attack]
            raise ValueError(
                f"attacks_to_run: {attack!r} needs {least} classes at least, the model has {classes}; "
                f"version='custom' with attacks_to_run={rest} leaves it out"
            )
    for attack, count in targets.items():
        if attack in attacks and count > classes - 1:
            log.warn(f"{attack}: {count} target classes are wanted, and there are {classes - 1}: these are taken")


def check_randomized(model: Model, x: Tensor, y: Tensor, log: Log, *, times: int = 5, most: float = 1e-4) -> None:
    """Outputs for the same images that differ."""
    with torch.no_grad():
        outputs = [logits_of(model, x) for _ in range(times)]
    right = {int((output.argmax(1) == y).sum()) for output in outputs}
    scaled = torch.stack([output / (output.norm(dim=1, keepdim=True) + 1e-10) for output in outputs])
    if len(right) > 1 or float((scaled[:, None] - scaled[None]).norm(dim=3).max()) > most:
        log.warn(f'it seems to be a randomized defense! Please use version="rand"; {DOC}')


def check_output(model: Model, x: Tensor, log: Log, *, slack: float = 1e-5) -> int:
    """Probabilities in place of logits. Gives the number of classes."""
    with torch.no_grad():
        output = logits_of(model, x)
    if not bool(output.isfinite().all()):
        raise ValueError("model: wanted finite logits, got NaN or infinity")
    sums = (output.sum(1) - 1).abs()
    if float(output.max()) < 1 + slack and float(output.min()) > -slack and float(sums.max()) < slack:
        log.warn(f"the output seems to be a probability distribution: be sure that the logits are used; {DOC}")
    return output.shape[1]


def check_dynamic(model: Model, x: Tensor, log: Log) -> None:
    """Gradients that the model makes in its forward pass: a defence that adapts to its input."""
    called: set[str] = set()

    def see(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name in _GRADIENTS:
            called.add(frame.f_code.co_name)

    # A profiler written in C cannot be put back, so that the tracer's place is taken where there is one.
    place: Any = sys.setprofile if sys.getprofile() is None else sys.settrace
    before = None if sys.getprofile() is None else sys.gettrace()
    place(see)
    try:
        model(x)
    finally:
        place(before)
    if called:
        log.warn(f"it seems to be a dynamic defense! The evaluation with AutoAttack might be insufficient; {DOC}")


def check_zero_gradients(model: Model, x: Tensor, y: Tensor, log: Log) -> None:
    """Images where the gradient of DLR is zero."""
    _, grad = backward(lambda v: dlr(logits_of(model, v), y), x)
    count = int((grad.flatten(1).abs().sum(1) == 0).sum())
    if count:
        log.warn(
            f"there are {count} points with zero gradient! This might lead to unreliable evaluation with "
            f"gradient-based attacks; {DOC}"
        )


def check_square(accuracies: Mapping[str, float], log: Log, *, slack: float = 0.002) -> None:
    """Random search that finds what gradients did not."""
    rest = [accuracy for name, accuracy in accuracies.items() if name != "square"]
    if "square" in accuracies and len(accuracies) > 2 and accuracies["square"] < min(rest) - slack:
        drop = min(rest) - accuracies["square"]
        log.warn(
            f"Square Attack has decreased the robust accuracy of {drop:.2%}. This might indicate that the robustness "
            "evaluation using AutoAttack is unreliable. Consider running Square Attack with more iterations and "
            f"restarts or an adaptive attack; {DOC}"
        )
