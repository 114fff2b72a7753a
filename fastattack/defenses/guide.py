"""The reverse process led by the latents of an adversarially trained network (after AGDM, arXiv 2403.16067)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..diffusion import Diffusion
from ..guard import fresh, frozen
from ..inputs import out_of_memory, told
from ..ops.check import is_number

SCHEDULES = ("constant", "sigma")
DISTANCES = ("l2", "cosine")
PLACES = ("x0", "xt")


def check_choice(name: str, value: Any, known: tuple[str, ...], more: str = "") -> None:
    """Raises ValueError where ``value`` is none of ``known``."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: wanted {' or '.join(map(repr, known))}{more}, got {value!r}")


def latents_of(net: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """What a network makes of images (B, C, H, W), flat: (B, F), in the type of its parameters.

    Raises:
        ValueError: it takes no such images, or gives no row for each.
    """
    dtype = None
    if isinstance(net, nn.Module):
        dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), None)
    channels = getattr(net, "channels", images.shape[1])
    if isinstance(channels, int) and channels != images.shape[1]:
        raise ValueError(
            f"auxiliary: wanted a network for {images.shape[1]} channel(s) as the images have, got one for {channels}"
        )
    try:
        out = net(images.to(dtype or images.dtype))
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise ValueError(f"auxiliary: does not take images {tuple(images.shape)}: {told(error)}") from error
    if not isinstance(out, Tensor) or not out.is_floating_point() or out.dim() < 2 or len(out) != len(images):
        got = f"{tuple(out.shape)} {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"auxiliary: wanted float latents ({len(images)}, ...), a row for each image, got {got}")
    return out.flatten(1)


