"""A model behind a defence that changes its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from ..engine.naming import names_now


class Defense(Protocol):
    """What changes images (B, C, H, W) before a model sees them."""

    def purify(self, x: Tensor, *, sample_ids: Tensor | None = None, draw: int = 0) -> Tensor:
        """The changed images, in the shape and type of x. ``sample_ids``, ``draw``: whose noise, where there is any."""
        ...

    @property
    def how(self) -> str:
        """How gradients are made, in words: "fp32, through JPEG: BPDA"."""
        ...


class Defended(nn.Module):
    """A model behind a defence: model(defense.purify(x)).

    Attributes:
        defense: what happens before.
        model: as it was given.

    Raises:
        TypeError: the model cannot be called.
    """

    def __init__(self, defense: Defense, model: Callable[[Tensor], Any]) -> None:
        if not callable(model):
            hint = "; purify(x) is for images" if isinstance(model, Tensor) else ""
            raise TypeError(f"model: wanted something callable as model(x), got {type(model).__name__}{hint}")
        super().__init__()
        self.defense, self.model = defense, model
        self.training = getattr(model, "training", False)

    def forward(self, x: Tensor, sample_ids: Tensor | None = None, draw: int | None = None) -> Any:
        if sample_ids is None and draw is None:
            sample_ids, draw = names_now()  # what an attack says, also where this is a part of its model
        return self.model(self.defense.purify(x, sample_ids=sample_ids, draw=draw or 0))

    @property
    def how(self) -> str:
        """How gradients are made, in words (`AttackResult.how`)."""
        return self.defense.how

    def for_samples(self, sample_ids: Tensor | None, draw: int) -> Callable[[Tensor], Any]:
        """This model for samples of these names and a draw; attacks call it so (`fastattack.engine.Single`)."""
        return lambda x: self(x, sample_ids, draw)
