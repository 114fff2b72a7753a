"""Up to a level and back: the forward jump, the reverse steps and the way out, each x <- a x + b eps_hat + c z."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .. import ops
from ..engine import NonFiniteError
from .model import Diffusion
from .schedule import Schedule, evenly

Coefficients = tuple[float, float, float]


class Guide(Protocol):
    """Changes the predicted noise: (eps_hat, x_t, level, input) -> eps_hat; the input on the model's scale.

    Two more methods are called where a guide has them. ``bound(diffusion)``, once for a purifier, gives the guide that
    knows the schedule and the scale. ``facing(input)``, once for a batch, gives the tensor that is handed over in the
    input's place at every step (its latents, say); autograd goes through it, and no sample may see another.
    """

    def __call__(self, eps_hat: Tensor, x: Tensor, level: int, origin: Tensor, /) -> Tensor: ...


def reverse_coefficients(schedule: Schedule, start: int, stop: int, eta: float) -> Coefficients:
    """(a, b, c) of the step from level ``start`` down to ``stop``, x <- a x + b eps_hat + c z.

    DDIM (Song et al., arXiv 2010.02502, equations 12 and 16); eta = 0 draws nothing, eta = 1 is DDPM's ancestral step
    with its smaller variance (Ho et al., arXiv 2006.11239, equation 7), over one level or several.
    """
    here, there = schedule.alpha_bar(start), schedule.alpha_bar(stop)
    drawn = eta * math.sqrt((1 - there) / (1 - here)) * math.sqrt(1 - here / there)
    kept = math.sqrt(there / here)
    return kept, math.sqrt(max(0.0, 1 - there - drawn * drawn)) - kept * math.sqrt(1 - here), drawn


def advance(
    x: Tensor,
    eps_hat: Tensor | None,
    by: Coefficients,
    *,
    seed: int,
    step: int,
    sample_ids: Tensor,
    overwrite: bool = False,
) -> Tensor:
    """a x + b eps_hat + c z: one step of a diffusion, z Philox of (seed, step, sample id, element).

    ``overwrite``: in place by the op, without autograd; else the plain form, which gives the same numbers.
    """
    a, b, c = by
    if overwrite:
        return ops.diffusion_step_(x, eps_hat, coefficients=by, seed=seed, step=step, sample_ids=sample_ids)
    out = a * x
    if eps_hat is not None and b != 0:
        out = out + b * eps_hat
    if c != 0:
        z = torch.empty_like(x, requires_grad=False)
        alone = (0.0, 0.0, 1.0)
        out = out + c * ops.diffusion_step_(z, None, coefficients=alone, seed=seed, step=step, sample_ids=sample_ids)
    return out


@dataclass(frozen=True)
class Process:
    """Images in [0, 1] up to level ``levels[0]`` and down through the others; plain data but for the model.

    Attributes:
        levels: falling; one alone is no process: the images come out as they went in.
        eta: 1 for DDPM, 0 for DDIM.
        input_sigma: of the noise that the images hold already, on their scale.
        output_sigma: of the noise that they hold at the end.
        precision: of the model, whatever autocast the caller is under.
        guide: changes the predicted noise, in its own precision.
    """

    diffusion: Diffusion
    levels: tuple[int, ...]
    eta: float = 1.0
    input_sigma: float = 0.0
    output_sigma: float = 0.0
    precision: str = "fp32"
    guide: Guide | None = None

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def thinned(self, steps: int) -> Process:
        """The same way in fewer steps."""
        return replace(self, levels=evenly(self.levels[0], self.levels[-1], min(steps, self.steps)))

    def scaled(self, x: Tensor) -> Tensor:
        """Images on the model's scale."""
        low, high = self.diffusion.low, self.diffusion.high
        return x * (high - low) + low

    @property
    def kept(self) -> float:
        """The share of the image in the first state."""
        return math.sqrt(self.diffusion.schedule.alpha_bar(self.levels[0]))

    @property
    def grown(self) -> float:
        """What the last state is multiplied with, so that the image has its share of 1 again."""
        return 1 / math.sqrt(self.diffusion.schedule.alpha_bar(self.levels[-1]))

    def seen(self, origin: Tensor) -> Tensor:
        """What the guide sees of the images on the model's scale: they themselves, or what it makes of them."""
        facing = getattr(self.guide, "facing", None)
        if facing is None:
            return origin
        with torch.autocast(origin.device.type, enabled=False):
            seen: Tensor = facing(origin)
        return seen

    def enter(self, origin: Tensor, seed: int, ids: Tensor) -> Tensor:
        """The forward jump of images on the model's scale, which are overwritten; noise that they hold counts."""
        held = self.input_sigma * (self.diffusion.high - self.diffusion.low)
        missing = self.diffusion.schedule.sigma(self.levels[0]) ** 2 - held**2
        by = (self.kept, 0.0, self.kept * math.sqrt(max(0.0, missing)))
        return advance(origin, None, by, seed=seed, step=0, sample_ids=ids, overwrite=True)

    def step(self, k: int, x: Tensor, seen: Tensor, seed: int, ids: Tensor, *, overwrite: bool = False) -> Tensor:
        """Reverse step k = 0 .. steps - 1; ``overwrite`` writes x, without autograd."""
        start, stop = self.levels[k], self.levels[k + 1]
        with torch.autocast(x.device.type, enabled=False):  # the caller's is for the model behind
            eps_hat = self.diffusion(x, start, self.precision)
            if self.guide is not None:
                eps_hat = self.guide(eps_hat, x, start, seen)
        if overwrite and eps_hat.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
            eps_hat = eps_hat.clone()  # a model that hands its input through
        by = reverse_coefficients(self.diffusion.schedule, start, stop, self.eta)
        return advance(x, eps_hat, by, seed=seed, step=start, sample_ids=ids, overwrite=overwrite)

    def leave(self, x: Tensor, seed: int, ids: Tensor) -> Tensor:
        """The last state, which is overwritten, on the scale of the images, with as much noise as they are to hold."""
        low, high = self.diffusion.low, self.diffusion.high
        schedule = self.diffusion.schedule
        missing = (self.output_sigma * (high - low)) ** 2 - schedule.sigma(self.levels[-1]) ** 2
        by = (self.grown, 0.0, math.sqrt(max(0.0, missing)))
        if by != (1.0, 0.0, 0.0):
            x = advance(x, None, by, seed=seed, step=schedule.steps + 1, sample_ids=ids, overwrite=True)
        return (x - low) / (high - low)


class Watch:
    """Whether every state was finite, asked for once at the end: a question waits for the device."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.found: list[Tensor] = []

    def see(self, x: Tensor) -> None:
        self.found.append(x.detach().isfinite().all())

    def require_finite(self) -> None:
        """Raises NonFiniteError that names the first step with NaN or infinity."""
        good = torch.stack(self.found).tolist()
        if all(good):
            return
        k, levels, steps = good.index(False), self.process.levels, self.process.steps
        if k == 0:
            raise NonFiniteError("diffusion: the images hold NaN or infinity before the first reverse step")
        hint = "" if self.process.guide is None else "; the predicted noise is guided: is its scale too large?"
        raise NonFiniteError(
            f"diffusion: NaN or infinity in reverse step {k} of {steps} (level {levels[k - 1]} to {levels[k]}){hint}"
        )
