"""Classification: the digits of examples/digits_task.py, a small convolutional classifier, and the one of that file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import Blur, Bm3d, Jpeg, Median

from .bench import Case, Effort, levels

EPS, BOUNDS = 8 / 255, (0.0, 1.0)
LEVELS = [10, 20, 40, 60, 90, 130]
EPOCHS, TRAIN_STEPS = 8, 4
SEARCHED, SLOW = 100, 4  # where the images begin on which the level is chosen; images of a slow defence


def task() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "digits_task.py"
    spec = importlib.util.spec_from_file_location("digits_task", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network() -> nn.Module:
    """Logits (B, 10) of images (B, 1, 32, 32); 31 thousand parameters, from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1),
            nn.ReLU(), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip


def trained(digits: ModuleType, *, epochs: int = EPOCHS, hardened: bool = False) -> nn.Module:
    """The network, on digits as they are, or on what PGD makes of each batch (arXiv 1706.06083)."""
    model = network()
    images, labels = (part[digits.HELD_OUT :] for part in digits.digits())
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    attack = fa.PGD(model, eps=EPS, steps=TRAIN_STEPS, objective=fa.objectives.cross_entropy, bounds=BOUNDS)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            x = attack(images[rows], labels[rows]) if hardened else images[rows]
            loss = nn.functional.cross_entropy(model(x), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def right(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(1).eq(labels).double()


def pgd(model: Any, *, steps: int, eot: int) -> fa.PGD:
    return fa.PGD(model, eps=EPS, steps=steps, eot=eot, objective=fa.objectives.cw_margin(), bounds=BOUNDS)


def smallest(model: Any, *, steps: int, eot: int) -> fa.DDN:
    """Another ball and another way to walk: for the level that PGD chose, an attack that nobody knew of."""
    return fa.DDN(model, steps=2 * steps, objective=fa.objectives.cw_margin(), threshold=1.0, bounds=BOUNDS)


def case(digits: ModuleType, plain: nn.Module, first: int, count: int, effort: Effort, **attacks: Any) -> Case:
    x, labels = (part[first : first + count] for part in digits.digits())
    return Case(x, labels, plain, EPS, fa.objectives.cw_margin(), right, {"PGD": pgd, **attacks}, BOUNDS, effort)


def rows(purifier: fa.Purifier | None, count: int, effort: Effort, store: Any) -> Iterator[str]:
    """Make the rows that the store lacks; names of those that are there. Without a purifier, the others."""
    digits = task()
    plain = trained(digits)
    main = case(digits, plain, 0, count, effort)
    yield store("no defence", main.row)
    for defense in (Blur(1.0), Blur(2.0), Median(3), Median(5), Jpeg(75), Jpeg(30)):
        yield store(str(defense), partial(main.row, defense))
    yield store("Bm3d(sigma=20/255)", lambda: main.row(Bm3d(20 / 255), count=SLOW))
    yield store("adversarially trained", lambda: main.row(model=trained(digits, hardened=True)))
    smooth = case(digits, digits.classifier(), 0, count, effort)
    yield store("noise-trained MLP, no defence", smooth.row)
    for defense in (Blur(1.0), Jpeg(30)):
        yield store(f"noise-trained MLP, {defense}", partial(smooth.row, defense))
    if purifier is None:
        return

    def search() -> dict[str, Any]:
        other = case(digits, plain, SEARCHED, count, effort, DDN=smallest)
        return levels(other, purifier, "PGD", LEVELS, shrinkage=0.1)

    yield store("levels", search, purifier)
    chosen = purifier.replaced(t_star=store.rows["levels"]["chosen"])
    words = {"t_star": chosen.level, "sigma": 255 * chosen.sigma}
    yield store("purifier", lambda: main.row(chosen) | words, purifier)
    yield store("noise-trained MLP, purifier", lambda: smooth.row(chosen, adaptive=False) | words, purifier)
