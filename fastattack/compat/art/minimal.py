"""The shortest step along one gradient that succeeds: the ``minimal=True`` of ART's FastGradientMethod."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine import Moment, Steepest
from ...objectives import Objective
from ...ops import l1_step_, pgd_step_
from .base import ONE_PIXEL, EngineAttack, norm_of
from .inputs import Inputs
from .victim import Array, Victim
from .writer import Show, watching


def smallest(
    attack: Any, victim: Victim, part: Inputs, objective: Objective, eps: float | Array, step: float | Array,
    show: Show | None,
) -> Array:  # fmt: skip
    """One batch: lengths step, 2 step, ... <= eps, each tried on the samples that none before has fooled.

    The lengths are sums, as ART makes them: three steps of 0.1 are more than 0.3.
    """
    norm = norm_of(attack.norm)
    grad = _gradient(attack, victim, part, objective, norm, step, show)
    grad = -grad if attack.targeted else grad
    labels = part.shown.argmax(1)
    most, each = (np.broadcast_to(np.asarray(v, dtype=np.float64), (len(part.x),)) for v in (eps, step))
    adv, level, active = part.x.copy(), each.copy(), np.arange(len(part.x))
    while (active := active[level[active] <= most[active]]).size:
        few = part.rows(active)
        adv[active] = _moved(victim, few, grad[torch.from_numpy(active).to(grad.device)], norm, level[active])
        found = attack._predicted(adv[active])
        active = active[(found != labels[active]) if attack.targeted else (found == labels[active])]
        level = level + each
    return adv


def _gradient(
    attack: EngineAttack, victim: Victim, part: Inputs, objective: Objective, norm: str, step: float | Array,
    show: Show | None,
) -> Tensor:  # fmt: skip
    """The gradient at the inputs themselves."""
    kept = torch.zeros(part.x.shape, device=victim.device)

    def keep(moment: Moment, x: Tensor, grad: Tensor) -> None:
        kept[moment.ids] = grad
        if show is not None:
            show(moment, x, grad)

    attack._climb(
        victim, part, objective, norm=norm, eps=step, step=step, steps=1, targeted=False, rule=Steepest,
        wrap=watching(keep),
    )  # fmt: skip
    return kept


def _moved(victim: Victim, part: Inputs, grad: Tensor, norm: str, length: Array) -> Array:
    """x + length * direction(grad), inside mask and bounds."""
    x, size = victim.put(part.x), torch.from_numpy(np.ascontiguousarray(length)).to(victim.device)
    mask = None if part.mask is None else victim.put(part.mask)
    adv = x.clone()
    if norm == "l1":
        l1_step_(adv, grad, x, eps=size, step=size, keep=ONE_PIXEL, bounds=victim.bounds, mask=mask)
    else:
        pgd_step_(adv, grad, x, eps=size, step=size, norm=norm, bounds=victim.bounds, mask=mask)
    found: Array = adv.cpu().numpy()
    return found
