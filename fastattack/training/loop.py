"""The training loop: batch, strategy, step, and at the end of each epoch validation and a checkpoint."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import nn

from ..engine import NonFiniteError
from ..files import write_atomic
from ..guard import samples_in
from . import checkpoint
from .config import TrainConfig
from .data import Batches
from .describing import described
from .identity import identity_of
from .log import CSV, Log, Row, check_log, open_log, progress_bar
from .losses import Loss, loss_of
from .restoration import Attacking, Degraded, Purifying
from .state import State, place, surroundings_kept
from .strategies import Strategy
from .validation import Validation

WEIGHTS = "model.safetensors"
_SHOWN_EVERY = 0.2  # seconds between two looks at the loss for the progress bar: each waits for the device


@dataclass(frozen=True)
class TrainResult:
    """What a run did: the log's rows, the weight file, and seconds of this call (a resumed run's last part)."""

    rows: tuple[Row, ...]
    weights: Path
    seconds: float


def train(
    model: nn.Module,
    patches: Batches,
    strategy: Strategy,
    config: TrainConfig,
    *,
    out: str | Path,
    validation: Validation | Callable[[nn.Module], dict[str, float]] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    loss: Loss = None,
    save: Callable[[nn.Module, Path], object] | None = None,
    log: Log = "csv",
    progress: bool = True,
) -> TrainResult:
    """Train a denoiser in place; its weights (with ``ema`` their average) also go to OUT/model.safetensors.

    Other models too, by a strategy and a loss of theirs: `fastattack.registration.train_registration`.

    The loss is the mean of |D(y) - x|^2 / (d sigma^2), in units of the noise, or another one. A run that was killed and
    resumed gives the same weights, bit for bit, as one that was not (where torch's own kernels repeat their bits: on
    the CPU, with the same number of threads). The model's modes and torch's random state are left as found; its
    gradients are cleared.

    Args:
        model: the denoiser, called as model(y), on the device to train on.
        patches: clean images, see `Patches`.
        strategy: see `fastattack.training.strategies`.
        config: see `TrainConfig`.
        out: folder for checkpoint.pt, checkpoint.previous.pt, log.csv (or tensorboard/) and model.safetensors.
        validation: what to measure at the ends of epochs; None measures nothing. A `Validation` measures the model
            alone on Gaussian noise, also where the strategy purifies, and is refused for `degraded` images; a function
            of the model that gives {"valid": number} measures what you like.
        resume: go on from the checkpoint in ``out``; from the beginning where there is none yet.
        overwrite: replace an earlier run in ``out``, whose checkpoints, weights and log.csv go as this one begins.
        loss: None or "mse": the mean squared error. "mse+features": that and 0.1 of the squared distance between what
            the embedded gray denoiser sees in output and target (a stand-in for L2 and VGG features, which need weights
            that are not here). Or an objective, (output, target) -> (B,), a `Weighted` sum of several, say. The mean is
            divided by sigma^2, whatever it is; "psnr" in the log stays that of the mean squared error.
        save: writes the weight file, save(model, path), where it is not to be one for `fastattack.models.load`.
        log: "csv", "tensorboard" (needs that package), a function of each row, or None.
        progress: show a bar where stderr is a terminal.

    Raises:
        TypeError, ValueError: an argument or a checkpoint that does not fit; nothing has been written. Or a batch of
            another size than the first; the last good checkpoint stays.
        FileExistsError: ``out`` holds a run, and neither ``resume`` nor ``overwrite`` is set.
        NonFiniteError: NaN or infinity in the loss or a gradient; the last good checkpoint stays.
        OSError: a file cannot be written.
    """
    began = time.perf_counter()
    check_log(log)
    folder = Path(out)
    _require_measurable(strategy, validation)
    objective = loss_of(loss, getattr(model, "channels", None), _device_of(model))
    identity = identity_of(config=config.binding(), strategy=strategy.describe(), data=patches.describe())
    if objective is not None:  # the checkpoints of before have no such entry
        identity |= identity_of(loss={"objective": described(objective)})
    state = State(model, strategy, config, identity, objective)
    _begin(state, folder, _start(folder, resume, overwrite))
    with (
        surroundings_kept(model, state.device),
        open_log(log, folder, state.rows) as write,
        progress_bar(config.steps, state.step, progress) as show,
    ):
        _run(state, patches, folder, validation, write, _Meter(state, show))
    if save is None:
        _save_weights(state, folder / WEIGHTS)
    else:
        save(state.best, folder / WEIGHTS)
    return TrainResult(tuple(state.rows), folder / WEIGHTS, time.perf_counter() - began)


def _require_measurable(strategy: Strategy, validation: object) -> None:
    inside: object = strategy
    while isinstance(inside, Attacking | Purifying):
        inside = inside.strategy
    if isinstance(inside, Degraded) and isinstance(validation, Validation):
        raise ValueError(
            "validation: wanted None or a function of the model beside degraded images, got a Validation, which "
            "measures the removal of Gaussian noise"
        )


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _start(folder: Path, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, or None to begin."""
    if resume and overwrite:
        raise ValueError("resume: wanted either resume or overwrite, got both")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out: {folder} is a file, wanted a folder")
    found = checkpoint.latest(folder)
    if resume and found:
        return found
    if not overwrite and (found or any((folder / name).exists() for name in (WEIGHTS, CSV))):
        raise FileExistsError(f"out: {folder} holds a training run; resume or overwrite it, or name another folder")
    return None


