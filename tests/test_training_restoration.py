"""Degraded, purified and attacked inputs, and losses of one's own: what they make, leave alone, resume and refuse."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack import training as t
from fastattack.diffusion import Diffusion, Schedule
from fastattack.numbering import seed_of_draw
from fastattack.objectives import mae, mse
from fastattack.training.describing import described
from fastattack.training.identity import plain_data
from fastattack.training.losses import loss_of
from tests.strategy_checks import (
    goes_on_where_its_state_was_taken,
    leaves_everything_as_found,
    sample_ids_and_epoch_name_the_numbers,
)
from tests.test_training import SIGMA, Moody, images, patches, same, tiny
from tests.test_training_resume import SIZES, Poisoned

SCHEDULE = Schedule.linear(50, 1e-3, 0.05)
KERNEL = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
CAMERA = fa.udc.Degradation(KERNEL, seed=4)


class Small(nn.Module):
    """A predictor of noise that does something."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 1, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data.copy_(0.3 * torch.randn(p.shape, generator=generator))

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        return torch.tanh(self.a(x))


def purifier(weights: int = 0, **options: Any) -> fa.Purifier:
    diffusion = Diffusion(Small(weights), SCHEDULE, channels=1)
    return fa.Purifier(diffusion, **({"t_star": 8, "steps": 2, "seed": 3} | options))


def make(name: str, seed: int = 0) -> t.Strategy:
    plain = t.degraded(CAMERA, seed=seed)
    return {
        "degraded": lambda: plain,
        "purified": lambda: t.purified(plain, purifier(), levels=(4, 8), seed=seed),
        "attacked": lambda: t.attacked(plain, eps=4 / 255, steps=2, share=0.5, bounds=(0, 1), seed=seed),
        "through": lambda: t.attacked(plain, eps=4 / 255, steps=2, purifier=purifier(), seed=seed),
        "twice": lambda: t.purified(t.hat(sigma=SIGMA, steps=2, seed=seed), purifier(), seed=seed),
    }[name]()


every_strategy = pytest.mark.parametrize("name", ["degraded", "purified", "attacked", "through", "twice"])


@pytest.fixture
def clean() -> Tensor:
    return torch.stack(images(*[(12, 10)] * 4))


@every_strategy
def test_a_strategy_leaves_everything_as_found(name, clean):
    leaves_everything_as_found(make(name), clean, copies=2 if name == "twice" else 1)


@every_strategy
def test_a_strategy_goes_on_where_its_state_was_taken(name, clean):
    goes_on_where_its_state_was_taken(functools.partial(make, name), Moody().eval(), clean)


@every_strategy
def test_sample_ids_and_epoch_name_the_numbers(name, clean):
    s = make(name)
    ids, whole = sample_ids_and_epoch_name_the_numbers(s, clean)
    s.set_epoch(3)
    assert torch.equal(whole, s(Moody().eval(), clean, sample_ids=ids)[0][:4])
    assert s.state_dict() == {"seed": 0, "epoch": 3, "step": 0}


@every_strategy
def test_an_empty_batch_gives_an_empty_batch(name, clean):
    s = make(name)
    assert all(part.shape == (0, 1, 12, 10) for part in s(Moody(), clean[:0]))
    assert s.state_dict()["step"] == 1


def test_degraded_inputs_are_what_the_camera_makes(clean):
    silent = fa.udc.Degradation(KERNEL, shot=0, read=0)
    assert torch.equal(t.degraded(silent)(abs, clean)[0], silent(clean))
    assert torch.equal(t.degraded(torch.tanh)(abs, clean)[0], clean.tanh())
    noise = t.degraded(CAMERA)(abs, clean)[0] - silent(clean)
    assert 0.005 < float(noise.std()) < 0.05


