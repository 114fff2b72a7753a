#!/usr/bin/env bash
# Builds the wheel in an environment of its own (no torch there), and imports it from outside the repository.
set -euo pipefail
python="$(realpath -s "$1")"
root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
FASTATTACK_CUDA=0 "$python" -m pip --disable-pip-version-check wheel -q --no-deps -w "$work" "$root"
"$python" -m pip --disable-pip-version-check install -q --no-deps --target "$work/site" "$work"/fastattack-*.whl
cd "$work"
PYTHONPATH="$work/site" "$python" - <<'PY'
import pathlib
import torch
import fastattack as fa
import fastattack.kernels
from fastattack import _cpu
from fastattack.ops.cupy import source_root

place = pathlib.Path(fa.__file__).parent
assert place.parent.name == "site", place
assert (source_root() / "include" / "fastattack" / "pgd_step.h").is_file(), source_root()
assert source_root().is_relative_to(place), source_root()
report = place / "report" / "templates"
assert {path.name for path in report.iterdir()} == {"report.html.j2", "report.css", "report.js"}, report
model = fa.models.load("embedded")
clean = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
adv = fa.DenoisingPGD(model, eps=5 / 255, steps=2, backend="cpu")(noisy, clean)
assert (adv - noisy).abs().max() <= 5 / 255
print(f"wheel: {place} works, kernels for {_cpu.instruction_set()}")
PY
