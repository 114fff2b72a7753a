"""A small attack that can be worked out by hand, for the tests of the benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.bench import cases
from fastattack.bench.cases import Case
from fastattack.bench.trial import Trial, Way


def small(steps: int = 2, *, classes: int = 3) -> Case:
    """A classifier of few classes near the edge of the box, so that the bounds matter."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, classes)).eval()
    x = torch.rand(4, 3, 4, 4, generator=draw).round()
    with torch.no_grad():
        labels = (model(x).argmax(1) + 1) % classes  # none of the model's own, as in `cases.classified`
    return Case(model, x, labels, fa.objectives.cross_entropy, cases.entropy, steps, 0.1, 0.04, (0.0, 1.0))


def by_hand(case: Case) -> Tensor:
    """In float64, with the gradient of the log-softmax written out."""
    first, last = case.model[1], case.model[3]
    weights = [t.detach().double() for t in (first.weight, first.bias, last.weight, last.bias)]
    origin = case.x.double().flatten(1)
    adv = origin.clone()
    for _ in range(case.steps):
        hidden = torch.tanh(adv @ weights[0].T + weights[1])
        chances = torch.softmax(hidden @ weights[2].T + weights[3], 1)
        back = (chances - nn.functional.one_hot(case.target, 3)) @ weights[2]
        adv = adv + case.step * ((back * (1 - hidden**2)) @ weights[0]).sign()
        adv = torch.minimum(torch.maximum(adv, origin - case.eps), origin + case.eps).clamp(0, 1)
    return adv.reshape(case.x.shape)


def ways(trial: Trial) -> dict[str, Way]:
    return {way.name: way for way in trial.ways}
