"""`fastattack purify` from its options to its folder, with small images; what it writes is made again by hand."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fastattack as fa
from fastattack.attacked import LOSSLESS
from fastattack.defenses import open_defense, parse_defense
from fastattack.images import read_image, save_png
from fastattack.job import add_noise
from fastattack.job_purify import default_defense
from tests import small_study
from tests.command import run

DDIM = "purifier:t_star=20,sampler=ddim,steps=1"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two gray images of one size and a small one in colour."""
    generator = torch.Generator().manual_seed(7)
    for name, shape in (("a", (1, 24, 24)), ("b", (1, 24, 24)), ("c", (3, 16, 24))):
        save_png(tmp_path / "data" / f"{name}.png", torch.rand(shape, generator=generator))
    return tmp_path / "data"


@pytest.fixture
def report(data: Path) -> Path:
    """What `fastattack attack` leaves of the two gray images, as far as it matters here."""
    generator = torch.Generator().manual_seed(8)
    folder = data.with_name("pgd")
    folder.mkdir()
    save_file({n: 1.5 * torch.rand(1, 24, 24, generator=generator) - 0.25 for n in "abz"}, folder / LOSSLESS)
    return folder


def purify(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], str]:
    """(report.json, stdout)"""
    code, told, err = run(capsys, "purify", *arguments)
    assert code == 0, err
    out = Path(str(arguments[list(arguments).index("--out") + 1]))
    return json.loads((out / "report.json").read_text()), told


def psnr(x: Tensor, clean: Tensor) -> float:
    return -10 * math.log10((x - clean).double().square().mean().item())


