"""What an attack did to the digits: per image, and as means with their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastattack as fa
from fastattack.evaluate.bootstrap import Bootstrap
from fastattack.metrics import psnr

from .craft import Bench, Plan
from .networks import CLASSIFIERS

Row = dict[str, Any]


def row(bench: Bench, plan: Plan, *, denoiser: str = "", defence: str = "") -> Row:
    """An attack as scored on a denoiser (default: its own) with a defence behind it.

    Beside what `fa.semantic_change` measures: each classifier before and after, PSNR beside the clean digit,
    and of the output among the digits that the attack changed.
    """
    adversarial, seconds = bench.adversarial(plan)
    scored = denoiser or plan.denoiser
    model, noisy = bench.pipeline(scored, defence), bench.noisy(plan.sigma)
    tasks = {name: bench.network(name) for name in CLASSIFIERS}
    change = fa.semantic_change(model, tasks[plan.task], noisy, adversarial, bench.labels)
    columns = {name: getattr(change, name) for name in ("input_psnr", "input_ms_ssim", "output_psnr", "output_ms_ssim")}
    with torch.no_grad():
        before, after = model(noisy), model(adversarial)
        for name, task in tasks.items():
            columns[f"before_{name}"] = task(before).argmax(1) == bench.labels
            columns[f"after_{name}"] = task(after).argmax(1) == bench.labels
    columns["clean_psnr"] = psnr(after, bench.clean)
    success = change.success.bool()
    return {
        "plan": asdict(plan),
        "scored": scored,
        "defence": defence,
        "images": bench.count,
        "seconds": seconds,
        "success": _share(success[change.right_before.bool()]),
        "changed": {k: _mean(columns[k][success]) for k in ("output_psnr", "output_ms_ssim", "input_psnr")},
        "means": intervals(columns),
    }


def intervals(columns: dict[str, Tensor]) -> dict[str, list[float | None]]:
    """[mean, low, high] of each column, 95 % over images; infinite (equal images) becomes None."""
    arrays = {name: np.asarray(column.double()) for name, column in columns.items()}
    found = Bootstrap(draws=1000).means(arrays)
    ends = {name: estimate.as_lists() for name, estimate in found.items()}
    return {name: [e["mean"], e["low"], e["high"]] for name, e in ends.items()}


def untouched(bench: Bench, denoiser: str, defence: str = "") -> dict[str, list[float | None]]:
    """Accuracy and PSNR of the noisy digits as they are."""
    model: Callable[[Tensor], Tensor] = bench.pipeline(denoiser, defence)
    with torch.no_grad():
        restored = model(bench.noisy(int(denoiser.split("-")[1])))
        columns = {f"after_{k}": bench.network(k)(restored).argmax(1) == bench.labels for k in CLASSIFIERS}
    return intervals({**columns, "clean_psnr": psnr(restored, bench.clean)})


def _mean(values: Tensor) -> float | None:
    return values.double().mean().item() if len(values) else None


def _share(values: Tensor) -> float | None:
    return _mean(values.double())
