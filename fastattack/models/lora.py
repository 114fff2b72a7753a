"""Low-rank adaptation of a language model's layers, through peft."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..extras import require
from ..guard import random_state, seed_torch

EXTRA = "registration"


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (arXiv 2106.09685) of linear layers: W + alpha / rank B A, with B = 0 at first.

    Attributes:
        rank: of B A. alpha: its weight. dropout: of the inputs of A, in training mode.
        targets: last names of the layers that get one ("q_proj", say); None: every linear layer of the kept blocks.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"lora: wanted a rank that is a whole number >= 1, got {self.rank!r}")
        if not 0 <= self.dropout < 1 or not self.alpha > 0:
            raise ValueError(f"lora: wanted alpha > 0 and dropout in [0, 1), got {self.alpha!r} and {self.dropout!r}")


def _linear(module: nn.Module) -> bool:
    """GPT-2 of transformers has a Conv1D in its place, which multiplies by the transposed weight."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def adapt(net: nn.Module, name: str, lora: Lora, seed: int) -> None:
    """Give the linear layers in net's submodule ``name`` their LoRA, the only weights that need a gradient then.

    Raises:
        RuntimeError: peft is missing; names the extra. ValueError: there are no such layers.
    """
    require("peft", what="LoRA", extra=EXTRA)
    from peft import LoraConfig, inject_adapter_in_model

    linear = {
        f"{name}.{part}": module
        for part, module in net.get_submodule(name).named_modules()
        if _linear(module) and (lora.targets is None or part.rpartition(".")[2] in lora.targets)
    }
    if not linear:
        raise ValueError(f"lora: wanted linear layers of the language model, got {lora.targets or 'none there'}")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(linear),
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in linear.values()),
        bias="none",
    )
    with random_state(torch.device("cpu")):
        seed_torch(seed, torch.device("cpu"))
        inject_adapter_in_model(config, net)
    for key, parameter in net.named_parameters():
        parameter.requires_grad_("lora_" in key)
