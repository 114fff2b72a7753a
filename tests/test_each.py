"""attack_each: stacked or in turns, the same as one by one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import fastattack as fa


def nets(count: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
        for _ in range(count)
    ]


def pair(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, 8, 8, generator=g)
    return clean + 0.1 * torch.randn(clean.shape, generator=g), clean


@pytest.mark.parametrize("how", ["turns", "stacked", "auto"])
def test_the_same_as_one_by_one(how):
    models, (y, clean) = nets(), pair()
    eps = torch.tensor([0.01, 0.02, 0.03, 0.04])
    mask = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.3

    def make(model: object) -> fa.PGD:
        return fa.PGD(model, eps=eps, steps=10, seed=3, max_batch=2)

    found = fa.attack_each(dict(zip("abc", models, strict=True)), y, clean, attack=make, how=how, mask=mask)
    assert list(found.results) == ["a", "b", "c"]
    assert found.how == how or how == "auto"
    assert set(found.probed) == ({"turns", "stacked"} if how == "auto" else set())
    for model, result in zip(models, found.results.values(), strict=True):
        want = make(model).run(y, clean, mask=mask)
        # a gradient next to zero may have another sign under another order of sums
        assert ((result.adversarial - want.adversarial).abs() < 1e-5).double().mean() > 0.99
        assert torch.allclose(result.loss, want.loss, rtol=1e-3)
        assert torch.equal(result.adversarial[~mask], y[~mask])
        assert torch.allclose(result.noise_before.l2, want.noise_before.l2)
        assert result.steps_used.tolist() == [10] * 4
    assert all(m.training and p.requires_grad for m in models for p in m.parameters())


def test_models_stay_as_they_were_and_are_numbered():
    models, (y, clean) = nets(2), pair(2)
    before = [t.clone() for m in models for t in m.state_dict().values()]
    found = fa.attack_each(models, y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=2), how="stacked")
    assert list(found.results) == [0, 1]
    assert all(
        torch.equal(a, b) for a, b in zip(before, (t for m in models for t in m.state_dict().values()), strict=True)
    )
    assert all(m.training for m in models)


@pytest.mark.parametrize(
    ("models", "options", "attack", "message"),
    [
        ([], {}, {}, "at least one model"),
        (nets(1), {"how": "rows"}, {}, "how: wanted one of"),
        ([nets(1)[0], nn.Conv2d(1, 1, 1)], {"how": "stacked"}, {}, "differ in architecture"),
        ([nets(1)[0], abs], {"how": "stacked"}, {}, "nn.Module"),
        (nets(2), {"how": "stacked"}, {"stop": "converged"}, "stop="),
        (nets(2), {"how": "stacked"}, {"eval_mode": False}, "eval_mode"),
    ],
)
def test_what_cannot_be(models, options, attack, message):
    y, clean = pair(2)
    with pytest.raises(ValueError, match=message):
        fa.attack_each(models, y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=2, **attack), **options)


def test_models_that_cannot_be_stacked_go_in_turns():
    y, clean = pair(2)
    found = fa.attack_each([abs, torch.tanh], y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=12))
    assert found.how == "turns"
    assert found.probed == {}


class Scaled(nn.Module):
    """A model with everything that stacking could lose: a number, a plain tensor, a hidden module."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0, hidden: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.scale, self.shift, self.hidden = scale, torch.tensor(shift), [hidden]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.scale * self.conv(x) + self.shift
        return out if self.hidden[0] is None else self.hidden[0](out)


