"""What every strategy of training keeps to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastattack.training import Strategy
from tests.test_training import Moody, same, snapshot


def leaves_everything_as_found(made: Strategy, clean: Tensor, copies: int) -> None:
    """The model's modes and gradients, torch's random state and the images, of which each comes ``copies`` times."""
    model = Moody().train()
    model.inner[1].eval()
    for p in model.inner.parameters():
        p.grad = torch.ones_like(p)
    before, kept = snapshot(model), clean.clone()
    inputs, targets = made(model, clean)
    assert inputs.shape == targets.shape == (4 * copies, 1, 12, 10)
    assert not inputs.requires_grad
    assert torch.equal(targets, torch.cat([clean] * copies))
    assert torch.equal(clean, kept)
    assert same(before, snapshot(model))


def goes_on_where_its_state_was_taken(make: Callable[..., Strategy], model: Moody, clean: Tensor) -> None:
    """``make(seed=...)`` gives the strategy anew."""
    first, second, other = make(), make(), make(seed=1)
    one = [first(model, clean)[0] for _ in range(2)]
    state = first.state_dict()
    one.append(first(model, clean)[0])
    second.load_state_dict(state)
    assert torch.equal(second(model, clean)[0], one[2])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(other(model, clean)[0], one[0])
    with pytest.raises(ValueError, match="seed"):
        other.load_state_dict(state)


def sample_ids_and_epoch_name_the_numbers(s: Strategy, clean: Tensor) -> tuple[Tensor, Tensor]:
    """The ids and the inputs of epoch 3."""
    model, ids = Moody().eval(), torch.tensor([5, 2, 9, 7])
    whole = s(model, clean, sample_ids=ids, epoch=3)[0][:4]
    part = s(model, clean[1:3], sample_ids=ids[1:3], epoch=3)[0][:2]
    assert torch.allclose(whole[1:3], part, atol=1e-6)
    assert not torch.allclose(whole, s(model, clean, sample_ids=ids, epoch=4)[0][:4], atol=1e-3)
    return ids, whole
