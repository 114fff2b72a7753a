"""One perturbation for a data set: the closed form of a linear model, loaders, and what has no meaning."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastattack as fa


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(12, 1, bias=False)


def total(output: torch.Tensor, target: object) -> torch.Tensor:
    return output.flatten(1).sum(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_optimum_of_a_linear_model(norm, targeted):
    model, x = linear(), torch.rand(7, 12)
    w = model.weight.detach()
    best = 0.1 * (w.sign() if norm == "linf" else w / w.norm())
    attack = fa.Universal(model, objective=total, eps=0.1, norm=norm, steps=20, batch=3, targeted=targeted)
    found = attack.fit(x)
    assert found.perturbation.shape == (1, 12)
    assert torch.allclose(found.perturbation, -best if targeted else best, atol=1e-6)
    assert found.loss == pytest.approx(total(model(x + found.perturbation), None).mean().item(), rel=1e-5)
    result = attack.run(x, None)
    assert torch.allclose(result.adversarial, x + found.perturbation, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sum_rounded_to_nearest_stays_in_the_ball(norm):
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    eps = 8 / 255
    attack = fa.Universal(abs, eps=eps, norm=norm, steps=1)
    delta = torch.full((1, 3, 16, 16), eps if norm == "linf" else eps / 768**0.5)
    delta = delta.where(delta.double() <= eps, delta.nextafter(torch.zeros(())))
    apart = (attack.apply(x, delta) - x).double().flatten(1)
    plain = (x + delta - x).double().flatten(1)
    order = float("inf") if norm == "linf" else 2
    assert (apart.norm(order, dim=1) <= eps).all()
    assert (plain.norm(order, dim=1) > eps).any()  # else nothing is tested
    assert torch.allclose(apart, plain, atol=1e-6)


def test_each_sample_has_its_own_loss():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 12)).double()
    x, target = torch.rand(9, 12, dtype=torch.float64), torch.rand(9, 12, dtype=torch.float64)
    fitted = fa.Universal(model, eps=0.2, steps=4, batch=4).fit(x, target)
    result = fa.Universal(model, eps=0.2, steps=4, batch=4, threshold=fitted.loss).run(x, target)
    assert model.training
    w = [p.detach().numpy() for p in model.parameters()]
    out = (result.adversarial.numpy() @ w[0].T + w[1]) @ w[2].T + w[3]  # in eval mode
    want = ((out - target.numpy()) ** 2).mean(1)
    assert result.loss.numpy() == pytest.approx(want, rel=1e-12)
    assert result.loss.mean().item() == pytest.approx(fitted.loss, rel=1e-12)
    assert result.success.tolist() == (want > fitted.loss).tolist()
    assert len(set(result.success.tolist())) == 2


def test_it_does_not_depend_on_the_batches():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 12)).double()
    x = torch.rand(9, 12, dtype=torch.float64)
    found = [fa.Universal(model, eps=0.2, steps=8, batch=b).fit(x, x) for b in (2, 9)]
    assert torch.allclose(found[0].perturbation, found[1].perturbation, atol=1e-9)
    loader = DataLoader(TensorDataset(x, x), batch_size=4)
    streamed = fa.Universal(model, eps=0.2, steps=8).fit(loader)
    assert torch.allclose(streamed.perturbation, found[0].perturbation, atol=1e-9)


def test_it_is_better_than_a_random_one_and_parts_of_the_data_come_near():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 12))
    x = torch.rand(64, 12)
    whole = fa.Universal(model, eps=0.1, steps=10).fit(x, x)
    parts = fa.Universal(model, eps=0.1, steps=30, batch=8, per_step=1, step=0.02).fit(x, x)
    chance = fa.objectives.mse(model(x + 0.1 * torch.randn(1, 12).sign()), x).mean().item()
    before = fa.objectives.mse(model(x), x).mean().item()
    assert whole.loss > max(chance, before)
    assert parts.loss > whole.loss * 0.98
    exact = fa.objectives.mse(model(x + parts.perturbation), x).mean().item()
    assert parts.loss == pytest.approx(exact, rel=1e-5)  # that of all the data, not of the last part


def test_pixels_stay_inside_the_bounds_and_the_clip_is_in_the_gradient():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    attack = fa.Universal(lambda v: v * 1.0, objective=total, eps=0.5, bounds=(0, 1), steps=5)
    result = attack.run(x, None)
    assert result.adversarial.tolist() == [[0.5, 1.0], [0.5, 1.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.run(torch.rand(2, 12), None, mask=torch.ones(12)), "mask: wanted None"),
        (lambda a: a.run(torch.rand(2, 12), None, sample_ids=torch.arange(2)), "sample_ids: wanted None"),
        (lambda a: a.fit([]), "data: wanted"),
        (lambda a: a.fit(torch.tensor([[float("nan")]])), "input: wanted finite"),
    ],
)
def test_what_has_no_meaning(call, message):
    with pytest.raises(ValueError, match=message):
        call(fa.Universal(linear(), objective=total, eps=0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": torch.ones(3)}, "eps: wanted one radius"),
        ({"grid": 8}, "grid has no place"),
        ({"max_batch": 8}, "use batch"),
        ({"batch": 0}, "batch: wanted"),
        ({"per_step": 0}, "per_step: wanted"),
        ({"bounds": (1, 0)}, "bounds: wanted"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fa.Universal(linear(), **({"eps": 0.1} | options))


@pytest.mark.parametrize(
    "once",
    [
        lambda x: ((v, v) for v in x.split(2)),
        lambda x: iter([(x, x)]),
        lambda x: zip(x.split(2), x.split(2), strict=True),
        lambda x: enumerate(x.split(2)),
    ],
)
@pytest.mark.parametrize("per_step", [None, 1])
def test_what_can_be_walked_only_once_is_refused(once, per_step):
    with pytest.raises(ValueError, match=r"data: wanted .* walked again"):
        fa.Universal(linear(), objective=total, eps=0.1, per_step=per_step).fit(once(torch.rand(4, 12)))


class Fading:
    """Batches on the first walk alone."""

    def __init__(self) -> None:
        self.walks = 0

    def __iter__(self):
        self.walks += 1
        yield from [(torch.rand(2, 12), None)] * (self.walks < 2)


@pytest.mark.parametrize("per_step", [None, 1])
def test_no_samples(per_step):
    attack = fa.Universal(linear(), objective=total, eps=0.1, per_step=per_step)
    with pytest.raises(ValueError, match=r"data: wanted .* no samples on a later walk"):
        attack.fit(Fading())
    with pytest.raises(ValueError, match="data: wanted at least one sample"):
        attack.fit([(torch.rand(0, 12), None)])
    with pytest.raises(ValueError, match=r"data: wanted .* got a Tensor as the first"):
        attack.fit([torch.rand(2, 12)])
    with pytest.raises(TypeError, match=r"data: wanted .* got int"):
        attack.fit(3)


@pytest.mark.parametrize("per_step", [None, 1])
def test_the_random_state_stays_as_found(per_step):
    loader = DataLoader(TensorDataset(torch.rand(6, 12), torch.rand(6, 1)), batch_size=2, shuffle=True)
    attack = fa.Universal(linear(), eps=0.1, steps=3, per_step=per_step)
    state = torch.get_rng_state()
    attack.fit(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_noise_of_a_view_does_not_depend_on_the_batches():
    x = torch.rand(5, 12, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 12)).double()
    found = [
        fa.Universal(model, eps=0.2, steps=4, batch=b, view=fa.views.Noise(std=0.3)).fit(x, x).perturbation
        for b in (2, 5)
    ]
    assert torch.allclose(found[0], found[1], atol=1e-9)
