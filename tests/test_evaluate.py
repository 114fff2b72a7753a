"""`fastattack evaluate` from its options to its folder, and `compare`; with tiny restorers and images."""

from __future__ import annotations

import csv
import io
import json
import math
import resource
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import fastattack as fa
from fastattack import cli
from fastattack.evaluate.study import Study, study_file, study_from
from fastattack.images import read_image
from fastattack.job import add_noise
from tests import small_study
from tests.command import run

pyarrow = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    return small_study.make(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def done(made, tmp_path_factory) -> Path:
    """A finished evaluation."""
    out = tmp_path_factory.mktemp("done") / "out"
    line = ["fastattack", *map(str, small_study.arguments(*made, out, "--report"))]
    told = io.StringIO()
    with mock.patch.object(sys, "argv", line), redirect_stdout(told), pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "crafted on" in told.getvalue()
    return out


def test_the_folder_holds_what_was_asked_for(done):
    names = {p.name for p in done.iterdir()}
    assert names == {
        "results.json", "run.json", "scores.csv", "scores.parquet", "attacks.csv", "attacks.parquet", "report.html",
        "shards", "figures", "examples",
    }  # fmt: skip
    assert not done.with_name("out.partial").exists()
    results = json.loads((done / "results.json").read_text())
    assert results["summary"]["images"] == 5
    assert results["summary"]["complete"] is True
    assert [matrix["eps"] for matrix in results["matrices"]] == pytest.approx([3 / 255, 5 / 255])
    assert list(results["models"]) == ["small", "large"]
    assert results["config"]["models"][0].startswith("small=")
    for example in results["examples"]:
        assert all((done / path).is_file() for path in example["files"].values())
    assert {p.suffix for p in (done / "figures").iterdir()} == {".png", ".svg"}


def test_the_numbers_are_those_of_the_attack_by_hand(made, done):
    """One image of its own size: read, noise, attack and PSNR without the evaluation."""
    models, data = made
    space: dict = {}
    exec(compile(models.read_text(), str(models), "exec"), space)
    clean = read_image(data / "image3.png", 1)
    noisy = add_noise(clean, 25.0, 0, 3)
    source, target = space["small"](), space["large"]()
    attack = fa.DenoisingPGD(source, eps=5 / 255, steps=2, sigma=25 / 255, preserve_noise=True, seed=0)
    adversarial = attack(noisy[None], clean[None], sample_ids=torch.tensor([3]))

    def psnr(x: torch.Tensor) -> float:
        return -10 * math.log10((x - clean[None]).double().square().mean().item())

    with torch.no_grad():
        wanted = {"psnr_before": psnr(target(noisy[None])), "psnr_after": psnr(target(adversarial))}
        gain = (source(adversarial) - source(noisy[None])).norm() / (adversarial - noisy[None]).norm()
    with (done / "scores.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["image"], row["source"], row["target"]) == ("image3", "small", "large")
        ]
    assert len(rows) == 2
    row = max(rows, key=lambda row: float(row["eps"]))
    for name, value in wanted.items():
        assert float(row[name]) == pytest.approx(value, abs=1e-4)
    attacks = pyarrow.read_table(done / "attacks.parquet").to_pylist()
    mine = [a for a in attacks if a["image"] == "image3" and a["source"] == "small"]
    assert len(mine) == 2
    assert mine[-1]["gain"] == pytest.approx(float(gain), rel=1e-4)
    assert mine[-1]["linf"] <= 5 / 255
    assert abs(mine[-1]["norm_ratio"] - 1) < 1e-4


def test_the_matrices_are_means_of_the_table(done):
    rows = pyarrow.read_table(done / "scores.parquet").to_pylist()
    results = json.loads((done / "results.json").read_text())
    for place, matrix in enumerate(results["matrices"]):
        for i, source in enumerate(matrix["sources"]):
            for j, target in enumerate(matrix["targets"]):
                cells = [r for r in rows if (r["attack"], r["source"], r["target"]) == (place, source, target)]
                assert len(cells) == 5
                drop = np.mean([r["psnr_before"] - r["psnr_after"] for r in cells])
                assert matrix["drop"]["mean"][i][j] == pytest.approx(drop)
                assert matrix["drop"]["low"][i][j] <= drop <= matrix["drop"]["high"][i][j]
                assert matrix["ssim_after"]["mean"][i][j] == pytest.approx(np.mean([r["ssim_after"] for r in cells]))
    assert results["matrices"][1]["drop"]["mean"][0][0] > results["matrices"][0]["drop"]["mean"][0][0] > 0


def test_what_is_there_is_not_lost(made, done, capsys):
    before = small_study.content(done)
    for more, words in (((), "holds a fastattack evaluation already"), (("--resume", "--overwrite"), "not together")):
        code, _, err = run(capsys, *small_study.arguments(*made, done, *more))
        assert code == 2
        assert words in err
    code, _, err = run(capsys, *small_study.arguments(*made, done, "--overwrite", "--attack", "pgdd"))
    assert code == 2
    assert "attack: wanted one of" in err
    code, _, err = run(capsys, *small_study.arguments(*made, done, "--resume", "--seed", 1))
    assert code == 2
    assert "seed: wanted 1, got 0" in err
    assert small_study.content(done) == before
    assert not done.with_name("out.partial").exists()


def test_overwrite_makes_the_same_again(made, done, capsys, tmp_path):
    out = tmp_path / "out"
    code, _, err = run(capsys, *small_study.arguments(*made, out, "--limit", 2, "--no-save-attacked"))
    assert code == 0, err
    assert not list(out.rglob("*.safetensors"))
    assert len(list((out / "examples").iterdir())) == 4  # the attacked inputs were made again
    code, _, err = run(capsys, *small_study.arguments(*made, out, "--overwrite"))
    assert code == 0, err
    assert small_study.content(out) == small_study.content(done)


def test_a_model_that_fails_half_way_is_said_and_the_rest_is_done(made, done, capsys, tmp_path):
    out = tmp_path / "out"
    names = ("small", "large", "breaks")
    code, told, err = run(capsys, *small_study.arguments(*made, out, names=names))
    assert code == 1, err
    assert "breaks failed: RuntimeError: too bright for me" in told
    results = json.loads((out / "results.json").read_text())
    assert results["models"]["breaks"]["failed"] == "RuntimeError: too bright for me"
    assert results["models"]["small"]["failed"] is None
    assert results["summary"]["complete"] is False
    whole = json.loads((done / "results.json").read_text())
    for matrix, wanted in zip(results["matrices"], whole["matrices"], strict=True):
        assert matrix["drop"]["mean"][2] == [None] * 3
        assert [row[2] for row in matrix["drop"]["mean"]] == [None] * 3
        for mine, theirs in zip(matrix["drop"]["mean"][:2], wanted["drop"]["mean"], strict=True):
            assert mine[:2] == pytest.approx(theirs, abs=1e-6)


def test_a_model_that_fails_has_no_numbers_even_alone(made, capsys, tmp_path):
    """The images on which it fails have no row at all."""
    out = tmp_path / "out"
    code, _, err = run(capsys, *small_study.arguments(*made, out, names=("breaks",)))
    assert code == 1, err
    results = json.loads((out / "results.json").read_text())
    assert results["models"]["breaks"]["failed_on"] == 2  # those of its batch
    for matrix in results["matrices"]:
        assert matrix["drop"]["mean"] == [[None]]
    assert results["statistics"] == []


def test_where_everything_fails_nothing_is_replaced(made, capsys, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(capsys, *small_study.arguments(*made, out, names=("small",)))[0] == 0
    before = small_study.content(out)
    monkeypatch.setenv("TOO_BRIGHT", "-9")
    code, _, err = run(capsys, *small_study.arguments(*made, out, "--overwrite", names=("breaks",)))
    assert code == 2
    assert "every attack failed: breaks: RuntimeError: too bright for me" in err
    assert small_study.content(out) == before


def test_only_denoising_pgd_keeps_the_noise():
    assert Study(models=("embedded",), data=("x",), attack="pgd").preserve_noise is False


def test_what_failed_is_tried_again_on_resume(made, capsys, tmp_path, monkeypatch):
    out, names = tmp_path / "out", ("small", "breaks")
    code, _, err = run(capsys, *small_study.arguments(*made, out, names=names))
    assert code == 1, err
    before = {p.name: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    monkeypatch.setenv("TOO_BRIGHT", "9")
    code, _, err = run(capsys, *small_study.arguments(*made, out, "--resume", names=names))
    assert code == 0, err
    assert json.loads((out / "results.json").read_text())["summary"]["complete"] is True
    after = {p.name: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    assert {name[:6] for name in after if after[name] != before.get(name)} == {"000001"}  # the bright image's batch
    whole = tmp_path / "whole"
    assert run(capsys, *small_study.arguments(*made, whole, names=names))[0] == 0
    assert small_study.content(out) == small_study.content(whole)
    models, data = small_study.make(tmp_path / "own")
    models.write_text(models.read_text() + "# another file")
    code, _, err = run(capsys, *small_study.arguments(models, data, out, "--resume", names=names))
    assert code == 2
    assert "weights.small: wanted" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--eps", "5/255", "3/255"), "eps: wanted radii > 0 that rise"),
        (("--eps", "x"), "eps: wanted a number such as"),
        (("--quality", "lpips"), "lpips_weights: wanted a file"),
        (("--quality", "psnrr"), "quality: wanted some of"),
        (("--eps", "0", "3/255"), "eps: wanted radii > 0"),
        (("--precision", "auto"), "precision: wanted one by name"),
        (("--max-batch", 0), "max_batch: wanted a whole number >= 1"),
        (("--confidence", 1), "confidence: wanted a share"),
        (("--crop", 64), "at least 64 x 64"),
        (("--attack", "fgsm", "--steps", 4), "steps: wanted none for fgsm"),
        (("--device", "cuda:7"), "device: wanted"),
    ],
)
def test_bad_options(made, capsys, tmp_path, change, words):
    arguments = small_study.arguments(*made, tmp_path / "out")
    arguments = arguments[: arguments.index("--eps")] if change[0] == "--eps" else arguments
    code, _, err = run(capsys, *arguments, *change)
    assert code == 2
    assert words in err
    assert not list(tmp_path.iterdir())


def test_two_models_of_one_name(made, capsys, tmp_path):
    models, data = made
    twice = ["--models", f"{models}:small", f"{models}:small"]
    code, _, err = run(capsys, "evaluate", *twice, "--data", data, "--out", tmp_path / "out")
    assert code == 2
    assert "would both be called" in err


def test_gray_and_colour_models_do_not_mix(made, capsys, tmp_path):
    models, data = made
    models = models.with_name("colour.py")
    models.write_text(
        "import torch\n\nclass Colour(torch.nn.Identity):\n    channels = 3\n\ndef colour():\n    return Colour()\n"
    )
    code, _, err = run(
        capsys, "evaluate", "--models", "embedded", f"{models}:colour", "--data", data, "--out", tmp_path / "o"
    )
    assert code == 2
    assert "evaluate gray and colour apart" in err


def test_broken_images_are_found_before_any_work(made, capsys, tmp_path):
    models, data = small_study.make(tmp_path / "own")
    whole = (data / "image1.png").read_bytes()
    (data / "image1.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    code, _, err = run(capsys, *small_study.arguments(models, data, out))
    assert code == 2
    assert "image1.png: cannot be read as an image" in err
    assert "--skip-bad" in err
    assert not out.with_name("out.partial").exists()
    code, told, err = run(capsys, *small_study.arguments(models, data, out, "--skip-bad"))
    assert code == 0, err
    assert "left out:" in told
    results = json.loads((out / "results.json").read_text())
    assert [Path(s["path"]).name for s in results["skipped"]] == ["image1.png"]
    assert results["summary"]["images"] == 4
    rows = pyarrow.read_table(out / "scores.parquet").to_pylist()
    assert {row["sample"] for row in rows} == {0, 2, 3, 4}  # numbers, and so the noise, do not move up


def test_no_place_left(made, tmp_path):
    """Files may grow to 2 KiB: the attacked inputs do not fit, and what was at OUT is still there."""
    out = tmp_path / "out"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))  # noqa: E731
    ran = subprocess.run(
        [sys.executable, "-m", "fastattack", *map(str, small_study.arguments(*made, out, "--quality", "none"))],
        capture_output=True, text=True, preexec_fn=limit, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert ran.returncode == 2
    assert "out: " in ran.stderr
    assert "cannot be written" in ran.stderr
    assert not out.exists()
    assert not list(out.with_name("out.partial").rglob("*.tmp"))


# -- studies -----------------------------------------------------------------------------------------------------------


def test_a_study_from_a_file_and_options(made, capsys, tmp_path):
    models, data = made
    config = tmp_path / "study.yaml"
    config.write_text(
        f"models: ['{models}:small']\ndata: {data}\neps: [5/255]\nsteps: 2\nlimit: 2\nchannels: 1\nseed: 4\n"
        "preserve-noise: false\n"
    )
    code, _, err = run(capsys, "evaluate", "--config", config, "--out", tmp_path / "out", "--seed", 5, "--no-report")
    assert code == 0, err
    config = json.loads((tmp_path / "out" / "results.json").read_text())["config"]
    assert (config["seed"], config["limit"], config["preserve_noise"]) == (5, 2, False)
    assert config["eps"] == pytest.approx([5 / 255])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modles: [embedded]", "modles: unknown option; did you mean 'models'?"),
        ("- a\n- b", "wanted options as 'name: value', got list"),
        ("models: [", "cannot be read as YAML"),
        ("models: embedded\ndata: x\npreserve_noise: maybe", "preserve_noise: wanted true or false"),
        ("models: embedded\ndata: x\nsigma: true", "sigma: wanted a number"),
        ("models: embedded\ndata: x\nsteps: 1.5", "steps: wanted"),
        ("data: x", "models: wanted at least one"),
    ],
)
def test_a_broken_study_file(tmp_path, text, words):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises((TypeError, ValueError), match=words.replace("?", r"\?")):
        study_from(study_file(path))


