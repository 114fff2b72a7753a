"""Plain torch, on any device: the oracle of the other backends and the fallback of `auto`.

Written for reading, not for speed. The same formulas, in the same order of operations, as csrc/include/fastattack;
float16 and bfloat16 are computed in float32, float64 in float64, sums over a sample always in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference_noise, reference_random
from .backend import Bounds, Scalar
from .reference_noise import SHRINK_MARGIN, sample_sum


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that storage ``dtype`` is computed in."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def per_sample(value: Scalar, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A float or (B,) tensor as (B, 1, ...) beside ``like``."""
    tensor = torch.as_tensor(value, dtype=torch.float64, device=like.device).to(dtype)
    return tensor.reshape(-1, *[1] * (like.dim() - 1))


def sample_max(x: Tensor) -> Tensor:
    """Largest entry of each sample, kept as (B, 1, ...)."""
    return x.reshape(x.shape[0], -1).amax(1).reshape(-1, *[1] * (x.dim() - 1))


def power_of_two_scale(*tensors: Tensor) -> Tensor:
    """2^-k for the largest |entry| 2^k of each sample, (B, 1, ...) float64; 1 where that entry is 0 or not finite."""
    largest = torch.stack([sample_max(t.abs()).double() for t in tensors]).amax(0)
    exponent = torch.frexp(largest).exponent.clamp(-1000, 1000)
    usable = (largest > 0) & largest.isfinite()
    return torch.where(usable, torch.ldexp(torch.ones_like(largest), -exponent), torch.ones_like(largest))


def add_inward(origin: Tensor, delta: Tensor, storage: torch.dtype) -> Tensor:
    """origin + delta on the storage grid, never farther from origin than |delta|."""
    s = (origin + delta).to(storage)
    moved = s.to(origin.dtype) - origin
    beyond = torch.where(delta >= 0, moved > delta, moved < delta)
    infinity = torch.full_like(s, float("inf"))
    inner = torch.nextafter(s, torch.where(delta >= 0, -infinity, infinity))
    return torch.where(beyond, inner, s).to(origin.dtype)


