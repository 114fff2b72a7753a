"""MI, NI, DIM, TIM and EOT: against the papers' loops written out, and reproducible whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack import views


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).double()


def pair(batch: int = 3, side: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, side, side, generator=g, dtype=torch.float64)
    return clean + 0.1 * torch.randn(clean.shape, generator=g, dtype=torch.float64), clean


def gradient(model: nn.Module, at: np.ndarray, clean: torch.Tensor) -> np.ndarray:
    x = torch.from_numpy(at).requires_grad_()
    ((model(x) - clean) ** 2).flatten(1).mean(1).sum().backward()
    return x.grad.numpy()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("kind", "decay"), [("mi", 1.0), ("mi", 0.3), ("ni", 0.9)])
def test_momentum_against_the_loop_of_the_paper(model, norm, kind, decay):
    y, clean = pair()
    eps, steps = (0.03, 6) if norm == "linf" else (0.2, 6)
    step, origin = eps / steps, y.numpy()
    wide = (-1, 1, 1, 1)

    def project(x: np.ndarray) -> np.ndarray:
        if norm == "linf":
            return np.clip(x, origin - eps, origin + eps)
        delta = x - origin
        length = np.sqrt((delta**2).sum((1, 2, 3))).reshape(wide)
        return origin + delta * np.minimum(1, eps / np.maximum(length, 1e-300))

    adv, momentum = origin.copy(), np.zeros_like(origin)
    for _ in range(steps):
        look = project(adv + step * decay * momentum) if kind == "ni" else adv
        grad = gradient(model, look, clean)
        momentum = decay * momentum + grad / np.abs(grad).mean((1, 2, 3)).reshape(wide)
        if norm == "linf":
            direction = np.sign(momentum)
        else:
            direction = momentum / np.sqrt((momentum**2).sum((1, 2, 3))).reshape(wide)
        adv = project(adv + step * direction)
    attack = (fa.MIFGSM if kind == "mi" else fa.NIFGSM)(model, eps=eps, decay=decay, steps=steps, norm=norm)
    got = attack(y, clean)
    assert np.allclose(got.numpy(), adv, atol=1e-6 if norm == "l2" else 1e-9)


def test_without_decay_mi_is_bim(model):
    y, clean = pair()
    a = fa.MIFGSM(model, eps=0.03, decay=0.0, steps=4)(y, clean)
    assert torch.equal(a, fa.BIM(model, eps=0.03, steps=4, keep="last")(y, clean))


def test_restarts_begin_without_momentum(model):
    y, clean = pair()
    options = {"eps": 0.03, "steps": 3, "random_start": True, "seed": 4}
    one = fa.MIFGSM(model, **options, keep="best").run(y, clean)
    two = fa.MIFGSM(model, **options, keep="best", restarts=2).run(y, clean)
    first = two.best_restart == 0
    assert torch.equal(two.adversarial[first], one.adversarial[first])
    assert (two.loss >= one.loss).all()


@pytest.mark.parametrize("make", [fa.DIM, fa.TIM, fa.MIFGSM, fa.NIFGSM])
def test_batches_and_seeds(model, make):
    y, clean = pair(4, 20)
    eps = torch.linspace(0.01, 0.04, 4)
    options = {"eps": eps, "steps": 3, "seed": 5} | ({"kernel": 5} if make is fa.TIM else {})
    whole = make(model, **options)(y, clean)
    state = torch.get_rng_state()
    assert torch.allclose(whole, make(model, **options, max_batch=3)(y, clean), atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    assert ((whole - y).abs().flatten(1).amax(1) <= eps).all()
    if make is fa.DIM:
        assert not torch.equal(whole, make(model, **(options | {"seed": 6}))(y, clean))


def test_a_view_moves_image_and_target_alike():
    view = views.Diversity(smallest=0.5, probability=1.0)
    y, clean = pair(2, 16)
    moved = view(y, torch.Generator().manual_seed(2))
    assert moved.shape == y.shape
    assert not torch.equal(moved, y)
    # the identity has no error on a clean image, and stays without one only if the target moves with the input
    result = fa.MIFGSM(lambda v: v * 1.0, eps=0.01, steps=3, view=view).run(clean, clean)
    assert torch.equal(result.adversarial, clean)
    plain = fa.MIFGSM(lambda v: v * 1.0, eps=0.01, steps=3, view=views.Noise(std=0.1)).run(clean, clean)
    assert not torch.equal(plain.adversarial, clean)


def test_the_gradient_through_a_view_is_autograds(model):
    from fastattack.engine import Moment
    from fastattack.engine.source import Single
    from fastattack.engine.viewed import Viewed
    from fastattack.ops import resolve

    y, clean = pair(2, 12)
    view, moment = views.Diversity(smallest=0.6, probability=1.0), Moment(3, 1)
    source = Viewed(Single(model), view, 2, resolve(torch.device("cpu"), "auto"))
    loss, grad = source.gradient(y, clean, fa.objectives.mse, moment)
    x = y.clone().requires_grad_()
    total = 0
    for draw in range(2):
        seen, goal = view(x, moment.generator(draw)), view(clean, moment.generator(draw))
        total = total + ((model(seen) - goal) ** 2).flatten(1).mean(1) / 2
    (want,) = torch.autograd.grad(total.sum(), x)
    assert torch.allclose(grad, want, rtol=1e-12)
    assert torch.allclose(loss, total, rtol=1e-12)


def test_the_best_is_judged_without_the_view(model):
    y, clean = pair(2, 12)
    attack = fa.DIM(model, eps=0.03, steps=4, smallest=0.5, probability=1.0, keep="best")
    result = attack.run(y, clean)
    assert torch.allclose(result.loss, fa.objectives.mse(model(result.adversarial), clean), rtol=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "linear"])
def test_kernels(kind):
    kernel = views.smoothing_kernel(5, kind=kind)
    assert kernel.sum().item() == pytest.approx(1)
    assert torch.equal(kernel, kernel.t())
    assert torch.equal(kernel, kernel.flip(0))
    assert kernel[2, 2] == kernel.max()


def test_smoothed_gradients_are_convolved():
    weight = torch.zeros(1, 2, 7, 7, dtype=torch.float64)
    weight[0, 0, 3, 3], weight[0, 1, 0, 6] = 1.0, -2.0
    model = nn.Conv2d(2, 1, 7, bias=False).double()
    model.weight.data = weight
    kernel = torch.arange(9.0).reshape(3, 3).double()
    kernel = (kernel + kernel.flip(0, 1)) / kernel.sum() / 2
    x = torch.rand(1, 2, 7, 7, dtype=torch.float64)
    got = fa.PGD(
        model, objective=lambda o, t: o.flatten(1).sum(1), eps=10.0, norm="l2", step=1.0, steps=1, smooth=kernel,
        random_start=False, keep="last",
    )(x, None) - x  # fmt: skip
    want = np.zeros((2, 7, 7))
    want[0, 2:5, 2:5] = kernel.numpy()
    want[1, 0:2, 5:7] = -2 * kernel.numpy()[1:, :2]
    assert np.allclose(got[0].numpy(), want / np.sqrt((want**2).sum()), atol=1e-7)


class Noisy(nn.Module):
    """Adds its own random numbers, from torch's generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 0.1 * torch.randn_like(x)).square()