@dataclass(frozen=True)
class LatentGuide:
    """Guides a purifier to images whose latents are those of its input: ``fa.Purifier(..., guide=LatentGuide(net))``.

    AGDM (Lin et al., arXiv 2403.16067) takes the auxiliary network from adversarial training, so that its latents hold
    what an image means and little of a perturbation; their distance guides the reverse process, whichever diffusion
    model that has. The form here, this project's reading of it, is that of classifier guidance (Dhariwal & Nichol,
    arXiv 2105.05233, equation 14) for p(input | x_t) ~ exp(-s D):

        eps_hat <- eps_hat + s(t) sqrt(1 - ab_t) grad_{x_t} D,    D = distance(h(u), h(input))

    "x0": u is the estimate of the clean image, (x_t - sqrt(1 - ab_t) eps_hat) / sqrt(ab_t), on the scale of the images;
    no gradient goes back through the diffusion model within a step. So u <- u - s(t) sigma_t^2 grad_u D, one gradient
    step, sigma_t the noise beside images in [0, 1]. "xt": u = x_t / sqrt(ab_t), the state with its noise.

    The gradients of attacks are those of all this: of the second order through the network, and through h(input) too.
    The network runs in eval mode in its own precision, and is left as it was found.

    Args:
        auxiliary: nn.Module h from images (B, C, H, W) in [0, 1] to latents (B, ...), a sample at a time: `Auxiliary`,
            trained by `train_auxiliary`, or another.
        scale: s, >= 0; 0 is no guide.
        schedule: s(t). "constant": scale. "sigma": scale / sigma_t, with which u moves by scale sigma_t grad_u D.
            Or a function of the level, a factor >= 0 of scale.
        distance: "l2", sum of squared differences, or "cosine", 1 - cosine of the angle.
        at: "x0" or "xt".
        diffusion: whose schedule and scale of images; a `Purifier` fills it in (`bound`).

    Raises:
        TypeError, ValueError: an option that is unknown or out of range; channels that differ from the diffusion
            model's (when a purifier is made) or the images' (when it is used).
    """

    auxiliary: nn.Module = field(repr=False)
    scale: float = field(default=1.0, kw_only=True)
    schedule: str | Callable[[int], float] = field(default="constant", kw_only=True)
    distance: str = field(default="l2", kw_only=True)
    at: str = field(default="x0", kw_only=True)
    diffusion: Diffusion | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.auxiliary, nn.Module):
            raise TypeError(f"auxiliary: wanted an nn.Module, got {type(self.auxiliary).__name__}")
        if not is_number(self.scale) or self.scale < 0:
            raise ValueError(f"scale: wanted a finite number >= 0, got {self.scale!r}")
        if not callable(self.schedule):
            check_choice("schedule", self.schedule, SCHEDULES, " or a function of the level")
        check_choice("distance", self.distance, DISTANCES)
        check_choice("at", self.at, PLACES)

    def bound(self, diffusion: Diffusion) -> LatentGuide:
        """The same for a diffusion model.

        Raises:
            ValueError: it has other channels than the auxiliary network.
        """
        channels = getattr(self.auxiliary, "channels", None)
        if isinstance(channels, int) and not diffusion.each_channel and channels != diffusion.channels:
            raise ValueError(
                f"guide: wanted an auxiliary network for {diffusion.channels} channel(s) as the diffusion model has, "
                f"got one for {channels}"
            )
        return replace(self, diffusion=diffusion)

    def facing(self, origin: Tensor) -> Tensor:
        """The latents (B, F) of the input (B, C, H, W), which is on the diffusion model's scale."""
        diffusion = self._bound
        with frozen(self.auxiliary):
            return latents_of(self.auxiliary, (origin - diffusion.low) / (diffusion.high - diffusion.low))

    def __call__(self, eps_hat: Tensor, x: Tensor, level: int, seen: Tensor, /) -> Tensor:
        """The predicted noise (B, C, H, W), changed; ``seen``: what `facing` gave."""
        strength = self.strength(level)
        if strength == 0:
            return eps_hat
        followed = torch.is_grad_enabled() and (eps_hat.requires_grad or x.requires_grad or seen.requires_grad)
        return torch.add(eps_hat, self._gradient(eps_hat, x, level, seen, followed), alpha=strength)

    def strength(self, level: int) -> float:
        """s(t) sigma_t, by which grad_u D is multiplied.

        Raises:
            ValueError: the function ``schedule`` gave no finite factor >= 0.
        """
        sigma = self._bound.sigma(level)
        if self.schedule == "sigma":
            return self.scale
        if not callable(self.schedule):
            return self.scale * sigma
        factor = self.schedule(level)
        if not is_number(factor) or factor < 0:
            raise ValueError(f"schedule: wanted a finite factor >= 0 for level {level}, got {factor!r}")
        return self.scale * factor * sigma

    @property
    def _bound(self) -> Diffusion:
        if self.diffusion is None:
            raise RuntimeError("LatentGuide: wanted bound(diffusion) first, which a Purifier calls by itself")
        return self.diffusion

    def _gradient(self, eps_hat: Tensor, x: Tensor, level: int, seen: Tensor, followed: bool) -> Tensor:
        """grad_u D; ``followed``: in the graph of x, eps_hat and seen."""
        with torch.inference_mode(False), torch.set_grad_enabled(followed):
            u = self._image(eps_hat, x, level)
        if not u.requires_grad:
            u.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.auxiliary):
            z = latents_of(self.auxiliary, u)
            if not z.requires_grad:
                raise ValueError("auxiliary: wanted latents that autograd follows to the images, got constants")
            distance = self._distance(z, seen if followed else fresh(seen))
            (found,) = torch.autograd.grad(distance.sum(), u, create_graph=followed)
        return found

    def _image(self, eps_hat: Tensor, x: Tensor, level: int) -> Tensor:
        """u, on the scale of the images."""
        diffusion = self._bound
        share, width = diffusion.schedule.alpha_bar(level), diffusion.high - diffusion.low
        if self.at == "x0":
            x = torch.add(x, eps_hat, alpha=-math.sqrt(1 - share))
        return x * (1 / (math.sqrt(share) * width)) - diffusion.low / width

    def _distance(self, z: Tensor, seen: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - functional.cosine_similarity(z, seen, dim=1)
        return (z - seen).square().sum(1)
