"""`fastattack evaluate --defense`: every model also behind a defence, under the blind and under the adaptive attack."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.evaluate.run import run_study
from fastattack.evaluate.study import study_from
from fastattack.images import read_image
from fastattack.job import add_noise
from tests import small_study
from tests.command import run

pytest.importorskip("pyarrow.parquet")

EMBEDDED = Path(__file__).resolve().parents[1] / "fastattack" / "assets" / "diffusion_small_gray.safetensors"
NAMES = ["small", "small+purifier", "small+jpeg60"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a study of one restorer behind two defences; the second image has a size of its own."""
    folder = tmp_path_factory.mktemp("defended")
    models, data = small_study.make(folder, images=3)
    weights = folder / "weights.safetensors"
    shutil.copy(EMBEDDED, weights)
    return {
        "models": [f"small={models}:small"], "data": [str(data)], "channels": 1, "eps": ["5/255"], "steps": 1, "eot": 2,
        "defense": [f"purifier:sigma=30,steps=2,weights={weights}", "jpeg:60"], "draws": 20, "quality": [],
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    run_study(study_from(made), out=out, report=False)
    return out


def purified(made: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """(the restorer, the restorer behind the purifier), by hand."""
    space: dict[str, Any] = {}
    models = Path(made["models"][0].partition("=")[2].rpartition(":")[0])
    exec(compile(models.read_text(), str(models), "exec"), space)
    level = 25 / 255
    purifier = fa.Purifier(sigma=30 / 255, steps=2, input_sigma=level, output_sigma=level)
    restorer = space["small"]()
    return restorer, purifier(restorer)


def psnr(x: Tensor, clean: Tensor) -> float:
    return -10 * math.log10((x - clean).double().square().mean().item())


def test_blind_and_adaptive_are_those_made_by_hand(made: dict[str, Any], done: Path) -> None:
    """One image alone: its number among all names its noise, also that of the defence."""
    clean = read_image(Path(made["data"][0]) / "image1.png", 1)[None]
    noisy, ids = add_noise(clean[0], 25.0, 0, 1)[None], torch.tensor([1])
    restorer, defended = purified(made)
    options: dict[str, Any] = {"eps": 5 / 255, "steps": 1, "sigma": 25 / 255, "preserve_noise": True, "seed": 0}
    crafted = {
        "small": fa.DenoisingPGD(restorer, **options)(noisy, clean, sample_ids=ids),
        "small+purifier": fa.DenoisingPGD(defended, eot=2, **options)(noisy, clean, sample_ids=ids),
    }
    with (done / "scores.csv").open() as file:
        rows = {(r["source"], r["target"]): r for r in csv.DictReader(file) if r["image"] == "image1"}
    assert {source for source, _ in rows} == {target for _, target in rows} == set(NAMES)
    with torch.no_grad():
        for source, attacked in crafted.items():
            row = rows[source, "small+purifier"]
            by_hand = psnr(defended(attacked, sample_ids=ids), clean)
            assert float(row["psnr_after"]) == pytest.approx(by_hand, abs=1e-3), source
            assert float(row["psnr_before"]) == pytest.approx(psnr(defended(noisy, sample_ids=ids), clean), abs=1e-3)
            other = psnr(defended(attacked, sample_ids=torch.tensor([0])), clean)
            assert abs(float(row["psnr_after"]) - other) > 2e-3, "another image's noise is told apart"


def test_what_the_results_say(made: dict[str, Any], done: Path) -> None:
    results = json.loads((done / "results.json").read_text())
    assert list(results["models"]) == results["matrices"][0]["sources"] == NAMES
    assert "defense" not in results["models"]["small"]
    purifier, jpeg = (results["models"][name]["defense"] for name in NAMES[1:])
    assert (purifier["model"], purifier["label"], purifier["random"]) == ("small", "purifier", True)
    assert purifier["how"] == "fp32, through a purifier: full gradient"
    assert (jpeg["how"], jpeg["random"], jpeg["sha256"]) == ("fp32, through JPEG: BPDA", False, None)
    kinds = {example["source"]: set(example["files"]) for example in results["examples"]}
    assert "purified" not in kinds["small"]
    assert "purified" in kinds["small+purifier"]
    assert "purified" in kinds["small+jpeg60"]
    example = next(e for e in results["examples"] if e["source"] == "small+purifier")
    image = read_image(done / example["files"]["purified"], 1)
    clean = read_image(done / example["files"]["clean"], 1)
    assert example["psnr"]["purified"] == pytest.approx(psnr(image, clean), abs=2), "but for what the PNG clips"
    attacked = read_image(done / example["files"]["attacked"], 1)
    assert psnr(image, attacked) < 30, "purified is another picture"


def test_batches_change_nothing(made: dict[str, Any], done: Path, tmp_path: Path) -> None:
    """The noise of a defence belongs to the image: alone or beside others, the same."""
    run_study(study_from({**made, "max_batch": 1, "defense": made["defense"][:1]}), out=tmp_path / "out", report=False)
    found, want = (
        json.loads((out / "results.json").read_text())["matrices"][0]["psnr_after"]["mean"]
        for out in (tmp_path / "out", done)
    )
    for mine, theirs in zip(found, want[:2], strict=True):
        assert mine == pytest.approx(theirs[:2], abs=5e-3)


def test_a_run_with_another_defence_does_not_go_on(made: dict[str, Any], done: Path) -> None:
    text = made["defense"][0]
    with pytest.raises(ValueError, match=r"resume: .* defense"):
        run_study(study_from({**made, "defense": [text, "jpeg:61"]}), out=done, resume=True)
    with pytest.raises(ValueError, match="eot: wanted 3, got 2"):
        run_study(study_from({**made, "eot": 3}), out=done, resume=True)
    weights = Path(text.partition("weights=")[2])
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole.replace(b"linear 1000", b"linear 0999", 1))
        with pytest.raises(ValueError, match=r"defense_weights\.purifier: wanted"):
            run_study(study_from(made), out=done, resume=True)
    finally:
        weights.write_bytes(whole)


def test_on_the_command_line(made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "evaluate", "--models", *made["models"], "--targets", "embedded", "--data", *made["data"], "--defense",
        "blur:1", "m=median:3", "--limit", 1, "--steps", 1, "--draws", 2, "--quality", "none", "--no-report",
    ]  # fmt: skip
    code, told, err = run(capsys, *arguments, "--out", tmp_path / "out")
    assert code == 0, err
    assert "blind" in told
    assert "adaptive" in told
    assert "full gradient" in told
    matrix = json.loads((tmp_path / "out" / "results.json").read_text())["matrices"][0]
    assert matrix["sources"] == ["small", "small+blur1", "small+m"]
    assert matrix["targets"] == [*matrix["sources"], "embedded", "embedded+blur1", "embedded+m"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defense": ["jpeg:50", "jpeg:50"]}, "would both be called 'jpeg50'"),
        ({"defense": ["jpg:50"]}, "did you mean 'jpeg'"),
        ({"defense": ["jpeg:50"], "eot": 0}, "eot: wanted a whole number >= 1, got 0"),
        (
            {"defense": ["jpeg:50"], "precision": "bf16"},
            "fp32 beside the defense 'jpeg:50', which filters in fp32, got bf16",
        ),
        (
            {"defense": ["purifier:sigma=30"], "precision": "bf16"},
            r"'purifier:sigma=30' \(it has a precision= of its own\)",
        ),
        ({"defense": ["purifier:sigma=20"]}, "sigma: wanted at least the 25"),
        ({"models": ["embedded", "embedded+a=embedded"], "defense": ["a=blur:1"]}, "'embedded\\+a' is the name of"),
    ],
)
def test_bad_defences(made: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_study(study_from({**made, **change}), out=tmp_path / "out", report=False)
    assert not list(tmp_path.iterdir())