def clip(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clamp that lets a NaN in x through."""
    x = torch.where(x < low, low, x)
    return torch.where(x > high, high, x)


def clip_to_ball_linf(x: Tensor, origin: Tensor, eps: Tensor, storage: torch.dtype) -> Tensor:
    """x on the storage grid where that lies in the box, else the face of the box on x's side, rounded inwards."""
    x = x.to(storage).to(x.dtype)
    moved = x - origin
    face = add_inward(origin, torch.where(moved < 0, -eps, eps), storage)
    return torch.where(moved.abs() > eps, face, x)


def shrink_to(norm: Tensor, eps: Tensor) -> Tensor:
    return torch.where(norm > eps, eps / norm * SHRINK_MARGIN, torch.ones_like(norm))


def _write(adv: Tensor, value: Tensor, origin: Tensor, mask: Tensor | None, bounds: Bounds) -> None:
    value = clip(value, *bounds).to(adv.dtype)
    adv.copy_(value if mask is None else torch.where(mask, value, origin))


def pgd_step(
    adv: Tensor,
    grad: Tensor,
    origin: Tensor,
    mask: Tensor | None,
    norm: str,
    eps: Scalar,
    step: Scalar,
    bounds: Bounds,
) -> None:
    real = real_dtype(adv.dtype)
    a, g, o = adv.to(real), grad.to(real), origin.to(real)
    if norm == "linf":
        e, size = per_sample(eps, adv, real), per_sample(step, adv, real)
        moved = a + torch.where(g > 0, size, torch.where(g < 0, -size, g))
        _write(adv, clip_to_ball_linf(moved, o, e, adv.dtype), origin, mask, bounds)
        return
    d = a - o
    if mask is not None:
        d, g = torch.where(mask, d, 0), torch.where(mask, g, 0)
    e, size = per_sample(eps, adv, torch.float64), per_sample(step, adv, torch.float64)
    one = torch.ones_like(e)
    scale_g, scale_d = (power_of_two_scale(g), power_of_two_scale(a, o)) if real is torch.float64 else (one, one)
    gs, ds = g.double() * scale_g, d.double() * scale_d
    gg, dg, dd = sample_sum(gs * gs), sample_sum(ds * gs), sample_sum(ds * ds)
    length = gg.sqrt()
    coefficient = torch.where(length == 0, 0.0, size / length)
    unit = coefficient * scale_d
    after = (dd + 2 * unit * dg + unit * unit * gg).clamp(min=0).sqrt() / scale_d
    shrink = shrink_to(after, e).to(real)
    move = (gs * coefficient).to(real)
    value = add_inward(o, shrink * (d + move), adv.dtype)
    _write(adv, torch.where((move == 0) & (shrink == 1), a, value), origin, mask, bounds)


def project(adv: Tensor, origin: Tensor, mask: Tensor | None, norm: str, eps: Scalar, bounds: Bounds) -> None:
    real = real_dtype(adv.dtype)
    a, o = adv.to(real), origin.to(real)
    if norm == "linf":
        _write(adv, clip_to_ball_linf(a, o, per_sample(eps, adv, real), adv.dtype), origin, mask, bounds)
        return
    d = a - o if mask is None else torch.where(mask, a - o, 0)
    e = per_sample(eps, adv, torch.float64)
    scale = power_of_two_scale(a, o) if real is torch.float64 else torch.ones_like(e)
    length = sample_sum((d.double() * scale).square()).sqrt() / scale
    shrink = shrink_to(length, e).to(real)
    _write(adv, torch.where(shrink == 1, a, add_inward(o, shrink * d, adv.dtype)), origin, mask, bounds)


def preserve_noise(adv: Tensor, origin: Tensor, clean: Tensor, norm: str, eps: Scalar) -> None:
    real = real_dtype(adv.dtype)
    a, o, c = adv.to(real), origin.to(real), clean.to(real)
    t, n = a - c, o - c
    if norm == "linf":
        e = per_sample(eps, adv, real)
        a_minus_1, b, still = reference_noise.solve_linf(t, n, e)
        moved = a + (a_minus_1.to(real) * t - b.to(real))
        value = clip_to_ball_linf(moved, o, e, adv.dtype)
    else:
        first, second, shift, still = reference_noise.solve_l2(t, n, per_sample(eps, adv, torch.float64))
        delta = first.to(real) * t + (second.to(real) * n + shift.to(real))
        value = add_inward(o, delta, adv.dtype)
    adv.copy_(torch.where(still, o, value).to(adv.dtype))


def noise_stats(noise: Tensor, sigma: Scalar, mean: Scalar) -> Tensor:
    n = noise.double()
    centre, sd = per_sample(mean, noise, torch.float64), per_sample(sigma, noise, torch.float64)
    scale = power_of_two_scale(noise) if noise.dtype is torch.float64 else torch.ones_like(centre)
    count = noise[0].numel()
    x, m = n * scale - centre * scale, n * scale
    shifted = sample_sum(x) / count
    square = sample_sum(x * x) / count
    columns = [
        centre + shifted / scale,
        (square - shifted * shifted).clamp(min=0).sqrt() / scale,
        sample_sum(m.abs()) / scale,
        sample_sum(m * m).sqrt() / scale,
        sample_max(m.abs()) / scale,
        0.5 * ((square.sqrt() / scale / sd).square() - 1),
    ]
    batch = noise.shape[0]
    return torch.stack([c.flatten().expand(batch) for c in columns], 1).to(real_dtype(noise.dtype))


def random_start(
    adv: Tensor, origin: Tensor, norm: str, eps: Scalar, bounds: Bounds, seed: int, sample_ids: Tensor | None
) -> None:
    real = real_dtype(adv.dtype)
    o = origin.to(real)
    ids = torch.arange(adv.shape[0], device=adv.device) if sample_ids is None else sample_ids
    count = adv[0].numel()
    if norm == "linf":
        uniform = reference_random.start_uniforms(count, seed, ids).reshape(adv.shape)
        delta = per_sample(eps, adv, real) * uniform.to(real)
    else:
        normals, length = reference_random.start_normals(count, seed, ids)
        scale = per_sample(eps, adv, torch.float64) / length.reshape(-1, *[1] * (adv.dim() - 1)) * SHRINK_MARGIN
        delta = scale.to(real) * normals.reshape(adv.shape).to(real)
    _write(adv, add_inward(o, delta, adv.dtype), origin, None, bounds)


def typical_noise(
    out: Tensor,
    clean: Tensor | None,
    sigma: Scalar,
    typicality: Scalar,
    mean: Scalar,
    seed: int,
    sample_ids: Tensor | None,
) -> None:
    real, batch = real_dtype(out.dtype), out.shape[0]
    ids = torch.arange(batch, device=out.device) if sample_ids is None else sample_ids
    normals = reference_random.sample_normals(out[0].numel(), seed, ids, reference_random.STREAM_TYPICAL_NOISE)
    levels = [
        torch.as_tensor(v, dtype=torch.float64, device=out.device).expand(batch) for v in (sigma, typicality, mean)
    ]
    scale, shift = reference_random.shell_of(normals, *levels)
    noise = scale.to(real)[:, None] * normals.to(real) + shift.to(real)[:, None]
    value = noise.reshape(out.shape)
    out.copy_((value if clean is None else clean.to(real) + value).to(out.dtype))
