"""What a guided reverse step costs beside one without a guide: `python scripts/guided_step.py`.

The network's share (its forward pass on the estimate and the gradient back to it) is timed by itself, in the same
rounds, and taken off: what is left is what guiding adds. Processor time of one thread, in turn (unguided, guided,
network alone, again), medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

import fastattack as fa
from fastattack.bench.machine import describe
from fastattack.defenses import Auxiliary, LatentGuide
from fastattack.defenses.purifier import Purifier


def step_of(purifier: Purifier, x: torch.Tensor) -> Callable[[], object]:
    """The first reverse step, over and over on the same state."""
    process, ids = purifier.process, torch.arange(len(x))
    origin = process.scaled(x)
    seen, state = process.seen(origin), process.enter(origin.clone(), 0, ids)
    room = torch.empty_like(state)
    return lambda: process.step(0, room.copy_(state), seen, 0, ids, overwrite=True)


def alone(aux: Auxiliary, x: torch.Tensor) -> Callable[[], object]:
    """The guide's gradient and nothing else: |h(u) - h(x)|^2, by the parameters as a guide has them."""
    aux.requires_grad_(False)
    seen = aux(x)

    def gradient() -> object:
        with torch.enable_grad():
            u = x.detach().requires_grad_(True)
            return torch.autograd.grad((aux(u) - seen).square().sum(), u)

    return gradient


def medians(ways: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of processor time of each way, in turn."""
    found: list[list[float]] = [[] for _ in ways]
    for k in range(rounds + 2):
        for way, times in zip(ways, found, strict=True):
            began = time.process_time()
            way()
            if k >= 2:  # the first calls lay out weights
                times.append(time.process_time() - began)
    return [statistics.median(times) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--diffusion", default="embedded")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    diffusion = fa.diffusion.load(options.diffusion)
    print(f"{describe('cpu')['cpu']}, torch {torch.__version__}, one thread")
    print(f"{'images':14}  unguided  guided  network  guiding alone  (guided - network) / unguided")
    for shape in ((1, 1, 32, 32), (8, 1, 32, 32), (1, 1, 128, 128)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        aux = Auxiliary(1)
        plain = Purifier(diffusion, t_star=100, steps=4)
        with torch.no_grad():
            ways = [step_of(plain, x), step_of(plain.replaced(guide=LatentGuide(aux)), x), alone(aux, x)]
            unguided, guided, network = medians(ways, options.rounds)
        ms = [f"{1e3 * v:.2f} ms" for v in (unguided, guided, network, guided - network - unguided)]
        print(f"{'x'.join(map(str, shape)):14}  {'  '.join(ms)}  {(guided - network) / unguided:.3f}")


if __name__ == "__main__":
    main()
