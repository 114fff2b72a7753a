"""The evaluation: one attack after the other, each on what the ones before it left."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from ...engine import Model
from ...fast import speed_of
from ...guard import buffers_kept, fresh, left_as_found, modules_of, random_state
from . import checks
from .stages import NORMS, APGDStage, APGDTargetedStage, FABStage, Shared, SquareStage, Stage, draw_seed, settings_of
from .state import State

ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
VERSIONS = ("standard", "plus", "rand", "custom")


class AutoAttack:
    """AutoAttack: an ensemble of attacks without parameters to tune, and the robust accuracy that they leave.

    Arguments, defaults, attributes and log lines are those of the authors' package. Images are attacked on the model
    in the mode that it is in, and come back inside ball and [0, 1]; what counts as fooled is the answer of the model as
    it is to the very image that is returned.

    Args:
        model: called as model(x), gives logits (B, classes); an nn.Module or any callable.
        norm: "Linf", "L2" or "L1".
        eps: radius, on the scale of images in [0, 1].
        seed: of every random number; None draws one from torch's global random numbers for each evaluation.
        verbose: print lines of progress.
        attacks_to_run: for version="custom": of "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square".
        version: "standard", "plus", "rand" or "custom".
        is_tf_model: must be False.
        device: where batches are attacked; where there is no CUDA, "cuda" means where the images are.
        log_path: a file that lines are appended to, beside standard output.

    Raises:
        ValueError: an argument that cannot be; the message names it.
    """

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = "cuda",
        log_path: str | Path | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model: wanted something callable as model(x), got {type(model).__name__}")
        if norm not in NORMS:
            raise ValueError(f"norm: wanted 'Linf', 'L2' or 'L1', got {norm!r}")
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < math.inf:
            raise ValueError(f"eps: wanted a finite number > 0, got {eps!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise ValueError(f"seed: wanted a whole number >= 0 or None, got {seed!r}")
        if is_tf_model:
            raise ValueError("is_tf_model: wanted False (a PyTorch model), got True")
        if version != "custom" and len(attacks_to_run):
            raise ValueError(
                f"attacks_to_run: wanted none beside version={version!r}, which chooses them; version='custom' does not"
            )
        self.model, self.norm, self.epsilon, self.seed = model, norm, float(eps), seed
        self.verbose, self.is_tf_model, self.device = verbose, is_tf_model, device
        self.attacks_to_run: list[str] = list(attacks_to_run)
        self.version = version
        self.log_path = log_path
        self.shared = shared = Shared(model, norm)
        self.apgd = APGDStage(shared=shared, eps=self.epsilon, n_restarts=5)
        self.apgd_targeted = APGDTargetedStage(shared=shared, eps=self.epsilon)
        self.fab = FABStage(shared=shared, eps=self.epsilon, n_restarts=5)
        self.square = SquareStage(shared=shared, eps=self.epsilon)
        self.set_version(version)

    def set_version(self, version: str = "standard") -> None:
        """The attacks of a version, with its restarts, target classes and queries; "custom" changes nothing."""
        if version not in VERSIONS:
            raise ValueError(f"version: wanted one of {', '.join(map(repr, VERSIONS))}, got {version!r}")
        self.version = version
        if version == "custom":
            return
        if self.verbose:
            print(f"setting parameters for {version} version")
        self.attacks_to_run = settings_of(version, self.norm, self.apgd, self.apgd_targeted, self.fab, self.square)

    def set_speed(self, **options: Any) -> Self:
        """How gradients are made, the fields of `fastattack.fast.Speed`; default: in the model's own precision.

        With a reduced precision every point that may count is judged by the model as it is, a forward pass more.
        """
        self.shared.speed = speed_of(**options)
        return self

    def get_logits(self, x: Tensor) -> Tensor:
        return self.shared.logits(x)

    # -- the evaluation ------------------------------------------------------------------------------------------------

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The images after all attacks, which come one after the other, on what is left.

        Args:
            x_orig: (N, C, H, W) in [0, 1]; y_orig: (N,) int, the true classes.
            bs: images that are attacked at a time. No random number depends on it.
            return_labels: give the model's answers to the returned images too.
            state_path: a file that is written after each batch; where it is there, the evaluation goes on from it, and
                what was found before comes back as well. A folder NAME.parts beside it holds the images.

        Raises:
            ValueError: images, labels, classes, attacks or state do not fit; the message names them.
        """
        checks.check_data(x_orig, y_orig, bs)
        self._check_attacks()
        with torch.inference_mode(False):
            return self._run(fresh(x_orig), fresh(y_orig), bs, return_labels, state_path)

    def _run(
        self, x_orig: Tensor, y_orig: Tensor, bs: int, return_labels: bool, state_path: str | Path | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        log = checks.Log(self.log_path, self.verbose)
        seed = draw_seed() if self.seed is None else self.seed
        state = State(state_path, x_orig, y_orig, self._options(), seed)
        if state.there:
            state.restore(self.seed)
            log.log(f"Restored state from {state.path}")
        device = self._device(x_orig)
        modules = modules_of(self.model)
        with random_state(device), buffers_kept(modules):
            torch.manual_seed(state.seed)
            self._evaluate(x_orig, y_orig, bs, state, device, log)
        adversarial, labels = state.adversarial, state.labels.to(y_orig)
        return (adversarial, labels) if return_labels else adversarial

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """The images after each attack alone, by its name."""
        self._check_attacks()
        log = checks.Log(self.log_path, self.verbose)
        if self.verbose:
            print(f"using {self.version} version including {', '.join(self.attacks_to_run)}")
        found: dict[str, Any] = {}
        for name in list(self.attacks_to_run):
            began = time.time()
            with self._alone(name):
                x_adv, y_adv = self.run_standard_evaluation(x_orig, y_orig, bs=bs, return_labels=True)
            found[name] = (x_adv, y_adv) if return_labels else x_adv
            accuracy = float((y_adv == y_orig).double().mean())
            space = "\t \t" if name == "fab" else "\t"
            seconds = time.time() - began
            log.log(f"robust accuracy by {name.upper()} {space} {accuracy:.2%} \t (time attack: {seconds:.1f} s)")
        return found

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """The share of images that the model classifies as y_orig (N,)."""
        checks.check_data(x_orig, y_orig, bs)
        device = self._device(x_orig)
        with left_as_found(self.model, device, eval_mode=False):
            right = sum(
                int((self.shared.predict(x.to(device)) == y.to(device)).sum())
                for x, y in zip(torch.split(x_orig, bs), torch.split(y_orig, bs), strict=True)
            )
        accuracy = right / len(x_orig)
        if self.verbose:
            print(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _evaluate(self, x: Tensor, y: Tensor, bs: int, state: State, device: torch.device, log: checks.Log) -> None:
        waiting = [name for name in self.attacks_to_run if name not in state.finished]
        log.log(f"using {self.version} version including {', '.join(waiting)}.")
        if state.finished:
            log.log(f"{', '.join(state.finished)} was/were already run.")
        self._look(x[:bs].to(device), y, log)
        if state.clean is None:
            answers = torch.cat([self.shared.predict(part.to(device)).cpu() for part in torch.split(x, bs)])
            state.labels, state.robust = answers, answers == y.cpu()
            state.clean = _share(state.robust)
            state.write()
            log.log(f"initial accuracy: {state.clean:.2%}")
        else:
            log.log(f"initial clean accuracy: {state.clean:.2%}")
            log.log(f"robust accuracy at the time of restoring the state: {_share(state.robust):.2%}")
        began = time.time()
        for name in waiting:
            if not bool(state.robust.any()):
                break
            self._attack(name, x, y, bs, state, device, log)
            accuracy = state.finish(name)
            seconds = time.time() - began
            log.log(f"robust accuracy after {name.upper()}: {accuracy:.2%} (total time {seconds:.1f} s)")
        checks.check_square({"clean": state.clean, **state.finished}, log)
        self._summary(x, state, log)

    def _attack(
        self, name: str, x: Tensor, y: Tensor, bs: int, state: State, device: torch.device, log: checks.Log
    ) -> None:
        """One attack on all that is left, in batches."""
        batches = torch.split((state.robust & ~state.tried).nonzero()[:, 0], bs)
        for number, index in enumerate(batches):
            rows = index.to(x.device)
            images, labels, ids = x[rows].to(device), y[rows.to(y.device)].to(device), index.to(device)
            if number == 0 and name in ("apgd-dlr", "apgd-t"):
                checks.check_zero_gradients(self.model, images, labels, log)
            with self._stage(name, state.seed) as stage:
                adv = stage.perturb(images, labels, ids=ids)
            answers = self.shared.predict(adv)
            fooled = answers != labels  # of a random model the second look counts, as in the original
            state.saw(index, fooled, adv, answers)
            count = int(fooled.sum())
            log.log(f"{name} - {number + 1}/{len(batches)} - {count} out of {len(index)} successfully perturbed")

    @contextmanager
    def _stage(self, name: str, seed: int) -> Iterator[Stage]:
        """The attack of this name with the seed of the evaluation; the user's settings are back afterwards."""
        stages: dict[str, tuple[Stage, dict[str, Any]]] = {
            "apgd-ce": (self.apgd, {"loss": "ce"}), "apgd-dlr": (self.apgd, {"loss": "dlr"}),
            "apgd-t": (self.apgd_targeted, {}), "fab": (self.fab, {"targeted": False}),
            "fab-t": (self.fab, {"targeted": True, "n_restarts": 1}), "square": (self.square, {}),
        }  # fmt: skip
        stage, own = stages[name]
        chosen: dict[str, Any] = {**own, "seed": seed}
        before = {option: getattr(stage, option) for option in chosen}
        try:
            for option, value in chosen.items():
                setattr(stage, option, value)
            yield stage
        finally:
            for option, value in before.items():
                setattr(stage, option, value)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        before = self.attacks_to_run, self.verbose
        try:
            self.attacks_to_run, self.verbose = [name], False
            yield
        finally:
            self.attacks_to_run, self.verbose = before

    def _look(self, x: Tensor, y: Tensor, log: checks.Log) -> None:
        if self.version != "rand":
            checks.check_randomized(self.model, x, y[: len(x)].to(x.device), log)
        classes = checks.check_output(self.model, x, log)
        checks.check_dynamic(self.model, x, log)
        targets = {"apgd-t": self.apgd_targeted.n_target_classes, "fab-t": self.fab.n_target_classes}
        checks.check_classes(classes, y, self.attacks_to_run, targets, log)

    def _summary(self, x: Tensor, state: State, log: checks.Log) -> None:
        adv = state.adversarial
        log.log(
            f"max {self.norm} perturbation: {float(self.shared.sizes(adv, x).max()):.5f}, nan in tensor: "
            f"{int(adv.isnan().sum())}, max: {float(adv.max()):.5f}, min: {float(adv.min()):.5f}"
        )
        log.log(f"robust accuracy: {_share(state.robust):.2%}")

    def _options(self) -> dict[str, Any]:
        stages = {"apgd": self.apgd, "apgd_targeted": self.apgd_targeted, "fab": self.fab, "square": self.square}
        return {
            "norm": self.norm, "eps": self.epsilon, "attacks_to_run": self.attacks_to_run,
            "speed": asdict(self.shared.speed), **{name: stage.options() for name, stage in stages.items()},
        }  # fmt: skip

    def _check_attacks(self) -> None:
        if not self.attacks_to_run:
            raise ValueError(f"attacks_to_run: wanted at least one of {', '.join(map(repr, ATTACKS))}, got none")
        for name in self.attacks_to_run:
            if name not in ATTACKS:
                raise ValueError(f"attacks_to_run: wanted some of {', '.join(map(repr, ATTACKS))}, got {name!r}")

    def _device(self, x: Tensor) -> torch.device:
        wanted = x.device if self.device is None else torch.device(self.device)
        return x.device if wanted.type == "cuda" and not torch.cuda.is_available() else wanted


def _share(flags: Tensor) -> float:
    return int(flags.sum()) / len(flags)
