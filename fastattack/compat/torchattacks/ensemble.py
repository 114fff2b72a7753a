"""APGD, APGDT, FAB and AutoAttack: the stages of `fastattack.compat.autoattack` under torchattacks' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...fast import Speed
from ..autoattack.stages import APGDStage, APGDTargetedStage, FABStage, Shared, Stage
from .attack import Attack
from .gradient import seed
from .multiattack import MultiAttack
from .search import Search, Square, norm_of

Model = Callable[..., Any]
RADII = {"Linf": 0.3, "L2": 1.0, "L1": 5.0}


class _Staged(Search):
    """A stage of AutoAttack: each sample ends with the first point that fools the model, others come back as they are.

    ``seed`` None, or a float such as a time: from torch's global generator.
    """

    norm: str
    eps: float
    seed: Any
    verbose: bool
    n_restarts: int

    def _stage(self, shared: Shared, number: int) -> Stage:
        raise NotImplementedError

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, _, goal = self._ready(images, labels)
        self._check()
        shared = Shared(self._victim(), self.norm, Speed(**{"fold": False, **self._speed}))
        found = self._stage(shared, self.seed if isinstance(self.seed, int) else seed()).perturb(images, goal)
        if self.verbose:
            print(f"robust accuracy: {float((~self._hits(found, goal)).float().mean()):.2%}")
        return found

    def _check(self) -> None:
        norm_of(self.norm)


class APGD(_Staged):
    """Auto-PGD (arXiv 2003.01690) on ``loss`` "ce" or "dlr". rho, the share of rising steps below which a step is
    halved, is the paper's 0.75 and no other."""

    def __init__(
        self, model: Model, norm: str = "Linf", eps: float = 8 / 255, steps: int = 10, n_restarts: int = 1,
        seed: int | None = 0, loss: str = "ce", eot_iter: int = 1, rho: float = 0.75, verbose: bool = False,
    ) -> None:  # fmt: skip
        super().__init__("APGD", model)
        self.eps = eps
        self.steps = steps
        self.norm = norm
        self.n_restarts = n_restarts
        self.seed = seed
        self.loss = loss
        self.eot_iter = eot_iter
        self.thr_decr = rho
        self.verbose = verbose
        self.supported_mode = ["default"]

    def _check(self) -> None:
        super()._check()
        _only_rho(self.thr_decr)
        if self.loss not in ("ce", "dlr"):
            raise ValueError(f"loss: wanted 'ce' or 'dlr', got {self.loss!r}")

    def _stage(self, shared: Shared, number: int) -> Stage:
        return APGDStage(
            shared=shared, eps=self.eps, n_restarts=self.n_restarts, seed=number, n_iter=self.steps + 1,
            eot_iter=self.eot_iter, loss=self.loss,
        )  # fmt: skip


class APGDT(_Staged):
    """Auto-PGD on the targeted difference of logits ratio, towards n_classes - 1 other classes in turn."""

    def __init__(
        self, model: Model, norm: str = "Linf", eps: float = 8 / 255, steps: int = 10, n_restarts: int = 1,
        seed: int | None = 0, eot_iter: int = 1, rho: float = 0.75, verbose: bool = False, n_classes: int = 10,
    ) -> None:  # fmt: skip
        super().__init__("APGDT", model)
        self.eps = eps
        self.steps = steps
        self.norm = norm
        self.n_restarts = n_restarts
        self.seed = seed
        self.eot_iter = eot_iter
        self.thr_decr = rho
        self.verbose = verbose
        self.target_class = None
        self.n_target_classes = n_classes - 1
        self.supported_mode = ["default"]

    def _check(self) -> None:
        super()._check()
        _only_rho(self.thr_decr)

    def _stage(self, shared: Shared, number: int) -> Stage:
        return APGDTargetedStage(
            shared=shared, eps=self.eps, n_restarts=self.n_restarts, seed=number, n_iter=self.steps + 1,
            eot_iter=self.eot_iter, n_target_classes=self.n_target_classes,
        )  # fmt: skip


class FAB(_Staged):
    """The fast adaptive boundary attack (arXiv 1907.02044), "Linf", "L2" or "L1"; ``multi_targeted``: towards one class
    after the other."""

    def __init__(
        self, model: Model, norm: str = "Linf", eps: float | None = 8 / 255, steps: int = 10, n_restarts: int = 1,
        alpha_max: float = 0.1, eta: float = 1.05, beta: float = 0.9, verbose: bool = False, seed: int | None = 0,
        multi_targeted: bool = False, n_classes: int = 10,
    ) -> None:  # fmt: skip
        super().__init__("FAB", model)
        self.norm = norm
        self.n_restarts = n_restarts
        self._check()
        self.eps = RADII[norm] if eps is None else eps
        self.alpha_max = alpha_max
        self.eta = eta
        self.beta = beta
        self.steps = steps
        self.verbose = verbose
        self.seed = seed
        self.target_class = None
        self.multi_targeted = multi_targeted
        self.n_target_classes = n_classes - 1
        self.supported_mode = ["default"]

    def _check(self) -> None:
        if self.norm != "L1":
            norm_of(self.norm)

    def _stage(self, shared: Shared, number: int) -> Stage:
        return FABStage(
            shared=shared, eps=self.eps, n_restarts=self.n_restarts, seed=number, n_iter=self.steps,
            alpha_max=self.alpha_max, eta=self.eta, beta=self.beta, targeted=self.multi_targeted,
            n_target_classes=self.n_target_classes,
        )  # fmt: skip


class AutoAttack(Attack):
    """The ensemble of arXiv 2003.01690 in torchattacks' budget (10 steps for each part, 5,000 queries).

    `fastattack.compat.autoattack.AutoAttack` is the authors' package, with its budget.
    """

    def __init__(
        self, model: Model, norm: str = "Linf", eps: float = 8 / 255, version: str = "standard", n_classes: int = 10,
        seed: int | None = None, verbose: bool = False,
    ) -> None:  # fmt: skip
        super().__init__("AutoAttack", model)
        self.norm = norm
        self.eps = eps
        self.version = version
        self.n_classes = n_classes
        self.seed = seed
        self.verbose = verbose
        self.supported_mode = ["default"]
        if version not in ("standard", "plus", "rand"):
            raise ValueError(f"version: wanted one of 'standard', 'plus', 'rand', got {version!r}")
        norm_of(norm)
        self._autoattack = MultiAttack(self._attacks_of(version))

    def _attacks_of(self, version: str) -> list[Attack]:
        common: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "seed": self.seed, "verbose": self.verbose}
        if version == "rand":
            return [APGD(self.model, loss=loss, eot_iter=20, **common) for loss in ("ce", "dlr")]
        apgdt = APGDT(self.model, n_classes=self.n_classes, **common)
        fabt = FAB(self.model, multi_targeted=True, n_classes=self.n_classes, **common)
        square = Square(self.model, n_queries=5000, **common)
        if version == "standard":
            return [APGD(self.model, loss="ce", **common), apgdt, fabt, square]
        steep: list[Attack] = [APGD(self.model, loss=loss, n_restarts=5, **common) for loss in ("ce", "dlr")]
        return [*steep, FAB(self.model, n_classes=self.n_classes, n_restarts=5, **common), square, apgdt, fabt]

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        images, labels, _ = self._ready(images, labels)
        return self._autoattack(images, labels)

    def get_seed(self) -> Any:
        return self.seed


def _only_rho(rho: float) -> None:
    if rho != 0.75:
        raise ValueError(f"rho: wanted 0.75, the paper's, got {rho!r}")
