"""Attacks on some channels of a model's input: the others belong to named samples and stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..objectives import Objective
from ..ops import check
from .naming import call_named, draws_differ, names_now
from .source import Moment, Source, Wrapped


class Part(nn.Module):
    """A model of some channels of its input alone.

    Whose the other channels are is told by the samples' names, so that micro-batches and samples that leave the batch
    change nothing. In an attack the model itself makes the gradients (`Beside`), in whatever precision or format.

    Args:
        model: called as model(whole input).
        whole: (N, C, ...), the inputs of all samples.
        channels: those that this model is called with.
        ids: (N,) integers, the samples' names, all different; None: 0 .. N-1.

    Raises:
        TypeError, ValueError: names that are not N different whole numbers; at a call, an input that does not fit.
    """

    def __init__(
        self, model: Callable[[Tensor], Any], whole: Tensor, channels: slice, *, ids: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model, self.channels = model, channels
        self.whole = whole.detach()
        self.draws = draws_differ(model)
        self.training = getattr(model, "training", False)
        given = check.ids_of(ids, self.whole)
        names = torch.arange(len(whole), device=whole.device) if given is None else given
        if len(set(names.tolist())) != len(whole):
            raise ValueError(f"sample_ids: wanted {len(whole)} different whole numbers, got {names.tolist()!r:.80}")
        self.names, self.order = names.sort()
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Any:
        ids, draw = names_now()
        return self.for_samples(ids, draw)(x)

    def for_samples(self, ids: Tensor | None, draw: int) -> Callable[[Tensor], Any]:
        """This model for samples of these names and a draw; without names they are all N, in order."""
        return lambda x: call_named(self.model, self.complete(x, ids), ids, draw)

    def complete(self, x: Tensor, ids: Tensor | None) -> Tensor:
        """(B, C, ...): x (B, own channels, ...) with the other channels of the samples of these names."""
        whole = self.whole if ids is None else self._rows(ids)
        wanted = (len(whole), *whole[:, self.channels].shape[1:])
        if tuple(x.shape) != wanted:
            raise ValueError(f"input: wanted {wanted}, the attacked part of {len(whole)} samples, got {tuple(x.shape)}")
        first, last, _ = self.channels.indices(whole.shape[1])
        return torch.cat([whole[:, :first].to(x), x, whole[:, last:].to(x)], 1)

    def part(self, whole: Tensor) -> Tensor:
        """The channels that are this model's input."""
        return whole[:, self.channels].contiguous()

    def _rows(self, ids: Tensor) -> Tensor:
        """Of these names; kept for the next step, which asks for the same: the look waits for the device."""
        if self._last is None or self._last[0] is not ids:
            here = ids.to(self.names.device)
            place = torch.searchsorted(self.names, here).clamp(max=len(self.names) - 1)
            if bool((self.names[place] != here).any()):
                raise ValueError(f"sample_ids: wanted names of the {len(self.names)} samples, got {ids.tolist()!r:.80}")
            self._last = (ids, self.whole[self.order[place]])
        return self._last[1]


class Beside(Wrapped):
    """A source of whole inputs as one of a part of them."""

    def __init__(self, inner: Source, part: Part) -> None:
        super().__init__(inner)
        self.part = part

    def value(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> Tensor:
        return self.inner.value(self.part.complete(x, moment.ids), target, objective, moment)

    def gradient(self, x: Tensor, target: Any, objective: Objective, moment: Moment) -> tuple[Tensor, Tensor]:
        loss, grad = self.inner.gradient(self.part.complete(x, moment.ids), target, objective, moment)
        return loss, self.part.part(grad)
