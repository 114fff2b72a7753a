"""Typical-set sampling for training (arXiv 2412.05943): clean images in, noisy inputs out.

A training input is plain N(0, sigma^2) noise with probability ``plain_share``; else its noise lies on the shell of a
typical set next to that distribution: a gap, a mean shift and a spectrum of choice (this project's formulation, see
``fa.ops.typical_noise``). Every number is a function of (seed, epoch, sample id, pixel), so that neither the order of
the samples nor the process that draws them changes any.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .numbering import Numbering
from .ops import check, draws, noise, typical_noise
from .ops.backend import Scalar
from .ops.dispatch import resolve
from .ops.reference_random import STREAM_CHOICE, sample_words
from .ops.spectrum import Spectrum, gain_of

Range = float | tuple[float, float]


class TypicalSetSampler(Numbering):
    """Noisy training inputs for clean images.

    ``sampler(clean)`` numbers the samples itself (step, position in the batch) and moves on by one step.
    ``sampler(clean, sample_ids=ids)`` takes the caller's numbers, a dataset's indices say, and does not. ``set_epoch``
    before each epoch gives the same ids new noise.

    Args:
        sigma: standard deviation of the noise on the scale of the images (25/255), > 0: a number, or an interval
            (low, high) from which each sample draws its own.
        typicality: gap tau of the shell in nats per pixel, > -1/2: a number, an interval, or None for noise that is
            on no shell.
        mean: mean of the noise: a number or an interval.
        spectrum: an ``ops.spectrum.Spectrum``, or what its ``power`` takes ("adversarial", say); None is white.
        plain_share: probability of plain N(0, sigma^2) noise, which none of the three options above touches. 1 is
            ordinary training.
        seed: 0 <= seed < 2**64.
        backend: see ``fa.ops``.

    Raises:
        TypeError, ValueError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        *,
        sigma: Range,
        typicality: Range | None = 0.0,
        mean: Range = 0.0,
        spectrum: Any = None,
        plain_share: float = 0.5,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        for name, value in (("sigma", sigma), ("typicality", typicality), ("mean", mean), ("plain_share", plain_share)):
            if isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: wanted a number or an interval (low, high), got a tensor {tuple(value.shape)}"
                )
        super().__init__(seed)
        typical_noise(
            (1, noise.LEAST), sigma=sigma, typicality=typicality, mean=mean, seed=0
        )  # complains about what cannot be
        self.sigma, self.typicality, self.mean = _level(sigma), _level(typicality), _level(mean)
        self.spectrum = None if spectrum is None else _with_share(spectrum)
        self.plain_share = check.per_sample(plain_share, "plain_share", torch.empty(1))
        if not 0 <= self.plain_share <= 1:
            raise ValueError(f"plain_share: wanted a number from 0 to 1, got {plain_share}")
        self.backend = backend

    def __call__(
        self, clean: Tensor, *, sample_ids: Tensor | Sequence[int] | None = None, epoch: int | None = None
    ) -> Tensor:
        """clean + noise.

        Args:
            clean: (B, ...) float images. On the CPU NaN and infinity are an error; on another device nothing waits to
                look for them, and they come out as they went in.
            sample_ids: (B,) integers that name the samples; without them step * 2**32 + position, and the step counts.
            epoch: instead of the sampler's own.

        Returns:
            (B, ...), as clean in dtype and device.

        Raises:
            TypeError, ValueError, BackendUnavailable: see ``fa.ops``.
        """
        clean = check.as_tensor(clean, "clean")
        check.require_images(clean, "clean")
        seed, ids = self.key(len(clean), sample_ids=sample_ids, epoch=epoch, device=clean.device)
        if clean.device.type == "cpu":
            _require_finite(clean, ids)
        sigma = draws.draw(self.sigma, "sigma", clean, seed, ids)
        typicality, mean, spectrum_gain = self._options(clean, seed, ids)
        noisy: Tensor = torch.empty_like(clean, requires_grad=False)
        table = resolve(clean.device, self.backend)
        if clean.numel():
            noise.fill(noisy, clean.detach(), (sigma, typicality, mean), spectrum_gain, seed, ids, table)
        if sample_ids is None:
            self.step += 1
        return noisy

    def transform(self, image: Tensor) -> Tensor:
        """For torchvision's Compose, which shows the image alone: (C, H, W) -> noisy (C, H, W).

        The sample id is a 64-bit hash of the image's bytes, so equal images get equal noise in an epoch.
        """
        if not isinstance(image, Tensor) or image.dim() != 3:
            came = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"image: wanted a float tensor (C, H, W), got {came}")
        data = image.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        name = int.from_bytes(blake2b(data, digest_size=8).digest(), "little", signed=True)
        return self(image[None], sample_ids=[name])[0]

    def _options(self, like: Tensor, seed: int, ids: Tensor) -> tuple[Scalar, Scalar, Tensor | None]:
        """Typicality, mean and gain of each sample; for the plain ones NaN, 0 and that of white noise."""
        if self.plain_share == 1:
            return noise.PLAIN, 0.0, None
        if self.typicality is not None:
            noise.require_room_for_shell(like)
        words = sample_words(torch.zeros(1, dtype=torch.int64, device=ids.device), ids, seed, STREAM_CHOICE)
        plain = (words[:, 0, 0] >> 8).double() * 2.0**-24 < self.plain_share

        def drawn(value: Any, name: str, for_plain: float) -> Scalar:
            number = draws.draw(value, name, like, seed, ids)
            if self.plain_share == 0:
                return number
            if not isinstance(number, Tensor):
                if number == for_plain:
                    return number
                number = torch.full(plain.shape, number, dtype=torch.float64, device=plain.device)
            return number.masked_fill(plain, for_plain)

        typicality = noise.PLAIN if self.typicality is None else drawn(self.typicality, "typicality", noise.PLAIN)
        mean = drawn(self.mean, "mean", 0.0)
        if self.spectrum is None:
            return typicality, mean, None
        share = torch.as_tensor(drawn(self.spectrum.share, "share", 0.0), dtype=torch.float64, device=like.device)
        return typicality, mean, gain_of(self.spectrum, like, share)


