"""`fastattack certify`: its record beside what follows from the counts, going on after a kill, and bad options."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from fastattack.certify import Gaussian
from fastattack.job_certify import CertifyConfig, CertifyJob, parse_noise, summarise_certificates
from fastattack.tasks import Task
from tests.command import run

TASK = '''
import torch
from torch import nn

CALLS = []


class Sides(nn.Module):
    """Which half of an image is brighter."""

    classes = ["top", "bottom"]

    def forward(self, images):
        CALLS.append(len(images))
        means = images.mean((1, 3))
        half = means.shape[1] // 2
        return torch.stack([means[:, :half].mean(1), means[:, half:].mean(1)], 1)


def sides():
    return Sides()


def dense():
    return lambda images: torch.cat([images, -images], 1)
'''
OPTIONS = ("--noise", "gaussian:0.5", "--n", 200, "--n0", 20, "--device", "cpu")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with four images of 8 x 8, brighter at the top, at the bottom, just so at the top, and not at all."""
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "images").mkdir()
    for name, top, bottom in (("a", 220, 60), ("b", 60, 220), ("c", 150, 120), ("d", 128, 128)):
        pixels = np.full((8, 8), top, np.uint8)
        pixels[4:] = bottom
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labels.json").write_text(json.dumps({"a": "top", "b": 1, "c": "bottom", "d": 0}))
    return tmp_path


def called(place: Path, out: str, *more: object) -> tuple[object, ...]:
    task, labels = f"{place / 'task.py'}:sides", place / "labels.json"
    return ("certify", "--task", task, "--data", place / "images", "--labels", labels, "--out", place / out, *more)


def record(place: Path, out: str) -> dict[str, Any]:
    return json.loads((place / out / "certificates.json").read_text())


def test_the_record_is_what_follows_from_the_counts(place: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, *called(place, "out", *OPTIONS))
    assert code == 0, err
    assert "2 of 4" not in err
    found = record(place, "out")
    rows = {row["name"]: row for row in found["images"]}
    assert [rows[k]["likeliest"] for k in "ab"] == ["top", "bottom"]
    assert [rows[k]["right"] for k in "abd"] == [True, True, False]
    for name, gap in (("a", 160), ("b", 160), ("c", 30)):  # mean of 32 pixels less that of 32 others
        distance = gap / 255 / math.sqrt(2 / 32)  # to the plane between the classes, l2
        expected = stats.norm.cdf(distance / 0.5)
        row = rows[name]
        assert abs(row["count"] / 200 - expected) < 4.5 * math.sqrt(expected * (1 - expected) / 200) + 0.01
        assert row["p"] == pytest.approx(stats.beta.ppf(0.001, row["count"], 201 - row["count"]))
        radius = 0.5 * stats.norm.ppf(row["p"]) if row["p"] > 0.5 else 0.0
        assert row["radius_l2"] == pytest.approx(radius)
        assert row["radius_linf"] == pytest.approx(radius / 8)
    summary = found["summary"]
    right = [row for row in found["images"] if row["right"]]
    assert summary["certified"] == len(right) / 4
    assert summary["average_radius"] == pytest.approx(sum(row["radius_l2"] for row in right) / 4)
    assert summary["curves"]["l2"][0] == [0.0, len(right) / 4]
    assert summary["curves"]["l2"][-1][0] == pytest.approx(max(row["radius_l2"] for row in found["images"]))
    assert summary["failure"] == 0.001
    assert f"{summary['certified']:.1%} of 4 images right and certified" in out
    page = (place / "out" / "report.html").read_text()
    assert all(f">{name}<" in page for name in "abcd")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (place / "out" / "figures" / "curves.png").is_file()
    assert not (place / "out.partial").exists()


