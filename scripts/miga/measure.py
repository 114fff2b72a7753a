"""What an attack did to the digits: per image, and as means with their bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastattack as fa
from fastattack.evaluate.bootstrap import Bootstrap
from fastattack.metrics import psnr

from .craft import WEIGHTS, Bench, Plan
from .networks import CLASSIFIERS

Row = dict[str, Any]
LOOKS = ("output_psnr", "output_ms_ssim", "input_psnr", "input_ms_ssim")


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
    columns = {name: getattr(change, name) for name in LOOKS}
    with torch.no_grad():
        before, after = model(noisy), model(adversarial)
        for name, task in tasks.items():
            columns[f"before_{name}"] = task(before).argmax(1) == bench.labels
            columns[f"after_{name}"] = task(after).argmax(1) == bench.labels
    columns["clean_psnr"] = psnr(after, bench.clean)
    changed = change.success
    assert changed is not None
    return {
        "plan": asdict(plan),
        "lambdas": plan.lambdas if plan.attack in WEIGHTS else None,
        "scored": scored,
        "defence": defence,
        "images": bench.count,
        "seconds": seconds,
        "success": change.summary()["success"],
        "changed": {k: columns[k][changed].median().item() if changed.any() else None for k in LOOKS},
        "means": intervals(columns),
    }


def intervals(columns: dict[str, Tensor]) -> dict[str, list[float | None]]:
    """[mean, low, high] of each column, 95 % over images; of a PSNR the median alone: an image that an attack left
    as it was has an infinite one."""
    medians = {name: column.median().item() for name, column in columns.items() if name.endswith("put_psnr")}
    arrays = {name: np.asarray(column.double()) for name, column in columns.items() if name not in medians}
    ends = {name: estimate.as_lists() for name, estimate in Bootstrap(draws=1000).means(arrays).items()}
    found = {name: [e["mean"], e["low"], e["high"]] for name, e in ends.items()}
    return found | {name: [value if math.isfinite(value) else None] for name, value in medians.items()}
