"""fa.mutual_information against the closed form of Gaussians; its bounds and critic against NumPy in float64."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.information import (
    Critic,
    ImageEncoder,
    MemoryBank,
    MovingAverage,
    StatisticsNetwork,
    bounds,
    estimate,
    evaluate,
)
from fastattack.information.adam import Adam
from fastattack.information.encoder import region_means

ESTIMATORS = ("dv", "infonce", "nwj")
D = 4  # of the Gaussians


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def correlation(nats: float) -> float:
    """From I = -D/2 log(1 - rho^2)."""
    return math.sqrt(1 - math.exp(-2 * nats / D))


def gaussians(count: int, nats: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rho = correlation(nats)
    x, noise = normals(2, count, D, seed=seed, dtype=dtype)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def critic(**options) -> Critic:
    shapes = (options.pop("x", (3,)), options.pop("z", (3,)))
    made = {k: options.pop(k) for k in ("form", "convolve", "seed") if k in options}
    return Critic(StatisticsNetwork(*shapes, hidden=16, embedding=8, **made), **options)


# the estimate


LEVELS = [(0.5, 60), (1.0, 100), (2.0, 250)]


@pytest.mark.parametrize(
    ("estimator", "nats", "steps"),
    [(name, nats, min(steps, 150) if name == "infonce" else steps) for name in ESTIMATORS for nats, steps in LEVELS],
)
def test_gaussians_have_the_information_of_the_closed_form(estimator, nats, steps):
    x, z = gaussians(65536, nats)
    found = fa.mutual_information(x, z, estimator=estimator, steps=steps, lr=0.02, hidden=32, held_out=0.2)
    assert abs(found.nats - nats) < 0.1
    best = math.sqrt(D) * correlation(nats) / math.sqrt(found.pairs[2])  # the standard error of the best critic
    assert 0.8 * best < found.error < 1.5 * best


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_independent_has_none(estimator):
    x, z = gaussians(8192, 0.0)
    found = fa.mutual_information(x, z, estimator=estimator, steps=40, lr=0.01, hidden=32)
    assert abs(found.nats) < 0.02
    assert found.pairs == (4915, 1638, 1639)
    assert (found.curve[0].step, found.curve[-1].step) == (0, 40)
    assert found.step == max(found.curve, key=lambda look: look.choosing).step
    assert found.ceiling == pytest.approx(math.log(410) if estimator == "infonce" else math.inf)  # 4 blocks of 1639
    assert f"{found.nats:.3f}" in str(found)


def test_concatenated_critic():
    x, z = gaussians(1200, 1.0)
    found = fa.mutual_information(x, z, form="concatenated", steps=80, lr=0.02, batch=48, hidden=16)
    assert abs(found.nats - 1) < 0.25  # 240 pairs: three times sqrt(D) rho / sqrt(240)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_learnt_by_heart_is_not_reported(estimator):
    x, z = normals(60, 20), normals(60, 20, seed=1)
    found = fa.mutual_information(x, z, estimator=estimator, steps=100, lr=0.02)
    assert found.curve[-1].training > 2.0
    assert found.curve[-1].choosing < -2.0
    assert abs(found.nats) < 1.0  # of the step that was chosen, not of the last


def test_reported_pairs_neither_train_nor_choose(monkeypatch):
    seen: dict[str, set[int]] = {"learn": set(), "_look": set(), "evaluate": set()}

    def watch(owner, name):
        inner = getattr(owner, name)

        def outer(first, x, z, **options):
            assert torch.equal(x[:, 0], z[:, 1])
            seen[name].update(x[:, 0].long().tolist())
            return inner(first, x, z, **options)

        monkeypatch.setattr(owner, name, outer)

    watch(Critic, "learn")
    for name in ("_look", "evaluate"):
        watch(estimate, name)
    number = torch.arange(100.0)[:, None]
    found = fa.mutual_information(number, torch.cat([-number, number], 1), steps=12, batch=10)
    assert tuple(map(len, (seen["learn"], seen["_look"] - seen["learn"], seen["evaluate"]))) == found.pairs
    assert found.pairs == (60, 20, 20)
    assert not seen["evaluate"] & (seen["learn"] | seen["_look"])


def test_the_seed_decides_and_nothing_else():
    x, z = gaussians(300, 1.0)
    options = {"steps": 12, "batch": 50, "hidden": 8, "embedding": 4}
    kept, state = (x.clone(), z.clone()), torch.get_rng_state()
    first = fa.mutual_information(x, z, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(5)
    with torch.inference_mode():
        assert fa.mutual_information(x.clone(), z, seed=3, **options) == first
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert fa.mutual_information(x, z, seed=3, **options) == first
    finally:
        torch.set_default_dtype(torch.float32)
    assert fa.mutual_information(x, z, seed=4, **options).nats != first.nats
    assert torch.equal(x, kept[0])
    assert torch.equal(z, kept[1])
    assert pickle.loads(pickle.dumps(first)) == first


def test_units_do_not_matter():
    x, z = gaussians(300, 1.0, dtype=torch.float64)
    options = {"steps": 12, "batch": 50, "hidden": 8}
    plain = fa.mutual_information(x, z, **options)
    still = torch.full((300, 1), 0.1, dtype=torch.float64)
    moved = fa.mutual_information(1e-6 * x + 7, 1e8 * (z - 3), **options)
    assert moved.nats == pytest.approx(plain.nats, abs=1e-4)
    assert math.isfinite(fa.mutual_information(torch.cat([x, still], 1), z, **options).nats)


def test_images_by_a_trained_encoder():
    place = torch.arange(300) % 4  # a bright quarter, the same in both
    x = 0.5 + 0.1 * normals(300, 1, 12, 12)
    z = 0.5 + 0.1 * normals(300, 3, 9, 10, seed=1)
    for k in range(300):
        row, column = 6 * int(place[k] // 2), 6 * int(place[k] % 2)
        x[k, :, row : row + 6, column : column + 6] += 0.5
        z[k, :, row * 9 // 12 : row * 9 // 12 + 4, column * 10 // 12 : column * 10 // 12 + 5] += 0.5
    found = fa.mutual_information(x, z, estimator="infonce", encoder="conv", steps=60, batch=60, lr=0.01, hidden=32)
    assert found.nats == pytest.approx(math.log(4), abs=0.15)


class Encoder(nn.Module):
    """Dropout and batch norm: in training mode it would be random, and write."""

    def __init__(self):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(self.drop(x))[..., 0]


def test_a_given_encoder_makes_the_features():
    x, z = gaussians(120, 1.0)
    x, z = x.view(120, 1, 2, 2), z.view(120, 1, 2, 2)
    encoder = Encoder().train()
    kept = copy.deepcopy(encoder.state_dict())
    options = {"steps": 5, "batch": 20, "hidden": 8}
    found = fa.mutual_information(x, z, encoder=encoder, **options)
    assert encoder.training
    assert encoder.norm.training
    assert all(torch.equal(v, kept[k]) for k, v in encoder.state_dict().items())
    want = fa.mutual_information(x[..., 0] / math.sqrt(1 + 1e-5), z[..., 0] / math.sqrt(1 + 1e-5), **options)
    assert found.nats == pytest.approx(want.nats, abs=1e-5)


def best_critic(x: Tensor, z: Tensor, nats: float) -> Tensor:
    """log p(x_j, z_i) / p(x_j) p(z_i), row i, column j."""
    rho = correlation(nats)
    cross, squares = z @ x.T, z.square().sum(1)[:, None] + x.square().sum(1)
    return nats + (rho * cross - rho**2 * squares / 2) / (1 - rho**2)


@pytest.mark.parametrize(("estimator", "shift", "tilt"), [("dv", -3.0, 0.6), ("infonce", 5.0, 1.2), ("nwj", 1.0, 0.4)])
def test_the_standard_error_is_the_spread_of_the_estimate(estimator, shift, tilt):
    """Over 400 sets of 150 pairs, of a critic whose rows and columns differ. DV and InfoNCE do not see the shift."""
    values, parts = [], []
    for k in range(400):
        x, z = gaussians(150, 0.7, seed=k, dtype=torch.float64)
        scores = best_critic(x, z, 0.7) + shift + tilt * (x[:, 0] + z[:, :1])
        value, part = bounds.influence(estimator, scores)
        values.append(value.item())
        parts.append(part.std().item() / math.sqrt(150))
    assert np.std(values) == pytest.approx(np.mean(parts), rel=0.1)  # 3.5 % is the spread of the left side


def test_evaluate_puts_blocks_together():
    net = StatisticsNetwork((D,), (D,), hidden=8, seed=1)
    x, z = gaussians(1100, 1.0)
    with torch.no_grad():
        tables = [net.table(net.embed_x(a), net.embed_z(b)).double() for a, b in
                  zip(x.split([367, 367, 366]), z.split([367, 367, 366]), strict=True)]  # fmt: skip
    values, errors = [], []
    for t in tables:
        value, part = bounds.influence("dv", t)
        values.append(value.item())
        errors.append(part.std().item() ** 2)
    value, error = evaluate(net, x, z)
    sizes = [367, 367, 366]
    assert value == pytest.approx(np.average(values, weights=sizes), rel=1e-9)
    assert error == pytest.approx(math.sqrt(np.average(errors, weights=[s - 1 for s in sizes]) / 1100), rel=1e-9)


# the bounds


def numpy_each(estimator: str, joint: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    found = []
    for t, row in zip(joint, marginal, strict=True):
        if estimator == "dv":
            found.append(t - np.log(np.mean(np.exp(row))))
        elif estimator == "infonce":
            found.append(t - np.log((np.exp(t) + np.sum(np.exp(row))) / (len(row) + 1)))
        else:
            found.append(t - np.mean(np.exp(row)) / np.e)
    return np.array(found)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bounds_are_their_formulas(estimator):
    joint, marginal = 2 * normals(7, dtype=torch.float64), 2 * normals(7, 5, seed=1, dtype=torch.float64)
    each = numpy_each(estimator, joint.numpy(), marginal.numpy())
    np.testing.assert_allclose(bounds.EACH[estimator](joint, marginal).numpy(), each, rtol=1e-12)
    whole = joint.numpy().mean() - np.log(np.exp(marginal.numpy()).mean()) if estimator == "dv" else each.mean()
    assert bounds.BATCH[estimator](joint, marginal).item() == pytest.approx(whole, rel=1e-12)
    if estimator == "dv":
        assert each.mean() > whole
        assert bounds.donsker_varadhan_moving(joint, marginal, MovingAverage())[0].item() == pytest.approx(whole)
    found = bounds.EACH[estimator](joint.half(), marginal.half())
    assert found.dtype is torch.float32
    np.testing.assert_allclose(found.numpy(), numpy_each(estimator, joint.half().double().numpy(),
                                                         marginal.half().double().numpy()), rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize("bound", [*bounds.EACH.values(), *bounds.BATCH.values()])
def test_gradients_of_the_bounds(bound):
    joint, marginal = normals(4, dtype=torch.float64), 2 * normals(4, 3, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(bound, (joint.requires_grad_(), marginal.requires_grad_()))


def test_large_scores_stay_numbers():
    wild = torch.tensor([[200.0, 0.0], [3.0, 2.0]], requires_grad=True)
    value = bounds.nwj_each(torch.zeros(2), wild)
    assert value.tolist() == [-math.inf, pytest.approx(-(math.exp(2) + math.exp(1)) / 2)]
    (grad,) = torch.autograd.grad(value.sum(), wild)
    np.testing.assert_allclose(grad, [[-math.exp(20), 0], [-math.exp(2) / 2, -math.exp(1) / 2]], rtol=1e-5)
    joint, marginal = torch.tensor([900.0, -900.0]), torch.tensor([[800.0, 900.0], [-900.0, -1000.0]])
    np.testing.assert_allclose(bounds.donsker_varadhan_each(joint, marginal), [math.log(2)] * 2, rtol=1e-4)
    np.testing.assert_allclose(bounds.infonce_each(joint, marginal), [math.log(1.5)] * 2, rtol=1e-4)
    assert bounds.infonce(torch.tensor([5e4]), torch.zeros(1, 9)).item() == pytest.approx(math.log(10))


def test_the_moving_average_corrects_the_gradient():
    """Of mean T - mean exp(T) / m, m = the average by hand, but for low batches 10 times their own mean."""
    average, rate, m = MovingAverage(0.1), 0.1, None
    for k, shift in enumerate((0.0, 0.5, 2.0, -3.0, -3.0)):
        joint = normals(4, seed=k, dtype=torch.float64).requires_grad_()
        marginal = (normals(4, 3, seed=k + 10, dtype=torch.float64) + shift).requires_grad_()
        value, average = bounds.donsker_varadhan_moving(joint, marginal, average)
        grads = torch.autograd.grad(value, (joint, marginal))
        e = np.exp(marginal.detach().numpy())
        mixed = e.mean() if m is None else (1 - rate) * m + rate * e.mean()
        m = min(mixed, 10 * e.mean())
        assert (m < mixed) == (k >= 3)
        assert average.log_mean is not None
        assert average.log_mean.exp().item() == pytest.approx(m, rel=1e-12)
        np.testing.assert_allclose(grads[0].numpy(), np.full(4, 0.25), rtol=1e-12)
        np.testing.assert_allclose(grads[1].numpy(), -e / 12 / m, rtol=1e-12)
        assert value.item() == pytest.approx(joint.detach().mean().item() - np.log(e.mean()), rel=1e-12)


def test_others():
    table = torch.arange(12.0).view(3, 4)
    assert bounds.others(table, torch.tensor([3, 0, 2])).tolist() == [[0, 1, 2], [5, 6, 7], [8, 9, 11]]
    assert bounds.others(table[:, :3]).tolist() == [[1, 2], [4, 6], [8, 9]]


# the critic


@pytest.mark.parametrize("form", ["separable", "concatenated"])
def test_a_table_holds_every_pair(form):
    net = StatisticsNetwork((2, 3), (4,), form=form, hidden=8, embedding=5)
    x, z = normals(6, 2, 3), normals(3, 4, seed=1)
    table = net.table(net.embed_x(x), net.embed_z(z))
    assert table.shape == (3, 6)
    for i in range(3):
        torch.testing.assert_close(net(x, z[i].expand(6, 4)), table[i])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_sample_is_judged_by_itself(estimator):
    teacher = critic(estimator=estimator)
    x, z, bank = normals(5, 3), normals(5, 3, seed=1).requires_grad_(), normals(9, 3, seed=2)
    each = teacher.each(x, z, bank=bank)
    (grad,) = torch.autograd.grad(each[2], z)
    assert grad[2].abs().min() > 0
    assert not grad[[0, 1, 3, 4]].any()
    torch.testing.assert_close(teacher.each(x[2:3], z[2:3], bank=MemoryBank(bank))[0], each[2])
    net = teacher.network
    with torch.no_grad():
        joint, table = net(x, z), net.table(net.embed_x(bank), net.embed_z(z))
    want = numpy_each(estimator, joint.double().numpy(), table.double().numpy())
    np.testing.assert_allclose(each.detach().numpy(), want, rtol=1e-4, atol=1e-6)
    teacher.each(x, z, bank=bank).sum().backward()
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    own = torch.tensor([0, 8, 4, 4, 1])
    for i in range(5):
        rest = torch.cat([bank[: own[i]], bank[own[i] + 1 :]])
        torch.testing.assert_close(teacher.each(x, z, bank=bank, own=own)[i], teacher.each(x, z, bank=rest)[i])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_attack_can_go_down_what_the_critic_goes_up(estimator):
    """z that carry x lose it by the gradient of each, the critic learning on."""
    x, bank = normals(64, 3), normals(64, 3, seed=1)
    z = x + 0.5 * normals(64, 3, seed=2)
    teacher = critic(estimator=estimator, bank=bank, lr=0.01)
    before = [teacher.learn(x, z).item() for _ in range(50)]
    assert before[-1] > max(0.5, before[0] + 0.3)
    for _ in range(40):
        z.requires_grad_()
        teacher.learn(x, z)
        (grad,) = torch.autograd.grad(teacher.each(x, z).sum(), z)
        z = z.detach() - 0.1 * grad.sign()
    assert teacher.each(x, z).mean().item() < before[-1] - 0.3


def test_a_batch_of_one_learns_beside_a_bank():
    x, z = normals(1, 3), normals(1, 3, seed=1)
    with pytest.raises(ValueError, match=r"two pairs or more, .* got a batch of one; pass bank=MemoryBank"):
        critic().learn(x, z)
    teacher = critic(bank=normals(6, 3, seed=2))
    kept = [p.detach().clone() for p in teacher.network.parameters()]
    with torch.inference_mode():
        assert teacher.learn(x, z).isfinite()
    assert all(not torch.equal(a, b) for a, b in zip(kept, teacher.network.parameters(), strict=True))
    assert teacher.each(x, z).shape == (1,)


def test_learning_is_a_step_up_the_bound():
    """The weights move as Adam by hand moves them along the gradient of the batch's bound; others see nothing."""
    x, z = gaussians(20, 1.0)
    teacher = critic(x=(D,), z=(D,), estimator="infonce", lr=0.01)
    twin = copy.deepcopy(teacher.network)
    table = twin.table(twin.embed_x(x), twin.embed_z(z))
    want = bounds.infonce(table.diagonal(), table[~torch.eye(20, dtype=torch.bool)].view(20, 19))
    grads = torch.autograd.grad(want, list(twin.parameters()))
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher.learn(x, z.requires_grad_()).item() == pytest.approx(want.item(), rel=1e-5)
    assert z.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    for before, after, grad in zip(twin.parameters(), teacher.network.parameters(), grads, strict=True):
        sure = grad.abs() > 1e-5  # Adam's first step is lr times the sign
        torch.testing.assert_close((after - before)[sure], 0.01 * grad[sure].sign(), rtol=2e-3, atol=0)


