"""A classifier under our attacks is not more accurate than under torchattacks' and foolbox's, at equal budgets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastattack as fa
from tests.digits import digits, margin

STEPS, QUERIES, SEEDS = 20, 300, 4
BUDGETS = [("linf", 0.05), ("linf", 0.12), ("l2", 0.4), ("l2", 0.9)]


def correct(adv: Tensor) -> int:
    model, _, labels = digits()
    with torch.no_grad():
        return int((model(adv).argmax(1) == labels).sum())


def ours(kind: str, norm: str, eps: float, seed: int = 0) -> Tensor:
    model, x, labels = digits()
    options = {"eps": eps, "norm": norm, "bounds": (0, 1), "seed": seed}
    if kind == "square":
        square = fa.Square(model, objective=margin, threshold=0, stop="success", queries=QUERIES, **options)
        return square(x, labels)
    options["objective"] = fa.objectives.cross_entropy
    if kind == "fgsm":
        return fa.FGSM(model, **options)(x, labels)
    starts = kind == "pgd from a random point"
    return fa.PGD(model, steps=STEPS, step=2 * eps / STEPS, random_start=starts, **options)(x, labels)


def torchattacks_adv(kind: str, norm: str, eps: float, seed: int = 0) -> Tensor:
    theirs = pytest.importorskip("torchattacks", reason="torchattacks is not installed", exc_type=ImportError)
    model, x, labels = digits()
    torch.manual_seed(seed)
    if kind == "fgsm" and norm == "l2":
        pytest.skip("torchattacks' FGSM is linf alone")
    if kind == "pgd from a random point" and norm == "l2":
        pytest.skip(
            "torchattacks starts nearer the input: a radius uniform on [0, eps], not a point uniform in the ball"
        )
    if kind == "fgsm":
        attack = theirs.FGSM(model, eps=eps)
    elif kind == "square":
        name = {"linf": "Linf", "l2": "L2"}[norm]
        attack = theirs.Square(model, norm=name, eps=eps, n_queries=QUERIES, n_restarts=1, loss="margin", seed=seed)
    else:
        pgd = theirs.PGD if norm == "linf" else theirs.PGDL2
        attack = pgd(model, eps=eps, alpha=2 * eps / STEPS, steps=STEPS, random_start=kind == "pgd from a random point")
    return attack(x, labels).detach()


def foolbox_adv(kind: str, norm: str, eps: float, seed: int = 0) -> Tensor:
    theirs = pytest.importorskip("foolbox", reason="foolbox is not installed", exc_type=ImportError)
    if kind == "square":
        pytest.skip("foolbox has no Square")
    model, x, labels = digits()
    torch.manual_seed(seed)
    if kind == "fgsm":
        attack = theirs.attacks.LinfFastGradientAttack() if norm == "linf" else theirs.attacks.L2FastGradientAttack()
    else:
        pgd = theirs.attacks.LinfPGD if norm == "linf" else theirs.attacks.L2PGD
        attack = pgd(abs_stepsize=2 * eps / STEPS, steps=STEPS, random_start=kind == "pgd from a random point")
    return attack(theirs.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, labels, epsilons=eps)[1].detach()


def attacked(attack: Callable[..., Tensor], kind: str, norm: str, eps: float) -> float:
    """How many samples stay right under the attack, the mean of several seeds where it draws; all inside the ball."""
    _, x, _ = digits()
    counts = []
    for seed in range(SEEDS if kind == "pgd from a random point" else 1):
        with torch.random.fork_rng():
            adv = attack(kind, norm, eps, seed)
        delta = (adv - x).flatten(1)
        assert (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)).max() <= eps * 1.001
        assert adv.min() >= 0
        assert adv.max() <= 1
        counts.append(correct(adv))
    return sum(counts) / len(counts)


@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
@pytest.mark.parametrize("kind", ["fgsm", "pgd from the input", "pgd from a random point", "square"])
@pytest.mark.parametrize("peer", [torchattacks_adv, foolbox_adv])
def test_accuracy_is_not_above_a_peers(peer, kind, norm, eps):
    """The same eps, steps or queries; one sample of slack where the random numbers differ."""
    theirs = attacked(peer, kind, norm, eps)
    slack = 1 if kind in ("pgd from a random point", "square") else 0
    assert attacked(ours, kind, norm, eps) <= theirs + slack


@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
def test_more_work_breaks_more(norm, eps):
    """What the comparison rests on: the attacks matter, and a longer one is no weaker."""
    _, x, _ = digits()
    assert attacked(ours, "pgd from the input", norm, eps) <= attacked(ours, "fgsm", norm, eps) < correct(x) == len(x)
    if (norm, eps) == ("linf", 0.12):
        assert attacked(ours, "square", norm, eps) < len(x) / 2
