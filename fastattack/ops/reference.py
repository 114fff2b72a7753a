"""The table of the reference backend: every op in plain torch. The oracle of the others, and the fallback."""

from __future__ import annotations

from .backend import Backend
from .reference_accumulate import accumulate
from .reference_apgd import apgd_step
from .reference_diffusion import diffusion_step
from .reference_distances import distances
from .reference_l1 import l1_project, l1_step
from .reference_momentum import momentum_step
from .reference_quantise import quantise
from .reference_steps import noise_stats, pgd_step, preserve_noise, project, random_start, typical_noise
from .reference_zero_mean import zero_mean_step

BACKEND = Backend(
    "reference",
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
