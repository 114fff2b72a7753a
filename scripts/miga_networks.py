"""Train the networks of docs/results/miga.md: `python scripts/miga_networks.py --out out/miga_networks`.

Two classifiers of digits (convolutional, fully connected); for sigma 25 and 50 two denoisers (a residual CNN, a
U-Net), those for 25 also by typical-set (TS) training; and, where train400 is, two encoders of photographs. All from
one seed, on one thread. networks.json holds what they reach on the test digits and the CPU seconds that each took. What
is there already is not trained again, and a denoiser whose run was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from miga.data import DigitBatches, Digits, load_digits, noisy, shifted
from miga.encoder import ENCODERS, TRAIN, train_encoder
from miga.networks import CLASSIFIERS, DENOISERS, denoisers, load_network
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.nn import functional

import fastattack as fa
from fastattack import training
from fastattack.bench.machine import describe
from fastattack.files import write_atomic
from fastattack.metrics import psnr
from fastattack.ops.spectrum import Spectrum
from fastattack.training import TrainConfig

LR = 2e-3


def strategy(name: str, sigma: float, seed: int) -> training.Strategy:
    """Plain Gaussian noise, or the "ts-strong" recipe of docs/results/ts-training.md: half of the samples on shells."""
    level = sigma / 255
    if name == "plain":
        return training.plain(sigma=level, seed=seed)
    spectrum = Spectrum("adversarial", 0.4)
    return training.ts(fa.TypicalSetSampler(sigma=level, spectrum=spectrum, typicality=(0.0, 0.3), seed=seed))


def train_classifier(kind: str, digits: Digits, *, epochs: int, seed: int) -> nn.Module:
    """Adam on shifted clean digits, batches of 32, the rate falling to 0 by a cosine."""
    model = CLASSIFIERS[kind](seed)
    optimiser = torch.optim.Adam(model.parameters(), LR)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for rows in torch.randperm(len(digits.train), generator=generator).split(32):
            logits = model(shifted(digits.train[rows], generator))
            optimiser.zero_grad()
            functional.cross_entropy(logits, digits.train_labels[rows]).backward()
            optimiser.step()
    return model.eval()


def train_denoiser(
    kind: str, sigma: float, how: str, digits: Digits, *, steps: int, seed: int, folder: Path
) -> nn.Module:
    """fastattack's own loop; its checkpoints lie in the folder while it runs."""
    model = DENOISERS[kind](seed)
    config = TrainConfig(steps=steps, lr=LR, warmup=min(40, steps), channels_last=True, log_every=100)
    batches = DigitBatches(digits.train, seed=seed)
    training.train(model, batches, strategy(how, sigma, seed), config, out=folder, resume=True, progress=False)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) == labels).double().mean().item()


def save(model: nn.Module, path: Path) -> None:
    write_atomic(path, serialise({k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}))


def train_all(
    digits: Digits, out: Path, *, epochs: int, steps: int, seed: int, only: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Train what is not in the folder yet; gives what each network reaches on the test digits.

    With ``only`` names, these alone, and None while others are missing.
    """
    seconds: dict[str, float] = {}
    known = out / "networks.json"
    before = json.loads(known.read_text()) if known.is_file() else {}
    settings = {"epochs": epochs, "steps": steps, "seed": seed, "images": len(digits.train)}
    if before.get("settings", settings) != settings:
        raise ValueError(f"{known}: made with {before['settings']}, not {settings}; name another folder")
    jobs = _jobs(digits, out, epochs=epochs, steps=steps, seed=seed)
    if unknown := set(only) - jobs.keys():
        raise ValueError(f"only: wanted names of {', '.join(jobs)}, got {', '.join(sorted(unknown))}")
    for name, train in jobs.items():
        if (out / f"{name}.safetensors").is_file() or (only and name not in only):
            continue
        began = time.process_time()
        save(train(), out / f"{name}.safetensors")
        shutil.rmtree(out / f"{name}.run", ignore_errors=True)
        seconds[name] = time.process_time() - began
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    found: dict[str, Any] = {
        "settings": settings,
        "machine": describe("cpu"),
        "seconds": {**before.get("seconds", {}), **{k: round(v, 1) for k, v in seconds.items()}},
    }
    missing = [name for name in jobs if not (out / f"{name}.safetensors").is_file()]
    if not missing:
        found |= reached(digits, out)
    write_atomic(known, (json.dumps(found, indent=1) + "\n").encode())
    return None if missing else found


def _jobs(digits: Digits, out: Path, *, epochs: int, steps: int, seed: int) -> dict[str, Callable[[], nn.Module]]:
    """How each network is trained, by the name of its file."""
    jobs: dict[str, Callable[[], nn.Module]] = {
        kind: partial(train_classifier, kind, digits, epochs=epochs, seed=seed) for kind in CLASSIFIERS
    }
    for name, (kind, sigma, how) in denoisers().items():
        jobs[name] = partial(
            train_denoiser, kind, sigma, how, digits, steps=steps, seed=seed, folder=out / f"{name}.run"
        )
    if TRAIN.is_dir():
        jobs |= {kind: partial(train_encoder, kind, steps=2 * steps, seed=seed) for kind in ENCODERS}
    return jobs


@torch.no_grad()
def reached(digits: Digits, out: Path) -> dict[str, Any]:
    """Accuracy on clean test digits; for each denoiser PSNR, and accuracy on the noisy and on the denoised digits."""
    x, labels = digits.test, digits.test_labels
    tasks = {kind: load_network(out, kind) for kind in CLASSIFIERS}
    clean = {kind: accuracy(task, x, labels) for kind, task in tasks.items()}
    rows: dict[str, Any] = {}
    for name, (_, sigma, _) in denoisers().items():
        y = noisy(x, sigma)
        restored = load_network(out, name)(y)
        rows[name] = {
            "psnr_noisy": psnr(y, x).mean().item(),
            "psnr": psnr(restored, x).mean().item(),
            "accuracy_noisy": {k: accuracy(task, y, labels) for k, task in tasks.items()},
            "accuracy": {k: accuracy(task, restored, labels) for k, task in tasks.items()},
        }
    return {"classifiers": clean, "denoisers": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/miga_networks"))
    parser.add_argument("--epochs", type=int, default=8, help="of the classifiers")
    parser.add_argument("--steps", type=int, default=320, help="of each denoiser, batches of 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train these alone: cnn, unet-25-ts, ...")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_digits(options.seed)
    found = train_all(
        digits, options.out, epochs=options.epochs, steps=options.steps, seed=options.seed, only=options.only
    )
    if found:
        print(json.dumps({k: found[k] for k in ("classifiers", "denoisers", "seconds")}, indent=1))


if __name__ == "__main__":
    main()
