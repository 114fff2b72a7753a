"""l1 beside plain PyTorch: see fastattack/bench/ops/l1.py."""

from bench.common import bench_of

test_l1 = bench_of("l1")
