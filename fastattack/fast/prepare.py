"""A model made ready for the gradients of one attack."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..guard import rows_of
from . import fold
from .agree import Call, difference
from .graph import CudaRecorder, StepGraph
from .memory import CHANNELS, LEAST, PIXELS, Anchor, Layout
from .precision import precision_of
from .speed import Speed

FEW, SIDE = 2, 32
"""Samples of the check in further attack calls, and pixels along a side of the part of them that is tried first; two
samples, so that one that sees its neighbours is found."""
SCALE, LESS = 2.0**24, 6
"""Of fp16's losses at first, and the powers of two that an overflow takes from it."""
_CONVS = (nn.Conv2d, nn.ConvTranspose2d)
_sound: WeakKeyDictionary[nn.Module, Hashable] = WeakKeyDictionary()


class Gradient(Protocol):
    """(model, x, target, scale or None for 1) -> the losses times scale (B,), and the gradient of their sum."""

    def __call__(self, model: Call, x: Tensor, target: Any, scale: Tensor | None, /) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Plan:
    """How the gradients are made: by which module, in which format, how many samples at a time (0: all)."""

    fast: Call
    images: bool = False
    pairs: tuple[tuple[str, str, str], ...] = ()
    chunk: int = 0
    notes: tuple[str, ...] = ()


