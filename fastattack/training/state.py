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
from ..guard import Rowwise, samples_in, seed_torch
from ..objectives import Objective, mse
from . import checkpoint
from .config import TrainConfig
from .identity import checksum, digest, identity_of
from .log import Row
from .losses import value_of
from .strategies import Strategy

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


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
        told = getattr(model, "describe_options", None)
        if told is not None:  # shapes do not tell all: how a field is made of the same weights, say
            self.identity |= identity_of(options=told())
        self.elsewhere = _elsewhere(model)
        if self.elsewhere:
            self.identity["elsewhere"] = _digest_of(self.elsewhere)
        self.batch: int | None = None  # samples in each batch, once there was one
        self.images = True  # until targets come that are no images, whose loss has no PSNR
        if config.channels_last:  # Module.to would refuse the weights of 2D or of 3D convolutions
            for p in model.parameters():
                if p.dim() in _CHANNELS_LAST:
                    p.data = p.data.to(memory_format=_CHANNELS_LAST[p.dim()])
        kind = torch.optim.Adam if config.optimiser == "adam" else torch.optim.AdamW
        self.optimiser = kind(self.weights, lr=config.lr, weight_decay=config.weight_decay)
        shared = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.ema = None if config.ema is None else copy.deepcopy(model, shared).requires_grad_(False)
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

    def require_batch(self, clean: Tensor | Rowwise, name: str) -> None:
        """Raise ValueError where a batch has another size than the run's first: sample ids would come twice."""
        came = samples_in(clean)
        wanted = came if self.batch is None else self.batch
        if came != wanted or wanted == 0:
            raise ValueError(f"{name}: wanted {wanted or 'some'} images as in each batch of a run, got {came}")
        self.batch = wanted

    def advance(self, clean: Tensor | Rowwise, ids: Tensor, epoch: int) -> None:
        """One step of the optimiser on clean images (B, C, H, W), or several parts. Does not wait for the device."""
        clean = self._placed(clean)
        self._seed()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast == "bf16"):
            inputs, targets = self.strategy(self.model, clean, sample_ids=ids, epoch=epoch)
            outputs = self.model(self._laid_out(inputs))
        loss, error = self._loss(outputs, targets)
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

    def _loss(self, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        """What goes down, and the mean squared error; one is the other where there is no other."""
        self.images = not isinstance(targets, Rowwise)
        if self.loss is None and not self.images:
            raise ValueError(f"loss: wanted an objective for targets of the kind {type(targets).__name__}, got None")
        squares = [mse(outputs, targets).mean()] if self.images else []
        values = [] if self.loss is None else [value_of(self.loss, outputs, targets).mean()]
        unit = self.strategy.level**2
        return (values or squares)[0] / unit, (squares or values)[0] / unit

    def _placed(self, batch: Any) -> Any:
        """On the device and laid out; of several parts each."""
        if isinstance(batch, Rowwise):
            return batch.each(self._placed)
        return self._laid_out(batch.to(self.device)) if isinstance(batch, Tensor) else batch

    def _laid_out(self, t: Tensor) -> Tensor:
        if self.config.channels_last and t.dim() in _CHANNELS_LAST:
            return t.contiguous(memory_format=_CHANNELS_LAST[t.dim()])
        return t.contiguous()

    def _seed(self) -> None:
        """What the model draws in this step (dropout) is its own, so that resuming needs no generator state."""
        number = (self.config.seed * 0x9E3779B1 + self.step) % 2**63
        seed_torch(number, self.device)

    @torch.no_grad()
    def _follow(self) -> None:
        if self.ema is None or self.config.ema is None:
            return
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        pairs = [p for p in zip(self.ema.parameters(), self.model.parameters(), strict=True) if p[1].requires_grad]
        torch._foreach_lerp_([mine for mine, _ in pairs], [theirs for _, theirs in pairs], 1 - decay)
        for mine, theirs in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)

    def require_finite(self, steps_per_epoch: int) -> None:
        """Wait for the device and raise NonFiniteError where a loss or gradient was NaN or infinite."""
        bad = int(self.bad.item())
        if bad >= 0:
            raise NonFiniteError(f"training: NaN or infinite loss or gradient {place(bad, steps_per_epoch)}")

    def _learned(self, model: nn.Module) -> dict[str, Any]:
        return {name: value for name, value in model.state_dict().items() if name not in self.elsewhere}

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
            "model": self._learned(self.model), "ema": None if self.ema is None else self._learned(self.ema),
        })  # fmt: skip

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is damaged, foreign or another run's; nothing has been taken from it.
        """
        content = checkpoint.load(path, self.identity)
        self.strategy.load_state_dict(content["strategy"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.model.load_state_dict({**self.elsewhere, **content["model"]})
        if self.ema is not None:
            self.ema.load_state_dict({**self.elsewhere, **content["ema"]})
        self.step, self.rows, self.count = content["step"], content["rows"], content["count"]
        self.batch = content.get("batch")
        self.sums.copy_(content["sums"])


def _elsewhere(model: nn.Module) -> dict[str, Tensor]:
    """Of a model that names ``kept_elsewhere`` (a language model's weights, in files of their own) those tensors.

    They do not learn, and are not in the checkpoints, which would be a thousand times as long.
    """
    names = getattr(model, "kept_elsewhere", None)
    wanted = set() if names is None else set(names())
    known = model.state_dict(keep_vars=True)
    return {k: v for k, v in known.items() if k in wanted and not v.requires_grad}


def _digest_of(tensors: dict[str, Tensor]) -> str:
    return digest("".join(f"{name} {checksum(t)}" for name, t in tensors.items()).encode())


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
