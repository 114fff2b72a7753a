"""Segmentation: digits on photographs (scripts/segmentation_task.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import segmentation_task as task
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import Blur, Bm3d, Jpeg, Median

from .bench import Case, Effort, levels

EPS, BOUNDS = 8 / 255, (0.0, 1.0)
LEVELS = [10, 20, 40, 60, 90]
TRAIN_STEPS = 3
SLOW = 3
TRAINED = (500, 120)


def network(folder: Path, steps: int) -> nn.Module:
    """The plain one; trained where the folder has none."""
    path = folder / f"segmenter-{steps}.safetensors"
    if not path.is_file():
        task.save(task.train(steps), path)
    return task.load(path)


def hardened(folder: Path, plain_steps: int, steps: int) -> nn.Module:
    """The plain one trained further, on inputs that PGD made of each batch."""
    path = folder / f"segmenter-{plain_steps}-hardened-{steps}.safetensors"

    def attack(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = pgd(model, steps=TRAIN_STEPS, eot=1)(x, labels)
        return found

    if not path.is_file():
        plain = network(folder, plain_steps)
        task.save(task.train(steps, seed=1, model=plain.train(), attack=attack), path)
    return task.load(path)


def pgd(model: Any, *, steps: int, eot: int) -> fa.PGD:
    return fa.PGD(model, eps=EPS, steps=steps, eot=eot, objective=fa.objectives.cross_entropy, bounds=BOUNDS)


def segpgd(model: Any, *, steps: int, eot: int) -> fa.SegPGD:
    return fa.SegPGD(model, eps=EPS, steps=steps, eot=eot, bounds=BOUNDS)


def cospgd(model: Any, *, steps: int, eot: int) -> fa.CosPGD:
    return fa.CosPGD(model, eps=EPS, steps=steps, eot=eot, bounds=BOUNDS)


ATTACKS = {"PGD": pgd, "SegPGD": segpgd, "CosPGD": cospgd}


def case(plain: nn.Module, images: Tensor, labels: Tensor, effort: Effort) -> Case:
    return Case(images, labels, plain, EPS, fa.objectives.cross_entropy, task.iou, ATTACKS, BOUNDS, effort)


def rows(
    purifier: fa.Purifier,
    count: int,
    effort: Effort,
    store: Any,
    *,
    folder: Path,
    trained: tuple[int, int] = (500, 120),
) -> Iterator[str]:
    """Make the rows that the store lacks; names of those that are there. ``trained``: steps, plain and hardened."""
    plain = network(folder, trained[0])
    images, labels = task.held_out(3 * count)
    main = case(plain, images[:count], labels[:count], effort)
    yield store("no defence", main.row)
    for defense in (Blur(0.5), Blur(1.0), Median(3), Jpeg(75), Jpeg(30)):
        yield store(str(defense), partial(main.row, defense))
    yield store("Bm3d(sigma=10/255)", lambda: main.row(Bm3d(10 / 255), count=SLOW))
    yield store("adversarially trained", lambda: main.row(model=hardened(folder, *trained)))
    if purifier is None:
        return

    def search() -> dict[str, Any]:
        other = case(plain, images[count:], labels[count:], replace(effort, draws=1))
        return levels(other, purifier, "PGD", LEVELS, shrinkage=0.1)

    yield store("levels", search, purifier)
    chosen = purifier.replaced(t_star=store.rows["levels"]["chosen"])
    yield store("purifier", lambda: main.row(chosen) | {"t_star": chosen.level, "sigma": 255 * chosen.sigma}, purifier)
