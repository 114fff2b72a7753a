"""The command line: the main job from files to report, and one clear line for everything that can go wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fastattack import job, models
from fastattack.images import read_image
from fastattack.numbers import parse_number
from tests.command import run


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A DnCNN of three layers that does a little smoothing: enough to be attacked."""
    torch.manual_seed(0)
    model = models.DnCNN(channels=1, features=8, depth=3)
    path = tmp_path / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two gray images of one size, a color JPEG of another, 16-bit TIFF."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (24, 20), dtype=np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 256, (17, 33, 3), dtype=np.uint8)).save(folder / "c.jpg")
    Image.fromarray(rng.integers(0, 65536, (16, 16), dtype=np.uint16)).save(folder / "d.tiff")
    return folder


def attack(capsys, weights, data, out, *more):
    return run(
        capsys, "attack", "--model", "dncnn", "--weights", weights, "--sigma", 25, "--data", data, "--attack",
        "denoising-pgd", "--eps", "5/255", "--steps", 3, "--out", out, "--seed", 0, *more,
    )  # fmt: skip


def test_the_main_job(capsys, weights, data, tmp_path):
    out = tmp_path / "deep" / "out"
    code, shown, errors = attack(capsys, weights, data, out)
    assert code == 0, errors
    assert "PSNR drop" in shown
    report = json.loads((out / "report.json").read_text())
    assert report["config"]["eps"] == 5 / 255
    rows = {row["name"]: row for row in report["images"]}
    assert sorted(rows) == ["a", "b", "c", "d"]
    attacked = load_file(out / "attacked.safetensors")
    model = models.load("dncnn", weights=weights, sigma=25)
    for index, name in enumerate(sorted(rows)):
        row, adv = rows[name], attacked[name]
        clean = read_image(next(data.glob(f"{name}.*")), 1)
        noisy = job.add_noise(clean, 25, 0, index)
        delta = (adv.double() - noisy.double()).numpy()
        before, after = (t.double().numpy() - clean.double().numpy() for t in (noisy, adv))
        assert row["linf"] == pytest.approx(np.abs(delta).max())
        assert row["linf"] <= 5 / 255 * (1 + 1e-6)
        assert row["l2"] == pytest.approx(np.linalg.norm(delta))
        assert row["mean_shift"] == pytest.approx(after.mean() - before.mean(), abs=1e-12)
        assert abs(row["mean_shift"]) <= 1e-5
        assert row["norm_ratio"] == pytest.approx(np.linalg.norm(after) / np.linalg.norm(before))
        assert abs(row["norm_ratio"] - 1) <= 1e-4
        gap = 0.5 * ((after**2).mean() / (25 / 255) ** 2 - 1)
        assert row["typicality_after"] == pytest.approx(gap, abs=1e-9)
        with torch.no_grad():
            error = (model(adv[None])[0].double() - clean.double()).numpy()
        assert row["psnr_attacked"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-3)
        levels = np.asarray(Image.open(out / "attacked" / f"{name}.png")) / 255
        assert np.abs(levels - adv[0].clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-6
        assert Image.open(out / "pictures" / f"{name}.png").size[0] > 600
    summary = report["summary"]
    drops = [row["psnr_denoised"] - row["psnr_attacked"] for row in rows.values()]
    assert summary["psnr_drop"] == pytest.approx(np.mean(drops))
    assert summary["psnr_drop"] > 0
    assert not [p for p in out.parent.iterdir() if p != out]  # nothing temporary is left


def test_the_same_seed_gives_the_same_files(capsys, weights, data, tmp_path):
    for name, more in (("one", ()), ("two", ("--max-batch", 1)), ("three", ("--seed", 5))):
        assert attack(capsys, weights, data, tmp_path / name, *more)[0] == 0
    one, two, three = (load_file(tmp_path / n / "attacked.safetensors") for n in ("one", "two", "three"))
    assert all(torch.allclose(one[k], two[k], atol=1e-6) for k in one)
    assert not any(torch.equal(one[k], three[k]) for k in one)


def test_an_earlier_report_is_kept_unless_asked(capsys, weights, data, tmp_path):
    out = tmp_path / "out"
    assert attack(capsys, weights, data, out)[0] == 0
    first = (out / "report.json").read_bytes()
    code, _, errors = attack(capsys, weights, data, out)
    assert code == 2
    assert "--overwrite" in errors
    assert (out / "report.json").read_bytes() == first
    assert attack(capsys, weights, data, out, "--overwrite", "--steps", 1)[0] == 0
    assert (out / "report.json").read_bytes() != first
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    code, _, errors = attack(capsys, weights, data, foreign, "--overwrite")
    assert code == 2
    assert (foreign / "chapter.tex").read_text() == "years of work"


def test_what_is_not_ours_is_never_replaced(capsys, weights, data, tmp_path):
    """A report.json of somebody else's, and a file that somebody put beside ours."""
    theirs = tmp_path / "project"
    theirs.mkdir()
    (theirs / "report.json").write_text('{"title": "theirs"}')
    ours = tmp_path / "ours"
    assert attack(capsys, weights, data, ours)[0] == 0
    (ours / "attacked" / "notes.txt").write_text("read this")
    for out in (theirs, ours):
        code, _, errors = attack(capsys, weights, data, out, "--overwrite")
        assert code == 2
        assert "holds more than a fastattack report" in errors
    assert (theirs / "report.json").read_text() == '{"title": "theirs"}'
    assert (ours / "attacked" / "notes.txt").read_text() == "read this"


def test_out_may_be_a_link_or_an_empty_folder(capsys, weights, data, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert attack(capsys, weights, data, tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "report.json").is_file()


def test_every_file_gets_a_name_of_its_own():
    paths = [Path(p) for p in ("x/a.jpg", "x/a.png", "x/A_2.png", "y/a.png", "z/b.png")]
    names = job.image_names(paths)
    assert len({n.casefold() for n in names}) == len(paths)
    assert names[0] == "a"
    assert names[2] == "A_2"


def test_a_full_disk_while_writing_names_the_folder(capsys, weights, data, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    import fastattack.report.write as write

    def fails(*arguments, **options):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(write, "save_file", fails)
    code, _, errors = attack(capsys, weights, data, tmp_path / "out")
    assert code == 2
    assert len(errors.strip().splitlines()) == 1
    assert str(tmp_path / "out") in errors
    assert not (tmp_path / "out").exists()


def test_a_failure_half_way_keeps_the_old_report(capsys, weights, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert attack(capsys, weights, data, out)[0] == 0
    before = sorted((p.relative_to(out), p.read_bytes()) for p in out.rglob("*") if p.is_file())
    real, calls = job._rows, []

    def full_disk(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(job, "_rows", full_disk)
    code, _, errors = attack(capsys, weights, data, out, "--overwrite")
    assert code == 2
    assert errors.strip().splitlines() == ["fastattack: [Errno 28] No space left on device"]
    assert sorted((p.relative_to(out), p.read_bytes()) for p in out.rglob("*") if p.is_file()) == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--eps", "5/0"], ["eps", "5/0"]),
        (["--eps", "-1"], ["eps", ">= 0"]),
        (["--eps", "nan"], ["eps", "nan"]),
        (["--eps", "5"], ["eps", "5/255", "sigma alone"]),
        (["--steps", "0"], ["steps"]),
        (["--sigma", "0"], ["sigma"]),
        (["--norm", "l0"], ["norm", "l0"]),
        (["--attack", "deepfool"], ["attack", "deepfool"]),
        (["--model", "unet9"], ["unet9"]),
        (["--device", "cuda:77"], ["device", "cuda:77"]),
        (["--device", "abacus"], ["device", "abacus"]),
        (["--backend", "cuda"], ["cuda", "Available"]),
        (["--data", "{tmp}/nowhere"], ["nowhere"]),
        (["--data", "{tmp}/empty"], ["empty"]),
        (["--data", "{tmp}/broken.png"], ["broken.png"]),
        (["--data", "{tmp}/tiny.safetensors"], ["tiny.safetensors"]),
        (["--weights", "{tmp}/nowhere.pth"], ["nowhere.pth"]),
        (["--weights", "{tmp}/broken.png"], ["broken.png"]),
        (["--model", "ffdnet"], ["tiny.safetensors", "ffdnet"]),
        (["--out", "{tmp}/tiny.safetensors"], ["tiny.safetensors", "folder"]),
        (["--out", "/proc/nothing/out"], ["/proc/nothing"]),
        (["--max-batch", "0"], ["max-batch"]),
        (["--restarts", "0"], ["restarts"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, weights, data, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    shutil.copy(data / "a.png", tmp_path / "broken.png")
    truncated(tmp_path / "broken.png")
    if torch.cuda.is_available() and "cuda" in arguments:
        pytest.skip("this machine has what is asked for")
    out = tmp_path / "out"
    filled = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    base = [] if "--out" in filled else ["--out", out]
    given = {"--model": "dncnn", "--weights": weights, "--data": data}
    for option, value in given.items():
        if option not in filled:
            base += [option, value]
    code, _, errors = run(capsys, "attack", *base, *filled)
    lines = errors.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in lines[0]
    assert not out.exists()


def test_unknown_options_and_help(capsys):
    assert run(capsys, "attack", "--nonsense")[0] == 2
    code, shown, _ = run(capsys, "attack", "--help")
    assert code == 0
    assert "--preserve-noise" in shown


def test_info_names_every_backend(capsys):
    code, shown, _ = run(capsys, "info")
    assert code == 0
    for name in ("reference", "cpu", "triton", "cuda", "cupy", "torch", "threads"):
        assert name in shown


def test_fgsm_and_l2_from_the_command_line(capsys, weights, data, tmp_path):
    for k, more in enumerate((["--attack", "fgsm"], ["--attack", "pgd", "--norm", "l2", "--eps", "0.5"])):
        out = tmp_path / f"out{k}"
        code, _, errors = run(
            capsys, "attack", "--model", "dncnn", "--weights", weights, "--data", data / "a.png", "--out", out, *more
        )
        assert code == 0, errors
        row = json.loads((out / "report.json").read_text())["images"][0]
        assert row["linf"] <= 5 / 255 if k == 0 else row["l2"] <= 0.5


def test_python_dash_m_and_files_of_one_name(weights, data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(data / "a.png", other / "a.png")
    command = [
        sys.executable,
        "-m",
        "fastattack",
        "attack",
        "--model",
        "dncnn",
        "--weights",
        weights,
        "--data",
        data / "a.png",
    ]
    done = subprocess.run(
        [*map(str, command), "--data", str(other), "--steps", "1", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [row["name"] for row in json.loads((tmp_path / "out" / "report.json").read_text())["images"]]
    assert names == ["a", "a_2"]


@pytest.mark.parametrize(
    ("text", "value"), [("5/255", 5 / 255), ("0.02", 0.02), (3, 3.0), ("1e-3", 1e-3), ("-1/2", -0.5)]
)
def test_numbers_as_people_write_them(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "a", "1/2/3", "1/0", "inf", "nan", "/"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="eps: wanted a"):
        parse_number(text, "eps")


def test_ctrl_c_ends_with_a_line(monkeypatch, capsys):
    from fastattack import info

    def interrupted() -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "describe", interrupted)
    code, _, err = run(capsys, "info")
    assert code == 130
    assert err.endswith("fastattack: interrupted\n")
