"""Which images a target is asked: inputs, varied inputs, and images made of nothing but their statistics.

A plan is a function of the inputs, the options and the seed. With as many inputs held out, that of a larger budget
begins with that of a smaller one, so that a cache pays for the first part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import check, typical_noise
from ..ops.reference_random import STREAM_MADE, sample_words
from ..sampler import TypicalSetSampler
from ..training.config import require_number, require_whole

Bounds = tuple[float, float] | None
_BATCH = 256  # images made at a time


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How an input is varied for another query; each variation at random, all together.

    Args:
        hflip, vflip: mirrored with probability 1/2, where the images allow it.
        shift: moved by up to so many pixels along each axis; the edge is repeated.
        noise: standard deviation of Gaussian noise for images in [0, 1], at most 1, or a `TypicalSetSampler`; None:
            none.
    """

    hflip: bool = False
    vflip: bool = False
    shift: int = 0
    noise: float | TypicalSetSampler | None = None

    def __post_init__(self) -> None:
        require_whole(self.shift, "augment: shift", 0)
        sampler_of(self.noise, 0, "augment: noise")
        if not (self.hflip or self.vflip or self.shift or self.noise):
            raise ValueError("augment: wanted hflip, vflip, shift or noise, got none of them")

    def apply(self, images: Tensor, words: Tensor, ids: Tensor, seed: int) -> Tensor:
        """Varied images (B, C, H, W); ``words`` (B, 8) are 32 random bits each, ``ids`` (B,) name the noise."""
        for wanted, word, dim in ((self.hflip, 3, 3), (self.vflip, 4, 2)):
            if wanted:
                mirrored = words[:, word] >> 31 == 1
                images = torch.where(mirrored[:, None, None, None], images.flip(dim), images)
        if self.shift:
            images = _shifted(images, _below(words[:, 5:7], 2 * self.shift + 1) - self.shift)
        sampler = sampler_of(self.noise, seed, "augment: noise")
        return images if sampler is None else sampler(images, sample_ids=ids)


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Queries that are no input's.

    Args:
        mixup: a x + (1 - a) x' of two inputs, a uniform in [0, 1] (Zhang et al. 2018, arXiv 1710.09412, with alpha 1).
        typical: typical-set noise about the inputs' mean, of their standard deviation: what an image of the same
            statistics is without any content (`fastattack.ops.typical_noise` on the shell).
        spectrum: of that noise, see ``fa.ops.typical_noise``; None: white.
    """

    mixup: bool = False
    typical: bool = False
    spectrum: Any = None

    def __post_init__(self) -> None:
        if not (self.mixup or self.typical):
            raise ValueError("generated: wanted mixup or typical, got neither")
        if self.spectrum is not None and not self.typical:
            raise ValueError("generated: wanted no spectrum without typical=True, got one")


@dataclass(frozen=True)
class Plan:
    """Images to ask, in this order.

    Attributes:
        images: (T, C, H, W): those that are held out first, then those to learn from.
        held: how many are held out.
        names: (T,) what each is, in words.
        labels: (held,) known labels of the held-out images, or None.
    """

    images: Tensor
    held: int
    names: tuple[str, ...]
    labels: Tensor | None


def sampler_of(noise: float | TypicalSetSampler | None, seed: int, name: str) -> TypicalSetSampler | None:
    """Plain Gaussian noise for a number."""
    if noise is None or isinstance(noise, TypicalSetSampler):
        return noise
    sigma = require_number(noise, name)
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"{name}: wanted a standard deviation >= 0, a TypicalSetSampler or None, got {noise!r}")
    if sigma > 1:  # as of a Purifier
        raise ValueError(
            f"{name}: wanted a noise level from 0 to 1, for images in [0, 1], got {noise!r}{check.scale_hint(sigma)}"
        )
    return TypicalSetSampler(sigma=sigma, plain_share=1.0, seed=seed) if sigma else None


def plan_queries(
    inputs: Tensor,
    labels: Tensor | None,
    *,
    budget: int,
    held_out: float | tuple[Tensor, Tensor | None],
    augment: Augment | None,
    generated: Generate | None,
    bounds: Bounds,
    seed: int,
) -> Plan:
    """At most ``budget`` images: held-out ones, inputs in random order, then made ones while there is budget.

    Made queries come from each chosen source in turn: varied inputs, mixtures, typical noise.

    Raises:
        ValueError: a budget too small for one image to hold out and one to learn from.
    """
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    if isinstance(held_out, tuple):
        tested, known = held_out
        names = [f"held-out image {k}" for k in range(len(tested))]
    else:
        room = min(budget, len(inputs))
        count = max(round(held_out * room), 1) if held_out else 0
        rows = order[len(order) - count :]
        tested, known = inputs[rows.to(inputs.device)], None if labels is None else labels[rows.to(labels.device)]
        order, names = order[: len(order) - count], [f"input {row}" for row in rows.tolist()]
    room = budget - len(tested)
    if room < 1:
        raise ValueError(f"budget: wanted more than the {len(tested)} images that are held out, got {budget}")
    if not len(order):
        raise ValueError(f"inputs: wanted more than the {len(tested)} images that are held out, got {len(inputs)}")
    own = order[:room]
    parts, names = [tested, inputs[own.to(inputs.device)]], names + [f"input {row}" for row in own.tolist()]
    if (count := room - len(own)) and (augment or generated):
        made = _made(parts[1], count, augment, generated, seed)
        parts.append(made if bounds is None else made.clamp(*bounds))
        names += [f"made image {k}" for k in range(count)]
    return Plan(torch.cat(parts), len(tested), tuple(names), known)


def _made(inputs: Tensor, count: int, augment: Augment | None, generated: Generate | None, seed: int) -> Tensor:
    """(count, C, H, W): image k is a function of (seed, k)."""
    sources: list[Callable[[Tensor, Tensor], Tensor]] = []

    def varied(words: Tensor, ids: Tensor) -> Tensor:
        assert augment is not None
        return augment.apply(inputs[_below(words[:, 0], len(inputs))], words, ids, seed)

    def mixed(words: Tensor, ids: Tensor) -> Tensor:
        first = _below(words[:, 0], len(inputs))
        other = (first + 1 + _below(words[:, 1], len(inputs) - 1)) % len(inputs)
        share = (words[:, 2].double() * 2.0**-32).to(inputs.dtype)[:, None, None, None]
        return share * inputs[first] + (1 - share) * inputs[other]

    centre = inputs.mean((0, 2, 3), keepdim=True)
    spread = float((inputs - centre).double().square().mean().sqrt())

    def typical(words: Tensor, ids: Tensor) -> Tensor:
        assert generated is not None
        like = centre.expand(len(ids), *inputs.shape[1:]).contiguous()
        return typical_noise(like, sigma=spread, spectrum=generated.spectrum, seed=seed, sample_ids=ids, clean=like)

    sources += [varied] if augment else []
    sources += [mixed] if generated and generated.mixup else []
    sources += [typical] if generated and generated.typical else []
    if mixed in sources and len(inputs) < 2:
        raise ValueError("generated: wanted two inputs to learn from at least for mixup=True, got 1")
    if typical in sources and not spread:
        raise ValueError("generated: wanted inputs that are not all of one colour for typical=True")
    made = torch.empty(count, *inputs.shape[1:], dtype=inputs.dtype, device=inputs.device)
    for kind, source in enumerate(sources):
        for ids in torch.split(torch.arange(kind, count, len(sources), device=inputs.device), _BATCH):
            quads = torch.arange(2, device=ids.device)
            made[ids] = source(sample_words(quads, ids, seed, STREAM_MADE).flatten(1), ids)
    return made


def _below(words: Tensor, end: int) -> Tensor:
    """Whole numbers 0 .. end - 1 of 32 random bits."""
    return (words * end) >> 32


def _shifted(images: Tensor, by: Tensor) -> Tensor:
    """Moved by (B, 2) pixels down and right; the edge is repeated."""
    batch, _, height, width = images.shape
    rows = (torch.arange(height, device=by.device) - by[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=by.device) - by[:, 1:]).clamp(0, width - 1)
    samples = torch.arange(batch, device=by.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def check_images(images: Any, name: str) -> Tensor:
    """Finite float images (N, C, H, W), one at least."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: wanted a tensor, got {type(images).__name__}")
    check.require_images(images, name)
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"{name}: wanted images (N, C, H, W), one at least, got {tuple(images.shape)}")
    if not bool(images.isfinite().all()):
        raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
    return images.detach()


