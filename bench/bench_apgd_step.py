"""apgd_step beside plain PyTorch: see fastattack/bench/ops/apgd_step.py."""

from bench.common import bench_of

test_apgd_step = bench_of("apgd_step")
