"""The trials of the suite as pytest-benchmark tests: each way is judged before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch

from fastattack.bench.ops import SHAPES
from fastattack.bench.ops.trials import cases_of, op_trial
from fastattack.bench.trial import Trial

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def trial_of(stem: str, label: str, dtype: str, shape: tuple[int, ...]) -> Trial:
    """The last one is kept: its ways come one after the other."""
    (case,) = (case for case in cases_of(shape, [stem]) if case.label == label)
    return op_trial(case, shape, dtype, device=DEVICE)


def parameters(stem: str) -> list[Any]:
    """(label, dtype, shape, way) of every case; the ways' names are those of a tiny trial."""
    found = []
    for shape in SHAPES:
        for case in cases_of(shape, [stem]):
            for dtype in case.dtypes:
                ways = op_trial(case, (1, 1, 2, 2), dtype, device=DEVICE).ways
                size = "x".join(map(str, shape))
                found += [
                    pytest.param(case.label, dtype, shape, way.name, id=f"{case.label}-{size}-{dtype}-{way.name}")
                    for way in ways
                ]
    return found


def bench_of(stem: str) -> Callable[..., None]:
    """The benchmark of a stem."""

    @pytest.mark.parametrize(("label", "dtype", "shape", "name"), parameters(stem))
    def test(benchmark: Any, label: str, dtype: str, shape: tuple[int, ...], name: str) -> None:
        trial = trial_of(stem, label, dtype, shape)
        (way,) = (way for way in trial.ways if way.name == name)
        call = way.make()
        benchmark.extra_info["off"] = (way.judge or trial.judge)(call)
        wait = torch.cuda.synchronize if DEVICE == "cuda" else (lambda: None)
        benchmark.pedantic(lambda: (call(), wait()), rounds=11, warmup_rounds=2, iterations=20 if shape[0] == 1 else 1)
        if benchmark.stats and trial.bytes is not None:
            benchmark.extra_info["GB/s"] = round(trial.bytes / benchmark.stats.stats.median / 1e9, 2)

    return test
