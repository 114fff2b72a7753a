"""An even log-concave density on the line, from its potential alone: checked, integrated and inverted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Potential = Callable[[Tensor], Tensor]

KNOTS = 2**16
"""Of the half line, in the table of the distribution function."""
DEEP = 45.0
"""Of the potential above its least, beyond which nothing is drawn: exp(-45) = 3e-20."""
APART = 1e-6
"""Of probability, by which an inverse may differ from the table, which is off by 3e-8 for Laplace noise."""
_FAR = 1e9


@dataclass(frozen=True)
class Line:
    """The half line z >= 0: places and the distribution function there, from 1/2 to 1."""

    places: Tensor
    values: Tensor

    @classmethod
    def of(cls, phi: Potential) -> Line:
        """Raises ValueError where the potential is not even, not convex, or bounds no density."""
        end = _end(phi)
        places = torch.linspace(0, end, KNOTS + 1, dtype=torch.float64)
        heights = _heights(phi, places)
        _require_even(phi, places, heights)
        _require_convex(places, heights)
        density = torch.exp(heights[0] - heights)
        middles = torch.exp(heights[0] - _heights(phi, (places[1:] + places[:-1]) / 2))
        step = end / KNOTS
        mass = (density[1:] + 4 * middles + density[:-1]) * (step / 6)  # Simpson's rule
        total = torch.cumsum(mass, 0)
        values = torch.cat([total.new_zeros(1), total]) / total[-1]
        return cls(places, 0.5 + 0.5 * values)

    def quantile(self, u: Tensor) -> Tensor:
        """By linear interpolation between the knots."""
        places, values = self.places.to(u.device), self.values.to(u.device)
        v = u.double()
        side = torch.where(v < 0.5, 1 - v, v).contiguous()
        right = torch.searchsorted(values, side).clamp(1, len(values) - 1)
        low, high = values[right - 1], values[right]
        share = torch.where(high > low, (side - low) / (high - low), 0.0).clamp(0, 1)
        z = places[right - 1] + share * (places[right] - places[right - 1])
        return torch.where(v < 0.5, -z, z)

    def below(self, z: Tensor) -> Tensor:
        """The distribution function."""
        size = z.abs().double()
        right = torch.searchsorted(self.places, size.contiguous()).clamp(1, len(self.places) - 1)
        left = self.places[right - 1]
        share = ((size - left) / (self.places[right] - left)).clamp(0, 1)
        value = self.values[right - 1] + share * (self.values[right] - self.values[right - 1])
        return torch.where(z < 0, 1 - value, value)


def _heights(phi: Potential, z: Tensor) -> Tensor:
    found = phi(z)
    if not isinstance(found, Tensor) or found.shape != z.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"phi: wanted one number for each number, shape {tuple(z.shape)}, got {got}")
    found = found.double()
    if bool(found.isnan().any()) or bool((found == -math.inf).any()):
        raise ValueError("phi: wanted numbers above minus infinity, got NaN or -inf")
    return found


def _end(phi: Potential) -> float:
    """Where the density has become nothing; by doubling, then the edge of a finite support by halving."""
    least = float(_heights(phi, torch.zeros(1, dtype=torch.float64))[0])
    if math.isinf(least):
        raise ValueError("phi: wanted a finite number at 0, got inf")

    def deep(z: float) -> bool:
        return float(_heights(phi, torch.tensor([z], dtype=torch.float64))[0]) - least > DEEP

    high = 1.0
    while not deep(high):
        high *= 2
        if high > _FAR:
            above = float(_heights(phi, torch.tensor([_FAR], dtype=torch.float64))[0]) - least
            raise ValueError(
                "noise: wanted a log-concave density, whose potential phi grows at least as a line does, got one that "
                f"is {above:g} above its middle at {_FAR:g}"
            )
    low = high / 2
    while deep(low) and low > 1 / _FAR:
        low, high = low / 2, low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if deep(middle) else (middle, high)
    return low


def _require_even(phi: Potential, places: Tensor, heights: Tensor) -> None:
    other = _heights(phi, -places)
    apart = ((other - heights).abs() > 1e-9 * (1 + heights.abs())) & (other != heights)
    if bool(apart.any()):
        at = int(apart.nonzero()[0, 0])
        raise ValueError(
            f"phi: wanted an even potential, got {float(heights[at]):g} at {float(places[at]):g} and "
            f"{float(other[at]):g} at {-float(places[at]):g}"
        )


def _require_convex(places: Tensor, heights: Tensor) -> None:
    """At the knots: no point above the chord of its neighbours, near and far, and none below the one at 0."""
    slack = 1e-9 * (1 + heights[torch.isfinite(heights)].abs().amax())
    if bool((heights < heights[0] - slack).any()):
        at = int((heights < heights[0] - slack).nonzero()[0, 0])
        raise _not_concave(places, heights, at)
    for stride in (1, 16, 256, 4096):
        a, b, c = heights[: -2 * stride], heights[stride:-stride], heights[2 * stride :]
        above = b > (a + c) / 2 + slack
        if bool(above.any()):
            raise _not_concave(places, heights, int(above.nonzero()[0, 0]) + stride)


def _not_concave(places: Tensor, heights: Tensor, at: int) -> ValueError:
    return ValueError(
        f"noise: wanted a log-concave density, that is a convex potential phi, got one that bends downwards at "
        f"{float(places[at]):g}, where it is {float(heights[at]):g}"
    )


def require_inverse(inverse: Potential, line: Line) -> None:
    """Raises ValueError where ``inverse`` is another density's than the line's, by `APART` of probability.

    Looked at on a grid of (0, 1) and in both tails down to 2^-24, the least number that is drawn.
    """
    tail = 0.5 ** torch.arange(11, 25, dtype=torch.float64)
    u = torch.cat([torch.linspace(0.001, 0.999, 999, dtype=torch.float64), tail, 1 - tail])
    z = inverse(u)
    if not isinstance(z, Tensor) or z.shape != u.shape:
        raise ValueError("inverse: wanted one number for each number in (0, 1)")
    wrong = (line.below(z.double()) - u).abs()
    at = int(wrong.nan_to_num(math.inf).argmax())
    if not float(wrong[at]) <= APART:
        raise ValueError(
            f"inverse: wanted the one of the density exp(-phi), got {float(z[at]):g} at {float(u[at]):.9g}, below "
            f"which lies {float(line.below(z[at : at + 1].double())[0]):.9g} of it"
        )
