"""accumulate beside plain PyTorch: see fastattack/bench/ops/accumulate.py."""

from bench.common import bench_of

test_accumulate = bench_of("accumulate")
