"""momentum_step beside plain PyTorch: see fastattack/bench/ops/momentum_step.py."""

from bench.common import bench_of

test_momentum_step = bench_of("momentum_step")
