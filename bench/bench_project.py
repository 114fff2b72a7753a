"""project beside plain PyTorch: see fastattack/bench/ops/project.py."""

from bench.common import bench_of

test_project = bench_of("project")
