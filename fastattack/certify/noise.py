"""The noise of a smoothed model: how it is drawn, and the radius that follows from a probability."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from .. import ops
from ..ops import check
from .norms import Norm, exponent, inner_radius


@dataclass(frozen=True)
class Noise(ABC):
    """Independent noise on every number of an input, from an even log-concave density: exp(-potential(z)).

    Attributes:
        home: the norm in which it certifies best, the default of a certificate.
        failure: the probability that the noise's own table of radii is wrong; 0 for closed forms.
    """

    home: ClassVar[str] = "l2"
    failure: ClassVar[float] = 0.0

    @property
    @abstractmethod
    def scale(self) -> float:
        """The one parameter: sigma, or as the class says."""

    @abstractmethod
    def scaled(self, scale: float) -> Self:
        """The same noise with another parameter."""

    @abstractmethod
    def proven(self, p: Tensor, dim: int) -> dict[float, Tensor]:
        """Radii by the exponent of the norm, those that are proven for this noise itself."""

    @abstractmethod
    def potential(self, z: Tensor) -> Tensor:
        """-log density up to a constant, of each number."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of the distribution function at u in (0, 1)."""

    def write(self, out: Tensor, clean: Tensor, seed: int, ids: Tensor, backend: str) -> None:
        """out <- clean + noise, (B, ...) both; numbers of (seed, id, element). ``clean`` may be an expanded view."""
        uniform(out, seed, ids, backend)
        out.copy_(self.quantile(out.double().add_(1).mul_(0.5))).add_(clean)

    def radius(self, p: Tensor, norm: Norm, dim: int) -> Tensor:
        """The radius, float64, within which a class that has probability p under this noise stays the likeliest.

        What is proven for the noise's own norms, carried over to the asked one where one ball lies in the other; the
        largest of these. 0 where p <= 1/2.

        Args:
            p: lower bounds of the probability, of any shape, float64.
            dim: numbers of an input.
        """
        target = exponent(norm)
        sure = p > 0.5
        inside = torch.where(sure, p.double(), 0.75)
        found = [r * inner_radius(own, target, dim) for own, r in self.proven(inside, dim).items()]
        return torch.where(sure, torch.stack(found).amax(0), 0.0)


def uniform(out: Tensor, seed: int, ids: Tensor, backend: str) -> None:
    """Uniform numbers on (-1, 1), odd multiples of 2^-24."""
    ops.random_start_(
        out, out.new_zeros(()).expand_as(out), norm="linf", eps=1.0, seed=seed, sample_ids=ids, backend=backend
    )


def positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}: wanted a finite number > 0, got {value!r}")
    return float(value)


def image_level(value: Any, name: str) -> float:
    """A noise level for images in [0, 1]: above 0, at most 1; more is one of the 0-255 scale."""
    if positive(value, name) > 1:
        raise ValueError(
            f"{name}: wanted a noise level up to 1, for images in [0, 1], got {value!r}{check.scale_hint(value)}"
        )
    return float(value)


@dataclass(frozen=True)
class Gaussian(Noise):
    """N(0, sigma^2): the l2 radius sigma ndtri(p) (Cohen et al., arXiv 1902.02918, theorem 1 with p_B = 1 - p_A).

    It is the largest that p alone proves, also for l1; for linf it is divided by sqrt(dim), which too is exact, because
    the worst direction of every l2 ball is any.

    Attributes:
        sigma: standard deviation on the scale of the images.
    """

    sigma: float

    def __post_init__(self) -> None:
        positive(self.sigma, "sigma")

    @property
    def scale(self) -> float:
        return self.sigma

    def scaled(self, scale: float) -> Gaussian:
        return Gaussian(scale)

    def proven(self, p: Tensor, dim: int) -> dict[float, Tensor]:
        return {2.0: self.sigma * torch.special.ndtri(p)}

    def potential(self, z: Tensor) -> Tensor:
        return 0.5 * (z / self.sigma).square()

    def quantile(self, u: Tensor) -> Tensor:
        z: Tensor = torch.special.ndtri(u)
        return self.sigma * z

    def write(self, out: Tensor, clean: Tensor, seed: int, ids: Tensor, backend: str) -> None:
        ops.typical_noise(
            out, sigma=self.sigma, typicality=None, seed=seed, sample_ids=ids, out=out, clean=clean, backend=backend
        )  # one pass: read clean, write out


