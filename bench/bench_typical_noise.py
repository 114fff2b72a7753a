"""typical_noise beside plain PyTorch: see fastattack/bench/ops/typical_noise.py."""

from bench.common import bench_of

test_typical_noise = bench_of("typical_noise")
