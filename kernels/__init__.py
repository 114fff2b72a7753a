"""The Triton kernels, one file a stem; fastattack/ops/triton.py launches them."""

from .accumulate import accumulate
from .apgd_step import apgd_step_l2, apgd_step_linf, apgd_step_measure, apgd_step_sums
from .common import BLOCK, MAX_TILES, largest
from .diffusion_step import diffusion_step
from .distances import DISTANCE_SUMS, distance_finish, distance_sums
from .l1_project import L1_FIRST, L1_ROUNDS, L1_STATE, L1_SUMS, l1_apply, l1_round, l1_sums
from .l1_step import RADIX, l1_count, l1_move
from .momentum_step import momentum_linf, momentum_magnitudes, momentum_sums
from .noise_stats import noise_finish, noise_sums
from .pgd_step import pgd_step_l2, pgd_step_linf, pgd_step_sums
from .preserve_noise import MOMENTS, ROUNDS, STATE, SUMS, preserve_l2, preserve_linf, preserve_moments, preserve_round
from .project import project_l2, project_linf, project_sums
from .quantise import quantise
from .random_start import start_l2, start_linf, start_squares
from .typical_noise import typical_sums, typical_write
from .zero_mean_step import ZERO_MEAN_SUMS, zero_mean_move, zero_mean_sums

__all__ = [
    "BLOCK",
    "DISTANCE_SUMS",
    "L1_FIRST",
    "L1_ROUNDS",
    "L1_STATE",
    "L1_SUMS",
    "MAX_TILES",
    "MOMENTS",
    "RADIX",
    "ROUNDS",
    "STATE",
    "SUMS",
    "ZERO_MEAN_SUMS",
    "accumulate",
    "apgd_step_l2",
    "apgd_step_linf",
    "apgd_step_measure",
    "apgd_step_sums",
    "diffusion_step",
    "distance_finish",
    "distance_sums",
    "l1_apply",
    "l1_count",
    "l1_move",
    "l1_round",
    "l1_sums",
    "largest",
    "momentum_linf",
    "momentum_magnitudes",
    "momentum_sums",
    "noise_finish",
    "noise_sums",
    "pgd_step_l2",
    "pgd_step_linf",
    "pgd_step_sums",
    "preserve_l2",
    "preserve_linf",
    "preserve_moments",
    "preserve_round",
    "project_l2",
    "project_linf",
    "project_sums",
    "quantise",
    "start_l2",
    "start_linf",
    "start_squares",
    "typical_sums",
    "typical_write",
    "zero_mean_move",
    "zero_mean_sums",
]
