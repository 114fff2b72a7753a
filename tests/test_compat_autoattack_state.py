"""AutoAttack leaves the model as it was in every call, and takes tensors made under inference mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastattack.compat.autoattack import AutoAttack
from tests.test_compat_torchattacks import batch, net

__all__ = ["net"]  # a fixture


def adversary(model: torch.nn.Module, **options: Any) -> AutoAttack:
    return AutoAttack(model, eps=0.02, seed=1, verbose=False, device="cpu", **options)


CALLS: dict[str, Callable[[AutoAttack, torch.Tensor, torch.Tensor], Any]] = {
    "clean_accuracy": lambda a, x, y: a.clean_accuracy(x, y),
    "perturb": lambda a, x, y: a.apgd.perturb(x, y),
    "evaluation": lambda a, x, y: a.run_standard_evaluation(x, y),
}


@pytest.mark.parametrize("call", CALLS)
def test_batch_norms_in_training_mode_keep_their_statistics(net, call):
    before = [b.clone() for b in net.train().buffers()]
    CALLS[call](adversary(net, version="custom", attacks_to_run=["apgd-ce"]), *batch())
    assert net.training
    assert all(torch.equal(now, old) for now, old in zip(net.buffers(), before, strict=True))


def test_tensors_made_under_inference_mode(net):
    def attacked(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        short = adversary(net)  # all four attacks
        short.apgd.n_iter = short.apgd_targeted.n_iter = short.fab.n_iter = 5
        short.square.n_queries = 20
        return short.run_standard_evaluation(images, labels)

    images, _ = batch()
    labels = net(images).argmax(1)
    want = attacked(images, labels)
    with torch.inference_mode():
        found = attacked(images.clone(), labels.clone())
    assert torch.equal(found, want)
