"""How much two variables have in common, from samples of pairs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine import NonFiniteError
from ..guard import fresh, left_as_found
from ..ops import check
from . import bounds
from .critic import Critic, require_paired
from .network import StatisticsNetwork, require_whole

_BLOCK = 512  # held-out pairs that are scored beside each other at once
_LOOKS = 10  # at the pairs that choose, on the way
_SEEN = 2048  # of them at most, in a look

Encoder = Callable[[Tensor], Any]
Pairs = tuple[Tensor, Tensor]


class Moment(NamedTuple):
    """A look on the way: nats of as many pairs that train as choose the step, and of those that choose it."""

    step: int
    training: float
    choosing: float


@dataclass(frozen=True)
class MutualInformation:
    """What `mutual_information` found.

    Attributes:
        nats: the bound on the held-out pairs, which neither trained the critic nor chose the step: the estimate.
        error: its standard error over the held-out pairs, for the critic as it is. How far the bound lies below the
            information, because the critic is not the best or the estimator has a ceiling, is not in it.
        estimator: "dv", "infonce" or "nwj".
        ceiling: nats that the estimator cannot exceed here: log of the candidates for "infonce", else infinity.
        step: of the training, whose critic was kept.
        pairs: how many pairs trained, chose the step, were held out.
        curve: of the training, from step 0 on.
    """

    nats: float
    error: float
    estimator: str
    ceiling: float
    step: int
    pairs: tuple[int, int, int]
    curve: tuple[Moment, ...]

    def __str__(self) -> str:
        top = f", at most {self.ceiling:.2f}" if self.ceiling < math.inf else ""
        return f"{self.nats:.3f} +- {self.error:.3f} nats ({self.estimator}{top}, {self.pairs[2]} held-out pairs)"


def mutual_information(
    x: Tensor,
    z: Tensor,
    *,
    estimator: str = "dv",
    encoder: Encoder | str | None = None,
    form: str = "separable",
    hidden: int = 64,
    embedding: int = 32,
    steps: int = 1000,
    batch: int = 256,
    lr: float = 2e-3,
    rate: float = 0.01,
    held_out: float = 0.4,
    seed: int = 0,
) -> MutualInformation:
    """A lower bound of the mutual information I(X; Z) in nats, by a critic trained here (MINE, arXiv 1801.04062).

    **The estimate is of held-out pairs, never of those that trained the critic**, where a network that learns pairs by
    heart finds any number. The pairs are split from the seed: most train, half of the rest chooses the step
    whose critic is kept, the other half is reported. Pairs must be independent of each other: crops of one image in two
    parts of the split make the estimate too high. Inputs are standardised; x and z are not changed.

    Args:
        x, z: (N, ...) float, paired samples, of any two shapes, on one device.
        estimator: "dv", Donsker-Varadhan with the moving-average gradient; "infonce" (arXiv 1807.03748), steady, but it
            cannot exceed log(batch) in training and ``ceiling`` in the report; "nwj" (arXiv 1905.06922), unbiased, of
            the largest variance.
        encoder: None takes the samples as features; "conv" trains an `ImageEncoder` with the critic, for images
            (N, 1 or 3, H, W), H and W >= 8; a callable makes features (N, ...) of x and of z, without a gradient, in
            eval mode, and is left as found.
        form: "separable" or "concatenated": the critic, see `StatisticsNetwork`; the second costs batch^2 passes.
        hidden, embedding: its widths.
        steps, batch, lr: of Adam; lr falls to 0 by a half cosine. A batch is cut to the pairs that train.
        rate: of the moving average, for "dv".
        held_out: share of the pairs that do not train, 0 < held_out < 1.
        seed: of weights, split and batches, 0 <= seed < 2**64; torch's random state is not touched.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
        NonFiniteError: the training diverged.
    """
    bounds.require_estimator(estimator)
    require_whole(steps, "steps", 1)
    require_whole(batch, "batch", 2)
    _check_pairs(x, z, encoder)
    generator = torch.Generator().manual_seed(check.seed_of(seed))
    with torch.inference_mode(False), torch.autocast(x.device.type, enabled=False):
        x, z = (_encoded(encoder, fresh(t), name) for t, name in ((x, "x"), (z, "z")))
        (train_x, train_z), choosing, last = ((x[part], z[part]) for part in _split(x, held_out, generator))
        network = StatisticsNetwork.of(
            train_x, train_z, convolve=encoder == "conv", form=form, hidden=hidden, embedding=embedding, seed=seed
        )
        critic = Critic(network, estimator=estimator, lr=lr, rate=rate)
        curve, step = _train(critic, (train_x, train_z), choosing, steps=steps, batch=batch, lr=lr, generator=generator)
        value, error = evaluate(network, *last, estimator=estimator)
    sizes = (len(train_x), len(choosing[0]), len(last[0]))
    ceiling = math.log(_block(sizes[2])) if estimator == "infonce" else math.inf
    return MutualInformation(value, error, estimator, ceiling, step, sizes, curve)


@torch.no_grad()
def evaluate(network: StatisticsNetwork, x: Tensor, z: Tensor, *, estimator: str = "dv") -> tuple[float, float]:
    """The bound on pairs that the network has not seen, in nats, and its standard error.

    In blocks of at most 512 pairs, each z beside all other x of its block.

    Args:
        x, z: (M, ...) each, M >= 2.
    """
    require_paired(x, z)
    values, parts = [], []
    for table in _tables(network, x, z):
        value, part = bounds.influence(estimator, table.double())
        values.append(value.item() * len(part))
        parts.append(part - part.mean())
    variance = torch.cat(parts).square().sum().item() / (len(x) - len(parts))
    return sum(values) / len(x), math.sqrt(variance / len(x))


def _block(count: int) -> int:
    """How many pairs the largest block holds."""
    return math.ceil(count / math.ceil(count / _BLOCK))


def _tables(network: StatisticsNetwork, x: Tensor, z: Tensor) -> Iterator[Tensor]:
    """Scores (M, M) of blocks of the pairs, each z beside each x of its block."""
    blocks = math.ceil(len(x) / _BLOCK)
    for a, b in zip(x.tensor_split(blocks), z.tensor_split(blocks), strict=True):
        yield network.table(network.embed_x(a), network.embed_z(b))


@torch.no_grad()
def _look(critic: Critic, x: Tensor, z: Tensor) -> float:
    """The bound alone."""
    bound = bounds.BATCH[critic.estimator]
    values = [bound(t.diagonal(), bounds.others(t)) * len(t) for t in _tables(critic.network, x, z)]
    return torch.stack(values).sum().item() / len(x)


def _train(
    critic: Critic,
    pairs: Pairs,
    choosing: Pairs,
    *,
    steps: int,
    batch: int,
    lr: float,
    generator: torch.Generator,
) -> tuple[tuple[Moment, ...], int]:
    """Trains the critic, and leaves it as it was at the best look: the curve, and the step of that look."""
    x, z = pairs
    choosing = choosing[0][:_SEEN], choosing[1][:_SEEN]
    some = x[: len(choosing[0])], z[: len(choosing[0])]
    looks = {math.ceil(steps * k / _LOOKS) for k in range(_LOOKS + 1)}
    batches = _batches(len(x), min(batch, len(x)), generator, x.device)
    curve: list[Moment] = []
    best, kept = Moment(0, -math.inf, -math.inf), critic.network.state_dict()
    for step in range(steps + 1):
        if step > 0:
            rows = next(batches)
            critic.learn(x[rows], z[rows], lr=lr * (1 + math.cos(math.pi * (step - 1) / steps)) / 2)
        if step in looks:
            curve.append(Moment(step, _look(critic, *some), _look(critic, *choosing)))
            if any(map(math.isnan, curve[-1])):  # -inf is a bad critic, which is not chosen
                raise NonFiniteError(f"mutual_information: a NaN in the critic's scores by step {step}; lower lr")
            if curve[-1].choosing > best.choosing:
                best, kept = curve[-1], copy.deepcopy(critic.network.state_dict())
    critic.network.load_state_dict(kept)
    return tuple(curve), best.step


def _check_pairs(x: Any, z: Any, encoder: Any) -> None:
    require_paired(x, z)
    for name, t in (("x", x), ("z", z)):
        if not bool(t.isfinite().all()):
            raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
    if encoder is not None and encoder != "conv" and (isinstance(encoder, str) or not callable(encoder)):
        raise ValueError(f"encoder: wanted None, 'conv' or a function of images, got {encoder!r}")


def _encoded(encoder: Encoder | str | None, t: Tensor, name: str) -> Tensor:
    """What a callable makes of the samples; otherwise the samples, flat unless they are to be convolved."""
    if not callable(encoder):
        return t if encoder == "conv" else t.flatten(1)
    with torch.no_grad(), left_as_found(encoder, t.device, eval_mode=True):
        parts = [encoder(part) for part in torch.split(t, _BLOCK)]
    for made, given in zip(parts, torch.split(t, _BLOCK), strict=True):
        if not isinstance(made, Tensor) or not made.is_floating_point() or made.shape[:1] != given.shape[:1]:
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"encoder: wanted float features ({len(given)}, ...) of {name}, got {got}")
    features = torch.cat(parts).flatten(1)
    if not bool(features.isfinite().all()):
        raise ValueError(f"encoder: wanted finite features of {name}, got NaN or infinity")
    return features


def _split(x: Tensor, held_out: float, generator: torch.Generator) -> list[Tensor]:
    """Places of the pairs that train, of those that choose, and of those that are reported."""
    if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 < held_out < 1:
        raise ValueError(f"held_out: wanted a share above 0 and below 1, got {held_out!r}")
    count = len(x)
    rest = round(count * held_out)
    sizes = (count - rest, rest // 2, rest - rest // 2)
    if min(sizes) < 2:
        raise ValueError(
            f"x: wanted pairs enough for two in each part of the split, got {count}, of which {sizes[0]} would train, "
            f"{sizes[1]} choose the step and {sizes[2]} be held out"
        )
    return list(torch.split(torch.randperm(count, generator=generator).to(x.device), list(sizes)))


def _batches(count: int, batch: int, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Rows without end: permutations cut into whole batches, so that no sample is in a batch twice."""
    while True:
        order = torch.randperm(count, generator=generator).to(device)
        yield from torch.split(order[: count - count % batch], batch)