def test_adam_by_hand():
    w = normals(3, 2, dtype=torch.float64)
    wanted, m, v = w.numpy().copy(), np.zeros((3, 2)), np.zeros((3, 2))
    adam = Adam([w], lr=0.1, clip=2.0)
    for k in range(1, 6):
        grad = k * normals(3, 2, seed=k, dtype=torch.float64)
        adam.step([grad.clone()], lr=0.1 / k)
        g = grad.numpy()
        g = g * min(1.0, 2.0 / np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        wanted -= 0.1 / k * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        np.testing.assert_allclose(w.numpy(), wanted, rtol=1e-12)


def test_the_network_starts_from_its_seed():
    state = torch.get_rng_state()
    made = [StatisticsNetwork((1, 8, 8), (3, 9, 8), convolve=True, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = ([p.detach() for p in net.parameters() if p.dim() > 1] for net in made)
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))
    alike = StatisticsNetwork((1, 32, 32), (1, 32, 32), convolve=True)
    x = normals(40, 1, 32, 32)
    table = alike.table(alike.embed_x(x), alike.embed_z(x + 0.1 * normals(40, 1, 32, 32, seed=1)))
    product = table - table.mean(0) - table.mean(1, keepdim=True) + table.mean()
    assert product.diagonal().mean() > 2 * product.std()  # likeness shows before anything is learnt


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 33, 8), (3, 64, 50)])
def test_the_encoder_takes_any_size(shape):
    encoder = ImageEncoder(shape[0], features=7, seed=2)
    x = normals(2, *shape).requires_grad_()
    out = encoder(x)
    assert out.shape == (2, 7)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert (grad != 0).float().mean() > 0.9


