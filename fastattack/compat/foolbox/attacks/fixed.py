"""Gradient attacks within a given radius: FGSM, BIM, PGD and momentum, in linf, l2 and l1."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .... import engine
from ....engine import Job, Rule, Schedule, Steepest, Walk
from ....objectives.ranged import CrossEntropy
from ....threat import Threat
from ..criteria import get_criterion, goal_of
from ..distances import l1, l2, linf
from ..models.network import network_of
from ..native import like
from .base import FixedEpsilonAttack, raise_if_kwargs, trains, verify_input_bounds
from .shared import SharedStart

HOOKS = ("get_loss_fn", "get_optimizer", "value_and_grad", "normalize", "project")


class BaseGradientDescent(FixedEpsilonAttack):
    """Steps along the gradient of the cross-entropy, each followed by the way back into ball and bounds.

    Args:
        rel_stepsize: length of a step as a share of epsilon. abs_stepsize: the length itself, in its place.
        steps: their number.
        random_start: begin at a random point of the ball, drawn from torch's generator as foolbox draws it.
    """

    norm = "linf"

    def __init__(
        self, *, rel_stepsize: float, abs_stepsize: float | None = None, steps: int, random_start: bool
    ) -> None:
        self.rel_stepsize = rel_stepsize
        self.abs_stepsize = abs_stepsize
        self.steps = steps
        self.random_start = random_start

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in HOOKS:  # in foolbox they change the loop, which is the engine's here
            if name in vars(cls):
                raise TypeError(f"{cls.__name__}.{name}: wanted a class without it; fastattack.PGD takes an objective")

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """The last iterate, like inputs."""
        return self.sweep(model, inputs, criterion, epsilons=[epsilon], **kwargs)[0]

    def sweep(self, model: Any, inputs: Any, criterion: Any, *, epsilons: list[float], **kwargs: Any) -> list[Any]:
        """The last iterates for each epsilon: all in one batch where the model is a module in eval mode, which judges
        each sample by itself; one epsilon after the other where it may not."""
        raise_if_kwargs(kwargs)
        x = verify_input_bounds(inputs, model).detach()
        classes, targeted = goal_of(get_criterion(criterion), len(x))
        starts = [self.get_random_start(x, e) for e in epsilons] if self.random_start else None
        network, count = network_of(model), len(epsilons)
        together = isinstance(network, torch.nn.Module) and not trains(network)
        parts = [slice(0, count)] if together else [slice(k, k + 1) for k in range(count)]
        found: list[Tensor] = []
        for part in parts:
            some = epsilons[part]
            begin = None if starts is None else torch.cat(starts[part])
            found += self._attacked(network, x, classes.to(x.device), some, begin, model.bounds, targeted)
        restore = like(inputs)
        return [restore(adv) for adv in found]

    def _attacked(
        self, network: Any, x: Tensor, classes: Tensor, epsilons: list[float], begin: Tensor | None, bounds: Any,
        targeted: bool,
    ) -> list[Tensor]:  # fmt: skip
        """One call of the engine, with as many copies of the batch as there are epsilons."""
        batch, count = len(x), len(epsilons)
        lengths = [self.rel_stepsize * e if self.abs_stepsize is None else self.abs_stepsize for e in epsilons]
        low, high = bounds
        shared = count > 1 and self.steps == 1 and begin is None  # with more steps one gradient less is no gain
        outcome = engine.attack(
            network,
            _times(x, count),
            _times(classes, count),
            objective=CrossEntropy(int(classes.max())),
            threat=Threat(norm=self.norm, eps=_each(epsilons, batch), bounds=(float(low), float(high))),
            schedule=Schedule(
                steps=self.steps, step=_each(lengths, batch), random_start=False, minimise=targeted, keep="last",
                eval_mode=not trains(network),
            ),
            rule=self._rule(),
            wrap=(lambda source, table: SharedStart(source, batch)) if shared else None,
            start=begin,
            speed=self._speed,
            with_loss=False,
        )  # fmt: skip
        return list(outcome.adversarial.chunk(count))

    def _rule(self) -> Rule:
        return Steepest

    def get_random_start(self, x0: Tensor, epsilon: float) -> Tensor:
        """Where to begin, like x0; clipped to ball and bounds after."""
        raise NotImplementedError


def _times(t: Tensor, count: int) -> Tensor:
    return t if count == 1 else t.repeat(count, *[1] * (t.dim() - 1))


def _each(values: list[float], batch: int) -> float | Tensor:
    """One number, or that of each sample where the batch comes once for each of several."""
    if len(values) == 1:
        return values[0]
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(batch)


def _uniform(like_: Tensor, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """The numbers that eagerpy draws."""
    return torch.rand(shape, dtype=like_.dtype, device=like_.device) * (high - low) + low


class LinfBaseGradientDescent(BaseGradientDescent):
    distance = linf
    norm = "linf"

    def get_random_start(self, x0: Tensor, epsilon: float) -> Tensor:
        return x0 + _uniform(x0, tuple(x0.shape), -epsilon, epsilon)


class L2BaseGradientDescent(BaseGradientDescent):
    distance = l2
    norm = "l2"

    def get_random_start(self, x0: Tensor, epsilon: float) -> Tensor:
        """Uniform in the ball: the first d of d + 2 coordinates of a point of the sphere (Voelker et al., 2017)."""
        normals = torch.randn((len(x0), x0[0].numel() + 2), dtype=x0.dtype, device=x0.device)
        inner = (normals / normals.square().sum(-1, keepdim=True).sqrt())[:, :-2]
        return x0 + epsilon * inner.reshape(x0.shape)


class L1BaseGradientDescent(BaseGradientDescent):
    """In l1 a step moves the 5 % of the pixels with the largest gradients and projects exactly onto ball and bounds
    together (`fastattack.ops.l1_step_`); foolbox moves all of them along the gradient and scales back."""

    distance = l1
    norm = "l1"

    def get_random_start(self, x0: Tensor, epsilon: float) -> Tensor:
        """The gaps between sorted uniform numbers, with random signs (https://mathoverflow.net/a/9188)."""
        shape = (len(x0), x0[0].numel())
        ordered = _uniform(x0, shape, 0.0, 1.0).sort(-1).values
        gaps = ordered.diff(dim=-1, prepend=torch.zeros_like(ordered[:, :1]))
        signs = _uniform(x0, shape, -1.0, 1.0).sign()
        return x0 + epsilon * (signs * gaps).reshape(x0.shape)


class SummedDirections(Walk):
    """What foolbox's MI-FGSM does: directions of unit length (signs in linf) add up, and the direction of the sum is
    the step. `fastattack.MIFGSM` is the paper's, which adds up gradients of unit l1 norm."""

    def __init__(self, job: Job, *, decay: float) -> None:
        super().__init__(job)
        self.decay = decay
        self.momentum = torch.zeros_like(job.origin)

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        self.momentum.mul_(self.decay).add_(self._unit(grad))
        self.job.move(self.adv, self.momentum)

    def _unit(self, grad: Tensor) -> Tensor:
        if self.job.norm == "linf":
            return grad.sign()
        order = 2 if self.job.norm == "l2" else 1
        lengths: Tensor = torch.linalg.vector_norm(grad.flatten(1), order, dim=1, dtype=torch.float64).clamp(min=1e-12)
        return grad / lengths.to(grad.dtype).reshape(-1, *[1] * (grad.dim() - 1))


class _ProjectedGradientDescent(BaseGradientDescent):
    def __init__(
        self, *, rel_stepsize: float = 0.025, abs_stepsize: float | None = None, steps: int = 50,
        random_start: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(rel_stepsize=rel_stepsize, abs_stepsize=abs_stepsize, steps=steps, random_start=random_start)


class _BasicIterative(BaseGradientDescent):
    def __init__(
        self, *, rel_stepsize: float = 0.2, abs_stepsize: float | None = None, steps: int = 10,
        random_start: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(rel_stepsize=rel_stepsize, abs_stepsize=abs_stepsize, steps=steps, random_start=random_start)


class _FastGradient(BaseGradientDescent):
    def __init__(self, *, random_start: bool = False) -> None:
        super().__init__(rel_stepsize=1.0, steps=1, random_start=random_start)

    def sweep(self, model: Any, inputs: Any, criterion: Any, *, epsilons: list[float], **kwargs: Any) -> list[Any]:
        if hasattr(criterion, "target_classes"):
            raise ValueError("criterion: wanted labels or Misclassification for one step (unsupported criterion)")
        return super().sweep(model, inputs, criterion, epsilons=epsilons, **kwargs)


class _MomentumIterative(BaseGradientDescent):
    def __init__(
        self, *, momentum: float = 1.0, rel_stepsize: float = 0.2, abs_stepsize: float | None = None, steps: int = 10,
        random_start: bool = False,
    ) -> None:  # fmt: skip
        self.momentum = momentum
        super().__init__(rel_stepsize=rel_stepsize, abs_stepsize=abs_stepsize, steps=steps, random_start=random_start)

    def _rule(self) -> Rule:
        return partial(SummedDirections, decay=self.momentum)


class LinfProjectedGradientDescentAttack(_ProjectedGradientDescent, LinfBaseGradientDescent):
    """PGD in linf (Madry et al., arXiv 1706.06083); arguments: `BaseGradientDescent`."""

    def __init__(
        self, *, rel_stepsize: float = 0.01 / 0.3, abs_stepsize: float | None = None, steps: int = 40,
        random_start: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(rel_stepsize=rel_stepsize, abs_stepsize=abs_stepsize, steps=steps, random_start=random_start)


class L2ProjectedGradientDescentAttack(_ProjectedGradientDescent, L2BaseGradientDescent):
    """PGD in l2; arguments: `BaseGradientDescent`."""


class L1ProjectedGradientDescentAttack(_ProjectedGradientDescent, L1BaseGradientDescent):
    """PGD in l1; arguments: `BaseGradientDescent`, step: `L1BaseGradientDescent`."""


class LinfBasicIterativeAttack(_BasicIterative, LinfBaseGradientDescent):
    """BIM (Kurakin et al., arXiv 1607.02533); arguments: `BaseGradientDescent`."""


class L2BasicIterativeAttack(_BasicIterative, L2BaseGradientDescent):
    """BIM in l2; arguments: `BaseGradientDescent`."""


class L1BasicIterativeAttack(_BasicIterative, L1BaseGradientDescent):
    """BIM in l1; arguments: `BaseGradientDescent`, step: `L1BaseGradientDescent`."""


class LinfFastGradientAttack(_FastGradient, LinfBaseGradientDescent):
    """FGSM (Goodfellow et al., arXiv 1412.6572)."""


class L2FastGradientAttack(_FastGradient, L2BaseGradientDescent):
    """The fast gradient method in l2."""


class L1FastGradientAttack(_FastGradient, L1BaseGradientDescent):
    """The fast gradient method in l1; step: `L1BaseGradientDescent`."""


class LinfMomentumIterativeFastGradientMethod(_MomentumIterative, LinfBaseGradientDescent):
    """MI-FGSM as foolbox has it (`SummedDirections`); arguments: ``momentum`` and `BaseGradientDescent`'s."""


class L2MomentumIterativeFastGradientMethod(_MomentumIterative, L2BaseGradientDescent):
    """MI-FGSM in l2 as foolbox has it (`SummedDirections`)."""


class L1MomentumIterativeFastGradientMethod(_MomentumIterative, L1BaseGradientDescent):
    """MI-FGSM in l1 (`SummedDirections`, step: `L1BaseGradientDescent`)."""
