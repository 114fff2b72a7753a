"""Options that cannot be: the message names them, and nothing runs."""

from __future__ import annotations

import math

import pytest
import torch

import fastattack as fa


def model(x: torch.Tensor) -> torch.Tensor:
    return x * 2


X = torch.rand(2, 1, 6, 6)
SCHEDULED = {"objective": fa.objectives.segpgd()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targeted": "no"}, "targeted: wanted True or False"),
        ({"targeted": 1}, "targeted: wanted True or False"),
        ({"random_start": "False"}, "random_start: wanted True or False"),
        ({"eval_mode": None}, "eval_mode: wanted True or False"),
        ({"step": -0.1}, "step: wanted .* targeted=True goes down"),
        ({"step": 0.0}, "step: wanted a finite length > 0"),
        ({"step": math.nan}, "step: wanted"),
        ({"step": math.inf}, "step: wanted"),
        ({"step": True}, "step: wanted a number"),
        ({"step": "big"}, "step: wanted a number"),
        ({"step": torch.tensor([0.1, -0.1])}, "step: wanted"),
        ({"step": torch.tensor([0.1, math.nan])}, "step: wanted"),
        ({"step": torch.ones(2, 2)}, "step: wanted"),
        ({"eps": torch.tensor([math.inf, 1.0])}, "eps: wanted"),
        ({"eps": torch.tensor([math.nan, 1.0])}, "eps: wanted"),
        ({"eps": torch.tensor([-0.1, 1.0])}, "eps: wanted"),
        ({"threshold": "a"}, "threshold: wanted a number"),
        ({"threshold": True}, "threshold: wanted a number"),
        ({"threshold": math.nan, "stop": "success"}, "threshold: wanted a finite"),
        ({"threshold": math.inf}, "threshold: wanted a finite"),
        ({"tolerance": "a"}, "tolerance: wanted a number"),
        ({"view": 3}, "view: wanted a function"),
        ({"smooth": torch.ones(3)}, "smooth: wanted"),
        ({"smooth": "g"}, "smooth: wanted"),
        ({"smooth": torch.ones(3, 3, dtype=torch.int64)}, "smooth: wanted"),
        ({"smooth": torch.full((3, 3), math.nan)}, "smooth: wanted finite"),
        ({"ensemble": [2.0]}, "ensemble: wanted no weights beside one model"),
    ],
)
@pytest.mark.parametrize("attack", [fa.PGD, fa.APGD])
def test_bad_options_are_named(attack, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        attack(model, **{"eps": 0.1} | options)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (fa.PGD, {}, "keep: wanted 'last'.*no measure of the best"),
        (fa.PGD, {"stop": "converged"}, "keep: wanted 'last'"),
        (fa.PGD, {"keep": "last", "restarts": 2}, "restarts: wanted 1.*no measure of the best"),
        (fa.PGD, {"keep": "last", "stop": "converged"}, "stop: wanted None"),
        (fa.APGD, {}, "objective: wanted one whose losses compare"),
        (fa.APGD, {"keep": "last"}, "objective: wanted one whose losses compare"),
    ],
)
def test_objectives_that_change_with_the_steps(attack, options, message):
    with pytest.raises(ValueError, match=message):
        attack(model, eps=0.1, **SCHEDULED, **options)
    fa.PGD(model, eps=0.1, keep="last", **SCHEDULED)


@pytest.mark.parametrize("weights", [[1, 2], (1.0, 2.0), torch.tensor([1.0, 2.0])])
def test_weights_of_every_kind(weights):
    other = lambda x: x.square()  # noqa: E731
    found = fa.PGD([model, other], eps=0.1, ensemble=weights).run(X, X)
    want = fa.PGD([model, other], eps=0.1, ensemble=(1.0, 2.0)).run(X, X)
    assert torch.equal(found.adversarial, want.adversarial)


@pytest.mark.parametrize("weights", [[1.0, math.inf], [1.0, math.nan], [1.0, "a"], [0, 0], [1], 3.0])
def test_bad_weights_are_named(weights):
    with pytest.raises((ValueError, TypeError), match="ensemble: wanted"):
        fa.PGD([model, model], eps=0.1, ensemble=weights)


@pytest.mark.parametrize("speed", [{"precision": "bf16"}, {"precision": "auto"}, {"channels_last": True}])
def test_averaged_outputs_are_made_as_the_models_are(speed):
    with pytest.raises(ValueError, match=f"{next(iter(speed))}: wanted"):
        fa.PGD([model, model], eps=0.1, ensemble="logits", **speed)(X, X)


@pytest.mark.parametrize("attack", [fa.PGD, fa.APGD, fa.BIM, fa.FGSM, fa.MIFGSM, fa.NIFGSM])
@pytest.mark.parametrize("eps", [0.0, 0, torch.tensor([0.0, 0.1])])
def test_a_ball_may_be_a_point(attack, eps):
    found = attack(model, eps=eps)(X, torch.zeros_like(X))
    assert torch.equal(found[0], X[0])
