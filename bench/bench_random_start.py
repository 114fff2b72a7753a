"""random_start beside plain PyTorch: see fastattack/bench/ops/random_start.py."""

from bench.common import bench_of

test_random_start = bench_of("random_start")