def _begin(state: State, folder: Path, start: Path | None) -> None:
    """Take up a checkpoint or write the first one. Leftovers of a killed run go, and with overwrite the old run."""
    if start is not None:
        state.restore(start)  # first: another run's folder is left alone
    checkpoint.remove_leftovers(folder, (checkpoint.NAME, CSV, WEIGHTS))
    if start is None:
        state.save(folder)  # a folder that cannot be written is found out now
        for name in (checkpoint.PREVIOUS, WEIGHTS, CSV):  # beside the new checkpoint they would pass for its own
            (folder / name).unlink(missing_ok=True)


def _run(
    state: State,
    patches: Batches,
    folder: Path,
    validation: Callable[[nn.Module], dict[str, float]] | None,
    write: Callable[[Row], object],
    meter: _Meter,
) -> None:
    config, length = state.config, operator.index(patches.steps_per_epoch)  # NumPy's would go into the rows
    while state.step < config.steps:
        epoch, within = divmod(state.step, length)
        clean = patches.batch_at(epoch, within)
        state.require_batch(clean, f"patches.batch_at({epoch}, {within})")
        count = samples_in(clean)
        ids = torch.arange(within * count, (within + 1) * count, device=state.device)
        try:
            state.advance(clean, ids, epoch)
        except NonFiniteError as error:  # the attack met it first
            raise NonFiniteError(f"training: {error}, {place(state.step, length)}") from error
        ends = state.step % length == 0 or state.step == config.steps
        if ends or state.step % config.log_every == 0:
            state.require_finite(length)
            row = _row(state, epoch)
            if ends and validation and ((epoch + 1) % config.valid_every == 0 or state.step == config.steps):
                row.update(validation(state.best))
            state.rows.append(row)
            write(row)
        if ends or (config.save_every and state.step % config.save_every == 0):
            state.require_finite(length)
            state.save(folder)
        meter()


def _row(state: State, epoch: int) -> Row:
    loss, norm, error = state.means()
    state.forget_means()
    quality = {"psnr": _decibel(error, state.strategy.level)} if state.images else {}
    return {
        "epoch": epoch, "step": state.step, "loss": loss, **quality,
        "gradient": norm, "rate": state.config.rate(state.step - 1),
    }  # fmt: skip


def _decibel(loss: float, level: float) -> float:
    """PSNR of a loss in units of the noise, for images in [0, 1]."""
    return -10 * math.log10(loss * level**2) if loss > 0 else math.inf


class _Meter:
    """Moves the progress bar now and then."""

    def __init__(self, state: State, show: Callable[[int, str], None] | None) -> None:
        self.state, self.show, self.last, self.text = state, show, 0.0, ""

    def __call__(self) -> None:
        now = time.monotonic()
        last = self.state.step == self.state.config.steps
        if self.show is None or (now - self.last < _SHOWN_EVERY and not last):
            return
        self.last = now
        if self.state.count:  # else a row has just been written
            loss, _, error = self.state.means()
            quality = f"  {_decibel(error, self.state.strategy.level):.2f} dB" if self.state.images else ""
            self.text = f"loss {loss:.4f}{quality}"
        self.show(self.state.step, self.text)


def _save_weights(state: State, path: Path) -> None:
    """A weight file as `fastattack.models.load` reads it."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.best.state_dict().items()}
    metadata = {"architecture": type(state.model).__name__.lower(), "steps": str(state.step)}
    described = state.identity["strategy"]
    metadata["strategy"] = str(described.get("strategy", type(state.strategy).__name__))
    if isinstance(described.get("sigma"), float):
        metadata["sigma"] = f"{255 * described['sigma']:.10g}"  # the 0-255 scale of the literature
    data = serialise(tensors, metadata=metadata)
    write_atomic(path, data)
