"""What a perturbation of a denoiser's input looks like, and how it passes through (arXiv 2306.16050, 2412.05943)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import check, noise_stats
from ..typical import expected_spread, radial_spectrum

BANDS = 16


def attack_statistics(
    clean: Tensor,
    noisy: Tensor,
    adversarial: Tensor,
    restored: Tensor,
    restored_adversarial: Tensor,
    *,
    sigma: float | Tensor | None = None,
) -> dict[str, Tensor]:
    """Figures of each sample of an attack on a restorer D, with n = noisy - clean and delta = adversarial - noisy.

    Args:
        clean, noisy, adversarial: (B, C, H, W) float: x, y, y'.
        restored, restored_adversarial: D(y) and D(y'), like clean.
        sigma: standard deviation of the noise on the scale of the images; without it the typicality is NaN.

    Returns:
        (B,) float64 on the CPU each:
        "linf", "l2" of delta; "mean_shift" = mean(n + delta) - mean(n); "norm_ratio" = |n + delta| / |n|;
        "typicality_before", "typicality_after" of n and n + delta, in nats per pixel, and "spread" = 1/sqrt(2d);
        "correlation_noise", "correlation_error": Pearson's, over pixels, of delta with n and with D(y) - x;
        "gain" = |D(y') - D(y)| / |delta|;
        "spectrum_00" ...: power of delta in `BANDS` radial bands of equal width up to sqrt(1/2) cycles per pixel,
        relative to white noise of its energy. NaN for images too small for so many bands.
        Quotients by zero are NaN.

    Raises:
        TypeError, ValueError: tensors that do not go together; the message names one.
    """
    check.require_images(clean, "clean")
    if clean.dim() != 4 or clean.numel() == 0:
        raise ValueError(f"clean: wanted images (B, C, H, W), got shape {tuple(clean.shape)}")
    others = {
        "noisy": noisy, "adversarial": adversarial, "restored": restored, "restored_adversarial": restored_adversarial
    }  # fmt: skip
    for name, t in others.items():
        check.require_images(t, name)
        if t.shape != clean.shape:
            raise ValueError(f"{name}: wanted shape {tuple(clean.shape)}, got {tuple(t.shape)}")
    x, y, adv, out, out_adv = (t.detach().double() for t in (clean, noisy, adversarial, restored, restored_adversarial))
    noise, moved, delta = y - x, adv - x, adv - y
    before, after = noise_stats(noise, sigma=sigma), noise_stats(moved, sigma=sigma)
    size = noise_stats(delta)
    nan = torch.full_like(size.l2, torch.nan)
    found = {
        "linf": size.linf,
        "l2": size.l2,
        "mean_shift": after.mean - before.mean,
        "norm_ratio": _ratio(after.l2, before.l2),
        "typicality_before": nan if before.typicality is None else before.typicality,
        "typicality_after": nan if after.typicality is None else after.typicality,
        "spread": torch.full_like(nan, expected_spread(clean)),
        "correlation_noise": correlation(delta, noise),
        "correlation_error": correlation(delta, out - x),
        "gain": _ratio((out_adv - out).flatten(1).norm(dim=1), size.l2),
    }
    bands = torch.stack([_spectrum(d) for d in delta]).unbind(1)
    return {k: v.cpu() for k, v in found.items()} | {f"spectrum_{i:02d}": band for i, band in enumerate(bands)}


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's coefficient over the elements of each sample (B, ...); NaN where one of them is constant."""
    p, q = (t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (a.double(), b.double()))
    return _ratio((p * q).sum(1), p.norm(dim=1) * q.norm(dim=1))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, torch.nan)


def _spectrum(delta: Tensor) -> Tensor:
    """(BANDS,) of one sample (C, H, W)."""
    try:
        return radial_spectrum(delta, bands=BANDS)
    except ValueError:  # constant, or too few frequencies for so many bands
        return torch.full((BANDS,), torch.nan, dtype=torch.float64)