def test_a_study_knows_the_attacks_defaults():
    study = Study(models=("embedded",), data=("x",), attack="obsatk", eps=(0.1,), preserve_noise=True)
    assert (study.norm, study.steps) == ("l2", 10)
    assert json.loads(json.dumps(study.as_dict()))["norm"] == "l2"


# -- compare -----------------------------------------------------------------------------------------------------------


def test_compare_pairs_images(made, done, capsys, tmp_path):
    other = tmp_path / "other"
    code, _, err = run(capsys, *small_study.arguments(*made, other, "--no-preserve-noise"))
    assert code == 0, err
    record = tmp_path / "compared.json"
    code, told, err = run(capsys, "compare", done, other, "--out", record)
    assert code == 0, err
    assert "preserve_noise: True | False" in told
    found = json.loads(record.read_text())
    rows = {
        name: pyarrow.read_table(folder / "scores.parquet").to_pylist() for name, folder in (("a", done), ("b", other))
    }
    row = next(d for d in found["differences"] if (d["source"], d["target"]) == ("small", "large") and d["eps"] > 0.015)
    after = {
        name: [r["psnr_after"] for r in table if (r["attack"], r["source"], r["target"]) == (1, "small", "large")]
        for name, table in rows.items()
    }
    change = np.array(after["b"]) - np.array(after["a"])
    assert row["difference"] == pytest.approx(change.mean())
    assert row["difference"] < 0  # a free attack costs more
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T  # all 2^5 of them
    p = np.mean(np.abs((signs * change).mean(1)) >= abs(change.mean()) - 1e-12)
    assert row["p"] == pytest.approx(p)
    untouched = next(d for d in found["differences"] if d["source"] is None)
    assert (untouched["difference"], untouched["p"]) == (0.0, 1.0)
    code, _, err = run(capsys, "compare", done, other, "--out", record)
    assert code == 2
    assert "is there already" in err


