"""The attacks of AutoAttack, with the names and options that their users set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...attacks import APGD, FAB, Square
from ...attacks.smallest import ORDERS
from ...engine import Model
from ...fast import Speed
from ...guard import buffers_kept, modules_of
from ...objectives import Objective, cross_entropy, cw_margin, dlr
from ...objectives.wrong import WRONG, dlr_towards, until_wrong

NORMS = {"Linf": "linf", "L2": "l2", "L1": "l1"}
BOX = (0.0, 1.0)


@dataclass
class Shared:
    """What all stages attack, and how gradients are made."""

    model: Model
    norm: str
    speed: Speed = field(default_factory=lambda: Speed(fold=False))

    @property
    def calm(self) -> bool:
        """The model is in eval mode, or has none: it is attacked in the mode that it is in."""
        return not any(m.training for m in modules_of(self.model))

    def logits(self, x: Tensor) -> Tensor:
        """(B, classes), by the model as it is."""
        return logits_of(self.model, x)

    def predict(self, x: Tensor) -> Tensor:
        """(B,) classes, by the model as it is."""
        with torch.no_grad():
            return self.logits(x).argmax(1)

    def sizes(self, adv: Tensor, x: Tensor) -> Tensor:
        """(B,) float64, the norms of adv - x."""
        order = ORDERS[NORMS[self.norm]]
        norms: Tensor = torch.linalg.vector_norm((adv - x).flatten(1), order, dim=1, dtype=torch.float64)
        return norms

    def inside(self, adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """(B,) bool: adv is in ball and box."""
        return (self.sizes(adv, x) <= eps * (1 + 1e-6)) & ((adv >= 0) & (adv <= 1)).flatten(1).all(1)

    def others(self, x: Tensor, y: Tensor, count: int) -> Tensor:
        """(B, K) the classes beside y, the likeliest first; K = count, or all that there are."""
        with torch.no_grad():
            logits = self.logits(x)
        logits = logits.scatter(1, y[:, None], -math.inf)
        return logits.topk(min(count, logits.shape[1] - 1), dim=1).indices


def logits_of(model: Model, x: Tensor) -> Tensor:
    """The model's output, a tensor (B, classes)."""
    output: Any = model(x)
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(x):
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model: wanted logits ({len(x)}, classes), got {got}")
    return output


Try = Callable[..., Tensor]
"""Called as (x, target, sample_ids=ids): gives images."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """One attack. The fields are what users set; others are refused."""

    shared: Shared = field(repr=False)
    eps: float
    n_restarts: int = 1
    seed: int | None = None

    @property
    def averaged(self) -> bool:
        """The model draws random numbers: one answer proves nothing, and the last try comes back whatever it is."""
        return False

    def options(self) -> dict[str, Any]:
        """What decides over the result, as plain data."""
        names = (f.name for f in fields(self) if f.name not in ("shared", "seed"))
        return {name: getattr(self, name) for name in names}

    def perturb(self, x: Tensor, y: Tensor, *, ids: Tensor | None = None) -> Tensor:
        """Adversarial images where they were found, x elsewhere.

        Args:
            x: (B, C, H, W) in [0, 1]; y: (B,) labels.
            ids: (B,) integers that name the samples, so that a batch split changes no random number.
        """
        check_restarts(self.n_restarts)
        with buffers_kept(modules_of(self.shared.model)):
            return self._perturb(x, y, ids)

    def _perturb(self, x: Tensor, y: Tensor, ids: Tensor | None) -> Tensor:
        names = torch.arange(len(x), device=x.device) if ids is None else ids
        seed = draw_seed() if self.seed is None else self.seed
        adv, left = x.clone(), (self.shared.predict(x) == y).nonzero()[:, 0]
        if not left.numel():
            return adv
        for attack, target in self.tries(x, y, seed):
            tried = attack(x[left], target[left], sample_ids=names[left])
            inside = self.shared.inside(tried, x[left], self.eps)
            fooled = inside & (self.shared.predict(tried) != y[left])
            kept = inside if self.averaged else fooled
            adv[left[kept]] = tried[kept]
            left = left[~fooled]
            if not left.numel():
                break
        return adv

    def tries(self, x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Try, Tensor]]:
        """Attacks one after the other, each for what the ones before it left, with their targets."""
        raise NotImplementedError

    def common(self, seed: int) -> dict[str, Any]:
        """Options of the project's attacks."""
        return {
            "norm": NORMS[self.shared.norm], "bounds": BOX, "eval_mode": self.shared.calm, "seed": seed % 2**64,
            **asdict(self.shared.speed),
        }  # fmt: skip


def draw_seed() -> int:
    """From torch's global random numbers."""
    return int(torch.randint(2**31, ()))


def check_restarts(count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"n_restarts: wanted a whole number >= 1, got {count!r}")


