"""The solver behind preserve_noise_, on (B, 1, ...) tensors: preserve_noise.h in plain torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 16
GOAL = 1e-6
ACCEPT = 4e-5
SHRINK_MARGIN = 1.0 - 2.0**-22  # as in pgd_step.h


def sample_sum(x: Tensor) -> Tensor:
    """Sum over all but the batch dimension, in float64, kept as (B, 1, ...)."""
    return x.double().reshape(x.shape[0], -1).sum(1).reshape(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class Moments:
    """Sums over one sample of n, n^2, t, t^2, t n, and the number of entries."""

    n: Tensor
    nn: Tensor
    t: Tensor
    tt: Tensor
    tn: Tensor
    count: int

    @property
    def var_n(self) -> Tensor:
        return (self.nn - self.n**2 / self.count).clamp(min=0)

    @property
    def var_t(self) -> Tensor:
        return (self.tt - self.t**2 / self.count).clamp(min=0)


def moments(t: Tensor, n: Tensor) -> Moments:
    td, nd = t.double(), n.double()
    return Moments(
        sample_sum(nd), sample_sum(nd * nd), sample_sum(td), sample_sum(td * td), sample_sum(td * nd), t[0].numel()
    )


def solve_linf(t: Tensor, n: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(a - 1, b, still) of z = clip(a t - b, n - eps, n + eps): Newton on the concave dual of mean and norm."""
    m = moments(t, n)
    constant = m.var_n <= 1e-12 * m.nn
    a = torch.where((m.var_t > 1e-20 * m.var_n) & ~constant, (m.var_n / m.var_t).sqrt(), 1.0)
    lam, mu = 1 / a - 1, (a * m.t - m.n) / m.count / a
    done = constant
    best = torch.full_like(lam, 1e300)
    dual_from = -best
    best_lam = best_mu = from_lam = from_mu = step_lam = step_mu = torch.zeros_like(lam)
    length = torch.ones_like(lam)
    low, high = n - eps, n + eps
    for _ in range(ROUNDS):
        a, b = 1 / (1 + lam), mu / (1 + lam)
        raw = t + ((-lam * a).to(t.dtype) * t - b.to(t.dtype))
        z = torch.where(raw < low, low, raw)
        z = torch.where(z > high, high, z).double()
        td, free = t.double(), ((raw > low) & (raw < high)).double()
        zz, free_n, free_t, free_tt = (
            sample_sum(z * z),
            sample_sum(free),
            sample_sum(free * td),
            sample_sum(free * td * td),
        )
        slope_lam, slope_mu = 0.5 * (zz - m.nn), sample_sum(z) - m.n
        error = torch.maximum(slope_mu.abs() / (m.count * m.nn).sqrt(), slope_lam.abs() / m.nn)
        better = ~done & ((error < best) | error.isnan())
        best, best_lam, best_mu = (
            torch.where(better, x, y) for x, y in ((error, best), (lam, best_lam), (mu, best_mu))
        )
        done = done | ~(error > GOAL)
        dual = 0.5 * zz - sample_sum(z * td) + lam * slope_lam + mu * slope_mu
        rise = dual >= dual_from - 1e-13 * m.tt
        free_z = a * free_t - b * free_n
        free_zz = a * a * free_tt - 2 * a * b * free_t + b * b * free_n
        h11, h12, h22 = a * free_zz + 1e-7 * m.nn, a * free_z, a * free_n + 1e-7 * m.count
        det = h11 * h22 - h12 * h12
        newton_lam = (h22 * slope_lam - h12 * slope_mu) / det
        newton_mu = (h11 * slope_mu - h12 * slope_lam) / det
        from_lam, from_mu = torch.where(rise, lam, from_lam), torch.where(rise, mu, from_mu)
        step_lam, step_mu = torch.where(rise, newton_lam, step_lam), torch.where(rise, newton_mu, step_mu)
        dual_from = torch.where(rise, dual, dual_from)
        full = (0.5 * (1 + lam) / step_lam.abs()).clamp(max=1)
        length = torch.where(rise, full, length * 0.3)
        lam = torch.where(done, lam, from_lam + length * step_lam)
        mu = torch.where(done, mu, from_mu + length * step_mu)
    a = 1 / (1 + best_lam)
    return -best_lam * a, best_mu * a, best > ACCEPT


def solve_l2(t: Tensor, n: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, B - 1, C, still) of z = A t + B n + C on the sphere of n's norm and mean, at most eps from n."""
    m = moments(t, n)
    rr, vv = m.var_n, m.var_t
    uv = m.tn - m.n * m.t / m.count
    still = (rr <= 1e-12 * m.nn) | (vv <= 1e-12 * m.tt)
    chord = (eps * SHRINK_MARGIN) ** 2 / (2 * rr)
    beyond = 1 - uv / (rr * vv).sqrt() > chord
    across = vv - uv * uv / rr
    still = still | (beyond & (across <= 1e-12 * vv))
    a = torch.where(beyond, (chord * (2 - chord) * rr / across).sqrt(), (rr / vv).sqrt())
    b_minus_1 = torch.where(beyond, -chord - a * uv / rr, -1.0)
    c = -b_minus_1 * m.n / m.count - a * m.t / m.count
    return a, b_minus_1, c, still
