"""What a denoiser is trained on: ``inputs, targets = strategy(model, clean)``, in this package's loop or in anybody's.

The noise depends on (seed, epoch, sample id, pixel) alone. What PGDTraining and HAT attack depends on the model too,
and to rounding on how the samples are split into batches, since the model's own kernels do. Called without sample ids,
a strategy numbers the samples itself and moves on by one step; ``state_dict`` says where it stands. With sample ids,
tell it the epoch (``epoch=`` or ``set_epoch``), or each epoch has the noise of the last; with several processes, pass
sample ids, or each process draws the same noise. The model is attacked as it is now, under the caller's autocast; its
flags, buffers and ``.grad`` and torch's random state are left as they were. An empty batch gives an empty batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from ..attacks.denoising import DenoisingPGD, ObsAtk
from ..engine import Model
from ..ops import check
from ..sampler import Range, TypicalSetSampler
from .identity import describe_spectrum

SampleIds = Tensor | Sequence[int]


class Strategy(Protocol):
    """What the loop asks of a strategy. Targets of several parts (`fastattack.guard.Rowwise`) want a loss of yours."""

    @property
    def level(self) -> float:
        """Standard deviation of the noise on the scale of the images, the unit of the loss; > 0."""
        ...

    def __call__(
        self, model: Model, clean: Any, *, sample_ids: SampleIds | None = None, epoch: int | None = None
    ) -> tuple[Tensor, Any]: ...

    def describe(self) -> dict[str, Any]:
        """Numbers, words, tensors, arrays, or lists and dicts of them, that tell this strategy from others.

        A checkpoint is only resumed with the same.
        """
        ...

    def set_epoch(self, epoch: int, step: int = 0) -> None: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: dict[str, int]) -> None: ...


@dataclass(frozen=True)
class Plain:
    """Gaussian noise: the sampler's inputs, and the clean images as targets."""

    sampler: TypicalSetSampler

    @property
    def level(self) -> float:
        """The sampler's sigma; the middle of an interval."""
        sigma = self.sampler.sigma
        return sum(sigma) / 2 if isinstance(sigma, tuple) else sigma

    def __call__(
        self, model: Model, clean: Tensor, *, sample_ids: SampleIds | None = None, epoch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Training pairs for a batch.

        Args:
            model: the denoiser as it is now.
            clean: (B, C, H, W) float images, nominal range [0, 1].
            sample_ids: (B,) integers that name the samples; the sampler's own numbers without.
            epoch: the sampler's own without.

        Returns:
            Inputs and targets, (B, C, H, W) each; of HAT (2B, C, H, W).

        Raises:
            TypeError, ValueError: clean images that cannot be.
            NonFiniteError: the model gave NaN or infinity under attack.
        """
        check.require_images(check.as_tensor(clean, "clean"), "clean")
        if clean.dim() != 4:
            raise ValueError(f"clean: wanted images (B, C, H, W), got shape {tuple(clean.shape)}")
        seed, ids = self.sampler.key(len(clean), sample_ids=sample_ids, epoch=epoch, device=clean.device)
        with torch.autocast(clean.device.type, enabled=False):  # the noise is not for bfloat16
            noisy = self.sampler(clean, sample_ids=sample_ids, epoch=epoch)
        return self._pairs(model, noisy, clean, seed, ids) if len(clean) else (noisy, clean)

    def _pairs(self, model: Model, noisy: Tensor, clean: Tensor, seed: int, ids: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, clean

    def describe(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sampler"}
        sampler = {name: getattr(self.sampler, name) for name in _SAMPLER_OPTIONS}
        sampler["spectrum"] = describe_spectrum(self.sampler.spectrum)
        return {"strategy": type(self).__name__, **own, **sampler}

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch."""
        self.sampler.set_epoch(epoch, step)

    def state_dict(self) -> dict[str, int]:
        """Where the sampler stands."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.sampler.load_state_dict(state)


@dataclass(frozen=True)
class TypicalSet(Plain):
    """TS training (arXiv 2412.05943): noise from the typical sets around the Gaussian, mixed with Gaussian noise."""


def step_of(eps: float, steps: int) -> float | None:
    """2 eps / steps, written out: a resumed training goes on as it began, whatever the attacks' default becomes.

    None where these are wrong: the attack says so.
    """
    return 2 * eps / steps if eps > 0 and steps > 0 else None


@dataclass(frozen=True)
class PGDTraining(Plain):
    """Adversarial training: every input attacked by DenoisingPGD. eps is the linf radius on the scale of the images."""

    eps: float = 5 / 255
    steps: int = 5
    preserve_noise: bool = True

    def __post_init__(self) -> None:
        DenoisingPGD(abs, eps=self.eps, steps=self.steps)  # complains about eps and steps

    def _pairs(self, model: Model, noisy: Tensor, clean: Tensor, seed: int, ids: Tensor) -> tuple[Tensor, Tensor]:
        attack = DenoisingPGD(
            model, eps=self.eps, steps=self.steps, step=step_of(self.eps, self.steps),
            preserve_noise=self.preserve_noise, seed=seed, backend=self.sampler.backend,
        )  # fmt: skip
        return attack(noisy, clean, sample_ids=ids), clean


@dataclass(frozen=True)
class HAT(Plain):
    """Hybrid adversarial training (arXiv 2201.04397): each sample twice, plain and attacked by ObsAtk.

    The mean loss over what it returns is the even mix of both losses (the paper's alpha = 1). ``eps`` is the root mean
    square of the attack over the pixels, on the scale of the images: the l2 radius of a sample with d elements is
    eps sqrt(d), so it means the same for every size of patch.
    """

    eps: float = 5 / 255
    steps: int = 5

    def __post_init__(self) -> None:
        ObsAtk(abs, eps=self.eps, steps=self.steps, seed=0)  # complains about eps and steps

    def _pairs(self, model: Model, noisy: Tensor, clean: Tensor, seed: int, ids: Tensor) -> tuple[Tensor, Tensor]:
        radius = self.eps * clean[0].numel() ** 0.5
        step = step_of(radius, self.steps)
        attack = ObsAtk(model, eps=radius, steps=self.steps, step=step, seed=seed, backend=self.sampler.backend)
        attacked = attack(noisy, clean, sample_ids=ids)
        return torch.cat((noisy, attacked)), torch.cat((clean, clean))


def plain(*, sigma: Range, seed: int = 0) -> Plain:
    """Ordinary training on N(0, sigma^2).

    Args:
        sigma: on the scale of the images (25/255), or an interval (low, high) from which each sample draws its own.
        seed: 0 <= seed < 2**64.

    Raises:
        TypeError, ValueError: an option that cannot be; the message names it.
    """
    return Plain(_gaussian(sigma, seed))


def ts(sampler: TypicalSetSampler) -> TypicalSet:
    """Training on the typical sets that a sampler draws from."""
    if not isinstance(sampler, TypicalSetSampler):
        raise TypeError(f"sampler: wanted a TypicalSetSampler, got {type(sampler).__name__}")
    return TypicalSet(sampler)


def pgd(
    *, sigma: Range, eps: float = 5 / 255, steps: int = 5, preserve_noise: bool = True, seed: int = 0
) -> PGDTraining:
    """Adversarial training with DenoisingPGD on N(0, sigma^2) noise; arguments as for `plain` and `PGDTraining`."""
    return PGDTraining(_gaussian(sigma, seed), eps=eps, steps=steps, preserve_noise=preserve_noise)


def hat(*, sigma: Range, eps: float = 5 / 255, steps: int = 5, seed: int = 0) -> HAT:
    """Hybrid adversarial training on N(0, sigma^2) noise; arguments as for `plain` and `HAT`."""
    return HAT(_gaussian(sigma, seed), eps=eps, steps=steps)


_SAMPLER_OPTIONS = ("sigma", "typicality", "mean", "spectrum", "plain_share", "seed")


def _gaussian(sigma: Range, seed: int) -> TypicalSetSampler:
    return TypicalSetSampler(sigma=sigma, typicality=None, plain_share=1.0, seed=check.seed_of(seed))
