"""The ops in plain PyTorch, as a careful user writes them: out of place, in place, and for torch.compile."""

from __future__ import annotations

import torch
from torch import Tensor


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (x.dim() - 1))


def linf(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    return torch.minimum(torch.maximum(adv + step * grad.sign(), origin - eps), origin + eps)


def linf_(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    """In place: one buffer, which the gradient of this step lends."""
    adv.add_(grad.sign_(), alpha=step)
    adv.sub_(origin).clamp_(-eps, eps).add_(origin)
    return adv


def linf_copy(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    """For torch.compile: one fused kernel that writes adv."""
    adv.copy_((adv + step * grad.sign() - origin).clamp(-eps, eps) + origin)


def l2(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    delta = adv + step * grad / _norm(grad).clamp(min=1e-30) - origin
    return origin + delta * (eps / _norm(delta).clamp(min=1e-30)).clamp(max=1)


def l2_(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> Tensor:
    adv.addcdiv_(grad, _norm(grad).clamp_(min=1e-30), value=step).sub_(origin)
    return adv.mul_((eps / _norm(adv).clamp_(min=1e-30)).clamp_(max=1)).add_(origin)


def l2_copy(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    adv.copy_(l2(adv, grad, origin, eps, step))


def l2_one_reduction(adv: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float) -> None:
    """As our kernel does it, for torch.compile: the norm after the step from three sums of one pass."""
    d = (adv - origin).flatten(1)
    g = grad.flatten(1)
    gg, dg, dd = (g * g).sum(1), (d * g).sum(1), (d * d).sum(1)
    c = step / gg.sqrt().clamp(min=1e-30)
    after = (dd + 2 * c * dg + c * c * gg).clamp(min=0).sqrt()
    r = (eps / after.clamp(min=1e-30)).clamp(max=1)
    wide = [-1] + [1] * (adv.dim() - 1)
    adv.copy_(origin + r.reshape(wide) * (adv - origin + c.reshape(wide) * grad))


def momentum_linf(
    adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float, decay: float
) -> None:
    """MI-FGSM, in place."""
    momentum.mul_(decay).add_(grad / grad.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-30))
    adv.add_(momentum.sign(), alpha=step).sub_(origin).clamp_(-eps, eps).add_(origin)


def momentum_l2(
    adv: Tensor, momentum: Tensor, grad: Tensor, origin: Tensor, eps: float, step: float, decay: float
) -> None:
    momentum.mul_(decay).add_(grad / grad.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-30))
    l2_(adv, momentum, origin, eps, step)


def stats(noise: Tensor, sigma: float) -> tuple[Tensor, ...]:
    n = noise.flatten(1)
    square = (n * n).mean(1)
    return (
        n.mean(1), n.std(1, correction=0), n.abs().sum(1), torch.linalg.vector_norm(n, dim=1), n.abs().amax(1),
        0.5 * (square / sigma**2 - 1),
    )  # fmt: skip


def distances(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    d = (a - b).flatten(1)
    return (d * d).mean(1), d.abs().sum(1), torch.linalg.vector_norm(d, dim=1), d.abs().amax(1)


def distances_by_norms(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """As `distances`, with the mean squared error from the norm and no second square."""
    d = (a - b).flatten(1)
    l2 = torch.linalg.vector_norm(d, dim=1)
    norm = torch.linalg.vector_norm
    return l2 * l2 / d.shape[1], norm(d, 1, dim=1), l2, norm(d, float("inf"), dim=1)


def recentre(adv: Tensor, origin: Tensor, clean: Tensor, eps: float, rounds: int = 4) -> Tensor:
    """What a user writes for preserve_noise_: recentre, rescale, clip, and again; it does not reach the tolerances."""
    n, t = origin - clean, adv - clean
    dims = tuple(range(1, n.dim()))
    centre, spread = n.mean(dims, keepdim=True), n.std(dims, keepdim=True, correction=0)
    for _ in range(rounds):
        t = (t - t.mean(dims, keepdim=True)) * (spread / t.std(dims, keepdim=True, correction=0)) + centre
        t = torch.minimum(torch.maximum(t, n - eps), n + eps)
    return clean + t


def shell(clean: Tensor, sigma: float, gap: float) -> Tensor:
    """Noise on its shell, added to the images. torch sums squares in float32: the gap is off by about 1e-5."""
    noise = torch.randn_like(clean)
    noise = noise - noise.mean((1, 2, 3), keepdim=True)
    return clean + noise * (sigma * (clean[0].numel() * (1 + 2 * gap)) ** 0.5 / _norm(noise))


def shell_(clean: Tensor, sigma: float, gap: float) -> Tensor:
    """In place: the noise itself is the only buffer."""
    noise = torch.randn_like(clean)
    noise.sub_(noise.mean((1, 2, 3), keepdim=True))
    return noise.mul_(sigma * (clean[0].numel() * (1 + 2 * gap)) ** 0.5 / _norm(noise)).add_(clean)


def noisy(clean: Tensor, sigma: float, gap: float) -> Tensor:
    """Plain Gaussian noise, added to the images."""
    return torch.randn_like(clean).mul_(sigma).add_(clean)
