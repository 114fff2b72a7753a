"""Adversarial training of the network that guides a purifier: with labels (TRADES), or by its latents alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import PGD
from ..engine import NonFiniteError
from ..guard import frozen, random_state, seed_torch
from ..inputs import check_input
from ..objectives import Objective, kl_divergence, mse
from ..ops import check
from .auxiliary import logits_by
from .guide import latents_of

TRADES, LATENT = 6.0, 1.0  # default weights of the adversarial term
COVARIANCE = 0.04  # beside the variance's 1, as in arXiv 2105.04906 (25 and 1)


@dataclass(frozen=True)
class AuxiliaryTraining:
    """How `train_auxiliary` went: means of each epoch.

    Attributes:
        losses: the whole loss.
        robust: its adversarial term, without its weight: KL(p(x) || p(x')), or the mean square of h(x') - h(x).
        labelled: whether there were labels.
        seconds: wall clock.
    """

    losses: tuple[float, ...]
    robust: tuple[float, ...]
    labelled: bool
    seconds: float

    def __str__(self) -> str:
        kind = "with labels" if self.labelled else "by latents alone"
        return (
            f"{len(self.losses)} epochs {kind} in {self.seconds:.1f} s: loss {self.losses[0]:.4g} to "
            f"{self.losses[-1]:.4g}, adversarial term {self.robust[0]:.4g} to {self.robust[-1]:.4g}"
        )


def train_auxiliary(
    auxiliary: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float,
    norm: str = "linf",
    head: nn.Module | None = None,
    weight: float | None = None,
    attack_steps: int = 5,
    epochs: int = 10,
    batch: int = 64,
    lr: float = 2e-3,
    noise: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> AuxiliaryTraining:
    """Trains h in place, against the attacks of this engine (`PGD`, made anew for each batch).

    That the network comes from adversarial training is AGDM's (Lin et al., arXiv 2403.16067); the losses here are this
    project's choice. With labels that of TRADES (Zhang et al., arXiv 1901.08573, equation 5), p = softmax(head(h)):

        CE(p(x), y) + weight KL(p(x) || p(x')),    x' = argmax KL(p(x) || p(x')) in the ball,    weight 6

    Without labels (this project's own) the latents of x' stay where those of x are, and do not collapse, by variance
    and covariance terms as in VICReg (Bardes et al., arXiv 2105.04906, equations 1 to 4), V and C, F latents:

        weight mean (h(x') - h(x))^2 + V(h(x)) + 0.04 C(h(x)),    x' = argmax mean (h(x') - h(x))^2,    weight 1
        V = mean_j max(0, 1 - std_j),    C = sum_{i != j} cov_ij^2 / F

    Adam, its rate falling to 0 by a cosine. Same arguments, same weights; torch's random state, the network's mode and
    ``.grad`` are left as they were, and its weights too where an error ends the training.

    Args:
        auxiliary: `Auxiliary` or another nn.Module from images to latents; parameters without requires_grad stay.
        images: (N, C, H, W) float, in [0, 1], on the device of the network.
        labels: (N,) integers, or None.
        eps, norm: the ball of the attacks, on the scale of the images; the bounds of pixels are not kept.
        head: from latents to logits, trained too; None: that of an `Auxiliary` with classes.
        weight: of the adversarial term, >= 0.
        attack_steps: of PGD, from a random start.
        epochs, batch, lr: of the training. Without labels a last batch of one image is left out.
        noise: images get Gaussian noise as well, of a level drawn from 0 .. noise for each: what h is to see in a
            reverse process. 0: none.
        progress: called as progress(epoch, mean loss) after each.

    Raises:
        TypeError, ValueError: an argument does not fit; it is named.
        NonFiniteError: NaN or infinity; epoch and step are named.
    """
    task = _Task(auxiliary, labels, head, eps, norm, weight, attack_steps, noise)
    _check(task, images, epochs=epochs, batch=batch, lr=lr, seed=seed)
    images = images.to(next(p.dtype for p in task.net.parameters()))
    began = time.perf_counter()
    found: list[tuple[float, float]] = []
    with random_state(images.device), _kept(task.net) as learnt:
        seed_torch(seed, images.device)  # of dropout in a network of the user's
        optimiser = torch.optim.Adam(learnt, lr)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            found.append(_epoch(task, images, optimiser, generator, batch, epoch))
            if progress is not None:
                progress(epoch, found[-1][0])
    losses, robust = zip(*found, strict=True)
    return AuxiliaryTraining(losses, robust, labels is not None, time.perf_counter() - began)


class _Task:
    """What is trained on what: the loss of a batch and its adversary."""

    def __init__(
        self, auxiliary: nn.Module, labels: Tensor | None, head: nn.Module | None, eps: float, norm: str,
        weight: float | None, attack_steps: int, noise: float,
    ) -> None:  # fmt: skip
        if not isinstance(auxiliary, nn.Module):
            raise TypeError(f"auxiliary: wanted an nn.Module, got {type(auxiliary).__name__}")
        if labels is None and head is not None:
            raise ValueError("head: wanted None without labels")
        self.auxiliary, self.labels, self.noise = auxiliary, labels, noise
        self.net = nn.Sequential(auxiliary, nn.Flatten()) if labels is None else logits_by(auxiliary, head)
        self.weight = (LATENT if labels is None else TRADES) if weight is None else weight
        objective: Objective = mse if labels is None else kl_divergence
        self.options: dict[str, Any] = {"objective": objective, "eps": eps, "norm": norm, "steps": attack_steps}

    def losses(self, x: Tensor, rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The whole loss of a batch and its adversarial term, of the network in training mode."""
        self.net.eval()
        with torch.no_grad():
            target = self.net(x)
        if not bool(target.isfinite().all()):
            raise NonFiniteError("the network gives NaN or infinity")
        x_adv = PGD(self.net, seed=seed, **self.options)(x, target, sample_ids=rows)
        self.net.train()
        out, moved = self.net(x), self.net(x_adv)
        if self.labels is None:
            robust = (moved - out).square().mean()
            return self.weight * robust + spread_loss(out), robust
        clean, there = out.log_softmax(1), moved.log_softmax(1)
        robust = nn.functional.kl_div(there, clean, reduction="batchmean", log_target=True)
        return nn.functional.cross_entropy(out, self.labels[rows].long()) + self.weight * robust, robust


def spread_loss(latents: Tensor) -> Tensor:
    """V + 0.04 C of a batch of latents (B, F): 0 where each has a deviation of 1 at least and none tells of another."""
    centred = latents - latents.mean(0)
    deviation = (centred.square().sum(0) / (len(latents) - 1) + 1e-4).sqrt()
    covariance = centred.T @ centred / (len(latents) - 1)
    beside = covariance.square().sum() - covariance.diagonal().square().sum()
    return (1 - deviation).clamp(min=0).mean() + COVARIANCE * beside / latents.shape[1]


def _epoch(
    task: _Task, images: Tensor, optimiser: torch.optim.Optimizer, generator: torch.Generator, batch: int, epoch: int
) -> tuple[float, float]:
    """The means of an epoch."""
    seen: list[tuple[float, float, int]] = []
    order = torch.randperm(len(images), generator=generator).to(images.device)
    for step, rows in enumerate(torch.split(order, batch)):
        if task.labels is None and len(rows) < 2:
            continue
        x = images[rows]
        if task.noise:
            level = task.noise * torch.rand(len(x), 1, 1, 1, generator=generator, dtype=x.dtype)
            x = x + (level * torch.randn(x.shape, generator=generator, dtype=x.dtype)).to(x.device)
        try:
            loss, robust = task.losses(x, rows, int(torch.randint(2**62, (), generator=generator)))
        except NonFiniteError as error:
            raise NonFiniteError(f"auxiliary: epoch {epoch}, step {step}: {error}; is lr too large?") from error
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(f"auxiliary: epoch {epoch}, step {step}: the loss is {value:g}; is lr too large?")
        seen.append((value, float(robust.detach()), len(x)))
    count = sum(n for _, _, n in seen)
    return sum(v * n for v, _, n in seen) / count, sum(r * n for _, r, n in seen) / count


@contextmanager
def _kept(net: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Inside: no .grad; gives what is to learn. After: modes and .grad as before, on an error the weights too."""
    flags = [(module, module.training) for module in net.modules()]
    grads = [(p, p.grad) for p in net.parameters()]
    before = {name: value.detach().clone() for name, value in net.state_dict().items()}
    for p, _ in grads:
        p.grad = None
    try:
        yield [p for p, _ in grads if p.requires_grad]
    except BaseException:
        net.load_state_dict(before)
        raise
    finally:
        for module, flag in flags:
            module.training = flag
        for p, grad in grads:
            p.grad = grad


def _check(task: _Task, images: Any, *, epochs: Any, batch: Any, lr: Any, seed: Any) -> None:
    check_input(images, (0.0, 1.0))
    least = 1 if task.labels is not None else 2
    if images.dim() != 4 or len(images) < least:
        raise ValueError(f"images: wanted {least} or more, (N, C, H, W), got shape {tuple(images.shape)}")
    for name, value, low in (("epochs", epochs, 1), ("batch", batch, least)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}: wanted a whole number >= {low}, got {value!r}")
    for name, value, zero in (("weight", task.weight, True), ("noise", task.noise, True), ("lr", lr, False)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not (value >= 0 if zero else value > 0):
            raise ValueError(f"{name}: wanted a finite number {'>= 0' if zero else 'above 0'}, got {value!r}")
    check.whole(seed, "seed", 63)
    if not any(p.requires_grad for p in task.net.parameters()):
        raise ValueError("auxiliary: wanted parameters that require a gradient, got none")
    PGD(task.net, **task.options)  # tells what is wrong with eps, norm and attack_steps
    with torch.no_grad(), frozen(task.net):
        latents = latents_of(task.auxiliary, images[:1])
        if task.labels is not None:
            _check_labels(task.labels, images, task.net(images[:1].to(latents)).shape[1])


def _check_labels(labels: Any, images: Tensor, classes: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != images.shape[:1]:
        got = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels: wanted {len(images)} integers, one for each image, got {got}")
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= classes:
        raise ValueError(f"labels: wanted 0 to {classes - 1}, got {low} to {high}")
