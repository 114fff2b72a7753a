"""The same in 3D, small: the template at 4 mm, one head, so that only the deformations are held out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastattack as fa
from fastattack.files import write_atomic
from fastattack.models.llm_morph import LLMMorph, count_parameters, load
from fastattack.registration.batches import PairBatches
from fastattack.registration.synthetic import Synthetic
from fastattack.registration.templates import Subject, brain_template
from fastattack.registration.training import train_registration

from . import data
from .data import Pairs, pairs
from .nets import loss

SIZE, MM, POOL = (48, 48, 48), 4, 200
MADE = Synthetic(contrast="t2", amplitude=(2.0, 3.0), scale=6.0, spacing=(4.0,) * 3)


@cache
def head() -> Subject:
    return brain_template(None, mm=MM, size=SIZE)


def held_out(count: int) -> Pairs:
    return pairs(head(), count, seed=1, made=MADE)


def trained(language: Path | None, folder: Path, steps: int) -> tuple[LLMMorph, dict[str, Any]]:
    """As `nets.trained`; two pairs a step, of a pool."""
    said = folder / "took.json"
    if said.is_file() and (took := json.loads(said.read_text()))["steps"] == steps:
        return load(folder / "model.safetensors"), took
    options: dict[str, Any] = {"blocks": 4} if language is None else {"language": language}
    model = LLMMorph(dims=3, levels=2, finest=4, **options)
    batches = PairBatches(data.made_of(head(), POOL, seed=4, made=MADE), batch=2, steps_per_epoch=50)
    config = fa.training.TrainConfig(steps=steps, lr=1.5e-3, warmup=min(50, steps), clip=1.0)
    began = time.process_time()
    train_registration(model, batches, config, out=folder, loss=loss(), resume=True, progress=False)
    spent = round(time.process_time() - began, 1)
    took = {"steps": steps, "parameters": asdict(count_parameters(model)), "cpu_seconds": spent}
    write_atomic(said, (json.dumps(took, indent=1) + "\n").encode())
    return model.eval(), took


def one_by_one(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A batch of volumes is large."""
    return lambda pair: torch.cat([model(row) for row in pair.split(1)])
