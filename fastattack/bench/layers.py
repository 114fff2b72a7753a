"""The layers suite: classes of the drop-in layers beside the originals, called by the same lines of code.

Gradient attacks alone: where the results are successes (C&W, DDN, APGD, FAB, Square) or labels have no say (TPGD), the
case's loss is no gate.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..fast.precision import bf16_units
from . import cases, loops
from .cases import Case
from .judge import EXACT, REDUCED, Fooled, Judge, Run
from .machine import check_device
from .trial import Trial, Way

OURS = "fastattack.compat."
APART = 0.05
"""Share of the original's climb by which ours may be below, where both draw in their own ways."""
L2 = 0.5
"""Radius of the l2 balls."""
Call = Callable[[], Any]


@dataclass(frozen=True)
class Layer:
    """One class of a library.

    Args:
        library: the original's package; ours is ``fastattack.compat`` with the same last name.
        label: names the row.
        build: (library, model, case) -> (the attack, what runs it): lines that a user of the library writes, for both.
        norm: of the ball.
        gate: "images": results are the original's to rounding; "loss": both draw in their own ways, and ours may not
            reach a lower loss; "fooled": both stop at a success, and ours may not fool fewer; "smallest": nor by larger
            perturbations. For the last two, labels are what the network says.
        single: it takes one gradient.
    """

    library: str
    label: str
    build: Callable[[Any, nn.Module, Case], tuple[Any, Call]]
    norm: str = "linf"
    gate: str = "images"
    single: bool = False

    def run(self, case: Case, *, original: bool, **speed: Any) -> Run:
        """The original, or ours."""
        model = loops.frozen(case.model)
        library = import_module(self.library if original else OURS + self.library.partition(".")[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about models in eval mode
            attack, call = self.build(library, model, case)
        if speed:
            attack.set_speed(**speed)
        return Run(call, REDUCED.get(speed.get("precision", "fp32"), EXACT))

    def prepared(self, case: Case) -> Case:
        """The case as this attack wants it."""
        case = cases.predicted(case) if self.gate in ("fooled", "smallest") else case
        case = replace(case, steps=1) if self.single else case
        return replace(case, norm="l2", eps=L2, step=L2 / 4) if self.norm == "l2" else case

    def judge(self, case: Case) -> Callable[[Call], float]:
        def original() -> Tensor:
            return self.run(case, original=True)()

        if self.gate in ("fooled", "smallest"):
            return Fooled(case, original, smallest=self.gate == "smallest")
        return Judge(case, original, floor=APART if self.gate == "loss" else None)


def _torchattacks(name: str, *args: str, **options: Any) -> Callable[[Any, nn.Module, Case], tuple[Any, Call]]:
    """A class of torchattacks with these numbers of the case, by their names there."""

    def build(library: Any, model: nn.Module, case: Case) -> tuple[Any, Call]:
        numbers = {"eps": case.eps, "alpha": case.step, "steps": case.steps, "n_queries": 10 * case.steps}
        attack = getattr(library, name)(model, **{arg: numbers[arg] for arg in args}, **options)
        return attack, lambda: attack(case.x, case.target)

    return build


def _foolbox(name: str, *, radius: bool = True, **options: Any) -> Callable[[Any, nn.Module, Case], tuple[Any, Call]]:
    def build(library: Any, model: nn.Module, case: Case) -> tuple[Any, Call]:
        seen = library.PyTorchModel(model, bounds=case.bounds, device=case.x.device)
        given: dict[str, Any] = {} if "Fast" in name else {"steps": case.steps}
        given |= {"abs_stepsize": case.step} if radius and given else {}
        attack = getattr(library.attacks, name)(**given, **options)
        return attack, lambda: attack(seen, case.x, case.target, epsilons=case.eps if radius else None)[1]

    return build


def _sweep(library: Any, model: nn.Module, case: Case) -> tuple[Any, Call]:
    """Four radii at once; the largest one's images are judged."""
    seen = library.PyTorchModel(model, bounds=case.bounds, device=case.x.device)
    attack = library.attacks.LinfPGD(abs_stepsize=case.step, steps=case.steps, random_start=False)
    radii = [case.eps * share for share in (0.25, 0.5, 0.75, 1.0)]
    return attack, lambda: attack(seen, case.x, case.target, epsilons=radii)[1][-1]


def _art(name: str, **options: Any) -> Callable[[Any, nn.Module, Case], tuple[Any, Call]]:
    """NumPy in and out, as its interface wants it: the tensors are made into arrays before the clock starts."""

    def build(library: Any, model: nn.Module, case: Case) -> tuple[Any, Call]:
        from art.estimators.classification import PyTorchClassifier

        with torch.no_grad():
            classes = model(case.x[:1]).shape[1]
        seen = PyTorchClassifier(
            model, loss=nn.CrossEntropyLoss(), input_shape=tuple(case.x.shape[1:]), nb_classes=classes,
            clip_values=case.bounds, device_type="gpu" if case.x.is_cuda else "cpu",
        )  # fmt: skip
        sizes: dict[str, Any] = {"eps": case.eps, "batch_size": len(case.x)}
        sizes |= {} if name == "BasicIterativeMethod" else {"norm": np.inf}
        walk: dict[str, Any] = {"max_iter": 10 * case.steps} if "Square" in name else {}
        walk |= {"eps_step": case.step, "max_iter": case.steps} if "Descent" in name or "Iterative" in name else {}
        walk |= {"verbose": False} if walk else {}
        attack = getattr(library, name)(seen, **sizes, **walk, **options)
        x, labels = case.x.cpu().numpy(), case.target.cpu().numpy()
        return attack, lambda: torch.from_numpy(attack.generate(x, labels)).to(case.x.device)

    return build


_STILL = {"diversity_prob": 0.0}  # without its draws both must give the same images
_TA = partial(Layer, "torchattacks")
_FB = partial(Layer, "foolbox")
_ART = partial(Layer, "art.attacks.evasion")
LAYERS: tuple[Layer, ...] = (
    _TA("FGSM", _torchattacks("FGSM", "eps"), single=True),
    _TA("BIM", _torchattacks("BIM", "eps", "alpha", "steps")),
    _TA("PGD", _torchattacks("PGD", "eps", "alpha", "steps")),
    _TA("RFGSM", _torchattacks("RFGSM", "eps", "alpha", "steps"), gate="loss"),
    _TA("FFGSM", _torchattacks("FFGSM", "eps"), gate="loss", single=True),
    _TA("PGDL2", _torchattacks("PGDL2", "eps", "alpha", "steps", random_start=False), norm="l2"),
    _TA("MIFGSM", _torchattacks("MIFGSM", "eps", "alpha", "steps")),
    _TA("NIFGSM", _torchattacks("NIFGSM", "eps", "alpha", "steps"), gate="loss"),
    _TA("SINIFGSM", _torchattacks("SINIFGSM", "eps", "alpha", "steps", m=3), gate="loss"),
    _TA("VMIFGSM", _torchattacks("VMIFGSM", "eps", "alpha", "steps", N=3), gate="loss"),
    _TA("VNIFGSM", _torchattacks("VNIFGSM", "eps", "alpha", "steps", N=3), gate="loss"),
    _TA("DIFGSM", _torchattacks("DIFGSM", "eps", "alpha", "steps", **_STILL)),
    _TA("TIFGSM", _torchattacks("TIFGSM", "eps", "alpha", "steps", **_STILL)),
    _TA("EOTPGD", _torchattacks("EOTPGD", "eps", "alpha", "steps", random_start=False)),
    _TA("UPGD", _torchattacks("UPGD", "eps", "alpha", "steps")),
    _TA("APGD", _torchattacks("APGD", "eps", "steps"), gate="fooled"),
    _TA("APGDT", _torchattacks("APGDT", "eps", "steps"), gate="fooled"),
    _TA("FAB", _torchattacks("FAB", "eps", "steps", multi_targeted=True), gate="fooled"),
    _TA("Square", _torchattacks("Square", "eps", "n_queries"), gate="fooled"),
    _TA("CW", _torchattacks("CW", "steps", c=10), norm="l2", gate="smallest"),
    _FB("LinfPGD", _foolbox("LinfPGD", random_start=False)),
    _FB("LinfPGD, four radii", _sweep),
    _FB("L2PGD", _foolbox("L2PGD", random_start=False), norm="l2"),
    _FB("LinfBasicIterativeAttack", _foolbox("LinfBasicIterativeAttack")),
    _FB("L2BasicIterativeAttack", _foolbox("L2BasicIterativeAttack"), norm="l2"),
    _FB("MIFGSM", _foolbox("MIFGSM")),
    _FB("LinfFastGradientAttack", _foolbox("LinfFastGradientAttack"), single=True),
    _FB("DDNAttack", _foolbox("DDNAttack", radius=False), norm="l2", gate="smallest"),
    _FB(
        "L2CarliniWagnerAttack",
        _foolbox("L2CarliniWagnerAttack", radius=False, binary_search_steps=2, stepsize=0.1, initial_const=100),
        norm="l2",
        gate="smallest",
    ),
    _ART("ProjectedGradientDescent", _art("ProjectedGradientDescent")),
    _ART("FastGradientMethod", _art("FastGradientMethod"), single=True),
    _ART("BasicIterativeMethod", _art("BasicIterativeMethod")),
    _ART("MomentumIterativeMethod", _art("MomentumIterativeMethod")),
    _ART("AutoProjectedGradientDescent", _art("AutoProjectedGradientDescent"), gate="fooled"),
    _ART("SquareAttack", _art("SquareAttack"), gate="fooled"),
)
QUICK = ("torchattacks PGD", "foolbox LinfPGD", "art ProjectedGradientDescent")
MODELS = ("resnet18", "resnet18-224")


def title(layer: Layer) -> str:
    return f"{layer.library.partition('.')[0]} {layer.label}"


def layer_trials(
    *, device: str, quick: bool, only: Sequence[str] = (), steps: int = 10
) -> Iterator[Callable[[], Trial]]:
    """One maker a row: every class of `LAYERS` on a ResNet-18 of CIFAR's size, and PGD's on one of ImageNet's.

    Args:
        device: "cpu" or "cuda".
        quick: small images, two steps, one class of each library.
        only: parts of the rows' names, capitals or not; () means all.
        steps: gradients of each attack.

    Raises:
        ValueError: a device that is not there.
    """
    check_device(device)
    for model in MODELS[:1] if quick else MODELS:
        for layer in LAYERS:
            name = f"{title(layer)} {model}"
            usual = title(layer) in QUICK if quick or model != MODELS[0] else True
            if any(part.lower() in name.lower() for part in only) if only else usual:
                size = cases.QUICK if quick else cases.FULL
                yield partial(trial_of, name, layer, model, device=device, steps=2 if quick else steps, size=size)


def trial_of(name: str, layer: Layer, model: str, *, device: str, steps: int, size: cases.Size) -> Trial:
    case = layer.prepared(cases.case_of(model, shared=None, steps=steps, device=device, size=size))
    return Trial(
        suite="layers",
        case=name,
        dtype=str(case.x.dtype).removeprefix("torch."),
        shape=tuple(case.x.shape),
        ways=ways_of(layer, case),
        judge=layer.judge(case),
        floor=loops.passes(replace(case, steps=1)),
        floor_name=f"{case.steps} x one pass of the model",
        floor_scale=case.steps,
    )


def ways_of(layer: Layer, case: Case) -> list[Way]:
    """The original, ours at float32, and ours at "auto" where that is something else."""

    def way(name: str, side: Any, **options: Any) -> Way:
        return Way(name, side, partial(layer.run, case, **options), False)

    found = [way(layer.library.partition(".")[0], "peer", original=True), way("ours", "ours", original=False)]
    if case.x.is_cuda or bf16_units():
        found.append(way("ours auto", "ours", original=False, precision="auto"))
    return found