def test_eot_averages_a_random_model_and_follows_from_the_seed():
    x = torch.full((2, 400), 0.02, dtype=torch.float64)
    target = torch.zeros_like(x)
    state = torch.get_rng_state()
    right = []
    for eot in (1, 64):
        attack = fa.PGD(Noisy(), eps=0.01, steps=1, step=0.01, random_start=False, eot=eot, keep="last", seed=3)
        result = attack.run(x, target)
        right.append(((result.adversarial - x) > 0).double().mean().item())
        if eot > 1:
            assert torch.equal(result.adversarial, attack(x, target))
            assert torch.equal(torch.get_rng_state(), state)
    assert right[1] > right[0] + 0.1  # the mean gradient points up; one draw's does so in little more than half


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (fa.MIFGSM, {"decay": -1}, "decay"),
        (fa.MIFGSM, {"norm": "l1"}, "norm"),
        (fa.DIM, {"smallest": 0.0}, "smallest"),
        (fa.DIM, {"probability": 2.0}, "probability"),
        (fa.DIM, {"view": abs}, "view"),
        (fa.TIM, {"kernel": 4}, "size"),
        (fa.TIM, {"kernel": torch.ones(3)}, "kernel"),
        (fa.TIM, {"smooth": torch.ones(3, 3)}, "smooth"),
        (fa.PGD, {"eot": 0}, "eot"),
        (fa.PGD, {"stepz": 3}, "unknown option 'stepz'; did you mean 'step'[?]"),
    ],
)
def test_bad_options_are_named(make, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(lambda v: v, eps=0.1, **options)


def test_the_noise_of_a_sample_does_not_depend_on_the_batch(model):
    y, clean = pair(4)
    ids = torch.tensor([7, 2, 2**40, 5])

    def attack(rows: slice, **options: object) -> torch.Tensor:
        options = {"norm": "l2", "keep": "last", "random_start": False} | options
        made = fa.PGD(model, eps=0.5, steps=3, eot=2, view=views.Noise(std=1.0), **options)
        return made.run(y[rows], clean[rows], sample_ids=ids[rows]).adversarial

    whole = attack(slice(None))
    assert torch.allclose(attack(slice(None), max_batch=1), whole, atol=1e-9)
    assert torch.allclose(attack(slice(None), max_batch=3), whole, atol=1e-9)
    assert torch.allclose(attack(slice(1, 3)), whole[1:3], atol=1e-9)
    assert not torch.allclose(attack(slice(None), seed=1), whole, atol=1e-4)


def test_noise_is_standard_normal_times_std():
    view, x = views.Noise(std=0.5), torch.zeros(4, 1, 64, 64, dtype=torch.float64)
    draws = [view(x, torch.Generator().manual_seed(s), ids=torch.arange(4)) for s in (1, 1, 2)]
    assert draws[0].dtype == torch.float64
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0], view(x, torch.Generator().manual_seed(1)))
    assert draws[0].mean().item() == pytest.approx(0, abs=0.02)
    assert draws[0].std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.corrcoef(draws[0].flatten(1)).fill_diagonal_(0).abs().max() < 0.08
    assert view(x[:0], torch.Generator()).shape == (0, 1, 64, 64)