class Images(Protocol):
    """A map-style dataset."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


class NoisyDataset(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset of images as (noisy, clean) pairs, keyed by index and epoch.

    Args:
        images: gives float tensors (C, H, W), or tuples that begin with one; the rest (a label) is left out.
        sampler: its epoch is this dataset's; its step plays no part.

    Raises:
        TypeError: an index that is no integer, or an item without an image.
    """

    def __init__(self, images: Images, sampler: TypicalSetSampler) -> None:
        self.images = images
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Before a DataLoader is iterated; reaches workers that it keeps."""
        self.sampler.set_epoch(epoch)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index = operator.index(index)
        if index < 0:
            index += len(self)
        item = self.images[index]
        clean = item[0] if isinstance(item, tuple | list) else item
        if not isinstance(clean, Tensor):
            raise TypeError(
                f"images[{index}]: wanted a tensor or a tuple that begins with one, got {type(item).__name__}"
            )
        return self.sampler(clean[None], sample_ids=[index])[0], clean


def _with_share(spectrum: Any) -> Spectrum:
    """The spectrum with its share of the energy as a number."""
    found = spectrum if isinstance(spectrum, Spectrum) else Spectrum(spectrum)
    if isinstance(found.share, Tensor) and found.share.dim():
        raise TypeError(f"spectrum: wanted one share for all samples, got a tensor {tuple(found.share.shape)}")
    return replace(found, share=float(found.own_share))


def _level(value: Any) -> Any:
    """A number or an interval in Python's own types."""
    return value if value is None else tuple(map(float, value)) if isinstance(value, tuple | list) else float(value)


def _require_finite(clean: Tensor, ids: Tensor) -> None:
    if clean.numel() == 0:
        return
    low, high = torch.aminmax(clean.detach())
    if not float("-inf") < low.item() <= high.item() < float("inf"):
        bad = int((~clean.isfinite().flatten(1).all(1)).nonzero()[0])
        raise ValueError(f"clean: wanted finite numbers, got NaN or infinity in sample {bad} (id {int(ids[bad])})")
