"""What a training run is made of at one moment: weights, optimiser, averages. One step, saving and restoring."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import NonFiniteError
from ..guard import seed_torch
from ..objectives import Objective, mse
from . import checkpoint
from .config import TrainConfig
from .log import Row
from .losses import value_of
from .strategies import Strategy


class State:
    """A model in training. ``step`` counts the steps done; all else follows from it and from the seeds."""

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        config: TrainConfig,
        identity: dict[str, Any],
        loss: Objective | None = None,
    ) -> None:
        self.model, self.strategy, self.config, self.loss = model, strategy, config, loss
        self.weights = [p for p in model.parameters() if p.requires_grad]
        if not self.weights:
            raise ValueError("model: wanted parameters that require grad, got none")
        self.device = self.weights[0].device
        self.identity = {**identity, "model": checkpoint.shapes(model)}
        self.batch: int | None = None  # samples in each batch, once there was one
        self.format = torch.channels_last if config.channels_last else torch.contiguous_format
        if config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        kind = torch.optim.Adam if config.optimiser == "adam" else torch.optim.AdamW
        self.optimiser = kind(self.weights, lr=config.lr, weight_decay=config.weight_decay)
        self.ema = None if config.ema is None else copy.deepcopy(model).requires_grad_(False)
        self.step = 0
        self.rows: list[Row] = []
        # Loss and gradient norm since the last row, and the mean squared error where the loss is another.
        self.sums = torch.zeros(2 if loss is None else 3, dtype=torch.float64, device=self.device)
        self.count = 0
        self.bad = torch.full((), -1, dtype=torch.int64, device=self.device)  # first step that was not finite

    @property
    def best(self) -> nn.Module:
        """The model to validate and deliver."""
        return self.model if self.ema is None else self.ema

    def require_batch(self, clean: Tensor, name: str) -> None:
        """Raise ValueError where a batch has another size than the run's first: sample ids would come twice."""
        wanted = len(clean) if self.batch is None else self.batch
        if len(clean) != wanted or wanted == 0:
            raise ValueError(f"{name}: wanted {wanted or 'some'} images as in each batch of a run, got {len(clean)}")
        self.batch = wanted

    def advance(self, clean: Tensor, ids: Tensor, epoch: int) -> None:
        """One step of the optimiser on clean images (B, C, H, W). Does not wait for the device."""
        clean = clean.to(self.device).contiguous(memory_format=self.format)
        self._seed()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast == "bf16"):
            inputs, targets = self.strategy(self.model, clean, sample_ids=ids, epoch=epoch)
            outputs = self.model(inputs.contiguous(memory_format=self.format))
        error = mse(outputs, targets).mean() / self.strategy.level**2
        loss = error
        if self.loss is not None:
            loss = value_of(self.loss, outputs, targets).mean() / self.strategy.level**2
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.weights, self.config.clip or float("inf"))
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate(self.step)
        self.optimiser.step()
        self._follow()
        seen = torch.stack((loss.detach(), norm.detach(), error.detach())[: len(self.sums)]).double()
        self.sums += seen
        self.bad = torch.where((self.bad < 0) & ~seen.isfinite().all(), self.step, self.bad)
        self.count += 1
        self.step += 1

    def _seed(self) -> None:
        """What the model draws in this step (dropout) is its own, so that resuming needs no generator state."""
        number = (self.config.seed * 0x9E3779B1 + self.step) % 2**63
        seed_torch(number, self.device)

    @torch.no_grad()
    def _follow(self) -> None:
        if self.ema is None or self.config.ema is None:
            return
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        for mine, theirs in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)

    def require_finite(self, steps_per_epoch: int) -> None:
        """Wait for the device and raise NonFiniteError where a loss or gradient was NaN or infinite."""
        bad = int(self.bad.item())
        if bad >= 0:
            raise NonFiniteError(f"training: NaN or infinite loss or gradient {place(bad, steps_per_epoch)}")

    def means(self) -> tuple[float, float, float]:
        """Loss, gradient norm and mean squared error, means since the last row; waits for the device."""
        loss, norm, *error = (self.sums / max(self.count, 1)).tolist()
        return loss, norm, error[0] if error else loss

    def forget_means(self) -> None:
        self.sums.zero_()
        self.count = 0

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""
        checkpoint.save(folder, {
            "identity": self.identity, "step": self.step, "rows": self.rows, "sums": self.sums, "count": self.count,
            "batch": self.batch, "strategy": self.strategy.state_dict(), "optimiser": self.optimiser.state_dict(),
            "model": self.model.state_dict(), "ema": None if self.ema is None else self.ema.state_dict(),
        })  # fmt: skip

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is damaged, foreign or another run's; nothing has been taken from it.
        """
        content = checkpoint.load(path, self.identity)
        self.strategy.load_state_dict(content["strategy"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.model.load_state_dict(content["model"])
        if self.ema is not None:
            self.ema.load_state_dict(content["ema"])
        self.step, self.rows, self.count = content["step"], content["rows"], content["count"]
        self.batch = content.get("batch")
        self.sums.copy_(content["sums"])


def place(step: int, steps_per_epoch: int) -> str:
    return f"in epoch {step // steps_per_epoch}, step {step % steps_per_epoch}"


@contextmanager
def surroundings_kept(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside: the model in training mode, free random state. After: its modes and torch's random state as found."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            model.train()
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            model.zero_grad()