class Hooked(nn.Module):
    def __init__(self, times: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        if times != 1:
            self.conv.register_forward_hook(lambda m, a, out: out * times)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Chosen(nn.Module):
    """What no comparison of attributes sees: the class knows one of its instances."""

    one: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * (3 if self is Chosen.one else 1)


class Takes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, y: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.conv(y) * sigma


def last_of_two() -> list[nn.Module]:
    two: list[nn.Module] = [Chosen(), Chosen()]
    Chosen.one = two[1]
    return two


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: [fa.with_sigma(Takes(), s) for s in (0.1, 2.0)], "differ in sigma"),
        (lambda: [Scaled(s) for s in (1.0, 5.0)], "differ in scale"),
        (lambda: [nn.Sequential(Scaled(s)) for s in (1.0, 5.0)], r"differ in 0\.scale"),
        (lambda: [Scaled(shift=s) for s in (0.0, 1.0)], "differ in shift"),
        (lambda: [Scaled(hidden=nn.Conv2d(1, 1, 1)) for _ in range(2)], "differ in hidden"),
        (lambda: [Hooked(t) for t in (1.0, 3.0)], "hooks"),
        (last_of_two, "outputs of the stack differ"),
    ],
)
@pytest.mark.parametrize("how", ["stacked", "auto"])
def test_models_that_differ_beside_their_parameters(models, message, how):
    torch.manual_seed(0)
    models, (y, clean) = models(), pair(2)

    def make(model: object) -> fa.PGD:
        return fa.PGD(model, eps=0.05, steps=10, seed=3)

    if how == "stacked":
        with pytest.raises(ValueError, match=message):
            fa.attack_each(models, y, clean, attack=make, how=how)
        return
    found = fa.attack_each(models, y, clean, attack=make)
    assert found.how == "turns"
    assert message.split("differ in ")[-1].replace("\\", "") in found.reason
    for model, result in zip(models, found.results.values(), strict=True):
        assert torch.equal(result.adversarial, make(model).run(y, clean).adversarial)


@pytest.mark.parametrize(
    "options",
    [
        lambda i: {"eps": 0.01 * (i + 1)},
        lambda i: {"seed": i},
        lambda i: {"objective": [fa.objectives.mse, fa.objectives.mae][i]},
        lambda i: {"objective": lambda o, t: (o - i).flatten(1).sum(1)},
        lambda i: {"eps": torch.tensor([0.01, 0.02 + i / 100])},
        lambda i: {"fold": bool(i)},
    ],
)
def test_attacks_that_differ(options):
    models, (y, clean) = nets(2), pair(2)

    def make(model: object) -> fa.PGD:
        return fa.PGD(model, **({"eps": 0.02, "steps": 10} | options(0 if model is models[0] else 1)))

    with pytest.raises(ValueError, match="attacks of the models differ in"):
        fa.attack_each(models, y, clean, attack=make, how="stacked")
    found = fa.attack_each(models, y, clean, attack=make)
    assert "attacks of the models differ in" in found.reason
    assert torch.equal(found.results[1].adversarial, make(models[1])(y, clean))


def test_lambdas_of_the_factory_do_not_differ():
    models, (y, clean) = nets(2), pair(2)

    def make(model: object) -> fa.PGD:
        eps = torch.tensor([0.01, 0.02])
        return fa.PGD(model, eps=eps, steps=2, objective=lambda o, t: (o - t).flatten(1).sum(1))

    found = fa.attack_each(models, y, clean, attack=make, how="stacked")
    assert found.how == "stacked"
    assert found.reason == ""


