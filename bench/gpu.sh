#!/usr/bin/env bash
# All that needs a GPU, in under nine minutes and without a network: build, tests, compute-sanitizer, benchmarks.
#
#   bench/gpu.sh [FILE]    the result; docs/results/gpu-NAME.json by default. Exit code 1: a part failed, 2: no GPU
#   bench/gpu.sh --list    the parts and their limits
#
# PYTHON names the Python that has torch (python3). Outside a virtual environment the build goes to one in out/gpu,
# which sees that Python's packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" -m bench.gpu_suite "$@"
