"""A model made ready for the gradients of one attack."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import chain
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..guard import buffers_kept
from . import fold
from .graph import CudaRecorder, StepGraph
from .memory import LEAST, PIXELS, Anchor, Layout
from .precision import Precision, precision_of
from .speed import Speed

Call = Callable[[Tensor], Any]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
ROUGH = 3e-2  # for half precision
_CONVS = (nn.Conv2d, nn.ConvTranspose2d)
_sound: WeakKeyDictionary[nn.Module, set[Hashable]] = WeakKeyDictionary()


class Gradient(Protocol):
    """(model, x, target, scale) -> the losses times scale (B,), and the gradient of their sum."""

    def __call__(self, model: Call, x: Tensor, target: Any, scale: float, /) -> tuple[Tensor, Tensor]: ...


class Prepared:
    """One model for one attack call: made anew for each, so that nothing of it outlives a change of the weights.

    Everything is decided at the first batch, and checked against the model as it is: where outputs differ, or the check
    fails in whatever way, the model as it is makes the gradients of the whole batch, and ``how`` says so.
    """

    def __init__(self, model: Call, speed: Speed, *, eval_mode: bool = True) -> None:
        self.model, self.speed, self.eval_mode = model, speed, eval_mode
        self.module = model if isinstance(model, nn.Module) else None
        self.fast: Call = model
        self.precision = Precision(speed.precision)
        self.images, self.begun = False, False
        self.scale: float | None = None
        self.folds, self.chunk = 0, 0
        self.graph: StepGraph | None = None
        self.notes: list[str] = []

    @property
    def how(self) -> str:
        """In words: precision, format, what was folded, how many samples at a time."""
        parts = [str(self.precision)]
        parts += ["channels_last"] * self.images
        parts += [f"{self.folds} batch norm{'s' if self.folds > 1 else ''} folded"] * (self.folds > 0)
        parts += [f"{self.chunk} sample{'s' if self.chunk > 1 else ''} at a time"] * (self.chunk > 0)
        if self.graph is not None:
            parts.append(f"no CUDA graph: {self.graph.reason}" if self.graph.reason else "CUDA graph")
        return ", ".join(parts + self.notes)

    @property
    def reduced(self) -> bool:
        return self.precision.reduced

    # -- once ----------------------------------------------------------------------------------------------------------

    def begin(self, x: Tensor) -> None:
        """Decide, for the first batch; inside the guard, where modes and flags are those of the attack."""
        if self.begun:
            return
        self.begun = True
        self.precision = precision_of(self.speed.precision, x)
        self.anchor, self.layout = Anchor(x.device), Layout()
        if self.speed.compile:
            self.fast = torch.compile(self.model)
            self.notes.append("compiled")
        pairs = self._pairs()
        self.folds = len(pairs)
        self.images = self._wants_channels_last(x)
        if self.module is not None and self._copies() and (self.folds or self.images):
            self.fast = fold.folded(self.module, pairs, images=self.images)
        self.chunk = self._samples_at_a_time(x)
        if not self._same(x):
            self.fast, self.images, self.folds, self.chunk = self.model, False, 0, 0
        self.graph = self._graph(x)

    def _wants_channels_last(self, x: Tensor) -> bool:
        asked = self.speed.channels_last
        if x.dim() != 4:
            if asked:
                raise ValueError(f"channels_last: wanted False or None for inputs with {x.dim()} dimensions, got True")
            return False
        if asked is not None:
            return asked
        if self.module is None or not any(isinstance(m, _CONVS) for m in self.module.modules()):
            return False
        if x.device.type == "cpu":  # measured: 1.3 times as fast; oneDNN has no convolutions in float64
            one: Any = torch.backends.mkldnn
            fits = x.dtype == torch.float32 and bool(one.is_available() and one.enabled)
            large = x.shape[2] * x.shape[3] >= LEAST or self.folds > 0
            return fits and large and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        # known: the layout of tensor cores; not measured yet
        return x.is_cuda and self.reduced and torch.cuda.get_device_capability(x.device) >= (7, 0)

    def _copies(self) -> bool:
        plain = self.module is None or self.speed.compile or not self.eval_mode  # training mode may write attributes
        return not plain and self.module is not None and fold.can_be_copied(self.module)

    def _pairs(self) -> fold.Pairs:
        if self.module is None or not self.speed.fold or self.speed.compile or not self.eval_mode:
            return []
        if self._copies():
            return fold.pairs_of(self.module)
        if any(type(m) in fold.NORMS for m in self.module.modules()):
            self.notes.append("nothing folded: the model has hooks or is scripted")
        return []

    def _samples_at_a_time(self, x: Tensor) -> int:
        """0: the whole batch."""
        asked = self.speed.chunk
        if asked is None and self.eval_mode and self.module is not None and x.device.type == "cpu" and x.dim() == 4:
            asked = max(1, PIXELS // max(1, x.shape[2] * x.shape[3]))
        return 0 if asked is None or asked >= x.shape[0] else asked

    def _graph(self, x: Tensor) -> StepGraph | None:
        wanted = self.speed.graph
        if not x.is_cuda:
            if wanted == "always":
                raise ValueError(f"graph: wanted 'never' or 'auto' on {x.device.type}, got 'always'")
            return None
        if wanted == "never" or self.speed.compile:
            return None
        return StepGraph(CudaRecorder(x.device), self._weights, strict=wanted == "always")

    def _weights(self) -> Iterator[Tensor]:
        return chain(self.fast.parameters(), self.fast.buffers()) if isinstance(self.fast, nn.Module) else iter(())

    # -- the check -----------------------------------------------------------------------------------------------------

    def _same(self, x: Tensor) -> bool:
        """Whether the first batch gives the model's outputs; asked once for each structure and shape."""
        if not (self.folds or self.images or self.chunk):
            return True
        key: Hashable = None
        if self.module is not None:
            key = (fold.fingerprint(self.module), x.shape, x.dtype, x.device, self.folds, self.images, self.chunk)
            if key in _sound.get(self.module, ()):
                return True
        problem = self._difference(x)
        if problem:
            self.notes.append(f"the model as it is, whole batches: {problem}")
        elif self.module is not None:
            _sound.setdefault(self.module, set()).add(key)
        return not problem

    def _difference(self, x: Tensor) -> str:
        """What is wrong, "" where nothing is. Random models draw the same numbers, and the attack's numbers stay."""
        devices = [x.device] if x.is_cuda else []
        modules = [] if self.module is None or self.eval_mode else list(self.module.modules())
        with torch.no_grad(), torch.random.fork_rng(devices), buffers_kept(modules):
            state = torch.random.get_rng_state()
            want = tree_leaves(self.model(x))
            torch.random.set_rng_state(state)
            try:
                parts = [tree_leaves(self._plain(v)) for v in self._parts(self._laid(x))]
                got = [torch.cat(leaves) for leaves in zip(*parts, strict=True)]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            if [_shape(w) for w in want] != [_shape(g) for g in got]:
                return "its output is not made sample by sample"
            worst = max((_apart(w, g) for w, g in zip(want, got, strict=True)), default=0.0)
        rough = torch.is_autocast_enabled(x.device.type)  # the caller's
        limit = ROUGH if rough else TOLERANCE.get(x.dtype, ROUGH)
        return "" if worst <= limit else f"the outputs differ by {worst:.1e} of their size"

    # -- at each step --------------------------------------------------------------------------------------------------

    def _laid(self, x: Tensor) -> Tensor:
        return self.layout(x) if self.images else x

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, self.chunk) if self.chunk else (x,)

    def _plain(self, x: Tensor) -> Any:
        return self.fast(x)

    def _forward(self, x: Tensor) -> Any:
        with self.precision.forward(x.device):
            out = self.fast(x)
        self.anchor.hold()
        return out

    def gradient(self, function: Gradient, objective: object, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """(loss, gradient) of ``function``, in x's type."""
        self.begin(x)
        with self.precision.region():
            if self.precision.scales and self.scale is None:
                return self._calibrate(function, objective, x, target)
            if self.graph is not None:
                step = lambda v, t: self._in_parts(function, objective, v, t)  # noqa: E731
                return self.graph(step, x, target, objective)
            return self._in_parts(function, objective, x, target)

    def _calibrate(self, function: Gradient, objective: object, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The first gradient, and a power of two for the others: the largest that overflows nothing, and a margin."""
        for power in (24, 14, 6, 0):
            self.scale = 2.0**power
            found = self._in_parts(function, objective, x, target)
            if found[1].isfinite().all():  # waits for the device, once for each attack
                break
        self.scale = max(1.0, 2.0 ** (power - 3))
        return found

    def _in_parts(self, function: Gradient, objective: object, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        seen, batch, scale = self._laid(x), x.shape[0], self.scale or 1.0
        if not self.chunk or self.chunk >= batch or not _splits(objective):
            loss, grad = function(self._forward, seen, target, scale)
        else:
            losses, grad = [], torch.empty_like(x)
            for first in range(0, batch, self.chunk):
                rows = slice(first, first + self.chunk)
                here, part = function(self._forward, seen[rows], _rows(target, rows, batch), scale)
                losses.append(here)
                grad[rows] = part
            loss = torch.cat(losses)
        return (loss, grad) if scale == 1.0 else (loss / scale, grad.div_(scale))

    def value(
        self, function: Callable[[Call, Tensor, Any], Tensor], objective: object, x: Tensor, target: Any
    ) -> Tensor:
        """The loss of the model as it is, in its own precision."""
        self.begin(x)
        seen, batch = self._laid(x), x.shape[0]
        if not self.chunk or self.chunk >= batch or not _splits(objective):
            return function(self.model, seen, target)
        parts = [slice(first, first + self.chunk) for first in range(0, batch, self.chunk)]
        return torch.cat([function(self.model, seen[rows], _rows(target, rows, batch)) for rows in parts])


def _rows(target: Any, rows: slice, batch: int) -> Any:
    return target[rows] if isinstance(target, Tensor) and target.dim() > 0 and target.shape[0] == batch else target


def _splits(objective: object) -> bool:
    """The objective is known to judge each sample by itself and to hold nothing of the samples."""
    where = str(getattr(objective, "__module__", ""))
    held = getattr(objective, "__dict__", {})
    return where.startswith("fastattack.objectives") and not any(isinstance(v, Tensor) for v in held.values())


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else type(value)


def _apart(want: Tensor, got: Tensor) -> float:
    """The largest difference beside the largest size; infinite where one has NaN and the other not."""
    if not want.is_floating_point():
        return 0.0 if torch.equal(want, got) else float("inf")
    if not want.numel() or not bool(want.isfinite().all()):  # the loop names what is not finite
        return 0.0
    found = float((want - got).abs().max() / want.abs().max().clamp(min=1e-30))
    return float("inf") if found != found else found