@dataclass(frozen=True)
class Laplace(Noise):
    """Density exp(-|z| / b) / 2b: the l1 radius -b log(2 (1 - p)) (Teng et al. 2020; Yang et al., arXiv 2002.08118).

    Attributes:
        b: the scale; the standard deviation is b sqrt(2).
    """

    home: ClassVar[str] = "l1"
    b: float

    def __post_init__(self) -> None:
        positive(self.b, "b")

    @property
    def scale(self) -> float:
        return self.b

    def scaled(self, scale: float) -> Laplace:
        return Laplace(scale)

    def proven(self, p: Tensor, dim: int) -> dict[float, Tensor]:
        return {1.0: -self.b * torch.log(2 * (1 - p))}

    def potential(self, z: Tensor) -> Tensor:
        return z.abs() / self.b

    def quantile(self, u: Tensor) -> Tensor:
        v = 2 * u - 1
        return torch.copysign(-self.b * torch.log1p(-v.abs()), v)

    def write(self, out: Tensor, clean: Tensor, seed: int, ids: Tensor, backend: str) -> None:
        uniform(out, seed, ids, backend)  # 1 - |u| is exact, so no number is infinite
        size = out.abs().neg_().log1p_().mul_(-self.b)
        torch.copysign(size, out, out=out).add_(clean)


@dataclass(frozen=True)
class Uniform(Noise):
    """Uniform on (-w, w): the l1 radius 2 w (p - 1/2) (Lee et al. 2019; Yang et al., arXiv 2002.08118), and the linf
    radius 2 w (1 - (3/2 - p)^(1/dim)) (Yang et al.).

    Both say that two cubes of width 2w overlap in (1 - |delta_i| / 2w) multiplied over the dimensions.

    Attributes:
        half_width: w.
    """

    home: ClassVar[str] = "l1"
    half_width: float

    def __post_init__(self) -> None:
        positive(self.half_width, "half_width")

    @property
    def scale(self) -> float:
        return self.half_width

    def scaled(self, scale: float) -> Uniform:
        return Uniform(scale)

    def proven(self, p: Tensor, dim: int) -> dict[float, Tensor]:
        width = 2 * self.half_width
        return {1.0: width * (p - 0.5), math.inf: -width * torch.expm1(torch.log1p(0.5 - p) / dim)}

    def potential(self, z: Tensor) -> Tensor:
        return torch.where(z.abs() <= self.half_width, 0.0, math.inf).to(z.dtype)

    def quantile(self, u: Tensor) -> Tensor:
        return self.half_width * (2 * u - 1)

    def write(self, out: Tensor, clean: Tensor, seed: int, ids: Tensor, backend: str) -> None:
        ops.random_start_(
            out, clean, norm="linf", eps=self.half_width, seed=seed, sample_ids=ids, backend=backend
        )  # one pass


@dataclass(frozen=True)
class LogConcave(Noise):
    """Noise of any even log-concave density: exp(-phi(z / width)) for each number by itself.

    Its radii come from `ratio_table` (Monte Carlo over the likelihood ratio with exact binomial bounds): proven for
    linf, and from there for every norm, since |delta|_inf <= |delta|_p. The table of a dimension is made once, and is
    wrong with probability ``doubt`` at most, beside the failure probability of the counts. `numeric_radius` tells what
    Monte Carlo suggests for other norms, which is no certificate.

    Draws are phi's own to the accuracy of a table of its distribution function (2^16 knots, or the ``inverse``
    that is given) and of 24-bit uniform numbers.

    Attributes:
        phi: (any shape) -> the same shape, number by number; float64 comes in. Even and convex; inf where no noise is.
        width: the scale.
        inverse: the distribution function's inverse, u in (0, 1) -> z at width 1; None: from phi, by integration.
        samples: of the table.
        doubt: failure probability of the table.
        table_seed: of its samples.

    Raises:
        ValueError: phi is not even, not convex or does not grow, or ``inverse`` is another density's; found on a grid
            of points, so a phi that passes is not proven convex by it.
    """

    home: ClassVar[str] = "linf"
    phi: Callable[[Tensor], Tensor]
    width: float = 1.0
    inverse: Callable[[Tensor], Tensor] | None = None
    samples: int = 40_000
    doubt: float = 1e-4
    table_seed: int = 0
    _line: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        from .line import Line, require_inverse

        positive(self.width, "width")
        if self._line is None:
            object.__setattr__(self, "_line", Line.of(self.phi))
        if self.inverse is not None:
            require_inverse(self.inverse, self._line)

    @property
    def failure(self) -> float:  # type: ignore[override]
        return self.doubt

    @property
    def scale(self) -> float:
        return self.width

    def scaled(self, scale: float) -> LogConcave:
        return replace(self, width=scale)

    def proven(self, p: Tensor, dim: int) -> dict[float, Tensor]:
        from .ratio import linf_table

        unit = replace(self, width=1.0)  # one table for all widths
        return {math.inf: self.width * linf_table(unit, dim).radius(p)}

    def potential(self, z: Tensor) -> Tensor:
        return self.phi(z / self.width)

    def quantile(self, u: Tensor) -> Tensor:
        inverse = self._line.quantile if self.inverse is None else self.inverse
        return self.width * inverse(u)


def noise_of(noise: Any, name: str = "noise") -> Noise:
    """A `Noise` as it is; raises TypeError for anything else."""
    if not isinstance(noise, Noise):
        raise TypeError(
            f"{name}: wanted fa.certify.Gaussian, Laplace, Uniform or LogConcave, got {type(noise).__name__} {noise!r}"
        )
    return noise
