"""Purification by a diffusion model: noise up to a level, the reverse process, and the result to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion import Diffusion, load
from ..diffusion.process import Guide, Process
from ..diffusion.schedule import evenly, require_level
from ..fast.speed import PRECISIONS
from ..numbering import seed_of_draw as seed_of_draw  # its place before
from ..ops import check
from .defended import Defended
from .through import Through

SAMPLERS = {"ddpm": 1.0, "ddim": 0.0}
GRADIENTS = ("full", "bpda", "surrogate")


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What a purifier does, as data. See `Purifier`."""

    t_star: int | None = None
    sigma: float | None = None
    sampler: str = "ddpm"
    steps: int | None = None
    seed: int = 0
    input_sigma: float = 0.0
    output_sigma: float = 0.0
    gradient: str = "full"
    surrogate_steps: int = 4
    precision: str = "fp32"
    max_batch: int | None = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        for name, known in (("sampler", tuple(SAMPLERS)), ("gradient", GRADIENTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                wanted = ", ".join(map(repr, known))
                raise ValueError(f"{name}: wanted one of {wanted}, got {getattr(self, name)!r}")
        for name in ("steps", "surrogate_steps", "max_batch"):
            value = getattr(self, name)
            optional = value is None and name != "surrogate_steps"
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: wanted a whole number >= 1, got {value!r}")
        for name in ("sigma", "input_sigma", "output_sigma"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:  # more than 255 on the 0-255 scale is no noise of images
                more = "; t_star goes further" if name == "sigma" and value > 1 else ""
                raise ValueError(
                    f"{name}: wanted a noise level from 0 to 1, for images in [0, 1], got {value!r}"
                    f"{check.scale_hint(value)}{more}"
                )
        if self.guide is not None and not callable(self.guide):
            raise TypeError(f"guide: wanted a function (eps_hat, x_t, level, input), got {type(self.guide).__name__}")
        check.whole(self.seed, "seed", 64)


class Purifier:
    """Diffusion purification (Nie et al., arXiv 2205.07460): ``fa.Purifier("embedded", t_star=60)(model)``.

    x_t = sqrt(ab_t) x + sqrt(1 - ab_t) z at t = t*, then the reverse process down to the clean level, whose result goes
    to the model: the noise drowns the perturbation, and the model's prior takes both away. All numbers are drawn by
    Philox of (seed, draw, sample id, pixel), none from torch's generators: a call with the same names draws the same
    noise, in every batch split.

    Images (B, C, H, W), nominal range [0, 1]; noise levels ``sigma``, ``input_sigma`` and ``output_sigma`` are on that
    scale (25 / 255). Results are not clipped. The diffusion model stays in eval mode and gets no gradients.

    Args:
        diffusion: a `fastattack.diffusion.Diffusion`, or what `fastattack.diffusion.load` takes.
        t_star: level up to which noise is added, 0 (the images as they are) .. N.
        sigma: instead of t_star, the noise beside the images, at most 1: the first level with at least as much.
        sampler: "ddpm" (ancestral steps) or "ddim" (after the jump to t* nothing is drawn).
        steps: reverse steps, spread evenly; None: one for each level.
        seed: 0 <= seed < 2**64.
        input_sigma: of Gaussian noise that the images hold already, where a denoiser is defended: only what is missing
            at t* is added, and without t_star and sigma nothing but the little that the next level asks for.
        output_sigma: the reverse process stops where this much noise is left, which is what a denoiser for one noise
            level wants to see.
        gradient: what autograd finds. "full": the gradient of the process, made a step at a time, so that memory holds
            the graph of one step and at most 32 states (and a stride of those between), however many steps there are.
            "bpda": the identity (Athalye et al., arXiv 1802.00420). "surrogate": the gradient of the same process in
            ``surrogate_steps`` steps, with the noise of the same levels.
        surrogate_steps: of the backward pass.
        precision: of the diffusion model: "fp32", "bf16", "fp16", "tf32" or "auto" (autocast); its steps are in float32
            or wider.
        max_batch: images purified at a time; None: all.
        guide: changes the predicted noise at each step, (eps_hat, x_t, level, input) -> eps_hat; `LatentGuide` is one.

    Raises:
        TypeError, ValueError: an option that is unknown or out of range.
    """

    def __init__(
        self,
        diffusion: Diffusion | str | Path = "embedded",
        *,
        t_star: int | None = None,
        sigma: float | None = None,
        sampler: str = "ddpm",
        steps: int | None = None,
        seed: int = 0,
        input_sigma: float = 0.0,
        output_sigma: float = 0.0,
        gradient: str = "full",
        surrogate_steps: int = 4,
        precision: str = "fp32",
        max_batch: int | None = None,
        guide: Guide | None = None,
    ) -> None:
        if not isinstance(diffusion, (Diffusion, str, Path)):
            raise TypeError(
                f"diffusion: wanted a Diffusion, 'embedded' or a file, got {type(diffusion).__name__} "
                "(fa.diffusion.from_denoiser makes one of a denoiser for all noise levels)"
            )
        self.diffusion = diffusion if isinstance(diffusion, Diffusion) else load(diffusion)
        self.options = _Options(
            t_star=t_star, sigma=sigma, sampler=sampler, steps=steps, seed=seed, input_sigma=input_sigma,
            output_sigma=output_sigma, gradient=gradient, surrogate_steps=surrogate_steps, precision=precision,
            max_batch=max_batch, guide=guide,
        )  # fmt: skip
        self.process  # noqa: B018 - wrong levels are told at once

    def replaced(self, **options: Any) -> Purifier:
        """The same with other options; ``t_star`` and ``sigma`` take each other's place."""
        if options.keys() & {"t_star", "sigma"}:
            options = {"t_star": None, "sigma": None} | options
        mine: dict[str, Any] = {f.name: getattr(self.options, f.name) for f in fields(_Options)}
        return Purifier(self.diffusion, **(mine | options))

    def __repr__(self) -> str:
        changed = [f"{f.name}={v!r}" for f in fields(_Options) if (v := getattr(self.options, f.name)) != f.default]
        return f"Purifier({', '.join(changed)})"

    # -- levels --------------------------------------------------------------------------------------------------------

    @property
    def level(self) -> int:
        """t*, whichever way it was given."""
        return self.process.levels[0]

    @property
    def sigma(self) -> float:
        """The noise beside the images at t*, on their scale."""
        return self.diffusion.sigma(self.level)

    @cached_property
    def process(self) -> Process:
        """Levels and scales, checked."""
        options, diffusion = self.options, self.diffusion
        start, stop = _start(options, diffusion), _stop(options, diffusion)
        if start and stop >= start:
            raise ValueError(
                f"output_sigma: wanted less than the {diffusion.sigma(start):g} of level {start}, where the reverse "
                f"process begins, got {options.output_sigma:g}"
            )
        room = max(0, start - stop)
        if options.steps is not None and room and options.steps > room:
            raise ValueError(f"steps: wanted at most {room}, one for each level down from {start}, got {options.steps}")
        levels = evenly(start, stop, options.steps or room) if room else (0,)
        eta = SAMPLERS[options.sampler]
        bound = getattr(options.guide, "bound", None)
        guide = options.guide if bound is None else bound(diffusion)
        return Process(
            diffusion, levels, eta, options.input_sigma, options.output_sigma, options.precision, guide
        )  # fmt: skip

    @cached_property
    def _behind(self) -> Process | None:
        kind = self.options.gradient
        if kind == "bpda":
            return None
        return self.process if kind == "full" else self.process.thinned(self.options.surrogate_steps)

    @property
    def how(self) -> str:
        """How gradients are made, in words."""
        options = self.options
        kind = {"full": "full gradient", "bpda": "BPDA"}.get(
            options.gradient, f"surrogate of {min(options.surrogate_steps, self.process.steps)} steps"
        )
        return f"{options.precision}, through a purifier: {kind}"

    # -- use -----------------------------------------------------------------------------------------------------------

    def __call__(self, model: Callable[[Tensor], Any]) -> Purified:
        """The model behind this purifier, as an nn.Module."""
        return Purified(self, model)

    def purify(self, x: Tensor, *, sample_ids: Tensor | None = None, draw: int = 0) -> Tensor:
        """Purified images (B, C, H, W), in the type of x; differentiable by ``gradient``.

        Args:
            sample_ids: (B,) integers that name the samples; 0 .. B-1 by default.
            draw: another number, >= 0, draws other noise: the expectation over the defence's randomness.

        Raises:
            TypeError, ValueError: images that do not fit the diffusion model.
            NonFiniteError: NaN or infinity; the reverse step is named.
        """
        self.diffusion.require_images(x)
        named = check.ids_of(sample_ids, x)
        ids = torch.arange(len(x), device=x.device) if named is None else named
        if not self.process.steps or not len(x):
            return x
        seed = seed_of_draw(self.options.seed, draw)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        size = self.options.max_batch or len(x)
        parts = zip(torch.split(wide, size), torch.split(ids, size), strict=True)
        out = [Through.apply(part, self.process, self._behind, seed, names) for part, names in parts]  # type: ignore[no-untyped-call]
        return (out[0] if len(out) == 1 else torch.cat(out)).to(x.dtype)


def _start(options: _Options, diffusion: Diffusion) -> int:
    """t*."""
    last = diffusion.schedule.steps
    held = diffusion.level_of(options.input_sigma)
    if options.t_star is not None and options.sigma is not None:
        raise ValueError(f"sigma: wanted None beside t_star = {options.t_star}, got {options.sigma}")
    if options.t_star is not None:
        level = require_level(options.t_star, "t_star", last)
    elif options.sigma is not None:
        level = diffusion.level_of(options.sigma)
    elif options.input_sigma:
        level = held
    else:
        raise ValueError("t_star: wanted a level, or sigma= or input_sigma=, got None")
    if level < held:
        raise ValueError(
            f"t_star: wanted level {held} or above, where there is the noise of input_sigma = "
            f"{options.input_sigma:g}, got {level}"
        )
    return level


def _stop(options: _Options, diffusion: Diffusion) -> int:
    """The last level with no more noise than the output is to hold."""
    level = diffusion.level_of(options.output_sigma)
    return level if diffusion.sigma(level) <= options.output_sigma * (1 + 1e-9) else level - 1


class Purified(Defended):
    """A model behind a purifier: model(purifier.purify(x)).

    Attributes:
        purifier: what happens before.
        model: as it was given.
    """

    def __init__(self, purifier: Purifier, model: Callable[[Tensor], Any]) -> None:
        super().__init__(purifier, model)
        self.purifier = purifier
        self.diffusion = purifier.diffusion  # so that .to(device) moves it too
        guide = purifier.options.guide
        self.guide = guide if isinstance(guide, nn.Module) else getattr(guide, "auxiliary", None)

    def train(self, mode: bool = True) -> Purified:
        """The model's mode; the diffusion model and a guide's network stay in eval mode."""
        super().train(mode)
        self.diffusion.eval()
        if isinstance(self.guide, nn.Module):
            self.guide.eval()
        return self