def test_purified_inputs_are_the_purifiers_in_the_noise_of_the_epoch(clean):
    """At its own level, and for each sample at one of several."""
    inner, ids = t.degraded(CAMERA), torch.arange(4)
    seed, _ = inner.numbering.key(4, epoch=2)
    before = inner(abs, clean, sample_ids=ids, epoch=2)[0]
    mine = purifier().replaced(seed=seed_of_draw(3, seed >> 1))
    one = t.purified(inner, purifier())(abs, clean, sample_ids=ids, epoch=2)[0]
    assert torch.equal(one, mine.purify(before, sample_ids=ids))
    many = torch.arange(32)
    wide = clean[:1].expand(32, -1, -1, -1).contiguous()
    found = t.purified(inner, purifier(), levels=(4, 8))(abs, wide, sample_ids=many, epoch=2)[0]
    degraded = inner(abs, wide, sample_ids=many, epoch=2)[0]
    at = [mine.replaced(t_star=level).purify(degraded, sample_ids=many) for level in (4, 8)]
    close = torch.stack([(found - a).abs().amax((1, 2, 3)) < 1e-6 for a in at])
    assert (close.sum(0) == 1).all()
    assert 6 < int(close[0].sum()) < 26


def test_attacked_inputs_hurt_stay_in_the_ball_and_are_a_share(clean):
    model, ids = Moody().eval(), torch.arange(64)
    wide = clean[:1].expand(64, -1, -1, -1).contiguous()
    before = t.degraded(CAMERA)(model, wide, sample_ids=ids, epoch=0)[0]
    found = t.attacked(t.degraded(CAMERA), eps=0.02, steps=4, share=0.25)(model, wide, sample_ids=ids, epoch=0)[0]
    moved = (found - before).abs().amax((1, 2, 3))
    hit = moved > 0
    assert 6 < int(hit.sum()) < 30
    assert moved.max() <= 0.02
    with torch.no_grad():
        assert (mse(model(found[hit]), wide[hit]) > mse(model(before[hit]), wide[hit])).all()


def test_the_attack_through_the_purifier_is_on_what_is_trained(clean):
    """It knows the noise of the purification that follows: blind ones of the same size do less."""
    torch.manual_seed(0)
    model, ids = nn.Conv2d(1, 1, 5, padding=2), torch.arange(4)
    plain, strong = t.degraded(CAMERA), {"eps": 0.03, "steps": 8}
    blind = t.purified(t.attacked(plain, **strong), purifier())
    through = t.attacked(plain, **strong, purifier=purifier())
    losses = [mse(model(s(model, clean, sample_ids=ids, epoch=1)[0]), clean) for s in (blind, through)]
    assert (losses[1] > losses[0]).all()


# -- training ----------------------------------------------------------------------------------------------------------


def finish(out: Any, name: str, loss: Any = None, model: nn.Module | None = None, **options: Any) -> dict[str, Tensor]:
    model = Moody() if model is None else model
    config = t.TrainConfig(steps=7, ema=0.9, log_every=3, save_every=2)
    t.train(model, patches(), make(name), config, out=out, loss=loss, **options)
    return model.state_dict()


@pytest.mark.parametrize(
    ("name", "loss"), [("degraded", "mse+features"), ("purified", mae), ("through", None), ("attacked", "mse")]
)
def test_a_resumed_run_gives_the_same_bits(name, loss, tmp_path):
    whole = finish(tmp_path / "whole", name, loss)
    for at in ((0, 3), (1, 1)):
        stop = Poisoned(images(*SIZES), size=8, batch=4, steps_per_epoch=5, at=at, error=KeyboardInterrupt)
        config = t.TrainConfig(steps=7, ema=0.9, log_every=3, save_every=2)
        with pytest.raises(KeyboardInterrupt):
            t.train(Moody(), stop, make(name), config, out=tmp_path / "parts", loss=loss, resume=True)
    torch.manual_seed(99)
    assert same(whole, finish(tmp_path / "parts", name, loss, Moody(seed=5), resume=True))
    files = [torch.load(tmp_path / k / "checkpoint.pt", weights_only=True) for k in ("whole", "parts")]
    assert same(files[0], files[1])


