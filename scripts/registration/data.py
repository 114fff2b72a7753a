"""Slices of real brains and pairs of them whose true field is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

import fastattack as fa
from fastattack.registration.synthetic import Synthetic
from fastattack.registration.templates import Subject, brain_template, dipy_slices
from fastattack.registration.truth import Truth

SIZE, MM = 80, 2


@dataclass(frozen=True)
class Pairs:
    """Pairs, what is known of them, and the same pairs without noise."""

    pair: Tensor
    truth: Truth
    clean: Tensor

    def first(self, count: int) -> Pairs:
        return Pairs(self.pair[:count], self.truth.each(lambda t: None if t is None else t[:count]), self.clean[:count])


def synthetic(dims: int = 2, mm: int = MM) -> Synthetic:
    """T1 against a contrast like T2, bias of 20 %, noise of 2 %; displacements of 4 to 6 voxels at most."""
    return Synthetic(contrast="t2", spacing=(float(mm),) * dims)


@cache
def slices(split: str) -> Subject:
    """Coronal, so that dipy's slice of another head lies in the same plane."""
    return brain_template("coronal", mm=MM, size=(SIZE, SIZE), split=split)


@cache
def other_head() -> Subject:
    return dipy_slices("t1", size=(SIZE, SIZE))


def pairs(subject: Subject, count: int, *, seed: int, made: Synthetic | None = None) -> Pairs:
    """``count`` pairs: some of the slices, evenly spread, or all in turn, each time with another deformation."""
    made, total = made or synthetic(), len(subject)
    rows = torch.arange(count) * total // count if count < total else torch.arange(count) % total
    some = subject.take(rows)
    given = (some.images, some.labels, some.masks)
    noisy, clean = (way.pairs(*given, seed=seed, ids=list(range(count))) for way in (made, replace(made, noise=0.0)))
    return Pairs(noisy.pair, noisy.truth, clean.pair)


def held_out(count: int) -> Pairs:
    """Of slices more than 4 mm from every slice that was learnt."""
    return pairs(slices("held-out"), count, seed=1)


def learnt(count: int) -> Pairs:
    """Of the slices that the nets were trained on, with deformations that they have not seen."""
    return pairs(slices("train"), count, seed=3)


@cache
def pool(count: int) -> Truth:
    """Pairs of the learnt slices for training, with other deformations than `learnt` has."""
    return made_of(slices("train"), count, seed=4, made=synthetic())


def made_of(subject: Subject, count: int, *, seed: int, made: Synthetic) -> Truth:
    """``count`` pairs and their fields, no landmarks."""
    made, rows = replace(made, points=0), torch.arange(count) % len(subject)
    parts = []
    for some in torch.arange(count).split(100):
        few = subject.take(rows[some])
        pair, truth = made.pairs(few.images, few.labels, few.masks, seed=seed, ids=some.tolist())
        parts.append({"field": truth.field, "mask": truth.mask, "spacing": truth.spacing, "pair": pair})
    return Truth(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def second(count: int) -> Pairs:
    """Of another head: one slice, many deformations."""
    return pairs(other_head(), count, seed=2)


def known(some: Pairs) -> Truth:
    """What is known of pairs, with the pairs themselves."""
    return replace(some.truth, pair=some.pair)


def describe() -> dict[str, object]:
    return {
        "mm": MM, "size": SIZE, "train_slices": len(slices("train")), "held_out_slices": len(slices("held-out")),
        "held_out_mm": slices("held-out").positions.tolist(), "synthetic": repr(synthetic()),
        "fastattack": fa.__version__,
    }  # fmt: skip
