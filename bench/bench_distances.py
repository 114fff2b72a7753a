"""distances beside plain PyTorch: see fastattack/bench/ops/distances.py."""

from bench.common import bench_of

test_distances = bench_of("distances")
