"""The nets that are compared, all trained in the same way; and what needs no training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.files import write_atomic
from fastattack.models.llm_morph import LLMMorph, count_parameters, load
from fastattack.registration.batches import PairBatches
from fastattack.registration.losses import RegistrationLoss
from fastattack.registration.training import RegistrationValidation, train_registration

from . import data

PLAIN, LORA, FROZEN = "plain blocks", "LLM-Morph, LoRA", "LLM-Morph, frozen"
RANDOM, RANDOM_LORA = "random LM, frozen", "random LM, LoRA"
NETS = (PLAIN, LORA, FROZEN, RANDOM, RANDOM_LORA)
AGAIN = tuple(f"{kind}, seed 1" for kind in (PLAIN, FROZEN, RANDOM, LORA))  # other first weights and batches: chance
CLASSICAL = {"classical, B-spline": "bspline", "classical, SyN": "syn"}
NONE = "no registration"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a net is like and how it is trained.

    The fields are smooth here: a finest grid of 4 voxels holds them, at a third of the price of one of 2. Batches come
    from a pool of pairs that are made once.
    """

    steps: int = 2000
    pool: int = 3000
    batch: int = 8
    lr: float = 1.5e-3
    width: int = 16
    levels: int = 3
    finest: int = 4
    seed: int = 0


def loss() -> RegistrationLoss:
    """Mean square error of the field, which is known here."""
    return RegistrationLoss(similarity=None, smoothness=0.0, supervised=0.25)


def untrained(name: str, language: Path, effort: Effort) -> LLMMorph:
    """A net as it is before training."""
    options: dict[str, Any] = {name: getattr(effort, name) for name in ("width", "levels", "finest", "seed")}
    if name == PLAIN:
        return LLMMorph(language=None, blocks=4, **options)
    source = random_language(language, effort.seed) if name in (RANDOM, RANDOM_LORA) else language
    return LLMMorph(language=source, lora=name in (LORA, RANDOM_LORA), **options)


def random_language(language: Path, seed: int) -> nn.Module:
    """A language model of the same shape that has learnt nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(language))  # type: ignore[no-any-return]


def trained(name: str, language: Path, folder: Path, effort: Effort) -> tuple[LLMMorph, dict[str, Any]]:
    """The net and what its training took; from its folder where it is there, else it is trained, or goes on."""
    kind, _, seed = name.partition(", seed ")
    effort = replace(effort, seed=int(seed or effort.seed))
    out = folder / name.replace(", ", "-").replace(" ", "-")
    said = out / "took.json"
    if said.is_file():
        took = json.loads(said.read_text())
        if took["effort"] != asdict(effort):
            raise SystemExit(f"{said}: trained with {took['effort']}; remove the folder to train with {asdict(effort)}")
        return load(out / "model.safetensors"), took
    model = untrained(kind, language, effort)
    batches = PairBatches(data.pool(effort.pool), batch=effort.batch, seed=effort.seed, steps_per_epoch=50)
    config = fa.training.TrainConfig(steps=effort.steps, lr=effort.lr, warmup=min(50, effort.steps), clip=1.0)
    check = data.learnt(8)
    began = time.process_time()
    result = train_registration(
        model, batches, config, out=out, loss=loss(), resume=True, progress=False,
        validation=RegistrationValidation(truth=data.known(check), what="tre"),
    )  # fmt: skip
    took = {
        "effort": asdict(effort), "parameters": asdict(count_parameters(model)),
        "cpu_seconds": round(time.process_time() - began, 1), "seconds": round(result.seconds, 1),
    }  # fmt: skip
    write_atomic(said, (json.dumps(took, indent=1) + "\n").encode())
    return model.eval(), took


class Still(nn.Module):
    """No registration: the field is 0."""

    def forward(self, pair: Tensor) -> Tensor:
        return pair.new_zeros(len(pair), pair.dim() - 2, *pair.shape[2:])


class Silent(nn.Module):
    """Blocks whose tokens are all 0: what is left of a net is its encoders and heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.new_zeros(*tokens.shape[:2], self.width)


def classical() -> dict[str, Callable[[Tensor], Tensor]]:
    from fastattack.registration.classical import Classical

    return {name: Classical(method=method, dims=2) for name, method in CLASSICAL.items()}