def held_out_of(held_out: Any, inputs: Tensor) -> float | tuple[Tensor, Tensor | None]:
    """A share, or images like the inputs and their labels."""
    if isinstance(held_out, Tensor):
        held_out = (held_out, None)
    if not isinstance(held_out, tuple):
        share = require_number(held_out, "held_out")
        if not 0 <= share < 1:
            raise ValueError(f"held_out: wanted a share of the inputs, 0 <= held_out < 1, or images, got {held_out!r}")
        return share
    if len(held_out) != 2:
        raise ValueError(f"held_out: wanted images, or (images, labels), got {len(held_out)} entries")
    images = check_images(held_out[0], "held_out")
    if images.shape[1:] != inputs.shape[1:] or images.dtype != inputs.dtype:
        raise ValueError(
            f"held_out: wanted images {tuple(inputs.shape[1:])} {inputs.dtype} as the inputs, got "
            f"{tuple(images.shape[1:])} {images.dtype}"
        )
    return images.to(inputs.device), check_labels(held_out[1], len(images), "held_out: labels")


def check_labels(labels: Any, count: int, name: str) -> Tensor | None:
    """Whole numbers >= 0, (N,) or dense (N, H, W), one for each image or place, or None."""
    if labels is None:
        return None
    whole = isinstance(labels, Tensor) and labels.dtype != torch.bool and not labels.is_floating_point()
    if not isinstance(labels, Tensor) or not whole or labels.dim() not in (1, 3) or len(labels) != count:
        got = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{name}: wanted {count} whole numbers, one for each image, got {got}")
    if bool((labels < 0).any()):
        raise ValueError(f"{name}: wanted class numbers >= 0, got {int(labels.min())}")
    return labels.detach().long().cpu()


def check_bounds(bounds: Any) -> None:
    """None, or two finite numbers (low, high), low < high."""
    if bounds is None:
        return
    try:
        low, high = (require_number(value, "bounds") for value in bounds)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not (low < high and abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"bounds: wanted finite (low, high) with low < high, or None, got {bounds!r}")
