"""The peers' own attacks: the same steps from the same start, in the ball of the plain loop.

Each factory imports its package when it is called, gives it a frozen copy of the model in eval mode (the fastest form
of each) and returns what runs its public call. Tried with torchattacks 3.5.1, foolbox 3.3.4,
adversarial-robustness-toolbox 1.20.1, cospgd 0.1.3, adv-lib 0.2.8 (it imports torchvision and visdom, which its PGD
does not use) and autoattack at commit a392200 of github.com/fra31/auto-attack (it is not on PyPI).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .cases import Case
from .judge import Run
from .loops import frozen, gradient

Maker = Callable[[Case], Run]


def torchattacks(case: Case) -> Run:
    import torchattacks as theirs

    attack = theirs.PGD(frozen(case.model), eps=case.eps, alpha=case.step, steps=case.steps, random_start=False)
    return Run(lambda: attack(case.x, case.target))


def foolbox(case: Case) -> Run:
    import foolbox as theirs

    model = theirs.PyTorchModel(frozen(case.model), bounds=case.bounds, device=case.x.device)
    attack = theirs.attacks.LinfPGD(abs_stepsize=case.step, steps=case.steps, random_start=False)
    return Run(lambda: attack(model, case.x, case.target, epsilons=case.eps)[1])


def art(case: Case) -> Run:
    """NumPy in and out, as its interface wants it: the tensors are made into arrays before the clock starts."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = case.model(case.x[:1]).shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a model in eval mode
        model = PyTorchClassifier(
            frozen(case.model),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(case.x.shape[1:]),
            nb_classes=classes,
            clip_values=case.bounds,
            device_type="gpu" if case.x.is_cuda else "cpu",
        )
        attack = ProjectedGradientDescentPyTorch(
            model, norm=np.inf, eps=case.eps, eps_step=case.step, max_iter=case.steps, batch_size=len(case.x),
            verbose=False,
        )  # fmt: skip
    x, labels = case.x.cpu().numpy(), case.target.cpu().numpy()
    return Run(lambda: torch.from_numpy(attack.generate(x, labels)).to(case.x.device))


def adversarial_library(case: Case) -> Run:
    """It returns the last point that it has looked at and found misclassified (`cases.classified` sees to that): one
    gradient more, to reach the last step."""
    from adv_lib.attacks import pgd_linf

    model = frozen(case.model)
    return Run(
        lambda: pgd_linf(
            model, case.x, case.target, case.eps, steps=case.steps + 1, random_init=False, absolute_step_size=case.step
        )
    )


def torchattacks_apgd(case: Case) -> Run:
    """The point of the highest loss; its plain call gives the last that fools. It counts steps without the start."""
    import torchattacks as theirs

    attack = theirs.APGD(frozen(case.model), norm="Linf", eps=case.eps, steps=case.steps - 1, loss="ce")
    return Run(lambda: attack.perturb(case.x, case.target, best_loss=True)[1])


def autoattack(case: Case) -> Run:
    from autoattack.autopgd_base import APGDAttack

    attack = APGDAttack(
        frozen(case.model), n_iter=case.steps - 1, norm="Linf", eps=case.eps, loss="ce", device=case.x.device
    )
    return Run(lambda: attack.perturb(case.x, case.target, best_loss=True))


def cospgd(case: Case) -> Run:
    """The loop of its README, for regression, over its own weights and steps."""
    from cospgd import functions

    model = frozen(case.model)
    low, high = case.bounds or (-math.inf, math.inf)

    def loss(adv: Tensor) -> Tensor:
        output = model(adv)
        error = nn.functional.mse_loss(output, case.target, reduction="none").mean(1)
        weighted: Tensor = functions.cospgd_scale(output, case.target, error, one_hot=False)
        return weighted.mean((1, 2))

    def run() -> Tensor:
        adv = case.x.clone()
        for _ in range(case.steps):
            _, grad = gradient(loss, adv)
            adv = functions.step_inf(adv, case.eps, grad, case.x, case.step, False, low, high)
        return adv

    return Run(run)


PGD: dict[str, Maker] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "art": art,
    "adversarial-library": adversarial_library,
}
APGD: dict[str, Maker] = {
    "autoattack": autoattack,
    "torchattacks": torchattacks_apgd,
}  # adv-lib 0.2.8 has one too, but where it keeps the best it always takes 100 steps
COSPGD: dict[str, Maker] = {"cospgd": cospgd}
