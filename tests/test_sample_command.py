"""`fastattack sample`: samples, numbers and plot from files, a fit that can be used again, one line for an error."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fastattack import job, models
from fastattack.images import read_image
from fastattack.sampler import TypicalSetSampler
from fastattack.typical import SpectrumFit
from tests.command import run

pytest.importorskip("matplotlib")

SIZES = {"a": (24, 20), "b": (24, 20), "c": (33, 30), "d": (28, 28)}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A DnCNN of three layers that does a little smoothing: enough to be attacked."""
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    state = models.DnCNN(channels=1, features=8, depth=3).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def sample(capsys, weights, data, out, *more):
    given = ("--model", "dncnn", "--weights", weights, "--data", data, "--steps", 2, "--out", out)
    return run(capsys, "sample", *given, *more)


def test_samples_and_their_typicality(capsys, weights, data, tmp_path):
    out = tmp_path / "deep" / "out"
    code, shown, errors = sample(capsys, weights, data, out, "--typicality", "0.02:0.08", "--mean", "-1/255:1/255")
    assert code == 0, errors
    assert "typicality gap over 4 images" in shown
    assert sorted(p.name for p in out.iterdir()) == [
        "samples", "samples.safetensors", "typicality.json", "typicality.png",
    ]  # fmt: skip
    record = json.loads((out / "typicality.json").read_text())
    assert record["config"]["typicality"] == [0.02, 0.08]
    assert record["config"]["spectrum"] is None
    own = TypicalSetSampler(sigma=25 / 255, typicality=(0.02, 0.08), mean=(-1 / 255, 1 / 255), plain_share=0.0, seed=0)
    tensors, sigma = load_file(out / "samples.safetensors"), 25 / 255
    rows = record["images"]
    assert [row["name"] for row in rows] == sorted(SIZES)
    for index, row in enumerate(rows):
        clean = read_image(data / f"{row['name']}.png", 1)
        assert torch.equal(tensors[row["name"]], own(clean[None], sample_ids=[index])[0])
        noise = (tensors[row["name"]].double() - clean.double()).numpy()
        assert row["sampled"] == pytest.approx(0.5 * ((noise**2).mean() / sigma**2 - 1), abs=1e-6)
        assert 0.02 - 1e-4 < 0.5 * (noise.var() / sigma**2 - 1) < 0.08 + 1e-4
        assert abs(noise.mean()) < 1 / 255 + 1e-6
        plain = (job.add_noise(clean, 25, 0, index).double() - clean.double()).numpy()
        assert row["plain"] == pytest.approx(0.5 * ((plain**2).mean() / sigma**2 - 1), abs=1e-6)
        assert abs(row["attacked_preserved"] - row["plain"]) < 1e-4
        assert row["attacked"] > row["plain"] + 0.01
        assert row["spread"] == pytest.approx(1 / math.sqrt(2 * clean.numel()))
        levels = np.asarray(Image.open(out / "samples" / f"{row['name']}.png")) / 255
        assert np.abs(levels - tensors[row["name"]][0].clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-6
    gaps = [row["attacked"] for row in rows]
    assert record["summary"]["attacked"] == pytest.approx({"mean": np.mean(gaps), "min": min(gaps), "max": max(gaps)})
    plot = np.asarray(Image.open(out / "typicality.png").convert("RGB"))
    assert min(plot.shape[:2]) > 300
    assert len(np.unique(plot.reshape(-1, 3), axis=0)) > 20
    assert [p.name for p in out.parent.iterdir()] == ["out"]  # nothing temporary is left


def test_a_fit_is_written_used_and_read_again(capsys, weights, data, tmp_path):
    first, again, loose = tmp_path / "first", tmp_path / "again", tmp_path / "loose"
    code, _, errors = sample(capsys, weights, data, first, "--fit", "--bands", 6)
    assert code == 0, errors
    fitted = SpectrumFit.load(first / "fit.json")
    assert (fitted.samples, len(fitted.power)) == (4, 6)
    assert fitted.sigma == pytest.approx(25 / 255)
    config = json.loads((first / "typicality.json").read_text())["config"]
    assert config["typicality"] == list(fitted.typicality)
    assert config["spectrum"] == list(fitted.power)
    assert sample(capsys, weights, data, again, "--spectrum", first / "fit.json")[0] == 0
    one, two = (load_file(folder / "samples.safetensors") for folder in (first, again))
    assert all(torch.equal(one[name], two[name]) for name in SIZES)
    assert not (again / "fit.json").exists()
    more = ("--spectrum", first / "fit.json", "--typicality", "0", "--share", "0.9", "--mean", "0")
    assert sample(capsys, weights, data, loose, *more)[0] == 0
    config = json.loads((loose / "typicality.json").read_text())["config"]
    assert (config["typicality"], config["mean"], config["share"]) == (0.0, 0.0, 0.9)


def test_seed_and_batches(capsys, weights, data, tmp_path):
    for name, more in (("one", ()), ("two", ("--max-batch", 1)), ("three", ("--seed", 5))):
        assert sample(capsys, weights, data, tmp_path / name, "--spectrum", "adversarial", *more)[0] == 0
    one, two, three = (load_file(tmp_path / n / "samples.safetensors") for n in ("one", "two", "three"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not any(torch.equal(one[k], three[k]) for k in one)


def test_what_is_not_ours_is_never_replaced(capsys, weights, data, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert sample(capsys, weights, data, ours)[0] == 0
    first = (ours / "typicality.json").read_bytes()
    code, _, errors = sample(capsys, weights, data, ours)
    assert code == 2
    assert "--overwrite" in errors
    assert sample(capsys, weights, data, ours, "--overwrite", "--seed", 1)[0] == 0
    assert (ours / "typicality.json").read_bytes() != first
    theirs.mkdir()
    (theirs / "typicality.json").write_text('{"config": {"title": "theirs"}}')
    (ours / "samples" / "notes.txt").write_text("read this")
    for out in (theirs, ours):
        code, _, errors = sample(capsys, weights, data, out, "--overwrite")
        assert code == 2
        assert "holds more than a fastattack sample set" in errors
    assert (theirs / "typicality.json").read_text() == '{"config": {"title": "theirs"}}'
    assert (ours / "samples" / "notes.txt").read_text() == "read this"


def test_many_images_have_a_plot_too(tmp_path):
    from fastattack.report.samples import SampleRow, plot_typicality

    rows = [SampleRow(f"image{k}", 0.01, 0.001 * k, 0.05, 0.06, 0.0) for k in range(100)]
    plot_typicality(tmp_path / "plot.png", rows)
    assert Image.open(tmp_path / "plot.png").size[0] <= 2000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sigma", "0"], ["sigma"]),
        (["--typicality", "0.08:0.02"], ["typicality", "low <= high"]),
        (["--typicality", "0:1:2"], ["typicality", "low:high"]),
        (["--typicality", "a"], ["typicality", "'a'"]),
        (["--typicality", "-0.5"], ["typicality"]),
        (["--mean", "1"], ["mean"]),
        (["--mean", "0:"], ["mean"]),
        (["--spectrum", "{tmp}/nowhere.json"], ["nowhere.json"]),
        (["--spectrum", "{tmp}/tiny.safetensors"], ["tiny.safetensors", "SpectrumFit"]),
        (["--share", "0.5"], ["share", "spectrum"]),
        (["--spectrum", "adversarial", "--share", "2"], ["share"]),
        (["--eps", "5/0"], ["eps"]),
        (["--steps", "0"], ["steps"]),
        (["--max-batch", "0"], ["max-batch"]),
        (["--seed", "-1"], ["seed"]),
        (["--data", "{tmp}/data/a.png", "--fit"], ["fit", "at least 4"]),
        (["--fit", "--bands", "99"], ["bands", "99"]),
        (["--out", "{tmp}/tiny.safetensors"], ["tiny.safetensors", "folder"]),
        (["--device", "abacus"], ["device", "abacus"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, weights, data, tmp_path, arguments, words):
    filled = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    given = {"--model": "dncnn", "--weights": weights, "--data": data, "--out": tmp_path / "out", "--steps": 2}
    base = [part for option, value in given.items() if option not in filled for part in (option, value)]
    code, _, errors = run(capsys, "sample", *base, *filled)
    lines = errors.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, errors
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_missing_plot_library_names_the_extra(capsys, weights, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, errors = sample(capsys, weights, data, tmp_path / "out")
    assert code == 2
    assert "fastattack[plot]" in errors
    assert not (tmp_path / "out").exists()
