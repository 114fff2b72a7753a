"""The statistics network: scores of pairs, for all x beside all z at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..guard import random_state
from ..objectives.base import widened
from ..ops import check
from .encoder import LEAST_SIDE, ImageEncoder, initialise

FORMS = ("separable", "concatenated")
_SMALL = 0.3  # times He's deviation: of the last layer at the start


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _weight(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight")


class Separable(nn.Module):
    """T(x, z) = <g(x), h(z)> / sqrt(E) + u(x) + v(z): all pairs cost one pass over the samples and a matrix product."""

    def __init__(self, x_size: int, z_size: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.x_net = mlp([x_size, hidden, hidden, embedding + 1])
        self.z_net = mlp([z_size, hidden, hidden, embedding + 1])
        self.scale = 1 / math.sqrt(embedding)
        self.sizes = (x_size, z_size)

    def start(self, generator: torch.Generator) -> None:
        """Small scores, so that no exp T is far from 1; where x and z have one size, they begin alike."""
        initialise(self, generator)
        if self.sizes[0] == self.sizes[1]:
            self.z_net.load_state_dict(self.x_net.state_dict())
        with torch.no_grad():
            for net in (self.x_net, self.z_net):
                _weight(net[-1]).mul_(_SMALL)

    def embed_x(self, x: Tensor) -> Tensor:
        found: Tensor = self.x_net(x)
        return found

    def embed_z(self, z: Tensor) -> Tensor:
        found: Tensor = self.z_net(z)
        return found

    def pairs(self, x: Tensor, z: Tensor) -> Tensor:
        product: Tensor = (x[:, 1:] * z[:, 1:]).sum(1)
        found: Tensor = product * self.scale + x[:, 0] + z[:, 0]
        return found

    def table(self, x: Tensor, z: Tensor) -> Tensor:
        product: Tensor = z[:, 1:] @ x[:, 1:].T
        found: Tensor = product * self.scale + x[:, 0] + z[:, :1]
        return found


class Concatenated(nn.Module):
    """T(x, z) by a network on x and z side by side, as in MINE: any function, but every pair costs a pass."""

    def __init__(self, x_size: int, z_size: int, hidden: int) -> None:
        super().__init__()
        self.x_first = nn.Linear(x_size, hidden)
        self.z_first = nn.Linear(z_size, hidden, bias=False)
        self.rest = nn.Sequential(nn.SiLU(), *mlp([hidden, hidden, 1]))

    def start(self, generator: torch.Generator) -> None:
        """Small scores, so that no exp T is far from 1."""
        initialise(self, generator)
        with torch.no_grad():
            _weight(self.rest[-1]).mul_(_SMALL)

    def embed_x(self, x: Tensor) -> Tensor:
        found: Tensor = self.x_first(x)
        return found

    def embed_z(self, z: Tensor) -> Tensor:
        found: Tensor = self.z_first(z)
        return found

    def pairs(self, x: Tensor, z: Tensor) -> Tensor:
        found: Tensor = self.rest((x + z) * math.sqrt(0.5))
        return found[..., 0]

    def table(self, x: Tensor, z: Tensor) -> Tensor:
        return self.pairs(x[None], z[:, None])


class StatisticsNetwork(nn.Module):
    """The critic T(x, z) of samples of two shapes.

    Inputs are flattened, or go through an `ImageEncoder` where ``convolve`` is set: one for both where x and z have
    the same channels, so that at the start the score of a pair already grows with likeness. float32, whatever comes.

    Args:
        x_shape, z_shape: of one sample, without the batch.
        convolve: the samples are images (1 or 3, H, W), H and W >= 8, of any size.
        form: "separable" or "concatenated", see `Separable` and `Concatenated`.
        hidden: width of the two hidden layers.
        embedding: E of the separable form.
        seed: of the weights, 0 <= seed < 2**64; torch's random state is not touched.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
    """

    x_shift: Tensor
    x_scale: Tensor
    z_shift: Tensor
    z_scale: Tensor

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        convolve: bool = False,
        form: str = "separable",
        hidden: int = 64,
        embedding: int = 32,
        seed: int = 0,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form: wanted one of {', '.join(map(repr, FORMS))}, got {form!r}")
        for name, value in (("hidden", hidden), ("embedding", embedding)):
            require_whole(value, name, 1)
        super().__init__()
        self.x_shape, self.z_shape, self.convolve = tuple(x_shape), tuple(z_shape), convolve
        generator = torch.Generator().manual_seed(check.seed_of(seed))
        with random_state(torch.device("cpu")):
            x_size, z_size = self._make_trunks(hidden)
            self.head = (
                Separable(x_size, z_size, hidden, embedding)
                if form == "separable"
                else Concatenated(x_size, z_size, hidden)
            )
        self.float()  # the default type may be another
        self.head.start(generator)
        for trunk in dict.fromkeys((self.x_trunk, self.z_trunk)):
            initialise(trunk, generator)
        for side in ("x", "z"):
            self.register_buffer(f"{side}_shift", torch.zeros((), dtype=torch.float64))
            self.register_buffer(f"{side}_scale", torch.ones((), dtype=torch.float64))

    @classmethod
    def of(cls, x: Tensor, z: Tensor, **options: Any) -> StatisticsNetwork:
        """For samples like x and z (N, ...), standardised by them and on their device; options as above."""
        network = cls(x.shape[1:], z.shape[1:], **options).to(x.device)
        network.standardise(x, z)
        return network

    def _make_trunks(self, hidden: int) -> tuple[int, int]:
        """Sets them, and returns how many numbers each of them makes of a sample."""
        self.x_trunk: nn.Module = nn.Flatten()
        self.z_trunk: nn.Module = nn.Flatten()
        if not self.convolve:
            return math.prod(self.x_shape), math.prod(self.z_shape)
        for name, shape in (("x", self.x_shape), ("z", self.z_shape)):
            if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < LEAST_SIDE:
                raise ValueError(
                    f"{name}: wanted images (N, 1 or 3, H, W) with H and W >= {LEAST_SIDE} for the encoder, "
                    f"got samples of shape {shape}"
                )
        self.x_trunk = ImageEncoder(self.x_shape[0], features=hidden)
        same = self.x_shape[0] == self.z_shape[0]
        self.z_trunk = self.x_trunk if same else ImageEncoder(self.z_shape[0], features=hidden)
        return hidden, hidden

    @torch.no_grad()
    def standardise(self, x: Tensor, z: Tensor) -> None:
        """From now on inputs are moved and scaled so that these have mean 0 and deviation 1 (features one by one)."""
        for side, samples in (("x", x), ("z", z)):
            wide = samples.double()
            dims = None if self.convolve else 0
            spread, mean = torch.var_mean(wide, dims, correction=0)
            lively = spread > 1e-28 * mean.square()  # of a feature that stands still only the mean's rounding is left
            setattr(self, f"{side}_shift", mean)
            setattr(self, f"{side}_scale", torch.where(lively, spread.rsqrt(), 0))

    def embed_x(self, x: Tensor) -> Tensor:
        """(B, ...) samples of X to what `pairs` and `table` take."""
        self._require(x, "x", self.x_shape)
        return self.head.embed_x(self.x_trunk(_standard(x, self.x_shift, self.x_scale)))

    def embed_z(self, z: Tensor) -> Tensor:
        """(B, ...) samples of Z to what `pairs` and `table` take."""
        self._require(z, "z", self.z_shape)
        return self.head.embed_z(self.z_trunk(_standard(z, self.z_shift, self.z_scale)))

    def pairs(self, x: Tensor, z: Tensor) -> Tensor:
        """T(x_i, z_i) (B,) of embedded samples."""
        return self.head.pairs(x, z)

    def table(self, x: Tensor, z: Tensor) -> Tensor:
        """T(x_j, z_i) (B, K) of embedded samples: a row for each z, a column for each x."""
        return self.head.table(x, z)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """T(x_i, z_i) (B,) of samples x (B, ...) and z (B, ...)."""
        return self.pairs(self.embed_x(x), self.embed_z(z))

    def _require(self, t: Tensor, name: str, shape: tuple[int, ...]) -> None:
        wanted, got = (shape[:1], tuple(t.shape[1:2])) if self.convolve else (shape, tuple(t.shape[1:]))
        if got != wanted:
            sizes = f"{shape[0]} channels" if self.convolve else f"shape {shape}"
            raise ValueError(f"{name}: wanted samples of {sizes}, as the critic was made for, got {tuple(t.shape)}")


def _standard(t: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """In float64 where the shift has a number for each feature, which may be far from 0; float32 after."""
    return ((widened(t) - shift) * scale).float()


def require_whole(value: object, name: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
