"""A source seen through random views, or whose gradients are smoothed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..guard import Rowwise
from ..objectives import Objective
from ..ops.backend import Backend
from .naming import draws_by_name
from .source import Moment, Source, View, Wrapped


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
