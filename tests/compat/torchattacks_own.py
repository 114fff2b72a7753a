"""torchattacks' own tests against fastattack.compat.torchattacks, from a checkout of
github.com/Harry24k/adversarial-attacks-pytorch:

    python tests/compat/torchattacks_own.py CHECKOUT [options of pytest]

Ours takes the place of the package that its tests import; they run every class of it as they are. They ask robustbench
for a CIFAR-10 network and images, which it downloads: where it cannot be imported, a small network trained on
scikit-learn's digits, as images of 3 x 32 x 32 pixels, stands in for it. Nothing of torchattacks is copied.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastattack.compat.torchattacks as ours

TESTS = ("test_atks.py", "test_import.py")


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    large = nn.functional.interpolate(small, size=32, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    return large, torch.tensor(bunch.target, dtype=torch.int64)


@functools.cache
def load_model(*names: Any, **options: Any) -> nn.Module:
    """Trained on all digits but the first hundred."""
    with torch.enable_grad(), torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 25, 10),
        )  # fmt: skip
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
        images, labels = (part[100:] for part in digits())
        for _ in range(4):
            for index in torch.randperm(len(images)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
                optimiser.step()
    return model.eval()


def load_cifar10(n_examples: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Images that the network knows: the tests want no accuracy to rise."""
    images, labels = (part[:100] for part in digits())
    right = load_model()(images).argmax(1) == labels
    return images[right][:n_examples], labels[right][:n_examples]


def clean_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def stand_in_for_robustbench() -> None:
    utils, data = ModuleType("robustbench.utils"), ModuleType("robustbench.data")
    vars(utils).update(load_model=load_model, clean_accuracy=clean_accuracy)
    vars(data).update(load_cifar10=load_cifar10)
    sys.modules |= {"robustbench": ModuleType("robustbench"), "robustbench.utils": utils, "robustbench.data": data}


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "").resolve() / "code_coverage"
    if len(sys.argv) < 2 or not (folder / TESTS[0]).is_file():
        print(__doc__, file=sys.stderr)
        return 2
    sys.modules["torchattacks"] = ours
    try:
        import robustbench.utils  # noqa: F401
    except ImportError:  # or torchvision, which it imports, is not here
        stand_in_for_robustbench()
    files = [str(folder / name) for name in TESTS]
    plain = ["--rootdir", str(folder), "-c", "/dev/null", "-p", "no:cacheprovider"]
    return int(pytest.main([*files, *plain, *sys.argv[2:]]))


if __name__ == "__main__":
    raise SystemExit(main())
