"""Where losses and gradients come from: what every source is, and that of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..fast import Prepared
from ..objectives import Objective
from .naming import naming

Model = Callable[[Tensor], Any]
Models = Model | Sequence[Model] | Mapping[str, Model]
View = Callable[..., Tensor]
"""A differentiable random transformation of a batch, (x, generator on the CPU) -> x'. A target like x goes through it
with the same draws, unless the view has an attribute ``moves_target`` that is False. Its draws must not follow from the
batch's size or order: it draws for the batch as a whole, or, with an attribute ``per_sample_ids`` that is True, is
called with ``ids=`` (B,), the samples' names (`fastattack.views.Noise`)."""


@dataclass(frozen=True)
class Moment:
    """Where in the walk a gradient is asked for: what random views draw from. ``ids`` (B,) name the samples.

    ``draw`` is a number for models that draw by name (`fastattack.defenses.Purified`): 0 is their noise as it is.
    """

    seed: int
    step: int
    ids: Tensor | None = None
    draw: int = 0

    def named(self, ids: Tensor) -> Moment:
        """The same moment of other samples."""
        return replace(self, ids=ids)

    def drawn(self, draw: int) -> Moment:
        """The same moment with the numbers of a draw of its own."""
        return replace(self, draw=self.generator(draw).initial_seed())

    def generator(self, draw: int) -> torch.Generator:
        """Numbers that follow from seed, step and draw alone: the same for every micro-batch."""
        number = (self.seed * 0x9E3779B97F4A7C15 + self.step * 0xBF58476D1CE4E5B9 + draw * 0x94D049BB133111EB) % 2**63
        return torch.Generator().manual_seed(number)


class Source:
    """Losses (B,) and gradients of a batch.

    Attributes:
        models: what is called, for the guard that leaves models as they were found.
        faithful: the loss that comes with a gradient is the loss at that point, not that of a random view of it.
        redraws: gradients see other draws of the model's noise at each step, `value` the same ones at every step and
            restart (common random numbers), so that points compare by it.
    """

    models: Sequence[Model] = ()
    faithful: bool = True
    redraws: bool = False

    @property
    def reduced(self) -> bool:
        """The loss that comes with a gradient is not that of the model as it is (reduced precision, a folded copy)."""
        return False

    @property
    def how(self) -> str:
        """In which precision and by which means gradients were made."""
        return ""

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        """The loss (B,) at x, without a graph."""
        raise NotImplementedError

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        """(loss, gradient) at x, with respect to x alone."""
        raise NotImplementedError


def per_sample_loss(model: Model, objective: Objective, x: Tensor, target: Any) -> Tensor:
    loss = objective(model(x), target)
    if not isinstance(loss, Tensor) or loss.shape != x.shape[:1]:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"objective: wanted one loss for each sample, shape ({x.shape[0]},), got {got}")
    return loss


_NO_GRADIENT = (
    "model: wanted an output that depends on its input through autograd, got no gradient; "
    "a black-box attack (fa.Square, fa.SimBA) needs none"
)


def backward(loss_of: Callable[[Tensor], Tensor], at: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(loss, gradient of its sum) at a point, both times ``scale``."""
    with torch.enable_grad():
        x = at.detach().requires_grad_(True)
        loss = loss_of(x)
        if not loss.requires_grad:
            raise ValueError(_NO_GRADIENT)
        loss = loss if scale is None else loss * scale
        (grad,) = torch.autograd.grad(loss.sum(), x, allow_unused=True)
    if grad is None:
        raise ValueError(_NO_GRADIENT)
    return loss.detach(), grad


class Single(Source):
    """One model. ``fast``: what makes its gradients in reduced precision, another format, from a folded copy.

    A model that draws by name is told the samples' names and the draw, so that no micro-batch changes its noise.
    """

    def __init__(self, model: Model, *, fast: Prepared | None = None) -> None:
        self.models = (model,)
        self.model = model
        self.fast = fast

    @property
    def reduced(self) -> bool:
        return self.fast is not None and self.fast.reduced

    @property
    def how(self) -> str:
        return str(getattr(self.model, "how", "")) if self.fast is None else self.fast.how

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        with naming(moment.ids, moment.draw):
            return self._value(x, target, objective, moment)

    def _value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        if self.fast is None:
            return per_sample_loss(self._called(moment), objective, x, target)
        return self.fast.value(lambda model, v, t: per_sample_loss(model, objective, v, t), objective, x, target)

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        def of(model: Model, v: Tensor, t: Any, scale: Tensor | None) -> tuple[Tensor, Tensor]:
            return backward(lambda u: per_sample_loss(model, objective, u, t), v, scale)

        with naming(moment.ids, moment.draw):
            if self.fast is None:
                return of(self._called(moment), x, target, None)
            return self.fast.gradient(of, objective, x, target)

    def _called(self, moment: Moment) -> Model:
        if not hasattr(self.model, "for_samples"):
            return self.model
        model: Model = self.model.for_samples(moment.ids, moment.draw)
        return model


class Wrapped(Source):
    """Another source with something done to its gradients: subclasses say what; all else is the other one's."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.models, self.faithful, self.redraws = inner.models, inner.faithful, inner.redraws

    @property
    def reduced(self) -> bool:
        return self.inner.reduced

    @property
    def how(self) -> str:
        return self.inner.how

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        return self.inner.value(x, target, objective, moment)