def test_infinite_psnr_has_no_p():
    from fastattack.evaluate.bootstrap import Bootstrap
    from fastattack.evaluate.compare import _difference, _holm

    key = (None, None, "x")
    pairs = ([[np.inf, np.inf], [30.0, 31.0]], [[30.0, 31.0], [30.0, 31.5]])
    with np.errstate(invalid="ignore"):
        rows = [_difference(key, np.array(pair), Bootstrap(draws=10), 99) for pair in pairs]
    assert math.isnan(rows[0].p)
    assert math.isnan(_holm(rows)[0].p_holm)
    assert _holm(rows)[1].p_holm == rows[1].p


def test_holm_is_holms():
    from fastattack.evaluate.compare import Difference, _holm

    rows = [Difference(None, None, "x", 5, 0, 0, 0, 0, 0, p) for p in (0.04, 0.01, 0.03, 0.5)]
    assert [row.p_holm for row in _holm(rows)] == pytest.approx([0.09, 0.04, 0.09, 0.5])


def test_compare_what_cannot_be_compared(done, capsys, tmp_path):
    code, _, err = run(capsys, "compare", done, tmp_path)
    assert code == 2
    assert "wanted a folder of `fastattack evaluate`" in err


def test_a_model_of_one_shape_alone_is_found_before_any_work():
    from fastattack.evaluate.panel import Panel, check_sizes
    from fastattack.evaluate.pictures import Picture, Pictures
    from fastattack.models import OpenedModel

    pictures = Pictures(tuple(Picture(i, f"p{i}", Path(f"p{i}.png"), (32, 48), "") for i in range(3)), ())
    study = Study(models=("x",), data=("x",), max_batch=2)
    for shape, fits in (((None, 1, 32, 48), True), ((2, 1, 32, 48), False), ((None, 1, 32, 32), False)):
        panel = Panel({"fixed": OpenedModel("fixed", "export:x", lambda y: y, shape=shape)}, ("fixed",), 1)
        if fits:
            check_sizes(panel, pictures, study)
        else:
            with pytest.raises(ValueError, match=r"fixed takes .* alone, and p\d.png comes as \d x 1 x 32 x 48"):
                check_sizes(panel, pictures, study)
