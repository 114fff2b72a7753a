"""scripts/miga_networks.py and scripts/miga_results.py at a tiny size: what they split, train, attack and write."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The modules of scripts/, by name."""
    sys.path.insert(0, str(SCRIPTS))
    names = (
        "miga_networks",
        "miga_results",
        "miga.data",
        "miga.craft",
        "miga.defences",
        "miga.experiments",
        "miga.tables",
    )
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def few(scripts: Any) -> Any:
    """Eight digits to train on and six to test on."""
    every = scripts["miga.data"].load_digits()
    return replace(
        every, train=every.train[:8], train_labels=every.train_labels[:8], test=every.test[:6],
        test_labels=every.test_labels[:6],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(scripts: Any, few: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("networks")
    train = scripts["miga_networks"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "TRAIN", out / "nowhere")  # no photographs: no encoder
        train.train_all(few, out, epochs=1, steps=1, seed=0)
    return out


def test_the_split_is_fixed_and_disjoint(scripts: Any) -> None:
    load = scripts["miga.data"].load_digits
    a, b, other = load(), load(), load(1)
    assert a.train.shape == (1437, 1, 32, 32)
    assert a.test.shape == (360, 1, 32, 32)
    assert torch.equal(a.test, b.test)
    assert not torch.equal(a.test, other.test)
    rows = {tuple(x.flatten().tolist()) for x in a.train}
    shared = sum(tuple(x.flatten().tolist()) in rows for x in a.test)
    assert shared == 0  # no two of the 1797 digits are equal
    assert 0 <= a.train.min() < a.train.max() <= 1


def test_batches_are_a_function_of_epoch_and_step(scripts: Any, few: Any) -> None:
    batches = scripts["miga.data"].DigitBatches(few.train, batch=4, seed=3)
    assert batches.steps_per_epoch == 2
    assert torch.equal(batches.batch_at(1, 1), batches.batch_at(1, 1))
    assert not torch.equal(batches.batch_at(1, 1), batches.batch_at(2, 1))
    moved = torch.cat([batches.batch_at(0, 0), batches.batch_at(0, 1)]).numpy()
    padded = np.pad(few.train.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = [(k, t, s) for k in range(8) for t in range(5) for s in range(5)]
    found = [[p for p in places if np.array_equal(padded[p[0], :, p[1] :][:, :32, p[2] : p[2] + 32], m)] for m in moved]
    assert sorted({places[0][0] for places in found}) == list(range(8))  # an epoch takes each digit once
    assert len({places[0][1:] for places in found}) > 1


def test_blur_and_jpeg(scripts: Any) -> None:
    defences = scripts["miga.defences"]
    flat = torch.full((1, 1, 16, 16), 0.4)
    torch.testing.assert_close(defences.blur(flat), flat)
    point = torch.zeros(1, 1, 17, 17)
    point[..., 8, 8] = 1
    spread = defences.blur(point)[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-6)
    assert spread[8, 9] / spread[8, 8] == pytest.approx(0.60653066, rel=1e-5)  # exp(-1/2)
    torch.testing.assert_close(defences.jpeg(flat, 90), flat, atol=2 / 255, rtol=0)
    assert defences.jpeg(point, 30).shape == point.shape


def test_training_writes_what_it_reached_and_is_not_done_twice(scripts: Any, few: Any, trained: Path) -> None:
    found = json.loads((trained / "networks.json").read_text())
    names = {"cnn", "mlp", *(f"{k}-{how}" for k in ("dncnn", "unet") for how in ("25-plain", "50-plain", "25-ts"))}
    assert {path.stem for path in trained.glob("*.safetensors")} == names
    assert found["seconds"].keys() == names
    assert found["denoisers"]["dncnn-25-plain"]["psnr_noisy"] == pytest.approx(20.17, abs=0.2)  # -20 log10(25/255)
    before = {path: path.stat().st_mtime_ns for path in trained.glob("*.safetensors")}
    train = scripts["miga_networks"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "TRAIN", trained / "nowhere")
        train.train_all(few, trained, epochs=1, steps=1, seed=0)
        assert before == {path: path.stat().st_mtime_ns for path in trained.glob("*.safetensors")}
        with pytest.raises(ValueError, match="name another folder"):
            train.train_all(few, trained, epochs=2, steps=1, seed=0)


@pytest.mark.filterwarnings("ignore:task. right on none")  # one step of training
def test_rows_become_tables_and_text_stays(scripts: Any, few: Any, trained: Path, tmp_path: Path) -> None:
    craft, results = scripts["miga.craft"], scripts["miga_results"]
    bench = craft.Bench(few, trained, tmp_path / "kept", count=4)
    plans = [
        craft.Plan(attack=name, denoiser="dncnn-25-plain", steps=1) for name in craft.ATTACKS if name != "MIGA-blind"
    ]
    rows = [results.row(bench, plan) for plan in plans]
    through = replace(plans[0], through="second", weights=(1, 0, 0))
    other = [results.row(bench, through, defence="second"), results.row(bench, plans[0], denoiser="unet-25-plain")]
    with pytest.raises(ValueError, match="attack: wanted one of MIGA"):
        replace(through, attack="FGSM")
    for plan in (*plans, through):
        adversarial, _ = bench.adversarial(plan)
        assert adversarial.shape == (4, 1, 32, 32)
        moved = (adversarial - bench.noisy(25)).abs().max()
        assert moved <= 50 / 255
        assert moved > 0 or plan in plans[:2]  # where cleanness counts, one step may find nothing better
    made = {
        "networks": json.loads((trained / "networks.json").read_text()), "main": rows, "trade_off": rows,
        "ablation": [{"name": "all three", **rows[0]}], "transfer": [rows[0], other[1]], "unaware": other[:1],
        "aware": other[:1],
    }  # fmt: skip
    seen = {"similarity": [0.9], "similarity_seen": [0.8], "own_before": [1.0], "own": [0.5], **rows[0]["means"]}
    made["natural"] = [{"scene": "FFDNet", "images": 4, "eps": 8, "attack": "PGD", "means": seen, "seconds": 1.0}]
    path = tmp_path / "miga.md"
    path.write_text("# What it says\n\nmine\n\n## Tables\n\nold\n")
    results.put_tables(path, scripts["miga.tables"].markdown(json.loads(json.dumps(made))))
    text = path.read_text()
    assert text.startswith("# What it says\n\nmine\n\n## Tables\n\n### The networks")
    assert "old" not in text
    assert text.count("\n### ") == 8
    assert text.count("| denoising-PGD, noise kept |") == 2  # main, trade-off
    widths = [{line.count(" | ") for line in part.splitlines() if line.startswith("|")} for part in text.split("###")]
    assert all(len(found) <= 1 for found in widths)  # each table has as many cells in each row
