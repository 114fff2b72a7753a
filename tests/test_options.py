"""Options that cannot be: the message names them, and nothing runs."""

from __future__ import annotations

import math

import numpy as np
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


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (fa.PGD, {"epz": 0.1}, "PGD: unknown option 'epz'; did you mean 'eps'[?]$"),
        (fa.PGD, {"eps": 0.1, "stpes": 3}, "PGD: unknown option 'stpes'; did you mean 'steps'[?]$"),
        (fa.PGD, {"eps": 0.1, "presicion": "bf16"}, "unknown option 'presicion'; did you mean 'precision'[?]$"),
        (fa.MIFGSM, {"eps": 0.1, "deccay": 1.0}, "MIFGSM: unknown option 'deccay'; did you mean 'decay'[?]$"),
        (fa.Square, {"ep": 0.1, "querys": 10}, "'ep'; did you mean 'eps'[?], 'querys'; did you mean 'queries'[?]$"),
        (fa.Universal, {"epss": 0.1}, "Universal: unknown option 'epss'; did you mean 'eps'[?]$"),
        (fa.CW, {"threshold": 1.0, "initial": 1.0, "qqqq": 1}, "'initial'; did you mean 'initial_c'[?], 'qqqq'$"),
        (fa.PGD, {}, "missing 1 required keyword-only argument: 'eps'"),
    ],
)
def test_a_misspelt_option_is_told_with_what_was_meant(attack, options, message):
    with pytest.raises(TypeError, match=message):
        attack(model, **options)


def test_an_attack_of_ones_own_may_take_options_of_its_own():
    class Mine(fa.PGD):
        def __init__(self, net, *, scale, **options):
            super().__init__(net, eps=scale * options.pop("colour"), **options)

    assert Mine(model, scale=0.1, colour=2).threat.eps == 0.2
    with pytest.raises(TypeError, match="Mine: unknown option 'scal'; did you mean 'scale'"):
        Mine(model, scal=0.1)


# -- models and inputs that do not fit ---------------------------------------------------------------------------------


def net(dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 1, 1)).to(device, dtype)


@pytest.mark.parametrize("attack", [fa.PGD, fa.Square])
@pytest.mark.parametrize(
    ("models", "dtype", "message"),
    [
        (net(), torch.float64, "model: wanted parameters in float64 on cpu as the input is, got float32 on cpu"),
        (net(torch.float64), torch.float32, "parameters in float32 on cpu as the input is, got float64 on cpu"),
        (net(device="meta"), torch.float32, "parameters in float32 on cpu as the input is, got float32 on meta"),
        ([net(), net(torch.float64)], torch.float32, "parameters of model 1 in float32 on cpu .*, got float64 on cpu"),
    ],
)
def test_a_model_elsewhere_or_of_another_type_is_named(attack, models, dtype, message):
    x = X.to(dtype)
    with pytest.raises(ValueError, match=message):
        attack(models, eps=0.1).run(x, x)


def test_a_target_elsewhere_is_named():
    with pytest.raises(ValueError, match="target: wanted a tensor on cpu as the input is, got one on meta"):
        fa.PGD(net(), eps=0.1).run(X, torch.empty_like(X, device="meta"))


def test_a_model_that_moves_its_input_by_itself_is_attacked():
    inner = net(torch.float64)

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.double()).to(x.dtype)

    found = fa.PGD(Wide(), eps=0.1, steps=2).run(X, X)
    assert torch.allclose(found.loss, fa.objectives.mse(Wide()(found.adversarial), X).double(), rtol=1e-5)


def test_other_errors_of_a_model_pass_as_they_are():
    def broken(x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        fa.PGD(broken, eps=0.1).run(X, X)


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights", [[1, 2], (1.0, 2.0), torch.tensor([1.0, 2.0]), np.array([1.0, 2.0]), np.array([1, 2], dtype=np.int32)]
)
def test_weights_of_every_kind(weights):
    other = lambda x: x.square()  # noqa: E731
    found = fa.PGD([model, other], eps=0.1, ensemble=weights).run(X, X)
    want = fa.PGD([model, other], eps=0.1, ensemble=(1.0, 2.0)).run(X, X)
    assert torch.equal(found.adversarial, want.adversarial)


def test_weights_by_name():
    other = lambda x: x.square()  # noqa: E731
    want = fa.PGD([model, other], eps=0.1, ensemble=(1.0, 2.0)).run(X, X)
    for weights in ({"a": 1.0, "b": 2.0}, {"b": np.float32(2.0), "a": 1}):  # by name, not by order
        found = fa.PGD({"a": model, "b": other}, eps=0.1, ensemble=weights).run(X, X)
        assert torch.equal(found.adversarial, want.adversarial)
        assert torch.equal(found.loss, want.loss)
    modules = torch.nn.ModuleDict({"one": net(), "two": net()})
    first = fa.PGD(modules, eps=0.1, ensemble={"two": 0.0, "one": 1.0}).run(X, X)
    assert torch.allclose(first.loss, fa.PGD(modules["one"], eps=0.1).run(X, X).loss)


@pytest.mark.parametrize(
    ("models", "weights", "message"),
    [
        ({"a": model, "b": model}, {"a": 1.0}, "weights of the models 'a', 'b', got those of 'a'$"),
        ({"a": model, "b": model}, {"a": 1.0, "c": 1.0}, "models 'a', 'b', got those of 'a', 'c'"),
        ({"a": model, "b": model}, {}, "models 'a', 'b', got those of none"),
        ({"a": model, "b": model}, {"a": 1.0, "b": "x"}, "ensemble: wanted a name or 2 weights"),
        ([model, model], {"a": 1.0, "b": 1.0}, "the models have no names"),
        ([model, model], np.ones((2, 1)), "ensemble: wanted a name or 2 weights"),
        ([model, model], np.ones((2, 2)), "ensemble: wanted a name or 2 weights"),
        ([model, model], np.ones(3), "ensemble: wanted 2 weights"),
        ([model, model], np.array(1.0), "ensemble: wanted a name or 2 weights"),
    ],
)
def test_weights_that_do_not_fit_the_models(models, weights, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fa.PGD(models, eps=0.1, ensemble=weights)


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
