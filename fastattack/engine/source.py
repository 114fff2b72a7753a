"""Where losses and gradients come from: a model, several, or either seen through random views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..fast import Prepared
from ..guard import Rowwise
from ..objectives import Objective
from ..ops.backend import Backend
from .naming import call_named, draws_by_name, naming

Model = Callable[[Tensor], Any]
Models = Model | Sequence[Model] | Mapping[str, Model]
View = Callable[..., Tensor]
"""A differentiable random transformation of a batch, (x, generator on the CPU) -> x'. A target like x goes through it
with the same draws, unless the view has an attribute ``moves_target`` that is False. Its draws must not follow from the
batch's size or order: it draws for the batch as a whole, or, with an attribute ``per_sample_ids`` that is True, is
called with ``ids=`` (B,), the samples' names (`fastattack.views.Noise`)."""

ENSEMBLES = ("mean", "max", "min", "softmax", "logits")


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


class Ensemble(Source):
    """Several models, one loss.

    Their gradients are made one after the other and gathered in one buffer, so that only one graph is alive. ``how``:
    "mean" of the losses, or with the given ``weights``; "max" and "min": for each sample the loss of the model that is
    hit most, or least (to fool them all); "softmax": the mean weighted with softmax(losses), a smooth "max", whose
    gradient holds the weights fixed: it is that of logsumexp(losses), not of the loss that is told; "logits": the loss
    of the mean output (Dong et al., arXiv 1710.06081, section 3.4), which needs all graphs at once.
    """

    def __init__(self, members: Sequence[Source], how: str, weights: Sequence[float] | None, table: Backend) -> None:
        self.members = members
        self.models = [m for member in members for m in member.models]
        self.rule, self.table = how, table
        self.weights = [1.0 / len(members)] * len(members) if weights is None else [float(w) for w in weights]
        self.columns: dict[torch.device, Tensor] = {}  # a copy to the device waits for it

    @property
    def reduced(self) -> bool:
        return any(m.reduced for m in self.members)

    @property
    def how(self) -> str:
        each = [m.how for m in self.members]
        return each[0] if len(set(each)) == 1 else "; ".join(each)

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        if self.rule == "logits":
            return per_sample_loss(self._mean_output(moment), objective, x, target)
        return self._of_losses(torch.stack([m.value(x, target, objective, moment).double() for m in self.members]))

    def _of_losses(self, losses: Tensor) -> Tensor:
        if self.rule in ("max", "min"):
            return losses.amax(0) if self.rule == "max" else losses.amin(0)
        return (losses * self._shares(losses)).sum(0)

    def _shares(self, losses: Tensor) -> Tensor:
        if self.rule == "softmax":
            return losses.softmax(0)
        if losses.device not in self.columns:
            self.columns[losses.device] = losses.new_tensor(self.weights)[:, None]
        return self.columns[losses.device]

    def _mean_output(self, moment: Moment) -> Model:
        models = [m.models[0] for m in self.members]

        def output(x: Tensor) -> Tensor:
            parts: list[Tensor] = [call_named(m, x, moment.ids, moment.draw) for m in models]
            if any(p.shape != parts[0].shape for p in parts):
                shapes = ", ".join(str(tuple(p.shape)) for p in parts)
                raise ValueError(f"model: wanted outputs of one shape with ensemble='logits', got {shapes}")
            return sum((w * p for w, p in zip(self.weights[1:], parts[1:], strict=True)), self.weights[0] * parts[0])

        return output

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        if self.rule == "logits":
            return backward(lambda v: per_sample_loss(self._mean_output(moment), objective, v, target), x)
        if self.rule == "softmax":
            return self._softmax_gradient(x, target, objective, moment)
        total, loss = None, None
        for member, weight in zip(self.members, self.weights, strict=True):
            here, grad = member.gradient(x, target, objective, moment)
            here = here.double()
            if total is None or loss is None:
                total, loss = grad.clone(memory_format=torch.preserve_format), here
                if self.rule == "mean":
                    self.table.accumulate(total, total.clone(), 0.0, weight)
                    loss = loss * weight
            elif self.rule == "mean":
                self.table.accumulate(total, grad, 1.0, weight)
                loss = loss + weight * here
            else:
                taken = here > loss if self.rule == "max" else here < loss
                self.table.accumulate(total, grad, (~taken).double(), taken.double())
                loss = torch.where(taken, here, loss)
        assert total is not None, "an ensemble has members"
        assert loss is not None
        return loss, total

    def _softmax_gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        """The weights hold all losses, and the gradient of one is gone when the next comes: a running softmax."""
        total, largest, mass, losses = torch.zeros_like(x), None, torch.zeros(()), []
        for member in self.members:
            here, grad = member.gradient(x, target, objective, moment)
            here = here.double()
            losses.append(here)
            if largest is None:
                largest, mass = here, torch.zeros_like(here)
            now = torch.maximum(largest, here)
            old, new = mass * (largest - now).exp(), (here - now).exp()
            self.table.accumulate(total, grad, old / (old + new), new / (old + new))
            largest, mass = now, old + new
        return self._of_losses(torch.stack(losses)), total


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


