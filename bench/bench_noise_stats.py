"""noise_stats beside plain PyTorch: see fastattack/bench/ops/noise_stats.py."""

from bench.common import bench_of

test_noise_stats = bench_of("noise_stats")
