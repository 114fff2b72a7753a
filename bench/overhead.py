"""What an attack costs beside the model's forward and backward passes: `python -m bench.overhead [--weights FILE]`.

denoising-PGD on DnCNN, 4x1x128x128, 10 steps, against the bare passes that it needs (ten gradients and one loss) on the
same inputs, interleaved A B A B, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import fastattack as fa

STEPS = 10


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="DnCNN weights; random ones cost the same")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model = fa.models.DnCNN() if options.weights is None else fa.models.load("dncnn", weights=options.weights)
    model.eval().requires_grad_(False)
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, 128, 128, generator=g)
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=g)

    def passes() -> None:
        for _ in range(STEPS):
            x = noisy.detach().requires_grad_()
            torch.autograd.grad(fa.objectives.mse(model(x), clean).sum(), x)
        with torch.no_grad():
            fa.objectives.mse(model(noisy), clean)

    attacks = {keep: fa.DenoisingPGD(model, steps=STEPS, preserve_noise=keep) for keep in (True, False)}
    ways = {"passes": passes} | {keep: (lambda a=a: a(noisy, clean)) for keep, a in attacks.items()}
    times: dict[object, list[float]] = {name: [] for name in ways}
    for round_ in range(options.rounds + 1):
        for name, function in ways.items():
            spent = seconds(function)
            if round_:
                times[name].append(spent)
    bare = statistics.median(times["passes"])
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.rounds} rounds")
    print(f"passes alone: {bare:.3f} s")
    for keep in attacks:
        spent = statistics.median(times[keep])
        print(f"preserve_noise={keep!s:<5}: {spent:.3f} s, {(spent / bare - 1) * 100:+.2f} % beside the passes")


if __name__ == "__main__":
    main()