def test_a_purifier_of_other_options_or_weights_is_another_run(tmp_path):
    config = t.TrainConfig(steps=1)

    def run(mine: fa.Purifier, **options: Any) -> None:
        strategy = t.purified(t.degraded(CAMERA), mine)
        t.train(tiny(), patches(), strategy, config, out=tmp_path, **options)

    run(purifier())
    run(purifier(), resume=True)
    for other, word in (
        (purifier(weights=1), r"strategy\.purifier\.model\.tensors\.a\.weight"),
        (purifier(steps=3), r"strategy\.purifier\.options\.steps: wanted 3, got 2"),
        (purifier(sampler="ddim"), r"strategy\.purifier\.options\.sampler"),
        (fa.Purifier(Diffusion(Small(), Schedule.linear(50), channels=1), t_star=8, steps=2, seed=3), "schedule"),
    ):
        with pytest.raises(ValueError, match=f"another run: .*{word}"):
            run(other, resume=True)
    strategy = t.purified(t.degraded(fa.udc.Degradation(KERNEL, seed=4, read=1e-3)), purifier())
    with pytest.raises(ValueError, match=r"another run: .*inside\.degradation\.read"):
        t.train(tiny(), patches(), strategy, config, out=tmp_path, resume=True)


def test_a_purifier_that_cannot_be_compared_is_refused_before_anything_is_written(tmp_path):
    hidden = fa.Purifier(Diffusion(lambda x, _: x, SCHEDULE, channels=1), t_star=8)
    guided = purifier(guide=lambda eps, *_: eps)
    for mine, word in ((hidden, "purifier: wanted a diffusion model that is an nn.Module"), (guided, "guide")):
        with pytest.raises(TypeError, match=word):
            t.train(
                tiny(), patches(), t.purified(t.degraded(CAMERA), mine), t.TrainConfig(steps=1), out=tmp_path / "out"
            )
    assert not (tmp_path / "out").exists()


def test_the_loss_is_the_objective_over_the_square_of_the_unit(tmp_path):
    both = t.Weighted([(2.0, mae), (0.5, mse)])
    rows = []
    for loss in (None, "mse", both):
        config = t.TrainConfig(steps=1, log_every=1)
        strategy = t.degraded(CAMERA, unit=0.2)
        out = tmp_path / str(len(rows))
        rows.append(t.train(tiny(), patches(), strategy, config, out=out, loss=loss).rows[0])
    assert rows[0] == rows[1]
    assert rows[2]["psnr"] == rows[0]["psnr"]  # of the mean squared error, whatever the loss is
    clean = patches().batch_at(0, 0)
    inputs, _ = t.degraded(CAMERA)(tiny(), clean, sample_ids=range(4), epoch=0)
    with torch.no_grad():
        output = tiny().train()(inputs)
    expected = (2 * (output - clean).abs().mean() + 0.5 * (output - clean).square().mean()) / 0.2**2
    assert rows[2]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_named_loss_adds_what_a_network_sees():
    found = loss_of("mse+features", 1, torch.device("cpu"))
    assert isinstance(found, t.Weighted)
    x = torch.stack(images(*[(12, 10)] * 2))
    y = (x + 0.1).requires_grad_()
    values = found(y, x)
    assert (values > mse(y, x)).all()
    assert torch.equal(found(x, x), torch.zeros(2))
    torch.autograd.backward(values.sum())
    assert y.grad is not None
    assert y.grad.abs().sum() > 0


def test_the_checkpoint_tells_losses_apart(tmp_path):
    config, strategy = t.TrainConfig(steps=1), t.degraded(CAMERA)
    t.train(tiny(), patches(), strategy, config, out=tmp_path, loss=t.Weighted([(1.0, mae)]))
    for loss, word in (
        (None, "loss"),
        (mae, "loss"),
        (t.Weighted([(2.0, mae)]), r"loss\.objective\.terms: wanted \[\[2\.0"),
    ):
        with pytest.raises(ValueError, match=f"another run: .*{word}"):
            t.train(tiny(), patches(), strategy, config, out=tmp_path, loss=loss, resume=True)
    t.train(tiny(), patches(), strategy, config, out=tmp_path, loss=t.Weighted([(1.0, mae)]), resume=True)
    net = nn.Conv2d(1, 2, 1)
    one = plain_data(described(fa.objectives.features(net)), "loss")
    with torch.no_grad():
        net.weight.mul_(2)
    assert plain_data(described(fa.objectives.features(net)), "loss") != one
    with pytest.raises(TypeError, match=r"loss\.objective"):
        t.train(tiny(), patches(), strategy, config, out=tmp_path / "lambda", loss=lambda a, b: mse(a, b))


