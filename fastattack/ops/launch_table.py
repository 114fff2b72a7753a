"""The table of the cuda and cupy backends: every op on top of one way to launch kernels."""

from __future__ import annotations

from functools import partial

from .backend import Backend
from .launch import Launcher, Session
from .launch_accumulate import accumulate
from .launch_apgd import apgd_step
from .launch_diffusion import diffusion_step
from .launch_distances import distances
from .launch_l1 import functions as l1_functions
from .launch_momentum import momentum_step
from .launch_quantise import quantise
from .launch_zero_mean import zero_mean_step


def backend(name: str, session: Session) -> Backend:
    ops = Launcher(session)
    return Backend(
        name,
        pgd_step=ops.pgd_step,
        project=ops.project,
        preserve_noise=ops.preserve_noise,
        noise_stats=ops.noise_stats,
        distances=partial(distances, ops),
        random_start=ops.random_start,
        typical_noise=ops.typical_noise,
        diffusion_step=partial(diffusion_step, ops),
        momentum_step=partial(momentum_step, ops),
        accumulate=partial(accumulate, ops),
        apgd_step=partial(apgd_step, ops),
        zero_mean_step=partial(zero_mean_step, ops),
        quantise=partial(quantise, ops),
        **l1_functions(session),
    )