def test_region_means():
    x = normals(2, 3, 9, 13, dtype=torch.float64)
    fine = np.repeat(np.repeat(x.numpy(), 4, 2), 4, 3).reshape(2, 3, 4, 9, 4, 13)  # every pixel in 4 x 4 parts
    np.testing.assert_allclose(region_means(x, 4).numpy(), fine.mean((3, 5)), rtol=1e-10)


def test_the_bank_forgets_the_oldest():
    bank = MemoryBank(torch.arange(4.0)[:, None], capacity=3)
    assert bank.samples.flatten().tolist() == [1, 2, 3]
    bank.add(torch.tensor([[9.0], [8.0]]))
    assert (len(bank), bank.samples.flatten().tolist()) == (3, [3, 9, 8])


# bad input

X, Z = gaussians(30, 1.0)
IMAGES = torch.rand(30, 1, 8, 8)


@pytest.mark.parametrize(
    ("x", "z", "options", "message"),
    [
        (X, Z, {"estimator": "mine"}, "estimator: wanted one of 'dv', 'infonce', 'nwj', got 'mine'"),
        (X, Z[:29], {}, r"z: wanted as many samples as x \(30, .*got 29"),
        (X[:0], Z[:0], {}, "z: wanted as many .* one at least"),
        (X.double().long(), Z, {}, "x: wanted a float tensor"),
        (X, Z.numpy(), {}, "z: wanted a float tensor .* got ndarray"),
        (X[:, 0], Z, {}, r"x: wanted samples \(N, ...\)"),
        (X, Z.clone().index_fill_(0, torch.tensor([4]), math.nan), {}, "z: wanted finite"),
        (X / 0, Z, {}, "x: wanted finite"),
        (X, Z.to("meta"), {}, "z: wanted a tensor on cpu"),
        (X[:5], Z[:5], {}, "x: wanted pairs enough for two in each part of the split, got 5, of which 3"),
        (X, Z, {"held_out": 1.0}, "held_out: wanted a share"),
        (X, Z, {"held_out": True}, "held_out: wanted a share"),
        (X, Z, {"steps": 0}, "steps: wanted a whole number >= 1, got 0"),
        (X, Z, {"batch": 1}, "batch: wanted a whole number >= 2"),
        (X, Z, {"lr": 0.0}, "lr: wanted"),
        (X, Z, {"rate": 0.0}, "rate: wanted a number above 0"),
        (X, Z, {"hidden": 2.5}, "hidden: wanted a whole number"),
        (X, Z, {"embedding": 0}, "embedding: wanted a whole number"),
        (X, Z, {"form": "bilinear"}, "form: wanted one of 'separable', 'concatenated'"),
        (X, Z, {"seed": -1}, "seed: wanted"),
        (X, Z, {"encoder": "vgg"}, "encoder: wanted None, 'conv' or a function"),
        (X, Z, {"encoder": "conv"}, r"x: wanted images \(N, 1 or 3, H, W\)"),
        (IMAGES, IMAGES[..., :7], {"encoder": "conv"}, "z: wanted images .* H and W >= 8"),
        (IMAGES, IMAGES, {"encoder": lambda x: x.mean()}, "encoder: wanted float features .* of x"),
        (IMAGES, IMAGES, {"encoder": lambda x: x / 0 * 0}, "encoder: wanted finite features of x"),
    ],
)
def test_bad_input_is_named(x, z, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fa.mutual_information(x, z, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critic().each(X[:, :3], Z[:, :3]), "bank: wanted samples of x"),
        (lambda: critic().learn(X, Z), r"x: wanted samples of shape \(3,\), as the critic was made for"),
        (lambda: critic().learn(X[:, :3], Z[:4, :3]), "z: wanted as many"),
        (lambda: critic().learn(X[:, :3], Z[:, :3], own=torch.arange(30)), "own: wanted None without a bank"),
        (lambda: critic(bank=X[:, :3]).learn(X[:, :3], Z[:, :3], own=torch.arange(9)), "own: wanted 30 places"),
        (lambda: critic(bank=X[:1, :3]).each(X[:1, :3], Z[:1, :3], own=torch.tensor([0])), "own: wanted a bank of two"),
        (lambda: critic(estimator="kl"), "estimator: wanted one of"),
        (lambda: critic(x=(2, 9, 9), z=(1, 9, 9), convolve=True), "x: wanted images"),
        (lambda: ImageEncoder(1)(torch.rand(2, 1, 7, 9)), "images: wanted"),
        (lambda: MemoryBank(X[:0]), "bank: wanted one sample or more"),
        (lambda: MemoryBank([1.0]), "bank: wanted a float tensor"),
        (lambda: MemoryBank(X, capacity=0), "capacity: wanted"),
        (lambda: MemoryBank(X).add(Z[:, :2]), "x: wanted samples"),
        (lambda: bounds.nwj(X[:, 0], Z[:9]), r"marginal: wanted scores \(30, K\)"),
        (lambda: bounds.nwj(X, Z), r"joint: wanted scores \(B,\)"),
        (lambda: bounds.infonce(X[:, 0].long(), Z), "joint: wanted a float tensor"),
        (lambda: MovingAverage(1.5), "rate: wanted"),
    ],
)  # fmt: skip
def test_bad_calls_of_the_parts_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_diverging_training_is_an_error():
    with pytest.raises(fa.NonFiniteError, match="lower lr"):
        fa.mutual_information(X, Z, lr=1e30, steps=20, estimator="nwj")
