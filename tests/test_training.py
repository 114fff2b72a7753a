"""The training loop."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastattack import NonFiniteError, models
from fastattack import training as t
from fastattack.sampler import TypicalSetSampler

SIGMA = 25 / 255


class Moody(nn.Module):
    """A small denoiser with everything that training could leave behind: batch norm, dropout, a frozen weight."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.outer = nn.Conv2d(4, 1, 3, padding=1)
        for p in self.parameters():
            p.data.copy_(0.2 * torch.randn(p.shape, generator=generator))
        self.outer.bias.requires_grad_(False)  # type: ignore[union-attr]

    def forward(self, y: Tensor) -> Tensor:
        denoised: Tensor = y - self.outer(self.inner(y))
        return denoised


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "modes": [m.training for m in model.modules()],
        "learning": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "random": torch.get_rng_state(),
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


def images(*sizes: tuple[int, int], channels: int = 1) -> list[Tensor]:
    """Smooth ones, so that there is something to learn."""
    generator = torch.Generator().manual_seed(3)
    rough = [torch.rand(1, channels, 4, 4, generator=generator) for _ in sizes]
    return [nn.functional.interpolate(r, s, mode="bilinear")[0] for r, s in zip(rough, sizes, strict=True)]


def strategy(name: str, seed: int = 0) -> t.Strategy:
    return {
        "plain": lambda: t.plain(sigma=SIGMA, seed=seed),
        "ts": lambda: t.ts(TypicalSetSampler(sigma=SIGMA, typicality=0.1, mean=0.05, seed=seed)),
        "pgd": lambda: t.pgd(sigma=SIGMA, steps=2, seed=seed),
        "hat": lambda: t.hat(sigma=SIGMA, steps=2, seed=seed),
    }[name]()


every_strategy = pytest.mark.parametrize("name", ["plain", "ts", "pgd", "hat"])


def tiny(seed: int = 0) -> models.DnCNN:
    torch.manual_seed(seed)
    return models.DnCNN(1, depth=3, features=8)


def patches(**more: object) -> t.Patches:
    return t.Patches(images((20, 24), (17, 19)), **{"size": 8, "batch": 4, "steps_per_epoch": 5, **more})