@pytest.mark.parametrize(
    ("loss", "error", "word"),
    [
        ("lpips", ValueError, "loss: wanted 'mse', 'mse.features'"),
        (3, ValueError, "loss: wanted"),
        (fa.objectives.charbonnier, ValueError, "loss: wanted"),
    ],
)
def test_a_loss_that_cannot_be_is_named(loss, error, word, tmp_path):
    with pytest.raises(error, match=f"^{word}"):
        t.train(tiny(), patches(), t.degraded(CAMERA), t.TrainConfig(steps=1), out=tmp_path / "out", loss=loss)
    assert not (tmp_path / "out").exists()


def total(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def test_a_loss_that_gives_no_value_for_each_sample_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^loss: wanted one value for each of 4 samples, got \(\)"):
        t.train(tiny(), patches(), t.degraded(CAMERA), t.TrainConfig(steps=1), out=tmp_path, loss=total)
    with pytest.raises(ValueError, match=r"^loss: wanted a gray model for 'mse\+features'"):
        loss_of("mse+features", 3, torch.device("cpu"))


def test_factories_refuse_what_cannot_be():
    plain = t.degraded(CAMERA)
    for build, word in (
        (lambda: t.degraded("toled"), "degradation"),  # type: ignore[arg-type]
        (lambda: t.degraded(CAMERA, unit=0.0), "unit"),
        (lambda: t.degraded(CAMERA, seed=-1), "seed"),
        (lambda: t.purified(CAMERA, purifier()), "strategy"),  # type: ignore[arg-type]
        (lambda: t.purified(None, purifier()), "strategy"),  # type: ignore[arg-type]
        (lambda: t.purified(plain, purifier()(abs)), "purifier"),  # type: ignore[arg-type]
        (lambda: t.purified(plain, purifier(), levels=(8, 51)), "t_star"),
        (lambda: t.attacked(plain, eps=-1.0, steps=2), "eps"),
        (lambda: t.attacked(plain, eps=0.1, steps=0), "steps"),
        (lambda: t.attacked(plain, eps=0.1, steps=2, share=0.0), "share"),
        (lambda: t.attacked(plain, eps=0.1, steps=2, bounds=(1, 0)), "bounds"),
        (lambda: t.Weighted([]), "terms"),
        (lambda: t.Weighted([(0.0, mse)]), r"terms\[0\]"),
        (lambda: t.Weighted([mse]), r"terms\[0\]"),  # type: ignore[list-item]
    ):
        with pytest.raises((ValueError, TypeError), match=f"^({word})"):
            build()


# -- each choice its own number ----------------------------------------------------------------------------------------


class Recording:
    """A strategy of white images; wrappers around it are judged by what they change."""

    level = 0.1

    def __call__(self, model: Any, clean: Tensor, *, sample_ids: Any = None, epoch: Any = None) -> Any:
        return torch.full_like(clean, 0.5), clean

    def describe(self) -> dict[str, Any]:
        return {}

    def set_epoch(self, epoch: int, step: int = 0) -> None: ...

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None: ...


def independent(a: Tensor, b: Tensor) -> None:
    """Of 400 fair coins each the product of the signs has a mean of 0 +- 0.05."""
    assert 120 < int(a.sum()) < 280
    assert 120 < int(b.sum()) < 280
    assert abs(float(((2.0 * a - 1) * (2.0 * b - 1)).mean())) < 0.2


def test_share_level_and_plain_share_are_drawn_apart(monkeypatch):
    """All seeds 0: who is attacked says nothing of who is purified how far, or has plain noise; attacks in attacks."""
    clean, model = torch.full((400, 1, 2, 2), 0.25), lambda x: x
    by_level: dict[int, list[int]] = {}

    def purify(self: fa.Purifier, x: Tensor, *, sample_ids: Tensor, draw: int = 0) -> Tensor:
        by_level.setdefault(self.level, []).extend(sample_ids.tolist())
        return x

    monkeypatch.setattr(fa.Purifier, "purify", purify)
    attack = {"eps": 0.01, "steps": 1, "share": 0.5}
    once = t.attacked(Recording(), **attack)
    hit = (t.purified(once, purifier(), levels=(4, 8))(model, clean)[0] - 0.5).abs().amax((1, 2, 3)) > 0
    low = torch.zeros(400, dtype=torch.bool)
    low[by_level[4]] = True
    independent(hit, low)
    by_level.clear()
    t.purified(t.purified(Recording(), purifier(), levels=(4, 8)), purifier(), levels=(5, 9))(model, clean)
    marks = [torch.zeros(400, dtype=torch.bool) for _ in range(2)]
    for mark, level in zip(marks, (4, 5), strict=True):
        mark[by_level[level]] = True
    independent(*marks)
    twice = (t.attacked(once, **attack)(model, clean)[0] - once(model, clean, sample_ids=range(400))[0]).abs()
    independent(twice.amax((1, 2, 3)) > 0, hit)
    sampler = fa.TypicalSetSampler(sigma=0.1, typicality=None, mean=0.5, plain_share=0.5)
    wide = torch.zeros(400, 1, 4, 4)
    before = t.ts(sampler)(model, wide, sample_ids=range(400))[0]
    after = t.attacked(t.ts(sampler), **attack)(model, wide, sample_ids=range(400))[0]
    independent(before.mean((1, 2, 3)) < 0.25, (after - before).abs().amax((1, 2, 3)) > 0)


# -- what a module is told by ------------------------------------------------------------------------------------------


class Stretch(nn.Module):
    """Its numbers are in no repr and no state_dict."""

    def __init__(self, k: Any = 2.0, offset: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.inner.k = k
        self.register_buffer("offset", torch.tensor(offset), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner.k + self.offset


def test_plain_attributes_and_hidden_buffers_of_a_degradation_make_another_run(tmp_path):
    config = t.TrainConfig(steps=1)

    def run(degradation: nn.Module, **options: Any) -> None:
        t.train(tiny(), patches(), t.degraded(degradation), config, out=tmp_path / "out", **options)

    run(Stretch())
    run(Stretch().eval(), resume=True)  # its mode is not what it is
    with pytest.raises(ValueError, match=r"another run: .*degradation\.attributes\.inner\.k: wanted 3\.0, got 2\.0"):
        run(Stretch(3.0), resume=True)
    with pytest.raises(ValueError, match=r"another run: .*degradation\.attributes.*offset"):
        run(Stretch(offset=0.1), resume=True)
    with pytest.raises(TypeError, match=r"degradation\.attributes\.inner\.k: wanted numbers.*got object"):
        run(Stretch(object()))
    first, second = (plain_data(described(nn.LSTM(2, 2, dropout=d, num_layers=2)), "m")["attributes"] for d in (0, 0.5))
    assert first != second
    assert described(nn.MultiheadAttention(4, 2))["attributes"][""]["num_heads"] == 2


# -- what training refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degradation", "word"),
    [(lambda x: x[..., :4], r"wanted images \(4, 1, 12, 10\) .*got \(4, 1, 12, 4\)"), (lambda x: None, "got NoneType")],
)
def test_a_degradation_that_gives_no_such_images_is_named(degradation, word, clean):
    with pytest.raises(ValueError, match=f"^degradation: .*{word}"):
        t.degraded(degradation)(abs, clean)


@pytest.mark.parametrize("levels", [60, "60", None])
def test_levels_that_are_no_sequence_are_named(levels):
    with pytest.raises(TypeError, match=r"^levels: wanted a sequence"):
        t.purified(t.degraded(CAMERA), purifier(), levels=levels)


def test_the_named_loss_refuses_colour_of_a_model_that_does_not_tell_its_channels(tmp_path):
    found = loss_of("mse+features", None, torch.device("cpu"))
    assert found is not None
    with pytest.raises(ValueError, match=r"^loss: wanted a gray model for 'mse\+features'.*got one for 3 channels"):
        found(torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12))
    assert found(torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)).shape == (1,)


@pytest.mark.parametrize("name", ["degraded", "attacked", "purified"])
def test_gaussian_validation_of_a_restorer_is_refused_and_a_function_is_not(name, tmp_path):
    config, valid = t.TrainConfig(steps=1), t.Validation(images=images((12, 12)), sigma=SIGMA)
    with pytest.raises(ValueError, match=r"^validation: wanted None or a function .* degraded images"):
        t.train(tiny(), patches(), make(name), config, out=tmp_path / "out", validation=valid)
    assert not (tmp_path / "out").exists()
    own = t.train(tiny(), patches(), make(name), config, out=tmp_path / "out", validation=lambda model: {"valid": 1.5})
    assert own.rows[-1]["valid"] == 1.5
