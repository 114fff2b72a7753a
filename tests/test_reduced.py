"""Gradients in reduced precision: who succeeds, and what an interrupt leaves, says the model as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa

MARGIN = fa.objectives.cw_margin()
SEARCHES = {
    "FMN-linf": lambda model, **o: fa.FMN(model, norm="linf", steps=30, step=0.3, **o),
    "FMN-l2": lambda model, **o: fa.FMN(model, norm="l2", steps=30, step=0.3, **o),
    "DDN": lambda model, **o: fa.DDN(model, steps=40, step=0.3, radius=0.2, **o),
    "CW": lambda model, **o: fa.CW(model, steps=30, restarts=3, step=0.02, **o),
}


@pytest.fixture
def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    x = torch.rand(64, 1, 8, 8)
    return model, x, model(x).argmax(1)


def margin(model: nn.Module, adv: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return MARGIN(model(adv), labels).double()


@pytest.mark.parametrize("name", SEARCHES)
def test_no_success_is_lost_and_none_invented(case, name):
    model, x, labels = case
    options = {"objective": MARGIN, "threshold": 0.0}
    wide = SEARCHES[name](model, **options).run(x, labels)
    found = SEARCHES[name](model, precision="bf16", **options).run(x, labels)
    true = margin(model, found.adversarial, labels)
    assert wide.success.all()
    assert found.success.all()
    assert (true > 0).all()
    assert torch.allclose(found.loss, true, atol=1e-6)
    length, wanted = ((f.adversarial - x).flatten(1).norm(dim=1) for f in (found, wide))
    assert length.mean() < 1.1 * wanted.mean()


@pytest.mark.parametrize("attack", [fa.PGD, fa.APGD])
def test_only_samples_that_are_fooled_end(case, attack):
    model, x, labels = case
    options = {"eps": 0.1, "steps": 80, "step": 0.0005, "objective": MARGIN, "threshold": 0.0, "random_start": False}
    whole = attack(model, **options).run(x, labels)
    found = attack(model, precision="bf16", stop="success", patience=1, **options).run(x, labels)
    ended = found.steps_used < 80
    assert ended.any()
    assert found.success[ended].all()
    assert (margin(model, found.adversarial, labels)[ended] > 0).all()
    assert found.success.sum() >= whole.success.sum() - 1


def interrupt(step: int):
    def report(progress: fa.engine.Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("stop", [None, "converged", "success"])
def test_an_interrupt_leaves_the_true_loss(case, stop):
    model, x, labels = case
    attack = fa.PGD(
        model, objective=MARGIN, eps=0.02, precision="bf16", on_interrupt="return", stop=stop, threshold=0.0, steps=9,
        max_batch=40,
    )  # fmt: skip
    found = attack.run(x, labels, progress=interrupt(5))
    assert not found.complete
    assert torch.allclose(found.loss[:40], margin(model, found.adversarial, labels)[:40], atol=1e-6)
    assert found.loss[40:].isnan().all()
    assert torch.equal(found.adversarial[40:], x[40:])
