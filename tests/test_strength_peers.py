"""A classifier under our attacks is not more accurate than under torchattacks' and foolbox's, at equal budgets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastattack as fa
from tests.digits import digits, margin

STEPS, QUERIES = 20, 300
BUDGETS = [("linf", 0.05), ("linf", 0.12), ("l2", 0.4), ("l2", 0.9)]


def correct(adv: Tensor) -> int:
    model, _, labels = digits()
    with torch.no_grad():
        return int((model(adv).argmax(1) == labels).sum())


def ours(kind: str, norm: str, eps: float) -> int:
    model, x, labels = digits()
    options = {"eps": eps, "norm": norm, "bounds": (0, 1)}
    if kind == "fgsm":
        return correct(fa.FGSM(model, objective=fa.objectives.cross_entropy, **options)(x, labels))
    if kind == "pgd":
        pgd = fa.PGD(model, objective=fa.objectives.cross_entropy, steps=STEPS, step=2 * eps / STEPS, **options)
        return correct(pgd(x, labels))
    square = fa.Square(model, objective=margin, threshold=0, stop="success", queries=QUERIES, **options)
    return correct(square(x, labels))


def torchattacks_adv(kind: str, norm: str, eps: float) -> Tensor:
    theirs = pytest.importorskip("torchattacks", reason="torchattacks is not installed", exc_type=ImportError)
    model, x, labels = digits()
    step = 2 * eps / STEPS
    if kind == "fgsm":
        attack = theirs.FGSM(model, eps=eps)
    elif kind == "pgd" and norm == "linf":
        attack = theirs.PGD(model, eps=eps, alpha=step, steps=STEPS)
    elif kind == "pgd":
        attack = theirs.PGDL2(model, eps=eps, alpha=step, steps=STEPS)
    else:
        name = {"linf": "Linf", "l2": "L2"}[norm]
        attack = theirs.Square(model, norm=name, eps=eps, n_queries=QUERIES, n_restarts=1, loss="margin", seed=0)
    return attack(x, labels)


def foolbox_adv(kind: str, norm: str, eps: float) -> Tensor:
    theirs = pytest.importorskip("foolbox", reason="foolbox is not installed", exc_type=ImportError)
    if kind == "square":
        pytest.skip("foolbox has no Square")
    model, x, labels = digits()
    if kind == "fgsm":
        attack = theirs.attacks.LinfFastGradientAttack() if norm == "linf" else theirs.attacks.L2FastGradientAttack()
    else:
        pgd = theirs.attacks.LinfPGD if norm == "linf" else theirs.attacks.L2PGD
        attack = pgd(abs_stepsize=2 * eps / STEPS, steps=STEPS, random_start=True)
    return attack(theirs.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, labels, epsilons=eps)[1]


@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
@pytest.mark.parametrize("kind", ["fgsm", "pgd", "square"])
@pytest.mark.parametrize("peer", [torchattacks_adv, foolbox_adv])
def test_accuracy_is_not_above_a_peers(peer, kind, norm, eps):
    """One sample of slack where the random numbers differ; all attacks stay in the same ball and bounds."""
    if peer is torchattacks_adv and kind == "fgsm" and norm == "l2":
        pytest.skip("torchattacks' FGSM is linf alone")
    _, x, _ = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adv = peer(kind, norm, eps).detach()
    delta = (adv - x).flatten(1)
    assert (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)).max() <= eps * 1.001
    assert ours(kind, norm, eps) <= correct(adv) + (kind != "fgsm")


def test_more_work_breaks_more():
    """What the comparison rests on: the attacks matter, and a longer one is no weaker."""
    _, x, _ = digits()
    for norm, eps in BUDGETS:
        assert ours("pgd", norm, eps) <= ours("fgsm", norm, eps) <= correct(x) == len(x)
    assert ours("pgd", "linf", 0.12) < len(x) / 2
    assert ours("square", "linf", 0.12) < len(x) / 2