class Viewed(Wrapped):
    """A source through random views, averaged over ``samples`` draws (EOT, arXiv 1707.07397).

    Without a view the model itself is the random one, and `value` is the mean of as many draws; with a view `value` is
    the loss without it. Where the model draws by name, gradients have fresh draws at each step, and `value` has draws
    that are none of these and follow from ``seed`` alone: a random defence is climbed as it will be met, and two
    points are compared under one noise. With one sample the noise is that of draw 0 at every step.
    """

    def __init__(self, inner: Source, view: View | None, samples: int, table: Backend, *, seed: int = 0) -> None:
        super().__init__(inner)
        self.view, self.samples, self.table, self.seed = view, samples, table, seed
        self.faithful = view is None
        self.redraws = samples > 1 and any(map(draws_by_name, inner.models))

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        if self.view is not None and not self.redraws:
            return super().value(x, target, objective, moment)
        if self.redraws:
            moment = replace(moment, seed=self.seed, step=-1)
        losses = []
        for draw in range(self.samples):
            _seed_device(x, moment, draw)
            losses.append(self.inner.value(x, target, objective, moment.drawn(draw)).double())
        return torch.stack(losses).mean(0)

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        total, loss = torch.zeros_like(x), torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        for draw in range(self.samples):
            _seed_device(x, moment, draw)
            of_draw = moment.drawn(draw) if self.redraws else moment
            here, grad = self._one(x, target, objective, of_draw, moment.generator(draw))
            self.table.accumulate(total, grad, 1.0, 1.0 / self.samples)
            loss = loss + here.double() / self.samples
        return loss, total

    def _one(
        self, x: Tensor, target: Any, objective: Objective, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if self.view is None:
            return self.inner.gradient(x, target, objective, moment)
        view = self.view
        names = {"ids": moment.ids} if getattr(view, "per_sample_ids", False) else {}
        again = generator.clone_state()
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            seen = view(leaf, generator, **names)
        if getattr(self.view, "moves_target", True):
            target = _moved(target, x.shape, lambda t: view(t, again.clone_state(), **names))
        loss, outer = self.inner.gradient(seen.detach(), target, objective, moment)
        (grad,) = torch.autograd.grad(seen, leaf, outer)
        return loss, grad


def _moved(target: Any, shape: torch.Size, move: Callable[[Tensor], Tensor]) -> Any:
    """The target seen as the input is, or the parts of one: what is an image like the input."""
    if isinstance(target, Rowwise):
        return target.moved(lambda part: _moved(part, shape, move))
    return move(target) if isinstance(target, Tensor) and target.shape == shape else target


def _seed_device(x: Tensor, moment: Moment, draw: int) -> None:
    """What the model draws follows from the seed too; the guard puts the process's random state back."""
    number = moment.generator(draw).initial_seed()
    torch.default_generator.manual_seed(number)
    if x.device.type == "cuda":
        torch.cuda.default_generators[x.get_device()].manual_seed(number)


class Smoothed(Wrapped):
    """A source whose gradients are convolved with a kernel (k, k), for each channel (TI-FGSM, arXiv 1904.02884)."""

    def __init__(self, inner: Source, kernel: Tensor) -> None:
        super().__init__(inner)
        self.kernel = kernel
        self.placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # a copy to the device waits for it

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        loss, grad = self.inner.gradient(x, target, objective, moment)
        if grad.dim() != 4:
            raise ValueError(f"input: wanted images (B, C, H, W) for a smoothed gradient, got {grad.dim()} dimensions")
        channels = grad.shape[1]
        key = (grad.device, grad.dtype)
        if key not in self.placed:
            self.placed[key] = self.kernel.to(grad)
        kernel = self.placed[key][None, None].expand(channels, 1, -1, -1)
        return loss, nn.functional.conv2d(grad, kernel, padding="same", groups=channels)
