"""What the attacks share: the estimator seen by the engine, the checks of ART's arguments, a batch handed over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.utils import random_sphere
from torch import nn
from tqdm.auto import tqdm
from typing_extensions import Self

from ...engine import Outcome, Rule, Schedule, Source, attack
from ...fast import Speed, speed_of
from ...objectives import Objective
from ...ops.backend import Backend
from ...threat import Threat
from .inputs import Inputs, check_images, check_labels, check_mask, check_x, mask_in
from .victim import Array, Victim, bounds_of, check_estimator, predict
from .writer import writer_of

ONE_PIXEL = 1e-9
"""The share of the pixels that an l1 step moves: the one with the largest gradient, as in ART."""


class EngineAttack(EvasionAttack):  # type: ignore[misc]
    """ART's EvasionAttack over the engine."""

    attack_params: ClassVar[list[str]] = []

    def __init__(self, estimator: Any, *, summary_writer: Any = False) -> None:
        super().__init__(estimator=estimator, summary_writer=writer_of(summary_writer))
        check_estimator(estimator, type(self).__name__)
        self._speed = Speed()
        self._module: nn.Module | None = None

    def set_speed(self, **options: Any) -> Self:
        """How gradients are made, beyond what ART can say; the fields of `fastattack.fast.Speed`. Gives back itself."""
        self._speed = speed_of(**options)
        return self

    def set_params(self, **kwargs: Any) -> None:
        """Change arguments of the constructor. Where one cannot be, all are as before.

        Raises:
            ValueError: a name that is no argument; what `_check_params` raises.
        """
        unknown = kwargs.keys() - set(self.attack_params)
        if unknown:
            names = ", ".join(self.attack_params)
            raise ValueError(f"set_params: wanted {names}, got {', '.join(map(repr, sorted(unknown)))}")
        if "summary_writer" in kwargs:
            writer = writer_of(kwargs.pop("summary_writer"))
            kwargs |= {"_summary_writer_arg": writer, "_summary_writer": writer or None}
        before = {name: getattr(self, name) for name in kwargs}
        try:
            for name, value in kwargs.items():
                setattr(self, name, value)
            self._check_params()
        except BaseException:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _victim(self, shape: tuple[int, ...]) -> Victim:
        """The estimator for batches of this shape. The module is kept, and with it what the engine knows of it."""
        found = Victim.of(self.estimator, shape, self._module)
        self._module = found.model
        return found

    def _inputs(
        self, x: Any, y: Any, options: dict[str, Any], *, targeted: bool, own: bool = True
    ) -> tuple[Victim, Inputs]:
        """The arrays of generate(), checked; without y the model's own predictions.

        Args:
            own: an attack from the input itself can climb away from the model's own output.
        """
        mask = mask_in(options, type(self).__name__)
        found = check_x(x, bounds_of(self.estimator))
        victim = self._victim(found.shape)
        if y is None and targeted:
            raise ValueError("y: wanted the targets of a targeted attack, got None")
        if victim.classes is not None:
            if y is None:
                y = self._predicted(found)
            target, shown = check_labels(y, victim, len(found))
        else:
            if y is None and not own:
                raise ValueError(
                    "y: wanted clean images, got None (at the input, the model's own output has no gradient; "
                    "with num_random_init=1 the attack climbs away from it)"
                )
            target = shown = check_images(self._predict(found) if y is None else y, len(found))
        return victim, Inputs(found, target, shown, check_mask(mask, found.shape))

    def _predict(self, x: Array) -> Array:
        return predict(self.estimator, x, self.batch_size)

    def _predicted(self, x: Array) -> Array:
        """The classes (N,) that the estimator tells."""
        found = self._predict(x)
        if found.ndim != 2 or found.shape[1] != self.estimator.nb_classes:
            wanted = (len(x), self.estimator.nb_classes)
            raise ValueError(f"estimator: wanted predictions {wanted}, got {found.shape}")
        classes: Array = found.argmax(1)
        return classes

    def _spans(self, count: int, what: str) -> Iterator[slice]:
        """Rows of each batch, under ART's progress bar."""
        size = self.batch_size
        firsts = tqdm(range(0, count, size), desc=what, leave=False, disable=not getattr(self, "verbose", False))
        return (slice(first, min(first + size, count)) for first in firsts)

    def _climb(
        self, victim: Victim, part: Inputs, objective: Objective, *, norm: str, eps: float | Array, step: float | Array,
        steps: int, targeted: bool, rule: Rule, start: Array | None = None,
        wrap: Callable[[Source, Backend], Source] | None = None, with_loss: bool = False,
    ) -> Outcome:  # fmt: skip
        """Gradient steps on one batch; the last iterate, as ART gives it."""
        sparsity = ONE_PIXEL if norm == "l1" else None
        return attack(
            victim.model, victim.put(part.x), victim.put(part.target), objective=objective,
            threat=Threat(norm=norm, eps=_tensor(eps), bounds=victim.bounds, sparsity=sparsity),
            schedule=Schedule(steps=steps, step=_tensor(step), random_start=False, minimise=targeted, keep="last"),
            rule=rule, wrap=wrap, mask=None if part.mask is None else victim.put(part.mask),
            start=None if start is None else victim.put(start), speed=self._speed, with_loss=with_loss,
        )  # fmt: skip


