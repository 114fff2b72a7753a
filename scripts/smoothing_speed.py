"""Copies a second of randomised smoothing, beside ART's: `python scripts/smoothing_speed.py --rounds 5`.

The same model, images, numbers of copies, one thread; ART's own class with its own batch of 32 and with one as large as
ours, in turn with ours (A B C A B C), each timed by the process's own time, so that other jobs take little part.
Before, both are asked for many copies of each image, and the shares of the classes must agree to 4.5 standard
deviations.
ART wants statsmodels for `certify`; where it is not installed, its formula for the bound stands in.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from miga.data import load_digits
from torch import Tensor, nn

import fastattack as fa
from fastattack.bench.classifier import resnet18
from fastattack.bench.machine import describe
from fastattack.certify import Gaussian

SIGMA, ALPHA = 0.25, 0.001


def small_cnn() -> nn.Module:
    """The one of the package's tests: 8 x 8 digits, 9,500 weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, 10),
    ).eval()  # fmt: skip


def digit_cnn() -> nn.Module:
    """The convolutional classifier of docs/results/miga.md, 32 x 32."""
    from miga.networks import CLASSIFIERS

    return next(iter(CLASSIFIERS.values()))(0).eval()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)).eval()


def cases() -> dict[str, tuple[Callable[[], nn.Module], Tensor, int]]:
    """Name -> (model, images, copies of each)."""
    digits = load_digits().test
    return {
        "CNN 1x8x8": (small_cnn, digits[:4, :, ::4, ::4].contiguous(), 4_000),
        "MLP 1x28x28": (mlp, digits[:4, :, 2:30, 2:30].contiguous(), 2_000),
        "CNN 1x32x32": (digit_cnn, digits[:2], 1_000),
        "ResNet-18 3x32x32": (resnet18, digits[:1].expand(-1, 3, -1, -1).contiguous(), 100),
    }


def art_smoothing(model: nn.Module, x: Tensor, n0: int) -> object:
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
    from scipy import stats

    found = PyTorchRandomizedSmoothing(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, sample_size=n0, scale=SIGMA, alpha=ALPHA,
        device_type="cpu",
    )  # fmt: skip
    if importlib.util.find_spec("statsmodels") is None:
        found._lower_confidence_bound = lambda k, m: np.nan_to_num(stats.beta.ppf(ALPHA, k, m - k + 1))
    return found


def require_same(model: nn.Module, x: Tensor, n: int) -> None:
    """Both put the same share of copies into each class."""
    theirs = art_smoothing(model, x, 100)
    ours = fa.Smoothed(model, noise=Gaussian(SIGMA), n=n, seed=1).counts(x).numpy() / n
    other = np.stack([theirs._prediction_counts(one, n=n, batch_size=128) / n for one in x.numpy()])
    mean = (ours + other) / 2
    apart = np.abs(ours - other) / np.sqrt(2 * np.maximum(mean * (1 - mean), 1 / n) / n)
    if not apart.max() < 4.5:
        raise RuntimeError(f"shares of classes differ by {apart.max():.1f} standard deviations")


def timed(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def measure(make: Callable[[], nn.Module], x: Tensor, n: int, rounds: int) -> dict[str, float]:
    model, n0 = make(), max(10, n // 10)
    require_same(model, x, 4 * n)
    ours, theirs = fa.Smoothed(model, noise=Gaussian(SIGMA), n=n, n0=n0, alpha=ALPHA), art_smoothing(model, x, n0)
    array = x.numpy()
    ways = {
        "ours": lambda: ours.certify(x),
        "ART": lambda: theirs.certify(array, n=n),
        "ART, batch 512": lambda: theirs.certify(array, n=n, batch_size=512),
    }
    for act in ways.values():
        act()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, act in ways.items():
            seconds[name].append(timed(act))
    copies = (n + n0) * len(x)
    found = {f"{name}, us a copy": 1e6 * statistics.median(v) / copies for name, v in seconds.items()}
    best = [min(a, b) / c for a, b, c in zip(seconds["ART"], seconds["ART, batch 512"], seconds["ours"], strict=True)]
    return found | {"times ART's better": statistics.median(best), "least": min(best), "most": max(best)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {"machine": describe("cpu")}
    for name, (make, x, n) in cases().items():
        if not options.only or name in options.only:
            results[name] = found = measure(make, x, n, options.rounds)
            print(name, {k: round(v, 2) for k, v in found.items()}, flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
