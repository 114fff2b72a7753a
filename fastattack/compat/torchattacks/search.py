"""Attacks that look for a success, and give the images back as they are where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import attacks as ours
from ...objectives import cross_entropy, cw_margin
from .attack import Attack
from .gradient import seed

Model = Callable[..., Any]
NORMS = {"Linf": "linf", "L2": "l2"}


def norm_of(name: Any) -> str:
    """Ours for the one of torchattacks. Raises AssertionError, as torchattacks does."""
    if name not in NORMS:
        raise AssertionError(f"norm: wanted one of {', '.join(map(repr, NORMS))}, got {name!r}")
    return NORMS[name]


class Search(Attack):
    """What the searches share."""

    def _hits(self, adversarial: Tensor, goal: Tensor) -> Tensor:
        """(B,) bool, by the model as it is: fooled, or in a targeted mode taken for the target."""
        logits = self.get_output_with_eval_nograd(adversarial)
        if logits.dim() != 2:
            raise ValueError(f"model: wanted logits (B, classes) for {self.attack}, got {tuple(logits.shape)}")
        predicted = logits.argmax(1)
        return predicted == goal if self.targeted else predicted != goal

    def _hits_or_images(self, adversarial: Tensor, images: Tensor, goal: Tensor) -> Tensor:
        hits = self._hits(adversarial, goal).reshape(-1, *[1] * (images.dim() - 1))
        return torch.where(hits, adversarial, images)


class CW(Search):
    """Carlini & Wagner's l2 attack with one c (arXiv 1608.04644): the smallest perturbation that was found to succeed.

    A sample that succeeds as it is comes back unchanged. Each sample ends when it has found nothing better for three
    tenths of the steps; torchattacks ends all when the sum of their losses rises from one tenth to the next.
    """

    def __init__(self, model: Model, c: float = 1, kappa: float = 0, steps: int = 50, lr: float = 0.01) -> None:
        super().__init__("CW", model)
        self.c = c
        self.kappa = kappa
        self.steps = steps
        self.lr = lr
        self.supported_mode = ["default", "targeted"]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        for name, value, least in (("c", self.c, 0), ("kappa", self.kappa, -1), ("lr", self.lr, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least < value < math.inf:
                raise ValueError(f"{name}: wanted a number {'>= 0' if name == 'kappa' else '> 0'}, got {value!r}")
        if self.kappa < 0:
            raise ValueError(f"kappa: wanted a number >= 0, got {self.kappa!r}")
        if self.steps == 0:
            return images.clone()
        attack = self._engine(
            ours.CW, objective=cw_margin(), threshold=-self.kappa if self.targeted else self.kappa, steps=self.steps,
            step=self.lr, restarts=1, initial_c=float(self.c), stop="converged", patience=3 * max(self.steps // 10, 1),
        )  # fmt: skip
        return self._hits_or_images(attack(images, goal), images, goal)


class Square(Search):
    """Square Attack (arXiv 1912.00049): n_queries random squares for each restart, without gradients.

    seed=None: from torch's global generator. The schedule of the squares' sizes is always that of the budget.
    """

    def __init__(
        self, model: Model, norm: str = "Linf", eps: float = 8 / 255, n_queries: int = 5000, n_restarts: int = 1,
        p_init: float = 0.8, loss: str = "margin", resc_schedule: bool = True, seed: int | None = 0,
        verbose: bool = False,
    ) -> None:  # fmt: skip
        super().__init__("Square", model)
        self.norm = norm
        self.n_queries = n_queries
        self.eps = eps
        self.p_init = p_init
        self.n_restarts = n_restarts
        self.seed = seed
        self.verbose = verbose
        self.loss = loss
        self.rescale_schedule = resc_schedule
        self.supported_mode = ["default", "targeted"]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        if not self.rescale_schedule:
            raise ValueError("resc_schedule: wanted True (squares shrink along the budget), got False")
        if self.loss not in ("margin", "ce"):
            raise ValueError(f"loss: wanted 'margin' or 'ce', got {self.loss!r}")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init: wanted a share in (0, 1], got {self.p_init!r}")
        margin = self.loss == "margin"
        until: dict[str, Any] = {"threshold": 0.0, "stop": "success"} if margin else {}
        attack = self._engine(
            ours.Square, objective=cw_margin() if margin else cross_entropy, norm=norm_of(self.norm), eps=self.eps,
            queries=self.n_queries, restarts=self.n_restarts, p=self.p_init,
            seed=seed() if self.seed is None else self.seed, **until,
        )  # fmt: skip
        found = attack(images, goal)
        if self.verbose:
            print(f"robust accuracy: {float((~self._hits(found, goal)).float().mean()):.2%}")
        return self._hits_or_images(found, images, goal)
