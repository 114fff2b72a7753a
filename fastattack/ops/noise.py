"""The public op typical_noise: what it checks, what it draws, and the coloured way through the FFT."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import check, library
from . import spectrum as colours
from .backend import Backend, Scalar
from .dispatch import resolve
from .draws import SLOTS, draw, interval_of
from .layout import INNER_DIMS, collapse

Levels = tuple[Scalar, Scalar, Scalar]
"""sigma, typicality and mean, checked and drawn."""

LEAST = 4
"""Elements of a sample that can be put on a shell."""

PLAIN = math.nan
"""The typicality of a sample that is plain N(mean, sigma^2), not put on a shell."""


def typical_noise(
    shape_or_like: Sequence[int] | Tensor,
    *,
    sigma: float | Tensor | tuple[float, float],
    typicality: float | Tensor | tuple[float, float] | None = 0.0,
    mean: float | Tensor | tuple[float, float] = 0.0,
    spectrum: colours.Spectrum | colours.Power | None = None,
    seed: int,
    sample_ids: Tensor | None = None,
    out: Tensor | None = None,
    clean: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Noise drawn from a typical set: |n - mean|^2 = d sigma^2 (1 + 2 typicality) for each sample of d elements.

    The direction is that of a white (or coloured) Gaussian whose sample mean is exactly ``mean`` (arXiv 2412.05943;
    this project's formulation): norm to 1e-5 relative and mean to 1e-5 sigma in float32 and float64; rounding to
    float16 or bfloat16, and adding ``clean``, add their own. A shell needs at least 4 elements in each sample.

    The numbers are Philox 4x32-10 of (seed, sample id, element in row-major order) and Box-Muller: white noise has the
    same bits on every backend, for every memory format and in every batch split.

    Args:
        shape_or_like: (B, ...), as a shape (float32 on the CPU, or as ``clean`` or ``out`` is) or as a tensor, whose
            dtype, device and memory format are taken and whose values are not read.
        sigma: standard deviation on the scale of the images (25/255), > 0. As ``typicality`` and ``mean``: a number, a
            (B,) tensor, or an interval (low, high) from which each sample draws uniformly.
        typicality: the gap in nats per pixel, > -1/2. None, or NaN in a tensor: plain N(mean, sigma^2), a fused randn.
        mean: of each sample; |mean| <= sigma sqrt(1 + 2 typicality), where the shift would take all of the energy.
        spectrum: None for white noise; else a `Spectrum`, or its power alone: a function of the radial frequency, the
            powers of radial bands, a map of one image size, or "adversarial". The tensor is then (B, ..., H, W). This
            way goes through the FFT and needs temporaries of the size of the batch; its bits depend on the machine.
        seed: 0 <= seed < 2**64.
        sample_ids: (B,) integers that name the samples; 0 .. B-1 by default.
        out: where to write, (B, ...); a new tensor by default.
        clean: (B, ...) images to which the noise is added in the same pass; the noise itself is never stored.

    Returns:
        out, (B, ...).

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    out = _room(shape_or_like, out, clean)
    if not library.traced(out):
        _typical_noise(out, clean, sigma, typicality, mean, spectrum, seed, sample_ids, backend)
    elif spectrum is None:
        library.typical_noise(out, clean, sigma, typicality, mean, seed, sample_ids, backend)
    else:  # no schema holds a spectrum: the compiled graph ends before it and begins again after
        eagerly = torch.compiler.disable(_typical_noise)  # type: ignore[no-untyped-call]
        eagerly(out, clean, sigma, typicality, mean, spectrum, seed, sample_ids, backend)
    return out


def _room(shape_or_like: Any, out: Any, clean: Any) -> Tensor:
    """The tensor to write; shape_or_like, out and clean agree."""
    named = {} if out is None else {"out": check.as_tensor(out, "out")}
    if clean is not None:
        named["clean"] = check.as_tensor(clean, "clean")
    fresh: Tensor | None = None
    if isinstance(shape_or_like, Tensor) or hasattr(shape_or_like, "__dlpack__"):
        like = check.as_tensor(shape_or_like, "shape_or_like")
    else:
        try:
            shape = tuple(operator.index(n) for n in shape_or_like)
        except TypeError:
            kind = type(shape_or_like).__name__
            raise TypeError(
                f"shape_or_like: wanted a shape (B, ...) or a tensor, got {kind} {shape_or_like!r}"
            ) from None
        if any(n < 0 for n in shape):
            raise ValueError(f"shape_or_like: wanted sizes >= 0, got {shape}")
        if named:
            like = next(iter(named.values()))
        else:
            like = fresh = torch.empty(shape, dtype=torch.float32)
        if tuple(like.shape) != shape:
            name = next(iter(named))
            raise ValueError(f"{name}: wanted shape {shape} as shape_or_like says, got {tuple(like.shape)}")
    check.require_images(like, "shape_or_like")
    check.require_alike("shape_or_like", like, *named.items())
    if like.shape[0] and like.numel() // like.shape[0] >= 2**34:
        raise ValueError(f"shape_or_like: wanted fewer than 2**34 elements in a sample, got shape {tuple(like.shape)}")
    if "out" in named:
        return named["out"]
    return torch.empty_like(like, requires_grad=False) if fresh is None else fresh


def _check_numbers(sigma: float, typicality: float, mean: float) -> None:
    """The levels of one sample, or the worst of several; a typicality that is NaN stands for plain noise."""
    plain = math.isnan(typicality)
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma: wanted a finite standard deviation > 0, got {sigma:g}")
    if not (plain or -0.5 < typicality < math.inf):
        raise ValueError(f"typicality: wanted a finite gap > -1/2, got {typicality:g}")
    if not abs(mean) < math.inf:
        raise ValueError(f"mean: wanted a finite number, got {mean:g}")
    limit = math.inf if plain else sigma * math.sqrt(1 + 2 * typicality)
    if abs(mean) > limit:
        raise ValueError(
            f"mean: wanted |mean| <= sigma sqrt(1 + 2 typicality) = {limit:g}, what the norm allows, got {mean:g}"
        )


def _check_levels(given: tuple[Any, Any, Any], drawn: Levels, batch: int) -> None:
    """By the ends of intervals, without waiting for the device; sample by sample where the caller gave a tensor."""
    if any(isinstance(v, Tensor) for v in given):
        columns = [v.tolist() if isinstance(v, Tensor) else [v] * batch for v in drawn]
        for numbers in zip(*columns, strict=True):
            _check_numbers(*numbers)
        return
    (s, _), (t, _), (low, high) = (
        interval_of(v, name) or (float(v), float(v)) for v, name in zip(given, SLOTS, strict=True)
    )
    _check_numbers(s, t, max(low, high, key=abs))


@lru_cache(maxsize=256)
def _numbers(sigma: float, typicality: float, mean: float) -> Levels:
    """The common call, checked once."""
    _check_numbers(sigma, typicality, mean)
    return sigma, typicality, mean


def _levels(out: Tensor, sigma: Any, typicality: Any, mean: Any, seed: int, ids: Tensor | None) -> Levels:
    gap = PLAIN if typicality is None else typicality
    shell = not (isinstance(gap, float) and math.isnan(gap))
    if typicality is not None and not shell:
        raise ValueError("typicality: wanted a number > -1/2, an interval or None, got nan")
    levels: Levels
    if type(sigma) is float and type(gap) is float and type(mean) is float:
        levels = _numbers(sigma, gap, mean)
    else:
        levels = (
            draw(sigma, "sigma", out, seed, ids),
            draw(gap, "typicality", out, seed, ids) if shell else PLAIN,
            draw(mean, "mean", out, seed, ids),
        )
        _check_levels((sigma, gap, mean), levels, out.shape[0])
    small = out.numel() < LEAST * out.shape[0]
    if shell and small and not (isinstance(gap, Tensor) and bool(gap.isnan().all())):
        require_room_for_shell(out)
    return levels


def require_room_for_shell(like: Tensor) -> None:
    """In fewer dimensions what is left of the normals without their mean can vanish."""
    if like.shape[0] and like.numel() < LEAST * like.shape[0]:
        raise ValueError(
            f"shape_or_like: wanted at least {LEAST} elements in each sample for a shell, got shape "
            f"{tuple(like.shape)}; typicality=None gives plain noise"
        )


def _typical_noise(
    out: Tensor,
    clean: Tensor | None,
    sigma: Any,
    typicality: Any,
    mean: Any,
    spectrum: Any,
    seed: int,
    sample_ids: Tensor | None,
    backend: str,
) -> None:
    number, ids = check.seed_of(seed), check.ids_of(sample_ids, out)
    if clean is not None and clean.requires_grad:
        clean = clean.detach()
    table = resolve(out.device, backend)
    levels = _levels(out, sigma, typicality, mean, number, ids)
    gain = None if spectrum is None else colours.gain_of(spectrum, out)
    if out.numel() == 0:
        return
    check.require_writable(out, *(() if clean is None else (("clean", clean),)), name="out")
    fill(out, clean, levels, gain, number, ids, table)
    check.written((out,))


def fill(
    out: Tensor,
    clean: Tensor | None,
    levels: Levels,
    gain: Tensor | None,
    seed: int,
    ids: Tensor | None,
    table: Backend,
) -> None:
    """Writes ``out`` from levels and a gain that have been checked and drawn; waits for no device."""
    given = () if clean is None else (clean,)
    if gain is not None:
        _fill_coloured(out, clean, levels, gain, seed, ids, table)
    elif out.dim() > INNER_DIMS + 1 and collapse(out, *given, keep_order=True) is None:
        copy = torch.empty_like(out, memory_format=torch.contiguous_format)
        table.typical_noise(copy, None if clean is None else clean.contiguous(), *levels, seed, ids)
        out.copy_(copy)
    else:
        table.typical_noise(out, clean, *levels, seed, ids)


@torch.no_grad()
def _fill_coloured(
    out: Tensor, clean: Tensor | None, levels: Levels, gain: Tensor, seed: int, ids: Tensor | None, table: Backend
) -> None:
    """White noise, coloured by the FFT, then put on the shell by its own mean and standard deviation."""
    wide = torch.float64 if out.dtype is torch.float64 else torch.float32
    white = torch.empty(out.shape, dtype=wide, device=out.device)
    table.typical_noise(white, None, 1.0, PLAIN, 0.0, seed, ids)
    noise = colours.colour(white, gain)
    one = [-1] + [1] * (out.dim() - 1)
    s, t, m = (torch.as_tensor(v, dtype=torch.float64, device=out.device).reshape(one) for v in levels)
    stats = table.noise_stats(noise, PLAIN, 0.0).double()
    centre, spread = stats[:, 0].reshape(one), stats[:, 1].reshape(one)
    plain = t.isnan()
    scale = torch.where(plain, s, s * (1 + 2 * t).sqrt() / spread)
    shift = torch.where(plain, m, m - scale * centre)
    noise.mul_(scale.to(wide)).add_(shift.to(wide))
    out.copy_(noise if clean is None else noise.add_(clean))


library.register(_typical_noise)