def _tensor(value: float | Array) -> float | torch.Tensor:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def random_start(part: Inputs, eps: float | Array, norm: str, bounds: tuple[float, float] | None) -> Array:
    """ART's random point of the ball, from NumPy's global generator: one draw for the whole batch."""
    count, size = len(part.x), part.x[0].size
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    if isinstance(eps, np.ndarray) and norm == "linf":
        noise = random_sphere(count, size, eps[:, None], order)
    elif isinstance(eps, np.ndarray):
        noise = random_sphere(count, size, 1.0, order) * eps[:, None]
    else:
        noise = random_sphere(count, size, eps, order)
    noise = noise.reshape(part.x.shape).astype(np.float32)
    start: Array = part.x + (noise if part.mask is None else noise * part.mask)
    return start if bounds is None else np.clip(start, *bounds)


def norm_of(norm: Any) -> str:
    """ "linf", "l2" or "l1" from ART's np.inf, "inf", 2 or 1."""
    order = math.inf if norm == "inf" else float(norm)
    if not order >= 1:
        raise ValueError(f"norm: wanted np.inf, 'inf', 2 or 1, got {norm!r}")
    known = {math.inf: "linf", 2.0: "l2", 1.0: "l1"}
    if order not in known:
        raise ValueError(
            f"norm: wanted np.inf, 'inf', 2 or 1, got {norm!r} (ART takes any p >= 1, this engine does not)"
        )
    return known[order]


def check_ball(eps: Any, eps_step: Any) -> None:
    """Both numbers, or both arrays of one shape; eps >= 0 and eps_step > 0, finite."""
    numbers = isinstance(eps, (int, float)) and isinstance(eps_step, (int, float))
    arrays = isinstance(eps, np.ndarray) and isinstance(eps_step, np.ndarray)
    if not (numbers or arrays):
        raise TypeError(
            f"eps: wanted numbers or NumPy arrays for eps and eps_step, got {type(eps).__name__} and "
            f"{type(eps_step).__name__}"
        )
    if arrays and eps.shape != eps_step.shape:
        raise ValueError(f"eps_step: wanted an array of shape {eps.shape} as eps has, got {eps_step.shape}")
    if not bool((np.isfinite(eps) & (np.asarray(eps) >= 0)).all()):
        raise ValueError(f"eps: wanted finite numbers >= 0, got {eps!r}")
    if not bool((np.isfinite(eps_step) & (np.asarray(eps_step) > 0)).all()):
        raise ValueError(f"eps_step: wanted finite numbers > 0, got {eps_step!r}")


def check_flag(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: wanted True or False, got {value!r}")


def check_whole(value: Any, name: str, least: int, error: type[Exception] = TypeError) -> None:
    """A whole number; ``error`` where it is something else, as ART's class has it, ValueError below ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise error(f"{name}: wanted a whole number >= {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