class Prepared:
    """One model for one attack call: made anew for each, so that nothing of it outlives a change of the weights.

    Everything is decided at the first gradient, and checked against the model as it is: where outputs differ, or the
    check fails in whatever way, the model as it is makes the gradients of the whole batch, and ``how`` says so. The
    check is made in each attack call, since all that tells whether a model has changed is blind to some changes
    (``.data``, the statistics of batch norms, what a forward method looks up): with the whole first batch, or, where
    structure and shape are those of the last one that passed, with the middle of FEW samples (all of FEW samples where
    the model takes no other size).

    For a single gradient the check would cost more than the copy gains: the model as it is makes it, whole, unless the
    options ask for something. Nothing is folded where every iterate must be judged by the model as it is (``exact``): a
    copy in another memory format alone needs no second judgement, a folded one a forward pass more at each step.

    What a forward method writes into attributes of its module during gradients is lost with the copy.
    """

    def __init__(
        self, model: Call, speed: Speed, *, eval_mode: bool = True, once: bool = False, exact: bool = False
    ) -> None:
        self.model, self.speed, self.eval_mode, self.once, self.exact = model, speed, eval_mode, once, exact
        self.module = model if isinstance(model, nn.Module) else None
        self.plan: Plan | None = None
        self.scale: Tensor | None = None
        self.parted = False

    @property
    def how(self) -> str:
        """In words: precision, format, what was folded, how many samples at a time."""
        plan = self.plan
        if plan is None:
            return "no gradients"
        parts, folds = [str(self.precision)], len(plan.pairs)
        parts += ["channels_last"] * plan.images
        parts += [f"{folds} batch norm{'s' if folds > 1 else ''} folded"] * (folds > 0)
        parts += [f"{plan.chunk} sample{'s' if plan.chunk > 1 else ''} at a time"] * self.parted
        parts += [] if self.graph is None else [str(self.graph)]
        return ", ".join([*parts, *plan.notes])

    @property
    def reduced(self) -> bool:
        """The losses that come with gradients are not those of the model as it is, in its own precision.

        A copy in another memory format alone has the same parameters and computes the same, in another order: its
        losses count. Those of folded, compiled and lower-precision ones do not.
        """
        plan = self.plan
        if plan is None or self.precision.reduced:
            return plan is not None
        return plan.fast is not self.model and (bool(plan.pairs) or self.speed.compile)

    # -- once ----------------------------------------------------------------------------------------------------------

    def begin(self, x: Tensor) -> Plan:
        """Decide, for the first batch; inside the guard, where modes and flags are those of the attack.

        Nothing is decided where an exception leaves it: the next, smaller batch begins again.
        """
        if self.plan is not None:
            return self.plan
        self.precision = precision_of(self.speed.precision, x)
        self.anchor, self.layout = Anchor(x.device), Layout()
        plan = self._plan(x)
        problem = self._problem(plan, x)
        if problem and plan.pairs:  # they may be those of before a change that no fingerprint sees
            again = self._plan(x, fresh=True)
            if again.pairs != plan.pairs:
                plan, problem = again, self._problem(again, x)
        if problem:
            plan = Plan(self.model, notes=(*plan.notes, f"the model as it is, whole batches: {problem}"))
        self.graph = self._graph(x, plan.fast)
        if self.precision.scales:
            self.scale = torch.full((), SCALE, dtype=torch.float32, device=x.device)
        self.plan = plan
        return plan

    def _plan(self, x: Tensor, *, fresh: bool = False) -> Plan:
        if self.speed.compile:
            images = self._wants_channels_last(x, folds=False)
            return Plan(torch.compile(self.model), images, (), self._samples_at_a_time(x), ("compiled",))
        if self.once and not self.precision.reduced and self.speed.channels_last is None and self.speed.chunk is None:
            return Plan(self.model)
        pairs, notes = self._pairs(fresh)
        images = self._wants_channels_last(x, folds=bool(pairs))
        copied = self.module is not None and self._copies() and (pairs or images)
        fast = fold.folded(self.module, pairs, images=images) if copied and self.module is not None else self.model
        return Plan(fast, images, tuple(pairs), self._samples_at_a_time(x), notes)

    def _wants_channels_last(self, x: Tensor, *, folds: bool) -> bool:
        asked = self.speed.channels_last
        if x.dim() != 4:
            if asked:
                raise ValueError(f"channels_last: wanted False or None for inputs with {x.dim()} dimensions, got True")
            return False
        if asked is not None:
            return asked
        if self.module is None or not any(isinstance(m, _CONVS) for m in self.module.modules()):
            return False
        if x.device.type == "cpu":  # measured: 1.3 times as fast, 1.1 with AVX2; oneDNN has no convolutions in float64
            one: Any = torch.backends.mkldnn
            fits = x.dtype == torch.float32 and bool(one.is_available() and one.enabled)
            large = x.shape[2] * x.shape[3] >= LEAST or folds
            return fits and large and torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AVX2"))
        # known: the layout of tensor cores; not measured yet
        return x.is_cuda and self.precision.reduced and torch.cuda.get_device_capability(x.device) >= (7, 0)

    def _copies(self) -> bool:
        plain = self.module is None or self.speed.compile or not self.eval_mode  # training mode may write attributes
        return not plain and self.module is not None and fold.can_be_copied(self.module)

    def _pairs(self, fresh: bool) -> tuple[fold.Pairs, tuple[str, ...]]:
        if self.module is None or not self.speed.fold or not self.eval_mode or self.exact:
            return [], ()
        if self._copies():
            return fold.pairs_of(self.module, fresh=fresh), ()
        normed = any(type(m) in fold.NORMS for m in self.module.modules())
        return [], ("nothing folded: the model has hooks or is scripted",) * normed

    def _samples_at_a_time(self, x: Tensor) -> int:
        """0: the whole batch."""
        asked = self.speed.chunk
        if asked is None and self.eval_mode and self.module is not None and x.device.type == "cpu" and x.dim() == 4:
            pixels = max(1, x.shape[2] * x.shape[3])
            weights = sum(p.numel() for p in self.module.parameters())
            asked = max(1, PIXELS // pixels, -(-weights // (CHANNELS * pixels)))
        return 0 if asked is None or asked >= x.shape[0] else asked

    def _graph(self, x: Tensor, fast: Call) -> StepGraph | None:
        wanted = self.speed.graph
        if not x.is_cuda:
            if wanted == "always":
                raise ValueError(f"graph: wanted 'never' or 'auto' on {x.device.type}, got 'always'")
            return None
        if wanted == "never" or self.speed.compile:
            return None
        return StepGraph(CudaRecorder(x.device), lambda: _tensors(fast), strict=wanted == "always")

    def _problem(self, plan: Plan, x: Tensor) -> str:
        """What is wrong with the plan, "" where nothing is."""
        if not (plan.pairs or plan.images or plan.chunk):
            return ""
        key: Hashable = None
        if self.module is not None:
            key = (fold.fingerprint(self.module), x.shape, x.dtype, x.device, plan.pairs, plan.images, plan.chunk)
            few = replace(plan, chunk=min(plan.chunk, 1))
            if key == _sound.get(self.module) and any(self._agrees(few, part) for part in _parts(x)):
                return ""
        problem = self._difference(plan, x)
        if self.module is not None and not problem:
            _sound[self.module] = key  # the latest alone: a counter among the attributes makes a key for each call
        return problem

    def _agrees(self, plan: Plan, x: Tensor) -> bool:
        try:
            return not self._difference(plan, x)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model that wants its batches of one size
            return False

    def _difference(self, plan: Plan, x: Tensor) -> str:
        modules = [] if self.module is None or self.eval_mode else list(self.module.modules())
        laid = self._laid(plan, x)
        return difference(self.model, plan.fast, x, torch.split(laid, plan.chunk) if plan.chunk else (laid,), modules)

    # -- at each step --------------------------------------------------------------------------------------------------

    def _laid(self, plan: Plan, x: Tensor) -> Tensor:
        return self.layout(x) if plan.images else x

    def gradient(self, function: Gradient, objective: object, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """(loss, gradient) of ``function``, in x's type."""
        plan = self.begin(x)

        def step(v: Tensor, t: Any) -> tuple[Tensor, Tensor]:
            return self._in_parts(plan, function, objective, v, t)

        with self.precision.region():
            while True:
                found = step(x, target) if self.graph is None else self.graph(step, x, target, objective)
                if self._fits(found[1]):
                    return found

    def _fits(self, grad: Tensor) -> bool:
        """Nothing overflowed, or no smaller scale is left; else it is smaller now. Waits for the device in fp16."""
        if self.scale is None or bool(grad.isfinite().all()):
            return True
        if bool(self.scale <= 1):
            return True
        self.scale.mul_(2.0**-LESS)  # in place: a recorded graph reads it
        return False

    def _in_parts(
        self, plan: Plan, function: Gradient, objective: object, x: Tensor, target: Any
    ) -> tuple[Tensor, Tensor]:
        def forward(v: Tensor) -> Any:
            with self.precision.forward(v.device):
                out = plan.fast(v)
            self.anchor.hold()
            return out

        seen, batch = self._laid(plan, x), x.shape[0]
        if not plan.chunk or plan.chunk >= batch or not _splits(objective):
            loss, grad = function(forward, seen, target, self.scale)
        else:
            self.parted = True
            losses, grad = [], torch.empty_like(x)
            for first in range(0, batch, plan.chunk):
                rows = slice(first, first + plan.chunk)
                here, part = function(forward, seen[rows], rows_of(target, rows, batch), self.scale)
                losses.append(here)
                grad[rows] = part
            loss = torch.cat(losses)
        return (loss, grad) if self.scale is None else (loss / self.scale, grad.div_(self.scale))

    def value(
        self, function: Callable[[Call, Tensor, Any], Tensor], objective: object, x: Tensor, target: Any
    ) -> Tensor:
        """The loss of the model as it is, in its own precision.

        In parts only after a gradient, where they are known to change nothing: queries of a black box are not spent on
        a check.
        """
        plan, batch = self.plan, x.shape[0]
        if plan is None:
            return function(self.model, x, target)
        seen = self._laid(plan, x)
        if not plan.chunk or plan.chunk >= batch or not _splits(objective):
            return function(self.model, seen, target)
        parts = [slice(first, first + plan.chunk) for first in range(0, batch, plan.chunk)]
        return torch.cat([function(self.model, seen[rows], rows_of(target, rows, batch)) for rows in parts])


def _parts(x: Tensor) -> list[Tensor]:
    """What the check looks at where it has seen the whole batch before, least first."""
    few = x[:FEW]
    if x.dim() != 4 or max(x.shape[2:]) <= SIDE:
        return [few]
    top, left = (max(0, (side - SIDE) // 2) for side in x.shape[2:])
    return [few[:, :, top : top + SIDE, left : left + SIDE].contiguous(), few]


def _tensors(model: Call) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else iter(())


def _splits(objective: object) -> bool:
    """The objective is known to judge each sample by itself and to hold nothing of the samples."""
    where = str(getattr(objective, "__module__", ""))
    held = getattr(objective, "__dict__", {})
    own = where.startswith("fastattack.objectives") and not any(isinstance(v, Tensor) for v in held.values())
    return own and all(_splits(part) for part in getattr(objective, "parts", ()))