@dataclass(slots=True, kw_only=True)
class APGDStage(Stage):
    """APGD on cross-entropy (loss "ce") or the difference of logits ratio ("dlr").

    A sample ends with the first point that fools the model. With ``eot_iter`` > 1 the model draws random numbers, and
    the point with the best mean loss counts instead. ``use_largereps``, for L1: steps at radii 3 eps, 2 eps and eps,
    three, three and four tenths of them (arXiv 2103.01208, section 3.3).
    """

    n_iter: int = 100
    eot_iter: int = 1
    loss: str = "ce"
    use_largereps: bool = False

    @property
    def averaged(self) -> bool:
        return self.eot_iter > 1

    def tries(self, x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Try, Tensor]]:
        losses: dict[str, Objective] = {"ce": cross_entropy, "dlr": dlr}
        if self.loss not in losses:
            raise ValueError(f"loss: wanted 'ce' or 'dlr', got {self.loss!r}")
        yield from self.climbing(losses[self.loss], y, seed)

    def climbing(self, loss: Objective, target: Tensor, seed: int) -> Iterator[tuple[Try, Tensor]]:
        if not self.use_largereps:
            yield self._attack(loss, seed, self.eps, self.n_iter, last=True, restarts=self.n_restarts), target
            return
        if self.shared.norm != "L1":
            raise ValueError(f"use_largereps: wanted norm 'L1' beside it, got {self.shared.norm!r}")
        for restart in range(self.n_restarts):
            yield partial(self._shrinking, loss, seed + restart), target

    def _attack(self, loss: Objective, seed: int, eps: float, steps: int, *, last: bool, **options: Any) -> APGD:
        if last and not self.averaged:
            options |= {"stop": "success", "threshold": WRONG / 2}
            loss = until_wrong(loss)
        return APGD(
            self.shared.model, eps=eps, objective=loss, steps=steps, eot=self.eot_iter, late_momentum=False, **options,
            **self.common(seed),
        )  # fmt: skip

    def _shrinking(self, loss: Objective, seed: int, x: Tensor, target: Tensor, *, sample_ids: Tensor) -> Tensor:
        part = math.ceil(0.3 * self.n_iter)
        adv: Tensor | None = None
        for times, steps in ((3, part), (2, part), (1, max(self.n_iter - 2 * part, 1))):
            own: dict[str, Any] = {}
            if adv is not None:  # two thirds of the pixels that the perturbation uses
                used = (adv != x).flatten(1).sum(1).double()
                own = {"sparsity": (used / 1.5).floor().clamp(min=1) / x[0].numel()}
            attack = self._attack(loss, seed, times * self.eps, steps, last=times == 1, **own)
            adv = attack(x, target, sample_ids=sample_ids, start=adv)
        assert adv is not None, "there are three radii"
        return adv


@dataclass(slots=True, kw_only=True)
class APGDTargetedStage(APGDStage):
    """APGD on the targeted difference of logits ratio, towards each of the likeliest other classes."""

    loss: str = "dlr-targeted"
    n_target_classes: int = 9

    def tries(self, x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Try, Tensor]]:
        if self.loss != "dlr-targeted":
            raise ValueError(f"loss: wanted 'dlr-targeted', got {self.loss!r}")
        for k, other in enumerate(self.shared.others(x, y, self.n_target_classes).unbind(1)):
            yield from self.climbing(dlr_towards, torch.stack([y, other], 1), seed + 1000 * k)


@dataclass(slots=True, kw_only=True)
class FABStage(Stage):
    """FAB: towards each of the likeliest other classes (``targeted``), or the nearest boundary of all of them."""

    n_iter: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    targeted: bool = False
    n_target_classes: int = 9

    def tries(self, x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Try, Tensor]]:
        others = self.shared.others(x, y, self.n_target_classes if self.targeted else 2**31)
        groups = torch.split(others, 1, dim=1) if self.targeted else [others]
        for k, group in enumerate(groups):
            attack = FAB(
                self.shared.model, classes=True, steps=self.n_iter, restarts=self.n_restarts, alpha_max=self.alpha_max,
                eta=self.eta, beta=self.beta, radius=self.eps, enough=self.eps, **self.common(seed + 1000 * k),
            )  # fmt: skip
            yield attack, torch.cat([y[:, None], group], 1)


@dataclass(slots=True, kw_only=True)
class SquareStage(Stage):
    """Square Attack on the margin."""

    n_queries: int = 5000
    p_init: float = 0.8

    def tries(self, x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Try, Tensor]]:
        attack = Square(
            self.shared.model, eps=self.eps, queries=self.n_queries + 1, p=self.p_init, restarts=self.n_restarts,
            objective=cw_margin(), threshold=0.0, stop="success", **self.common(seed),
        )  # fmt: skip
        yield attack, y


def settings_of(
    version: str, norm: str, apgd: APGDStage, targeted: APGDTargetedStage, fab: FABStage, square: SquareStage
) -> list[str]:
    """The attacks of a version, in order; its restarts, target classes and queries go into the stages."""
    if version == "rand":
        apgd.n_restarts, apgd.eot_iter = 1, 20
        return ["apgd-ce", "apgd-dlr"]
    sparse = norm == "L1" and version == "standard"
    apgd.n_restarts = 5 if sparse or version == "plus" else 1
    targeted.n_restarts, targeted.n_target_classes = 1, 5 if sparse else 9
    fab.n_restarts, fab.n_target_classes = 5 if version == "plus" else 1, 9
    square.n_queries = 5000
    if sparse:
        apgd.use_largereps = targeted.use_largereps = True
    if version == "plus":
        return ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    return ["apgd-ce", "apgd-t", "fab-t", "square"]
