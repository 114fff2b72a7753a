"""How gradients are to be made: plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..inputs import unknown_option

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "auto")
GRAPHS = ("never", "auto", "always")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How gradients are made. What is attacked stays the same: perturbation, step, projection and the returned loss
    are in the input's type, and reduced precision is for the gradient alone.

    Attributes:
        precision: "fp32" (the type and settings that the model has), "tf32" (CUDA), "bf16" or "fp16" (autocast; fp16
            with a scaled loss), or "auto": the one that is faster on this device. The final candidates are judged by
            the model as it is.
        channels_last: memory format of (B, C, H, W) inputs inside the model; None means where it is known to be faster.
        fold: fold batch norms into the convolutions before them, in a private copy that gives the gradients; only in
            eval mode and where the one surely follows the other, and not in searches for a success, whose every iterate
            the model as it is must judge. The copy holds folded weights (and others in another memory format where that
            pays) and shares the rest; what forward methods write into attributes of their modules is lost with it.
        compile: run the model through torch.compile (compiled as it is, without folding).
        graph: "always" records a step as one CUDA graph, or raises; "auto" does so where it can be; "never" does not.
            The third gradient is recorded. An objective that is another at each step (SegPGD) cannot be.
        chunk: samples whose gradients are made at a time, all others wait; None means as many as suit the CPU's memory.
    """

    precision: str = "fp32"
    channels_last: bool | None = None
    fold: bool = True
    compile: bool = False
    graph: str = "never"
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("graph", GRAPHS)):
            if getattr(self, name) not in known:
                wanted = ", ".join(map(repr, known))
                raise ValueError(f"{name}: wanted one of {wanted}, got {getattr(self, name)!r}")
        for name in ("channels_last", "fold", "compile"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "channels_last" and value is None):
                raise TypeError(f"{name}: wanted True or False, got {value!r}")
        chunk = self.chunk
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f"chunk: wanted a whole number >= 1 or None, got {chunk!r}")
        if self.compile and self.graph == "always":
            raise ValueError("graph: wanted 'never' or 'auto' with compile=True (torch.compile has graphs of its own)")


def speed_of(**options: Any) -> Speed:
    """`Speed`, for methods that take its fields by name.

    Raises:
        TypeError: a name that is none of them. ValueError: as `Speed`.
    """
    known = {field.name for field in fields(Speed)}
    if options.keys() - known:
        raise unknown_option("set_speed", options.keys() - known, known)
    return Speed(**options)
