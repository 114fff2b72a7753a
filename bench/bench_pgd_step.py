"""pgd_step beside plain PyTorch: see fastattack/bench/ops/pgd_step.py."""

from bench.common import bench_of

test_pgd_step = bench_of("pgd_step")
