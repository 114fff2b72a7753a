"""The examples: each trains a few steps on small images, and a run that was interrupted goes on with the same noise."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.images import read_image, save_png

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIZE = (64, 96)  # six tiles; of the two images that are trained on, two batches an epoch


def load(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three smooth images in a folder; the examples run beside it, where whatever they leave is seen."""
    for k in range(3):
        rough = torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(k))
        save_png(tmp_path / "data" / f"{k}.png", nn.functional.interpolate(rough, SIZE, mode="bilinear")[0])
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # put back afterwards
        monkeypatch.setenv(name, "0")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield tmp_path / "data"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, Tensor]]:
    """The inputs of each training step so far, by sample id."""
    seen: list[dict[int, Tensor]] = []
    original = fa.training.TypicalSet.__call__

    def recorded(self: Any, model: Any, clean: Tensor, *, sample_ids: Tensor) -> tuple[Tensor, Tensor]:
        pairs = original(self, model, clean, sample_ids=sample_ids)
        seen.append(dict(zip(sample_ids.tolist(), pairs[0].cpu(), strict=True)))
        return pairs

    monkeypatch.setattr(fa.training.TypicalSet, "__call__", recorded)
    return seen


def left(folder: Path) -> set[str]:
    """Top-level names in the working folder besides the data."""
    return {path.name for path in folder.iterdir()} - {"data"}


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().cpu().clone()


def in_decibels(*values: float) -> bool:
    """PSNR of noise with sigma 25 that a net after few steps has hardly touched."""
    return all(15 < value < 35 for value in values)


def test_plain_loop(data, tmp_path, capsys):
    example = load("plain_loop")
    noisy, attacked = example.main(["--steps", "3", "--data", str(data)])
    assert in_decibels(noisy, attacked)
    assert f"noisy {noisy:.2f} dB, attacked {attacked:.2f} dB" in capsys.readouterr().out
    assert left(tmp_path) == set()


def test_plain_loop_trains(data):
    example = load("plain_loop")
    clean = nn.functional.interpolate(torch.rand(8, 1, 4, 4), 32, mode="bilinear")
    model = fa.models.DnCNN(depth=3, features=16)
    loss = example.train(model, torch.utils.data.DataLoader(list(clean), batch_size=4, shuffle=True), steps=150)
    assert loss < 0.8 * example.SIGMA**2
    assert min(example.quality(model, clean[:1])) > 22  # 20.2 dB is the noise itself


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and GPUs
def test_lightning(data, steps, tmp_path, capsys):
    pytest.importorskip("pytorch_lightning", reason="the example needs pytorch-lightning: pip install '.[dev]'")
    example = load("lightning_ts")
    out = tmp_path / "out"

    def run(epochs: int, *more: str) -> dict[str, Any]:
        found = example.main(["--data", str(data), "--out", str(out), "--epochs", str(epochs), *more])
        assert set(found) == {"loss", "noisy", "attacked"}
        assert math.isfinite(found["loss"])
        assert in_decibels(found["noisy"], found["attacked"])
        assert f"attacked {found['attacked']:.3f}" in capsys.readouterr().out
        assert left(out) == {"last.ckpt"}
        saved: dict[str, Any] = torch.load(out / "last.ckpt", weights_only=True)
        return saved

    early, late = run(1), run(2, "--resume")
    assert len(steps) == late["global_step"] == 4
    assert not any(torch.equal(early["state_dict"][name], value) for name, value in late["state_dict"].items())
    assert late["strategy"] == {"seed": 0, "epoch": 1, "step": 0}
    assert run(1)["global_step"] == 2  # a new run replaces the old one
    assert left(tmp_path) == {"out"}


@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_inside_an_epoch_with_the_same_noise(data, steps, tmp_path):
    pl = pytest.importorskip("pytorch_lightning", reason="the example needs pytorch-lightning: pip install '.[dev]'")
    example = load("lightning_ts")

    def run(last: int, ckpt: Path | None = None) -> None:
        saver = pl.callbacks.ModelCheckpoint(
            tmp_path / "saved", filename="{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False
        )
        trainer = pl.Trainer(
            max_steps=last, accelerator="cpu", callbacks=[saver], default_root_dir=tmp_path, logger=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        strategy = fa.training.ts(fa.TypicalSetSampler(sigma=example.SIGMA, seed=3))
        trainer.fit(example.RobustDenoiser(strategy), example.loaders(data)[0], ckpt_path=ckpt)

    run(4)
    run(4, tmp_path / "saved" / "step=3.ckpt")  # after the first of the second epoch's two steps
    first, second = steps[0] | steps[1], steps[2] | steps[3]
    assert len(first) == len(second) == 12
    (rest,) = steps[4:]
    for name, inputs in rest.items():
        assert torch.equal(inputs, second[name])
        assert not torch.equal(inputs, first[name])


def test_accelerate(data, steps, tmp_path, capsys):
    pytest.importorskip("accelerate", reason="the example needs accelerate: pip install '.[dev]'")
    example = load("accelerate_ts")

    def run(out: str, epochs: int, *more: str) -> Tensor:
        model, noisy, attacked = example.main(["--data", str(data), "--out", out, "--epochs", str(epochs), *more])
        assert in_decibels(noisy, attacked)
        assert f"attacked {attacked:.2f} dB" in capsys.readouterr().out
        return weights(model)

    whole = run("whole", 2)
    half = run("parts", 1)
    resumed = run("parts", 2, "--resume")
    assert len(steps) == 4 + 2 + 2
    assert not torch.equal(half, resumed)
    torch.testing.assert_close(resumed, whole)
    assert left(tmp_path) == {"whole", "parts"}


def test_a_training_loop_written_for_torchattacks(capsys):
    example = load("torchattacks_training")
    with torch.random.fork_rng():
        robust, plain = example.main(["--epochs", "2"]), example.main(["--epochs", "2", "--plain"])
    assert robust["clean"] > 0.8
    assert robust["attacked"] > plain["attacked"] + 0.2
    assert capsys.readouterr().out.count("on attacked ones") == 2


def test_digits_as_a_task(tmp_path: Path) -> None:
    """The images are those that the labels name, and the classifier knows digits that it did not learn from."""
    pytest.importorskip("sklearn")
    example = load("digits_task")
    example.main(["--out", str(tmp_path), "--count", "40"])
    labels = json.loads((tmp_path / "labels.json").read_text())
    images = torch.stack([read_image(tmp_path / f"{name}.png", 1) for name in labels])
    before = torch.get_rng_state()
    model = example.classifier()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        hits = model(images).argmax(1) == torch.tensor(list(labels.values()))
    assert hits.sum() >= 32
    with pytest.raises(ValueError, match="32 x 32"):
        model(torch.zeros(1, 1, 28, 28))
