#!/usr/bin/env bash
# Builds the wheel in an environment of its own (no torch there), and imports it from outside the repository. What the
# editable install has compiled is not compiled again.
set -euo pipefail
python="$(realpath -s "$1")"
root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
FASTATTACK_CUDA=0 FASTATTACK_BUILD="$root/build" "$python" -m pip --disable-pip-version-check wheel -q --no-deps -w "$work" "$root"
"$python" -m pip --disable-pip-version-check install -q --no-deps --target "$work/site" "$work"/fastattack-*.whl
cd "$work"
PYTHONPATH="$work/site" "$python" - "$root" <<'PY'
import importlib
import pathlib
import pkgutil
import sys

# The checkout's editable install would lend what the wheel lacks.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
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
pages = {"report.html.j2", "bench.html.j2", "miga.html.j2", "purify.html.j2", "certify.html.j2"}
assert {path.name for path in report.iterdir()} == pages | {"report.css", "report.js"}, report
outside = {"fastattack.__main__", "fastattack._cuda"}
names = {module.name for module in pkgutil.walk_packages(fa.__path__, "fastattack.")} - outside
assert {"fastattack.evaluate.run", "fastattack.bench.ops.pgd_step", "fastattack.commands.bench"} <= names
for name in sorted(names):
    if not name.startswith("fastattack.kernels"):  # they need triton
        importlib.import_module(name)
for name, module in sys.modules.items():
    if name.startswith("fastattack") and getattr(module, "__file__", None):
        assert pathlib.Path(module.__file__).is_relative_to(place), module
checkout = pathlib.Path(sys.argv[1]) / "fastattack"
wanted = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*.py")}
there = {path.relative_to(place).as_posix() for path in place.rglob("*.py")}
assert wanted <= there, f"the wheel lacks {sorted(wanted - there)}"
model = fa.models.load("embedded")
clean = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
adv = fa.DenoisingPGD(model, eps=5 / 255, steps=2, backend="cpu")(noisy, clean)
assert (adv - noisy).abs().max() <= 5 / 255
print(f"wheel: {place} works, kernels for {_cpu.instruction_set()}")
PY