def test_a_view_that_asks_is_told_the_samples(model):
    y, clean = pair(3)
    seen = []

    class Asking:
        per_sample_ids = True

        def __call__(self, x: torch.Tensor, generator: torch.Generator, ids: torch.Tensor) -> torch.Tensor:
            seen.append(ids.tolist())
            return x * 1.0

    fa.PGD(model, eps=0.05, steps=1, view=Asking(), max_batch=2).run(y, clean, sample_ids=torch.tensor([5, 6, 9]))
    assert seen == [[5, 6], [5, 6], [9], [9]]  # image and target


@pytest.mark.parametrize("weights", [[0.3, 0.7], None])
def test_weights_and_kernels_are_placed_once(model, weights, monkeypatch):
    y, clean = pair(2)
    made = []
    real = torch.Tensor.new_tensor
    monkeypatch.setattr(torch.Tensor, "new_tensor", lambda t, *a, **k: (made.append("weights"), real(t, *a, **k))[1])
    kernel = views.smoothing_kernel(3)  # float64, the images float32: a copy

    class Kernel(torch.Tensor):
        def to(self, *args: object, **options: object) -> torch.Tensor:
            made.append("kernel")
            return self.as_subclass(torch.Tensor).to(*args, **options)

    options = {"smooth": kernel.as_subclass(Kernel)} | ({} if weights is None else {"ensemble": weights})
    model.float()
    fa.PGD([model, model], eps=0.05, steps=5, keep="best", view=views.Diversity(), **options)(y.float(), clean.float())
    assert made.count("kernel") == 1
    assert made.count("weights") == 1


def test_whole_numbers_are_weights(model):
    y, clean = pair(2)
    want = fa.PGD([model, torch.tanh], eps=0.05, steps=3, ensemble=[2.0, 1.0])(y, clean)
    assert torch.equal(fa.PGD([model, torch.tanh], eps=0.05, steps=3, ensemble=[2, 1])(y, clean), want)
