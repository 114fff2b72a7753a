"""The public op diffusion_step_."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import check, library
from .backend import Scalar
from .dispatch import resolve
from .run import run

_NAMES = ("x", "eps_hat")
_PARTS = ("coefficients[0]", "coefficients[1]", "coefficients[2]")


def diffusion_step_(
    x: Tensor,
    eps_hat: Tensor | None,
    *,
    coefficients: tuple[float | Tensor, float | Tensor, float | Tensor],
    seed: int,
    step: int = 0,
    sample_ids: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """One step of a diffusion, in one pass: x <- a x + b eps_hat + c z, z standard normal, coefficients = (a, b, c).

    The reverse steps of DDPM (Ho et al., arXiv 2006.11239, Algorithm 2) and DDIM (Song et al., arXiv 2010.02502,
    equation 12) have this form, with eps_hat the noise that the model sees in x. Without eps_hat it is the forward jump
    x <- a x + c z: a = sqrt(alpha_bar), c = sqrt(1 - alpha_bar). Where a coefficient is 0 its term is not looked at: a
    NaN there vanishes, c = 0 draws nothing, and (0, 0, 1) is z alone. A coefficient counts as 0 where it is 0 in the
    computing type.

    z is Philox 4x32-10 of (seed, step, sample id, element in row-major order) and Box-Muller, in float32; the products
    and the sums, left to right, are each rounded (no fused multiply-add): the same bits on every backend, for every
    memory format and in every batch split. Calls with the same seed, step and ids draw the same z. So a process counts
    its draws: a forward jump to level t followed by the reverse step from t needs another ``step`` than that one.

    Args:
        x: (B, ...), written in place; fewer than 2**34 elements in a sample.
        eps_hat: as x: shape, dtype, device; or None.
        coefficients: (a, b, c), of either sign, finite: each a number or (B,). b is the number 0 without eps_hat.
        seed: 0 <= seed < 2**64.
        step: which draw of the process it is, 0 <= step < 2**24.
        sample_ids: (B,) integers that name the samples; 0 .. B-1 by default.

    Raises:
        TypeError, ValueError, BackendUnavailable: see fastattack.ops.
    """
    if library.traced(x):
        library.diffusion_step(x, eps_hat, coefficients, seed, step, sample_ids, backend)
        return x
    given = (x,) if eps_hat is None else (x, eps_hat)
    names = _NAMES[: len(given)]
    images = check.images(names, *given)
    like = images[0]
    if like.shape[0] and like.numel() // like.shape[0] >= 2**34:
        raise ValueError(f"x: wanted fewer than 2**34 elements in a sample, got shape {tuple(like.shape)}")
    shares = _shares(coefficients, like, guided=eps_hat is not None)
    draw = (check.seed_of(seed), check.whole(step, "step", 24), check.ids_of(sample_ids, like))
    kernel = resolve(like.device, backend).diffusion_step
    if eps_hat is None:
        run(lambda x, *rest: kernel(x, None, *rest), names, images, (*shares, *draw), keep_order=True)
        return x
    if images[1].requires_grad and torch.is_grad_enabled():  # a defence whose gradient is lost looks strong
        raise ValueError(
            "eps_hat: requires grad, and autograd does not see this in-place op; use torch.no_grad() or detach()"
        )
    run(kernel, names, images, (*shares, *draw), keep_order=True)
    return x


def _shares(coefficients: Any, like: Tensor, *, guided: bool) -> tuple[Scalar, Scalar, Scalar]:
    try:
        first, second, third = coefficients
    except (TypeError, ValueError):
        raise TypeError(
            f"coefficients: wanted (a, b, c), each a number or a (B,) tensor, got {coefficients!r}"
        ) from None
    a, b, c = (_finite(v, name, like) for v, name in zip((first, second, third), _PARTS, strict=True))
    if not guided and (isinstance(b, Tensor) or b != 0):
        raise ValueError(f"{_PARTS[1]}: wanted the number 0 without eps_hat, got {second!r}")
    return a, b, c


def _finite(value: Any, name: str, like: Tensor) -> Scalar:
    """A number or (B,) numbers that are finite in the type in which ``like`` is computed."""
    share = check.per_sample(value, name, like)
    largest = torch.finfo(torch.float64 if like.dtype is torch.float64 else torch.float32).max
    worst = abs(share) if not isinstance(share, Tensor) else share.abs().amax().item() if len(share) else 0.0
    if worst > largest:
        raise ValueError(f"{name}: wanted finite numbers, at most {largest:g} in size, got {worst:g}")
    return share


library.register(diffusion_step_)
