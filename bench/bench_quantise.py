"""quantise beside plain PyTorch: see fastattack/bench/ops/quantise.py."""

from bench.common import bench_of

test_quantise = bench_of("quantise")
