"""What changed pairs do to a registration model: its fields before and after, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.naming import call_named
from ..guard import fresh, left_as_found
from ..inputs import check_target
from ..ops import check
from .fields import check_field
from .measures import Measures, measure
from .sides import check_dims, check_pair
from .truth import Truth

MEASURES = tuple(f.name for f in fields(Measures))


@dataclass(frozen=True)
class Harm:
    """What changed pairs did to one model.

    Attributes:
        field_before, field_after: (B, d, *spatial), in voxels, of the pairs as they were and as they became.
        before, after: the measures of both, against the same truth.
        truth: what they were measured against.
    """

    field_before: Tensor = field(repr=False)
    field_after: Tensor = field(repr=False)
    before: Measures
    after: Measures
    truth: Truth = field(repr=False)

    @property
    def rises(self) -> dict[str, Tensor]:
        """after - before, (B,) float64, of each measure that is known; Dice and the least determinant fall in harm."""
        pairs = {name: (getattr(self.before, name), getattr(self.after, name)) for name in MEASURES}
        return {name: b - a for name, (a, b) in pairs.items() if a is not None and b is not None}


def fields_of(
    model: Callable[[Tensor], Any],
    pair: Tensor,
    *,
    ids: Tensor | None = None,
    eval_mode: bool = True,
    max_batch: int | None = None,
) -> Tensor:
    """model(pair) as a constant (B, d, *spatial); model, gradients and torch's random state are left as found.

    Args:
        pair: (B, 2, *spatial). ids: (B,) the samples' names, for models that draw by name; None: 0 .. B-1.
        eval_mode, max_batch: as for fa.PGD, with which they should agree.

    Raises:
        TypeError, ValueError: no pair, or a model that gives no field of its size.
    """
    dims = check_pair(pair)
    check_dims(model, pair)
    given = check.ids_of(ids, pair)
    names = torch.arange(len(pair), device=pair.device) if given is None else given
    size = max_batch or len(pair)
    with torch.inference_mode(False), torch.no_grad(), left_as_found(model, pair.device, eval_mode=eval_mode):
        found = [
            call_named(model, part, some, 0)
            for part, some in zip(torch.split(fresh(pair), size), torch.split(names, size), strict=True)
        ]
    for part in found:
        check_field(part, "model's output")
    out = torch.cat(found)
    wanted = (len(pair), dims, *pair.shape[2:])
    if tuple(out.shape) != wanted:
        raise ValueError(
            f"model's output: wanted a field {wanted} for pairs {tuple(pair.shape)}, got {tuple(out.shape)}"
        )
    if not bool(out.isfinite().all()):
        raise ArithmeticError("model's output: wanted finite displacements, got NaN or infinity")
    return out


def without_answer(truth: Truth) -> bool:
    """Nothing is known that fields could be measured by."""
    return all(getattr(truth, name) is None for name in ("field", "landmarks", "labels_moving", "labels_fixed"))


def check_truth(truth: Any, pair: Tensor) -> Truth:
    """A constant with a row for each pair, on its device; an empty one for None.

    Raises:
        TypeError, ValueError: it is none; names the part.
    """
    if truth is None:
        return Truth()
    if not isinstance(truth, Truth):
        raise TypeError(f"truth: wanted a fa.registration.Truth or None, got {type(truth).__name__}")
    for part in fields(truth):
        value = getattr(truth, part.name)
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != len(pair):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"truth: wanted {part.name} with a row for each of {len(pair)} pairs, got {got}")
        if value.device != pair.device:
            raise ValueError(f"truth: wanted {part.name} on {pair.device} as the pairs are, got {value.device}")
        check_target(value, f"truth: {part.name}")
    return truth.each(lambda part: None if part is None else fresh(part))


def harm_of(
    model: Callable[[Tensor], Any],
    pair: Tensor,
    adversarial: Tensor,
    truth: Truth | None = None,
    *,
    ids: Tensor | None = None,
    eval_mode: bool = True,
    max_batch: int | None = None,
    field_before: Tensor | None = None,
) -> Harm:
    """What the changed pairs did, whoever changed them.

    Args:
        model: called as model(pair) -> field.
        pair, adversarial: (B, 2, *spatial), before and after.
        truth: what is known of the pairs; None, or one without field, landmarks and labels: the model's own field of
            ``pair`` stands for the true one.
        ids, eval_mode, max_batch: see `fields_of`.
        field_before: the model's field of ``pair``, where it is known.

    Raises:
        TypeError, ValueError: pairs, truth or model that do not fit.
    """
    check_pair(adversarial, "adversarial")
    if adversarial.shape != pair.shape:
        raise ValueError(f"adversarial: wanted {tuple(pair.shape)} as the pairs are, got {tuple(adversarial.shape)}")
    options: dict[str, Any] = {"ids": ids, "eval_mode": eval_mode, "max_batch": max_batch}
    before = fields_of(model, pair, **options) if field_before is None else field_before
    known = check_truth(truth, pair)
    known = replace(known, field=before) if without_answer(known) else known
    after = fields_of(model, adversarial, **options)
    return Harm(before, after, measure(before, known), measure(after, known), known)