def test_gray_and_colour_without_a_clean_image(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    text = "weak=purifier:t_star=20,steps=2"
    found, told = purify(capsys, "--data", data, "--out", out, "--defense", text, "jpeg:50", "--seed", 3)
    assert {p.name for p in out.iterdir()} == {"report.json", "report.html", "purified.safetensors", "purified"}
    assert [(r["name"], r["version"], r["defense"]) for r in found["images"]] == [
        (name, "input", label) for names in ("ab", "c") for label in ("weak", "jpeg50") for name in names
    ]
    assert all(row["psnr_input"] is None and row["psnr_purified"] is None for row in found["images"])
    assert all(row["seconds"] > 0 for row in found["images"])
    assert "psnr_restored" not in found["images"][0]
    assert "seconds an image" in told
    lossless = load_file(out / "purified.safetensors")
    assert set(lossless) == {f"{label}/input/{name}" for label in ("weak", "jpeg50") for name in "abc"}
    for number, (name, channels) in enumerate(zip("abc", (1, 1, 3), strict=True)):
        image = read_image(data / f"{name}.png", channels)
        purifier = fa.Purifier(fa.diffusion.load(channels=channels), t_star=20, steps=2, seed=3)
        want = purifier.purify(image[None], sample_ids=torch.tensor([number]))[0]
        assert torch.allclose(lossless[f"weak/input/{name}"], want, rtol=0, atol=1e-5), name
        stored = read_image(out / "purified" / "weak" / "input" / f"{name}.png", channels)
        assert (stored - want.clamp(0, 1)).abs().max() < 0.6 / 255
    assert found["config"]["defenses"][1][2] == "fp32, through JPEG: BPDA"
    assert len(found["config"]["defenses"][0][3]) == 64


def test_attacked_versions_and_a_model(
    data: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise as `attack` adds it, lossless inputs of its report, images beside them; every figure by hand."""
    (data / "c.png").unlink()
    models, _ = small_study.make(tmp_path / "study", images=2)
    shots = tmp_path / "shots"
    for name in "ab":
        save_png(shots / f"{name}.png", torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(ord(name))))
    out = tmp_path / "out"
    arguments = (
        "--data", data, "--attacked", report, shots, "--sigma", 25, "--seed", 2, "--defense",
        "purifier:sigma=30,sampler=ddim,steps=1", "--model", f"{models}:small",
    )  # fmt: skip
    found, _ = purify(capsys, *arguments, "--out", out)
    rows = {(row["name"], row["version"]): row for row in found["images"]}
    assert list(rows) == [(name, version) for version in ("input", "pgd", "shots") for name in "ab"]
    space: dict[str, Any] = {}
    exec(compile(models.read_text(), str(models), "exec"), space)
    restorer, level = space["small"](), 25 / 255
    purifier = fa.Purifier(sigma=30 / 255, sampler="ddim", steps=1, seed=2, input_sigma=level, output_sigma=level)
    for number, name in enumerate("ab"):
        clean, ids = read_image(data / f"{name}.png", 1), torch.tensor([number])
        inputs = {
            "input": add_noise(clean, 25.0, 2, number), "pgd": load_file(report / LOSSLESS)[name],
            "shots": read_image(shots / f"{name}.png", 1),
        }  # fmt: skip
        for version, image in inputs.items():
            row = rows[name, version]
            with torch.no_grad():
                purified = purifier.purify(image[None], sample_ids=ids)
                stages = {
                    "input": image, "purified": purified[0], "undefended": restorer(image[None])[0],
                    "restored": restorer(purified)[0],
                }  # fmt: skip
            for stage, want in stages.items():
                assert row[f"psnr_{stage}"] == pytest.approx(psnr(want, clean), abs=1e-3), (name, version, stage)
    for line in found["summary"]:
        both = [rows[name, line["version"]]["psnr_restored"] for name in "ab"]
        assert line["psnr_restored"] == pytest.approx(sum(both) / 2)
    assert (out / "restored" / "purifier" / "pgd" / "a.png").is_file()
    page = (out / "report.html").read_text()
    shown = page[page.index('<section id="examples">') : page.index('<section id="images">')]
    captions = re.findall(r"<figcaption>([A-Za-z]+)", shown)
    assert captions == ["Input", "Purified", "Restored"] * 2 + ["Input", "Attacked", "Purified", "Restored"] * 4
    assert page.count("data:image/png;base64,") == len(captions)
    assert not re.search(r"https?://", page)

    alone, _ = purify(capsys, *arguments, "--out", out, "--overwrite", "--max-batch", 1)
    again = {(row["name"], row["version"]): row["psnr_restored"] for row in alone["images"]}
    assert again.keys() == rows.keys()
    for key, restored in again.items():
        assert restored == pytest.approx(rows[key]["psnr_restored"], abs=1e-3), f"{key}: batches change nothing"


def test_noise_that_is_there_already(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", data / "a.png", "--sigma", 25, "--no-add-noise", "--out", tmp_path / "out")
    found, _ = purify(capsys, *arguments, "--defense", "purifier:sigma=30,sampler=ddim,steps=1")
    assert found["images"][0]["psnr_input"] is None, "nobody knows the clean image"
    image = read_image(data / "a.png", 1)[None]
    want = fa.Purifier(sigma=30 / 255, sampler="ddim", steps=1, input_sigma=25 / 255).purify(image)
    got = load_file(tmp_path / "out" / "purified.safetensors")["purifier/input/a"]
    assert torch.allclose(got, want[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.0, 25.0, 200.0, 255.0])
@pytest.mark.parametrize("restored", [False, True])
def test_the_default_opens_for_every_noise(sigma: float, restored: bool) -> None:
    """Its steps are the five that it wants, or all that there are: one more would be refused."""
    text, left = default_defense(sigma, restored=restored), sigma if restored else 0.0
    options: dict[str, Any] = {"channels": 1, "input_sigma": sigma, "output_sigma": left}
    steps = open_defense(parse_defense(text), **options).before.process.steps
    assert text.endswith(f",steps={steps}")
    if steps != 5:
        with pytest.raises(ValueError, match=f"steps: wanted at most {steps}"):
            open_defense(parse_defense(text.replace(f"steps={steps}", f"steps={steps + 1}")), **options)


def test_the_default_at_both_ends(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sigma in (2, 255):
        arguments = ("--data", data / "a.png", "--sigma", sigma, "--model", "embedded", "--overwrite")
        found, _ = purify(capsys, *arguments, "--out", tmp_path / "out")
        assert found["summary"][0]["psnr_restored"] is not None


def test_a_report_of_another_noise_is_refused(
    data: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `attack` itself writes beside its lossless inputs."""
    (data / "c.png").unlink()
    made = tmp_path / "made"
    options = ("--data", data, "--sigma", 25, "--seed", 2, "--steps", 1, "--device", "cpu")
    assert run(capsys, "attack", *options, "--out", made)[0] == 0
    given = ("--data", data, "--defense", "blur:1", "--out", tmp_path / "out", "--overwrite", "--attacked")
    for folder in (made, made / "attacked"):
        for bad, message in (
            ((), "sigma: wanted the 25.0 of {}, got None"),
            (("--sigma", 10, "--seed", 2), "sigma: wanted the 25.0 of {}, got 10.0"),
            (("--sigma", 25, "--seed", 3), "seed: wanted the 2 of {}, got 3"),
        ):
            code, _, err = run(capsys, "purify", *given, folder, *bad)
            assert code == 2
            assert message.format(made.resolve() / "report.json") in "".join(err.splitlines()), err
        purify(capsys, *given, folder, "--sigma", 25, "--seed", 2)
    purify(capsys, *given, made, "--sigma", 25, "--no-add-noise")  # whose noise it is, nobody says
    (made / "report.json").write_text('{"config": {"attack": "pgd"}}')
    code, _, err = run(capsys, "purify", *given, made)
    assert code == 2
    assert "cannot be read as a report of attack: KeyError('sigma')" in err


def test_the_default_is_a_purifier_above_the_noise() -> None:
    assert default_defense(None) == "purifier:t_star=60,sampler=ddim,steps=5"
    assert default_defense(25.0) == "purifier:sigma=35,sampler=ddim,steps=5"
    assert default_defense(200.0) == "purifier:sigma=255,sampler=ddim,steps=5"


def test_what_is_there_stays_until_the_new_is_whole(
    data: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    purify(capsys, "--data", data / "a.png", "--out", out, "--defense", "blur:1")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    arguments = ("purify", "--data", data / "a.png", "--out", out, "--defense", "blur:1")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "holds a fastattack purification already; pass --overwrite" in err
    save_file({"a": torch.full((1, 24, 24), math.nan)}, report / LOSSLESS)
    code, _, err = run(capsys, *arguments[:-1], DDIM, "--attacked", report, "--overwrite")
    assert code == 2
    assert "NaN" in err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--defense", "purifier:t_sta=6"], "did you mean 't_star'"),
        (["--defense", "jpeg:50", "jpeg:50"], "would both be called"),
        (["--defense", "purifier:sigma=20", "--sigma", "25"], "sigma: wanted at least the 25"),
        (["--no-add-noise"], "add-noise: wanted --no-add-noise together with --sigma"),
        (["--sigma", "0.1/0"], "sigma: wanted a number"),
        (["--sigma", "300"], "sigma: wanted a noise level on the 0-255 scale"),
        (["--channels", "2"], "channels: wanted 1 or 3, got 2"),
        (["--max-batch", "0"], "max-batch: wanted a whole number >= 1, got 0"),
        (["--device", "cuda:7"], "device: wanted"),
        (["--model", "embeded"], "did you mean 'embedded'"),
        (["--attacked", "none"], "attacked: wanted a folder, got none"),
        (["--attacked", "{report}"], "attacked: wanted an image 'c'"),
        (["--attacked", "{report}", "--channels", "3"], r"got \(1, 24, 24\); see --channels 1"),
        (["--attacked", "{report}", "--data", "{small}"], r"wanted 'a' in .* as \(1, 8, 8\), .* got \(1, 24, 24\)"),
    ],
)  # fmt: skip
def test_bad_options(
    data: Path,
    report: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    small = tmp_path / "small"
    save_png(small / "a.png", torch.zeros(1, 8, 8))
    filled = [text.format(report=report, small=small) for text in arguments]
    first = [] if "--data" in filled else ["--data", data]
    code, _, err = run(capsys, "purify", *first, "--out", tmp_path / "out", *filled)
    assert code == 2
    assert re.search(message, err), err
    assert not (tmp_path / "out").exists()
