"""diffusion_step_ beside plain PyTorch: see fastattack/bench/ops/diffusion_step.py."""

from bench.common import bench_of

test_diffusion_step = bench_of("diffusion_step")
