"""Attacks on the digit denoisers, by name; each is crafted once and kept in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

import fastattack as fa
from fastattack.files import write_atomic

from .data import Digits, noisy
from .defences import DEFENCES, SECOND
from .networks import load_network

KAPPA = 3.0  # margin of logits at which an attack by margin leaves the classifier alone and cleans up
SURROGATE = "mlp"  # the network whose last features but one stand for an unknown task
BANK = 512  # training digits that the critic of an unknown task learns from
Weights = tuple[float, float, float]
WEIGHTS: dict[str, Weights] = {  # lambda mi, rec, com, by attack
    "MIGA": (1, 30, 3),  # known task, the classifier's margin
    "MIGA-CE": (1, 10, 1),  # known task, its cross-entropy
    "MIGA-surrogate": (1, 10, 1),  # unknown task, the surrogate's features
    "MIGA-blind": (1, 10, 1),  # unknown task, a critic with eyes of its own
}
ATTACKS = (*WEIGHTS, "denoising-PGD", "PGD")  # with the noise's mean and norm kept, and without


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One attack: which, on which denoiser, seen by which classifier, in which ball (0-255 scale).

    Attributes:
        weights: of the losses mi, rec and com, in place of WEIGHTS.
        through: a defence that the attack knows of and climbs through; "" for none.
    """

    attack: str
    denoiser: str
    task: str = "cnn"
    eps: float = 50
    steps: int = 20
    weights: Weights | None = None
    through: str = ""

    def __post_init__(self) -> None:
        if self.attack not in ATTACKS:
            raise ValueError(f"attack: wanted one of {', '.join(ATTACKS)}, got {self.attack!r}")

    @property
    def lambdas(self) -> Weights:
        return self.weights or WEIGHTS[self.attack]

    @property
    def sigma(self) -> int:
        return int(self.denoiser.split("-")[1])

    @property
    def key(self) -> str:
        """The name of its file; a classifier and weights that the attack does not see are no part of it."""
        told = [self.attack, self.denoiser, f"eps{self.eps:g}", f"steps{self.steps}", self.through]
        if self.attack in ("MIGA", "MIGA-CE"):
            told.append(self.task)
        if self.attack.startswith("MIGA"):
            told.append("x".join(f"{w:g}" for w in self.lambdas))
        return "_".join(t for t in told if t)


@dataclass
class Bench:
    """Digits, networks and what has been crafted so far."""

    digits: Digits
    networks: Path
    out: Path
    count: int = 100
    seed: int = 0
    loaded: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def labels(self) -> Tensor:
        return self.digits.test_labels[: self.count]

    @property
    def clean(self) -> Tensor:
        return self.digits.test[: self.count]

    def noisy(self, sigma: float) -> Tensor:
        return noisy(self.clean, sigma, self.seed)

    def network(self, name: str) -> nn.Module:
        if name not in self.loaded:
            self.loaded[name] = load_network(self.networks, name)
        return self.loaded[name]

    def pipeline(self, denoiser: str, defence: str = "") -> Callable[[Tensor], Tensor]:
        """The denoiser, and a defence behind it: one of DEFENCES, or the denoiser of the other kind."""
        model = self.network(denoiser)
        if not defence:
            return model
        after = self.network(other(denoiser)) if defence == SECOND else DEFENCES[defence]
        return nn.Sequential(model, after) if isinstance(after, nn.Module) else lambda y: after(model(y))

    def adversarial(self, plan: Plan) -> tuple[Tensor, float]:
        """What the attack made of the noisy digits, and its CPU seconds; from its file where that is there."""
        path = self.out / f"{plan.key}_n{self.count}.safetensors"
        if not path.is_file():
            began = time.process_time()
            found = self._craft(plan)
            spent = f"{time.process_time() - began:.2f}"
            write_atomic(path, serialise({"adversarial": found.contiguous()}, metadata={"seconds": spent}))
            print(f"{plan.key}: {spent} s", flush=True)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("adversarial"), float(file.metadata()["seconds"])

    def _craft(self, plan: Plan) -> Tensor:
        y, model = self.noisy(plan.sigma), self.pipeline(plan.denoiser, plan.through)
        options: dict[str, Any] = {"eps": plan.eps / 255, "steps": plan.steps, "seed": self.seed}
        if plan.attack == "denoising-PGD":
            return fa.DenoisingPGD(model, preserve_noise=True, **options)(y, self.clean)
        if plan.attack == "PGD":
            return fa.PGD(model, **options)(y, self.clean)
        options |= dict(zip(("lambda_mi", "lambda_rec", "lambda_com"), plan.lambdas, strict=True))
        if plan.attack in ("MIGA-surrogate", "MIGA-blind"):
            network = self.network(SURROGATE)
            assert isinstance(network, nn.Sequential)
            encoder = network[:-1] if plan.attack == "MIGA-surrogate" else None
            return fa.MIGA(model, encoder=encoder, bank=self.digits.train[:BANK], **options)(y, self.clean)
        margin, entropy = fa.objectives.cw_margin(kappa=KAPPA), fa.objectives.cross_entropy
        options["task_loss"] = margin if plan.attack == "MIGA" else entropy
        return fa.MIGA(model, self.network(plan.task), **options)(y, self.labels)


def other(denoiser: str) -> str:
    """The denoiser of the other kind for the same noise and training."""
    kind, rest = denoiser.split("-", 1)
    return {"dncnn": "unet", "unet": "dncnn"}[kind] + "-" + rest
