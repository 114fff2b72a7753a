"""The table of the triton backend: launchers of the kernels of kernels/, installed as fastattack.kernels."""

from __future__ import annotations

import torch

from .backend import Backend, BackendUnavailable
from .triton_accumulate import accumulate
from .triton_apgd import apgd_step
from .triton_diffusion import diffusion_step
from .triton_distances import distances
from .triton_l1 import l1_project, l1_step
from .triton_momentum import momentum_step
from .triton_quantise import quantise
from .triton_steps import noise_stats, pgd_step, preserve_noise, project, random_start, typical_noise
from .triton_zero_mean import zero_mean_step


def load() -> Backend:
    """The backend, or BackendUnavailable where Triton is missing or has nothing to run on."""
    try:
        import triton
    except ImportError as error:
        raise BackendUnavailable(f"triton cannot be imported: {error}") from error
    if not (torch.cuda.is_available() or triton.knobs.runtime.interpret):
        raise BackendUnavailable("triton needs a GPU, or TRITON_INTERPRET=1 in the environment (slow: for tests)")
    return Backend(
        "triton",
        pgd_step=pgd_step,
        project=project,
        preserve_noise=preserve_noise,
        noise_stats=noise_stats,
        distances=distances,
        random_start=random_start,
        typical_noise=typical_noise,
        diffusion_step=diffusion_step,
        momentum_step=momentum_step,
        accumulate=accumulate,
        apgd_step=apgd_step,
        zero_mean_step=zero_mean_step,
        quantise=quantise,
        l1_project=l1_project,
        l1_step=l1_step,
    )
