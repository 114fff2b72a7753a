"""Whole attacks beside plain loops and peers, with random weights: see fastattack/bench/attacks.py."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from bench.common import DEVICE
from fastattack.bench.attacks import FULL, attack_trials
from fastattack.bench.trial import Trial


@lru_cache(maxsize=1)
def trial_of(name: str, quick: bool) -> Trial:
    (make,) = attack_trials(device=DEVICE, quick=quick, shared=None, only=[name], compile=not quick)
    return make()


def parameters() -> list[Any]:
    """(case, way); the ways' names are those of small images, and those that compile are left to `fastattack bench`."""
    return [pytest.param(name, way.name, id=f"{name}-{way.name}") for name in FULL for way in trial_of(name, True).ways]


@pytest.mark.parametrize(("name", "way_name"), parameters())
def test_attack(benchmark: Any, name: str, way_name: str) -> None:
    trial = trial_of(name, False)
    (way,) = (way for way in trial.ways if way.name == way_name)
    try:
        call = way.make()
    except ImportError as error:
        pytest.skip(f"not installed: {error}")
    benchmark.extra_info["off"] = (way.judge or trial.judge)(call)
    benchmark.pedantic(call, rounds=3)
