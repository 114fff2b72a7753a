"""The peers' own PGD: the same steps from the same start, in the box [0, 1] and up the cross-entropy.

Each factory imports its package when it is called, gives it a frozen copy of the model in eval mode (the fastest form
of each) and returns what runs its public call. torchattacks 3.5 pins an old requests and ART pulls much, so both are
installed with `pip install --no-deps torchattacks adversarial-robustness-toolbox six`, beside tqdm and requests.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bench.cases import Case

Way = Callable[[], Tensor]


def frozen(case: Case) -> nn.Module:
    return copy.deepcopy(case.model).eval().requires_grad_(False)


def torchattacks(case: Case) -> Way:
    import torchattacks as theirs

    attack = theirs.PGD(frozen(case), eps=case.eps, alpha=case.step, steps=case.steps, random_start=False)
    return lambda: attack(case.x, case.target)


def foolbox(case: Case) -> Way:
    import foolbox as theirs

    model = theirs.PyTorchModel(frozen(case), bounds=case.bounds, device=case.x.device)
    attack = theirs.attacks.LinfPGD(abs_stepsize=case.step, steps=case.steps, random_start=False)
    return lambda: attack(model, case.x, case.target, epsilons=case.eps)[1]


def art(case: Case) -> Way:
    """NumPy in and out, as its interface wants it: the tensors are made into arrays before the clock starts."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = case.model(case.x[:1]).shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a model in eval mode
        model = PyTorchClassifier(
            frozen(case),
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
    return lambda: torch.from_numpy(attack.generate(x, labels)).to(case.x.device)


PEERS: dict[str, Callable[[Case], Way]] = {"torchattacks": torchattacks, "foolbox": foolbox, "art": art}


def peers_of(case: Case) -> dict[str, Callable[[], Way]]:
    """What makes each peer's way; none where they cannot take the case: their losses are for labels, in a box."""
    if case.bounds is None:
        return {}
    return {name: (lambda make=make: make(case)) for name, make in PEERS.items()}
