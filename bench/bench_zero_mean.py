"""zero_mean beside plain PyTorch: see fastattack/bench/ops/zero_mean.py."""

from bench.common import bench_of

test_zero_mean = bench_of("zero_mean")