def test_a_killed_run_goes_on_to_the_same_record(place: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    whole = called(place, "whole", *OPTIONS)
    assert run(capsys, *whole)[0] == 0
    made = CertifyJob._row

    def failing(self: CertifyJob, number: int, name: str, image: torch.Tensor) -> Any:
        if number == 2:
            raise RuntimeError("killed")
        return made(self, number, name, image)

    monkeypatch.setattr(CertifyJob, "_row", failing)
    broken = called(place, "out", *OPTIONS)
    code, _, err = run(capsys, *broken)
    assert (code, "killed" in err) == (2, True)
    assert not (place / "out").exists()
    kept = sorted(path.name for path in (place / "out.partial" / "shards").iterdir())
    assert kept == ["000000.json", "000001.json"]
    code, _, err = run(capsys, *broken)
    assert code == 2
    assert "holds an unfinished run; pass --resume or --overwrite" in err
    seen: list[str] = []

    def watched(self: CertifyJob, number: int, name: str, image: torch.Tensor) -> Any:
        seen.append(name)
        return made(self, number, name, image)

    monkeypatch.setattr(CertifyJob, "_row", watched)
    code, _, err = run(capsys, *called(place, "out", *OPTIONS, "--seed", 1), "--resume")
    assert code == 2
    assert "seed: wanted 1, got 0" in err
    shard = place / "out.partial" / "shards" / "000001.json"
    kept_row = shard.read_text()
    shard.write_text(json.dumps({k: v for k, v in json.loads(kept_row).items() if k not in ("count", "p")}))
    code, _, err = run(capsys, *broken, "--resume")
    assert code == 2
    assert "000001.json: wanted the row of an image, got one without count, p; remove the file" in err
    shard.write_text(kept_row)
    assert run(capsys, *broken, "--resume")[0] == 0
    assert seen == ["c", "d"]

    def told(out: str) -> Any:
        found = record(place, out)
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found["images"]], found["summary"]["curves"]

    assert told("out") == told("whole")


def test_without_labels_and_for_the_whole_report(place: Path, capsys: pytest.CaptureFixture[str]):
    task = f"{place / 'task.py'}:sides"
    base = ("certify", "--task", task, "--data", place / "images", "--out", place / "out", *OPTIONS)
    code, _, err = run(capsys, *base, "--whole-report", "--norm", "linf")
    assert code == 0, err
    found = record(place, "out")
    assert "right" not in found["images"][0]
    row = found["images"][0]
    assert row["p"] == pytest.approx(stats.beta.ppf(0.001 / 4, row["count"], 201 - row["count"]))
    assert found["summary"]["certified"] == 1 - found["summary"]["abstained"]
    assert found["summary"]["failure_is_of"] == "the whole report"
    assert found["summary"]["norm"] == "linf"
    code, _, err = run(capsys, *base)
    assert code == 2
    assert "holds a fastattack certification already" in err
    assert run(capsys, *base, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--noise", "gauss:1"), "noise: wanted gaussian:SIGMA, laplace:B or uniform:HALF_WIDTH, got 'gauss:1'"),
        (("--noise", "laplace:x"), "noise: wanted a number such as"),
        (
            ("--noise", "gaussian:25"),
            "noise: wanted a noise level up to 1, for images in [0, 1], got 25.0, did you mean",
        ),
        (("--noise", "uniform:0"), "half_width: wanted a finite number > 0"),
        (("--norm", "l3"), "norm: wanted one of l1, l2, linf, got 'l3'"),
        (("--n", "9"), "n: wanted at least 10 copies for a failure probability of 0.001, got 9"),
        (("--n", "10", "--whole-report"), "n: wanted at least 12 copies for a failure probability of 0.00025"),
        (("--alpha", "2"), "alpha: wanted a number in (0, 1), got 2"),
        (("--channels", "2"), "channels: wanted 1 or 3, got 2"),
        (("--resume", "--overwrite"), "resume: wanted not together with --overwrite"),
        (("--task", "embedded"), "task: wanted FILE.py:function"),
        (("--labels", "none.json"), "none.json"),
    ],
)
def test_options_that_cannot_be(place: Path, capsys, options: tuple[str, ...], words: str):
    code, _, err = run(capsys, *called(place, "out", "--device", "cpu", *options))
    assert code == 2
    assert words in " ".join(err.split())
    assert not (place / "out").exists()
    assert not (place / "out.partial").exists()


def test_a_model_that_is_no_classifier(place: Path, capsys):
    task = f"{place / 'task.py'}:dense"
    code, _, err = run(capsys, *called(place, "out", "--device", "cpu"), "--task", task)
    assert code == 2
    assert "task: wanted a classifier" in err


def test_noise_as_a_text():
    assert parse_noise("gaussian:64/255") == Gaussian(64 / 255)
    assert CertifyConfig(task="x", noise="laplace:0.1").own_norm == "l1"


def test_a_damaged_row_is_made_again(tmp_path: Path):
    class Flat(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.flatten(1).mean(1), -x.flatten(1).mean(1)], 1)

    job = CertifyJob(Task(Flat()), [("one", torch.ones(1, 4, 4))], CertifyConfig(task="x", n=50, n0=5))
    first = list(job.run(tmp_path))
    (tmp_path / "000000.json").write_text("{")
    second = list(job.run(tmp_path))
    assert first[0]["count"] == second[0]["count"]
    assert json.loads((tmp_path / "000000.json").read_text()) == second[0]
    summary = summarise_certificates(second, "l2", Gaussian(0.25), 0.001, 1)
    assert summary["certified"] == 1
