"""Robust accuracy and seconds of AutoAttack by this project, the authors' package and torchattacks, on a small net.

Run from the root: `python scripts/compare_autoattack.py [--original CHECKOUT] [--norm Linf --eps 0.12]`. The net is
that of the tests (scikit-learn's digits). Every run has the settings of its own standard version. The authors' package
is imported from a checkout of github.com/fra31/auto-attack, or where it is installed; a missing peer is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from fastattack.compat.autoattack import AutoAttack
from tests.digits import digits


def ways(model: torch.nn.Module, norm: str, eps: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """What gives images for (x, y), by name."""
    options = {"norm": norm, "eps": eps, "seed": 0, "verbose": False}
    found = {"fastattack": AutoAttack(model, **options).run_standard_evaluation}
    try:
        from autoattack import AutoAttack as Original

        found["autoattack"] = Original(model, device="cpu", **options).run_standard_evaluation
    except ImportError:
        print("autoattack is not there")
    try:
        from torchattacks import AutoAttack as Other

        if norm != "L1":
            found["torchattacks"] = Other(model, n_classes=10, **options)
    except ImportError:
        print("torchattacks is not there")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", type=Path, help="a checkout of the authors' repository")
    parser.add_argument("--norm", choices=["Linf", "L2", "L1"], default="Linf")
    parser.add_argument("--eps", type=float, default=0.12)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    if told.original is not None:
        sys.path.insert(0, str(told.original))
    torch.set_num_threads(told.threads)
    model, x, y = digits()
    for name, way in ways(model, told.norm, told.eps).items():
        began = time.perf_counter()
        adv = way(x, y)
        seconds = time.perf_counter() - began
        with torch.no_grad():
            accuracy = float((model(adv).argmax(1) == y).float().mean())
        print(f"{name}: robust accuracy {accuracy:.2%} of {len(x)}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
