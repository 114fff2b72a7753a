"""preserve_noise beside plain PyTorch: see fastattack/bench/ops/preserve_noise.py."""

from bench.common import bench_of

test_preserve_noise = bench_of("preserve_noise")
