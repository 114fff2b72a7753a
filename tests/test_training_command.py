"""`fastattack train`."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from fastattack import models
from tests.test_cli import run
from tests.test_training import every_strategy, images, same


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for k, picture in enumerate(images((20, 24), (17, 19))):
        Image.fromarray((255 * picture[0]).byte().numpy()).save(tmp_path / "data" / f"{k}.png")
    return tmp_path


def command(capsys, folder, *more):
    return run(
        capsys, "train", "--data", folder / "data", "--out", folder / "out", "--depth", 3, "--features", 4,
        "--steps", 4, "--epoch-steps", 2, "--patch", 8, "--batch", 2, "--attack-steps", 1, *more,
    )  # fmt: skip


@every_strategy
def test_the_command_trains_and_resumes(name, capsys, folder):
    options = ["--strategy", name, "--val", folder / "data", "--sigma", 15, "--ema", "0.9"]
    options += ["--spectrum", "adversarial"] if name == "ts" else []
    code, shown, errors = command(capsys, folder, *options)
    assert code == 0, errors
    assert "attacked" in shown
    first = load_file(folder / "out" / "model.safetensors")
    assert models.load("dncnn", weights=folder / "out" / "model.safetensors", sigma=15).sigma == 15
    code, _, errors = command(capsys, folder, *options)
    assert code == 2
    assert "overwrite" in errors
    (folder / "out" / "checkpoint.pt").unlink()  # back to the end of the first epoch
    code, _, errors = command(capsys, folder, *options, "--resume")
    assert code == 0, errors
    assert same(load_file(folder / "out" / "model.safetensors"), first)


def test_the_command_goes_on_from_weights_and_takes_intervals(capsys, folder):
    code, _, errors = command(
        capsys, folder, "--model", "embedded", "--sigma", "15:35", "--typicality", "0:0.02", "--mean", "-1/255:1/255",
        "--clip", "none", "--bf16", "--channels-last", "--log", "none", "--threads", 1,
    )  # fmt: skip
    assert code == 0, errors
    assert models.load("dncnn", weights=folder / "out" / "model.safetensors").sigma is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategy", "magic"), "strategy: wanted one of plain, ts, pgd, hat, got 'magic'"),
        (("--strategy", "pgd", "--spectrum", "adversarial"), "spectrum: wanted with --strategy ts alone"),
        (("--strategy", "plain", "--typicality", "0.1"), "typicality: wanted with --strategy ts alone"),
        (("--sigma", "many"), "sigma: wanted a number"),
        (("--sigma", "300"), "sigma: wanted a noise level"),
        (("--model", "n2n"), "weights: wanted a file"),
        (("--model", "ffdnet", "--sigma", "15:25"), "sigma: wanted one level"),
        (("--weights", "nowhere.pt"), "nowhere.pt"),
        (("--patch", "18"), "images[1]: wanted (C, H, W) of at least 18 x 18"),
        (("--val", "nowhere"), "nowhere: no such file"),
        (("--spectrum", "pink"), "spectrum"),
        (("--spectrum", "nowhere.json"), "nowhere.json"),
        (("--ema", "2"), "ema: wanted"),
        (("--steps", "0"), "steps: wanted"),
        (("--channels", "2"), "channels: wanted"),
        (("--device", "abacus"), "device: wanted"),
        (("--log", "xml"), "log: wanted"),
        (("--threads", "0"), "threads: wanted"),
        (("--resume", "--overwrite"), "resume"),
    ],
)
def test_bad_input_to_the_command_is_one_line(options, message, capsys, folder):
    code, _, errors = command(capsys, folder, *options)
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_fit_brings_its_gap_and_mean(tmp_path):
    from fastattack.commands.noise import NoiseOptions
    from fastattack.typical import SpectrumFit

    fit = SpectrumFit(
        sigma=0.1, typicality=(0.05, 0.08), mean=(-0.01, 0.02), power=(3.0, 1.0), share=0.3, samples=4, elements=64
    )
    fit.save(tmp_path / "fit.json")
    plain = {"share": None, "plain_share": 0.5, "seed": 0, "spectrum": str(tmp_path / "fit.json")}
    options = NoiseOptions(typicality=None, mean=None, **plain)
    sampler = options.sampler(0.1, options.fit())
    assert (sampler.typicality, sampler.mean) == (fit.typicality, fit.mean)
    assert (sampler.spectrum.power, sampler.spectrum.share) == (fit.power, 0.3)
    typed = NoiseOptions(typicality="0.01", mean="0:1/255", **plain).sampler(0.1, options.fit())
    assert (typed.typicality, typed.mean) == (0.01, (0.0, 1 / 255))


def test_a_file_in_the_way_stays(capsys, folder):
    (folder / "out").write_text("mine")
    code, _, errors = command(capsys, folder)
    assert code == 2
    assert "is a file, wanted a folder" in errors
    assert (folder / "out").read_text() == "mine"