class Deciding(nn.Module):
    """Looks at its values, which torch.func cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x)
        return out * 2 if out.mean() > 100 else out


class Undifferentiable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).detach()


@pytest.mark.parametrize("case", ["segpgd", "decides", "square", "ensemble", "outputs", "probe"])
def test_auto_works_where_turns_does(case, monkeypatch):
    torch.manual_seed(0)
    (y, clean), target = pair(2), torch.zeros(2, 8, 8, dtype=torch.int64)
    kinds = {"square": Undifferentiable, "decides": Deciding, "outputs": TwoHeads}
    models = [kinds.get(case, partial(nn.Conv2d, 1, 2, 3, padding=1))() for _ in range(2)]
    goal = {"segpgd": target, "square": clean}.get(case, torch.rand(2, 2, 8, 8))
    other = nn.Conv2d(1, 2, 1)
    if case == "probe":
        monkeypatch.setattr("fastattack.stacked.stacked", lambda *a: (_ for _ in ()).throw(RuntimeError("no stack")))

    def make(model: object) -> fa.attacks.Attack:
        if case == "segpgd":
            return fa.SegPGD(model, eps=0.05, steps=10)
        if case == "square":
            return fa.Square(model, eps=0.05, queries=12)
        objective = (lambda o, t: (o["a"] - t).flatten(1).sum(1)) if case == "outputs" else fa.objectives.mse
        return fa.PGD([model, other] if case == "ensemble" else model, eps=0.05, steps=10, objective=objective)

    found = fa.attack_each(models, y, goal, attack=make)
    for model, result in zip(models, found.results.values(), strict=True):
        assert torch.allclose(result.adversarial, make(model).run(y, goal).adversarial, atol=1e-6)
    if case in ("decides", "ensemble", "outputs", "probe"):
        assert found.how == "turns"
        assert found.reason
        assert found.probed == {}
    else:
        assert set(found.probed) == {"turns", "stacked"}


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.conv(x)}


def test_a_failure_of_the_stack_after_the_probe(monkeypatch):
    from fastattack import each

    models, (y, clean) = nets(2), pair(2)

    def broken(*args: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(each, "probe", lambda *a: ({"turns": 2.0, "stacked": 1.0}, ""))
    monkeypatch.setattr(each, "stacked", broken)
    found = fa.attack_each(models, y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=10))
    assert (found.how, found.reason) == ("turns", "MemoryError: no room")


def test_the_probe_changes_no_random_state():
    models, (y, clean) = nets(2), pair(2)
    state = torch.get_rng_state()
    fa.attack_each(models, y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=10))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_module_is_not_many():
    y, clean = pair(2)
    with pytest.raises(TypeError, match=r"models: wanted a sequence or mapping of models, got one Sequential"):
        fa.attack_each(nets(1)[0], y, clean, attack=lambda m: fa.PGD(m, eps=0.02))
    with pytest.raises(TypeError, match="models: wanted a sequence or mapping"):
        fa.attack_each(3, y, clean, attack=lambda m: fa.PGD(m, eps=0.02))


@pytest.mark.parametrize("many", [nn.ModuleList, lambda m: nn.ModuleDict(dict(zip("ab", m, strict=True)))])
def test_lists_and_dictionaries_of_modules(many):
    models, (y, clean) = nets(2), pair(2)
    found = fa.attack_each(many(models), y, clean, attack=lambda m: fa.PGD(m, eps=0.02, steps=2))
    assert list(found.results) in ([0, 1], ["a", "b"])
    want = fa.PGD(models, eps=0.02, steps=2)(y, clean)
    assert torch.equal(fa.PGD(many(models), eps=0.02, steps=2)(y, clean), want)
    with pytest.raises(ValueError, match="wanted 2 weights"):
        fa.PGD(many(models), eps=0.02, ensemble=[1.0])
    with pytest.raises(ValueError, match="at least one model"):
        fa.PGD(nn.ModuleList(), eps=0.02)


class Stopped(nn.Module):
    """Ctrl-C comes at the given call."""

    def __init__(self, call: int = -1) -> None:
        super().__init__()
        self.call, self.calls = call, 0
        self.net = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.net(x)


@pytest.mark.parametrize("how", ["turns", "auto"])
def test_an_interrupt_ends_the_sweep_and_keeps_what_there_is(how):
    models = {"a": Stopped(), "b": Stopped(4), "c": Stopped(), "d": Stopped()}
    y, clean = pair()
    make = partial(fa.PGD, eps=0.1, steps=5, on_interrupt="return", random_start=False)
    found = fa.attack_each(models, y, clean, attack=make, how=how)
    assert list(found.results) == ["a", "b"]
    assert found.not_begun == ("c", "d")
    assert not found.complete
    assert found.results["a"].complete
    assert not found.results["b"].complete
    assert [models[n].calls for n in "cd"] == [0, 0]
    assert torch.equal(found.results["a"].adversarial, make(models["a"])(y, clean))
    b = found.results["b"]
    with torch.no_grad():
        want = fa.objectives.mse(models["b"](b.adversarial), clean).double()
    assert torch.allclose(b.loss, want)
    assert all(m.training for m in models.values())


def test_an_interrupt_that_is_not_to_be_caught_passes():
    y, clean = pair()
    with pytest.raises(KeyboardInterrupt):
        fa.attack_each([Stopped(), Stopped(2)], y, clean, attack=partial(fa.PGD, eps=0.1), how="turns")


def test_an_interrupt_between_the_attacks_leaves_the_finished_ones(monkeypatch):
    y, clean = pair()
    run, calls = fa.PGD.run, []

    def late(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(self, *args, **options)

    monkeypatch.setattr(fa.PGD, "run", late)
    make = partial(fa.PGD, eps=0.1, steps=2, on_interrupt="return")
    found = fa.attack_each(nets(), y, clean, attack=make, how="turns")
    assert list(found.results) == [0]
    assert found.not_begun == (1, 2)
    whole = fa.attack_each(nets(), y, clean, attack=make, how="turns")
    assert whole.complete
    assert whole.not_begun == ()