def test_the_loss_falls_and_the_weight_file_holds_the_model(tmp_path):
    model = tiny().eval()
    rows: list[dict[str, float]] = []
    state = torch.get_rng_state()
    config = t.TrainConfig(steps=150, lr=5e-3, log_every=10)
    result = t.train(model, patches(batch=16), strategy("plain"), config, out=tmp_path, log=rows.append)
    assert rows[-1]["loss"] < 0.5 < 0.9 < rows[0]["loss"]
    assert rows[-1]["psnr"] == pytest.approx(-10 * math.log10(rows[-1]["loss"] * SIGMA**2))
    assert list(result.rows) == rows
    assert not any(m.training for m in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    loaded = models.load("dncnn", weights=result.weights, sigma=25)
    assert same(loaded.state_dict(), model.state_dict())
    assert not (tmp_path / "log.csv").exists()


@every_strategy
def test_every_strategy_trains_validates_and_logs(name, tmp_path):
    model = tiny()
    check = t.Validation(images=images((10, 10)), sigma=SIGMA, steps=1)
    config = t.TrainConfig(
        steps=12, log_every=2, ema=0.9, autocast="bf16", channels_last=True, optimiser="adamw", warmup=3, valid_every=2
    )
    result = t.train(model, patches(), strategy(name), config, out=tmp_path, validation=check)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [2, 4, 5, 6, 8, 10, 12]
    assert [r["step"] for r in rows if r["valid"]] == ["10", "12"]
    assert [float(r["loss"]) for r in rows] == [r["loss"] for r in result.rows]
    averaged = models.load("dncnn", weights=result.weights)
    assert not same(averaged.state_dict(), model.state_dict())
    assert check(averaged)["attacked"] == pytest.approx(float(rows[-1]["attacked"]), abs=1e-4)


def test_rows_hold_the_means_since_the_row_before(tmp_path):
    runs = []
    for every in (1, 5):
        config = t.TrainConfig(steps=5, log_every=every)
        runs.append(t.train(tiny(), patches(), strategy("plain"), config, out=tmp_path / str(every)).rows)
    for name in ("loss", "gradient"):
        assert runs[1][0][name] == pytest.approx(np.mean([r[name] for r in runs[0]]))


def test_the_gradient_is_clipped_and_the_average_follows(tmp_path):
    model, start = tiny(), tiny()
    config = t.TrainConfig(steps=1, ema=0.999, clip=1e-9, lr=1.0)  # Adam's epsilon makes short gradients short steps
    t.train(model, patches(), strategy("plain"), config, out=tmp_path)
    moved = max((a - b).abs().max().item() for a, b in zip(model.parameters(), start.parameters(), strict=True))
    assert 0 < moved < 0.1
    averaged = models.load("dncnn", weights=tmp_path / "model.safetensors")
    for now, then, mean in zip(model.parameters(), start.parameters(), averaged.parameters(), strict=True):
        assert torch.allclose(mean, then + 0.9 * (now - then), atol=1e-6)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_loop_shows_the_model_what_the_strategy_makes_of_each_batch(bf16, tmp_path):
    model, shown, made = tiny(), [], []
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    model.model[0].register_forward_hook(lambda _m, _i, out: made.append(out))
    config = t.TrainConfig(steps=7, autocast="bf16" if bf16 else None, channels_last=bf16)
    t.train(model, patches(), strategy("plain"), config, out=tmp_path)
    for k, inputs in enumerate(shown):
        clean = patches().batch_at(k // 5, k % 5)
        ids = torch.arange(4) + 4 * (k % 5)
        assert torch.equal(inputs, strategy("plain")(model, clean, sample_ids=ids, epoch=k // 5)[0])
    assert len(shown) == 7
    assert {out.dtype for out in made} == {torch.bfloat16 if bf16 else torch.float32}
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in made) == bf16


class Poisoned(t.Patches):
    """NaN in the batch of one step, or Ctrl-C."""

    def __init__(self, *args: object, at: tuple[int, int], error: type[BaseException] | None = None, **more: object):
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.at, self.error = at, error

    def batch_at(self, epoch: int, step: int) -> Tensor:
        if (epoch, step) == self.at and self.error:
            raise self.error
        return super().batch_at(epoch, step)


class Exploding(models.DnCNN):
    """Infinite from the given call on."""

    def __init__(self, call: int) -> None:
        super().__init__(1, depth=2, features=4)
        self.left = call

    def forward(self, y: Tensor) -> Tensor:
        self.left -= 1
        return super().forward(y) * (math.inf if self.left < 0 else 1.0)


@pytest.mark.parametrize("name", ["plain", "pgd"])
def test_a_loss_that_is_not_finite_stops_and_the_checkpoint_stays(name, tmp_path):
    calls = 4 if name == "pgd" else 1  # of the model in a step
    with pytest.raises(NonFiniteError, match="epoch 1, step 2"):
        t.train(Exploding(7 * calls), patches(), strategy(name), t.TrainConfig(steps=20, ema=0.9), out=tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 5
    assert all(v.isfinite().all() for part in ("model", "ema") for v in kept[part].values())
    assert not (tmp_path / "model.safetensors").exists()


def test_the_surroundings_are_as_found_after_an_interruption(tmp_path):
    model = Moody().eval()
    before = snapshot(model)
    stopping = Poisoned(images((9, 9)), size=8, batch=2, steps_per_epoch=4, at=(0, 2), error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        t.train(model, stopping, strategy("plain"), t.TrainConfig(steps=4), out=tmp_path)
    after = snapshot(model)
    assert not same(before.pop("state"), after.pop("state"))
    assert same(before, after)


def test_an_earlier_run_is_only_replaced_when_asked(tmp_path):
    def go(**options: object) -> object:
        return t.train(tiny(), patches(), strategy("plain"), t.TrainConfig(steps=2), out=tmp_path, **options)

    go()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="holds a training run"):
        go()
    with pytest.raises(ValueError, match="resume"):
        go(resume=True, overwrite=True)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (tmp_path / "checkpoint.pt").unlink()
    (tmp_path / "checkpoint.previous.pt").unlink()
    with pytest.raises(FileExistsError):  # a folder of weights is no run of ours to begin in
        go(resume=True)
    go(overwrite=True)
    assert set(before) == {p.name for p in tmp_path.iterdir()}


def test_replacing_a_run_removes_it_once_the_new_one_is_safe(tmp_path):
    t.train(tiny(), patches(), strategy("plain"), t.TrainConfig(steps=12), out=tmp_path)
    (tmp_path / "notes.txt").touch()
    stopping = Poisoned(images((9, 9)), size=8, batch=4, at=(0, 0), error=KeyboardInterrupt)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError):
        t.train(tiny(), stopping, strategy("ts"), t.TrainConfig(steps=3), out=tmp_path, log=None)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        t.train(tiny(), stopping, strategy("ts"), t.TrainConfig(steps=3), out=tmp_path, log=None, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", "notes.txt"}
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["identity"]["strategy"]["strategy"] == "TypicalSet"


class Uneven(t.Patches):
    """Batches of these sizes, whatever the epoch."""

    sizes = (4, 4, 4, 4, 3)

    def batch_at(self, epoch: int, step: int) -> Tensor:
        return super().batch_at(epoch, step)[: self.sizes[step]]


def uneven(*sizes: int) -> Uneven:
    made = Uneven(images((20, 24), (17, 19)), size=8, batch=4, steps_per_epoch=5)
    made.sizes = sizes
    return made


def test_a_batch_of_another_size_would_repeat_noise_and_is_refused(tmp_path):
    config = t.TrainConfig(steps=10, save_every=1)
    with pytest.raises(ValueError, match=r"^patches\.batch_at\(0, 4\): wanted 4 images .* got 3$"):
        t.train(tiny(), uneven(4, 4, 4, 4, 3), strategy("plain"), config, out=tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    with pytest.raises(ValueError, match=r"^patches\.batch_at\(0, 4\): wanted 4 images .* got 3$"):
        t.train(tiny(), uneven(3, 3, 3, 3, 3), strategy("plain"), config, out=tmp_path, resume=True)
    t.train(tiny(), uneven(4, 4, 4, 4, 4), strategy("plain"), config, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"^patches\.batch_at\(0, 0\): wanted some images .* got 0$"):
        t.train(tiny(), uneven(0), strategy("plain"), config, out=tmp_path / "empty")


def test_a_model_without_weights_to_train(tmp_path):
    with pytest.raises(ValueError, match="model: wanted parameters"):
        t.train(tiny().requires_grad_(False), patches(), strategy("plain"), t.TrainConfig(steps=2), out=tmp_path)
