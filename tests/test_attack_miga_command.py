"""`fastattack attack --attack miga`: its report beside what models in NumPy say, and every option that cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fastattack import job, models
from tests.command import run

SIZE = 16
TASK = '''
import torch
from torch import nn


class Sides(nn.Module):
    """Which half of an image is brighter: top, bottom; or neither, where they are alike."""

    classes = ["top", "bottom"]

    def forward(self, images):
        means = images.mean((1, 3))
        half = means.shape[1] // 2
        both = torch.stack([means[:, :half].mean(1), means[:, half:].mean(1)], 1)
        return SCALE * both


SCALE = 40.0


def sides():
    return Sides()


def numbers():
    model = Sides()
    model.classes = None
    return model


def dense():
    """Of each pixel, whether it is bright."""
    return Dense()


class Dense(nn.Module):
    def forward(self, images):
        return torch.cat([20 * (0.5 - images), 20 * (images - 0.5)], 1)


class Reader(nn.Module):
    """Reads a letter for each half of an image: u (light) or d (dark)."""

    def forward(self, images):
        means = images.mean((1, 3))
        half = means.shape[1] // 2
        return {"halves": torch.stack([means[:, :half].mean(1), means[:, half:].mean(1)], 1)}

    def says(self, verdict):
        return ["".join("u" if v > 0.5 else "d" for v in row) for row in verdict["halves"].tolist()]

    def task_loss(self, verdict, labels):
        signs = torch.tensor([[1.0 if c == "u" else -1.0 for c in text] for text in labels])
        return nn.functional.softplus(-40 * signs * (verdict["halves"] - 0.5)).mean(1)


def reader():
    return Reader()


def rounded():
    return lambda images: Sides()(images).round().detach()


def blunt():
    model = Sides()
    model.differentiable = False
    return model


def strict():
    def only_large(images):
        if images.shape[-1] != 28:
            raise ValueError("images of 28 x 28, please")
        return images.flatten(1)
    return only_large


def mute():
    model = Sides()
    model.says = lambda verdict: ["x"] * len(verdict)
    return model


def vector():
    return lambda images: images.mean((1, 2, 3))


def boxes():
    return lambda images: {"boxes": images.mean((1, 2, 3))}


def misnamed():
    model = Sides()
    model.classes = ["top"]
    return model
'''


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Path]:
    """A small denoiser, task models, and four images whose halves differ by a little."""
    torch.manual_seed(0)
    model = models.DnCNN(channels=1, features=8, depth=3)
    weights = tmp_path / "tiny.safetensors"
    save_file({k: 0.3 * v.contiguous() for k, v in model.state_dict().items()}, weights)
    (tmp_path / "task.py").write_text(TASK)
    data = tmp_path / "data"
    data.mkdir()
    for name, top in (("a", 0.53), ("b", 0.47), ("c", 0.53), ("d", 0.47)):
        image = np.full((SIZE, SIZE), 1 - top)
        image[: SIZE // 2] = top
        Image.fromarray(np.uint8(image * 255)).save(data / f"{name}.png")
    (tmp_path / "labels.json").write_text(json.dumps({"a": 0, "b": "bottom", "c": 1, "d": 1, "elsewhere": 7}))
    return {"weights": weights, "task": tmp_path / "task.py", "data": data, "labels": tmp_path / "labels.json"}


def attack(capsys: Any, case: dict[str, Path], *more: object) -> tuple[int, str, str]:
    given = () if "--data" in more else ("--data", case["data"])
    kind = () if "--attack" in more else ("--attack", "miga")
    return run(
        capsys, "attack", "--model", "dncnn", "--weights", case["weights"], "--sigma", 10, "--eps", "24/255",
        "--steps", 6, "--lambda-rec", 0.1, *given, *kind, *more,
    )  # fmt: skip


def sides(image: torch.Tensor) -> str:
    """The task model by hand."""
    rows = image[0].double().numpy().mean(1)
    return "top" if rows[: SIZE // 2].mean() >= rows[SIZE // 2 :].mean() else "bottom"


def decibels(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * np.log10(((a.double() - b.double()).numpy() ** 2).mean()))


def test_the_report_says_what_the_task_model_says(capsys, case, tmp_path):
    out = tmp_path / "out"
    code, shown, errors = attack(
        capsys, case, "--task", f"{case['task']}:sides", "--labels", case["labels"], "--out", out
    )
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text())
    assert report["config"]["attack"] == "miga"
    assert report["config"]["labels"] == str(case["labels"])
    assert report["config"]["lambda_rec"] == 0.1
    attacked = load_file(out / "attacked.safetensors")
    denoiser = models.load("dncnn", weights=case["weights"], sigma=10)
    labels = dict(zip("abcd", ("top", "bottom", "bottom", "bottom"), strict=True))
    hits: list[tuple[bool, bool]] = []
    for index, row in enumerate(report["images"]):
        name = row["name"]
        clean = job.load_images([case["data"] / f"{name}.png"], 1)[0][1]
        noisy = job.add_noise(clean, 10, 0, index)
        with torch.no_grad():
            denoised, denoised_attacked = denoiser(torch.stack([noisy, attacked[name]]))
        pictures = {
            "noisy": noisy, "attacked": attacked[name], "denoised": denoised, "denoised_attacked": denoised_attacked,
        }  # fmt: skip
        assert {f"says_{key}": row[f"says_{key}"] for key in pictures} == {
            f"says_{key}": sides(image) for key, image in pictures.items()
        }
        before, after = (sides(image) == labels[name] for image in (denoised, denoised_attacked))
        assert (row["label"], row["right_before"], row["right_after"]) == (labels[name], before, after)
        assert row["changed"] is (not after if before else None)
        if torch.equal(attacked[name], noisy):  # wrong already by more than the margin that counts: left alone
            assert not before
            assert row["input_psnr"] is None
        else:
            assert row["input_psnr"] == pytest.approx(decibels(attacked[name], noisy), abs=1e-3)
            assert row["output_psnr"] == pytest.approx(decibels(denoised_attacked, denoised), abs=1e-3)
            assert 0 < row["output_ssim"] < 1
        assert row["psnr_denoised"] == pytest.approx(decibels(denoised, clean), abs=1e-3)
        assert row["psnr_attacked"] == pytest.approx(decibels(denoised_attacked, clean), abs=1e-3)
        assert row["linf"] <= 24 / 255
        hits.append((before, after))
    right = [after for before, after in hits if before]
    assert 0 < len(right) < 4  # the label of one image is not what it shows
    summary = report["summary"]
    assert summary["accuracy_before"] == len(right) / 4
    assert summary["accuracy_after"] == sum(after for _, after in hits) / 4
    assert summary["success_rate"] == right.count(False) / len(right) > 0
    assert f"Accuracy {summary['accuracy_before']:.1%} -> {summary['accuracy_after']:.1%}" in shown
    assert "bottom" in shown
    page = (out / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 16
    assert f"{summary['accuracy_before']:.1%} → {summary['accuracy_after']:.1%}" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # needs no network
    shown_first = [re.search(r"<h3>(\w)", part)[0][-1] for part in page.split('<div class="said">')[:-1]]
    assert report["images"]["abcd".index(shown_first[0])]["changed"] is True


def test_the_picture_has_the_words(capsys, case, tmp_path):
    """Panels as before, each with a line of its own colour for what is said; small images are shown larger."""
    out = tmp_path / "out"
    assert attack(capsys, case, "--task", f"{case['task']}:numbers", "--out", out)[0] == 0
    sheet = np.asarray(Image.open(out / "pictures" / "a.png"))
    red = np.argwhere((sheet[..., 0] > 150) & (sheet[..., 1:] < 120).all(-1))
    blocks = {(y > sheet.shape[0] // 2, 3 * x // sheet.shape[1]) for y, x in red}
    assert blocks == {(False, 1), (False, 2), (True, 0), (True, 1)}
    assert sheet.shape[0] > 2 * 192
    row = json.loads((out / "report.json").read_text())["images"][0]
    assert (row["says_denoised"], row["label"]) == ("0", "0")  # what is taken away is what the model said


def test_a_target_is_reached(capsys, case, tmp_path):
    for target in ("bottom", "1"):
        out = tmp_path / target
        code, shown, errors = attack(
            capsys, case, "--task", f"{case['task']}:sides", "--target", target, "--out", out, "--restarts", 2
        )
        assert code == 0, errors
        report = json.loads((out / "report.json").read_text())
        reached = [row["says_denoised_attacked"] == "bottom" for row in report["images"]]
        assert [row["reached"] for row in report["images"]] == reached == [True] * 4
        assert report["summary"]["target_rate"] == 1
        assert "100% say the target" in shown


def test_dense_outputs_are_told_by_their_most_frequent_class(capsys, case, tmp_path):
    out = tmp_path / "out"
    code, _, errors = attack(capsys, case, "--task", f"{case['task']}:dense", "--out", out)
    assert code == 0, errors
    attacked = load_file(out / "attacked.safetensors")
    for row in json.loads((out / "report.json").read_text())["images"]:
        share = (attacked[row["name"]].numpy() > 0.5).mean()
        assert row["says_attacked"] == (f"1 ({share:.0%})" if share > 0.5 else f"0 ({1 - share:.0%})")


def test_a_recogniser_reads_texts(capsys, case, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "texts.json").write_text(json.dumps({"a": "ud", "b": "du", "c": "ud", "d": "du"}))
    code, _, errors = attack(
        capsys, case, "--task", f"{case['task']}:reader", "--labels", tmp_path / "texts.json", "--out", out
    )
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text())
    for row in report["images"]:
        assert row["label"] == ("ud" if row["name"] in "ac" else "du")
        same = sum(a == b for a, b in zip(row["says_denoised_attacked"], row["label"], strict=True))
        if same == 1:  # one letter of two: ROUGE-L is 1/2
            assert row["text_after"] == pytest.approx(0.5)
    assert report["summary"]["success_rate"] == 1


def test_weights_that_change_and_no_perceptual_distance(capsys, case, tmp_path):
    out = tmp_path / "out"
    more = ("--task", f"{case['task']}:sides", "--lambda-mi", "0:1", "--lambda-com", "1/2", "--perceptual", "none")
    assert attack(capsys, case, *more, "--preserve-noise", "--out", out)[0] == 0
    report = json.loads((out / "report.json").read_text())
    config = report["config"]
    assert (config["lambda_mi"], config["lambda_com"], config["perceptual"]) == ([0, 1], 0.5, None)
    assert all(abs(row["norm_ratio"] - 1) < 1e-4 and row["linf"] > 0 for row in report["images"])


def test_an_unknown_task(capsys, case, tmp_path):
    out = tmp_path / "out"
    code, shown, errors = attack(capsys, case, "--estimator", "nwj", "--out", out)
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text())
    assert "label" not in report["images"][0]
    assert "accuracy_before" not in report["summary"]
    assert report["config"]["estimator"] == "nwj"
    assert all(row["linf"] > 0.01 for row in report["images"])
    assert "Output" in shown
    alone = ("--data", case["data"] / "a.png")
    code, _, errors = attack(capsys, case, *alone, "--bank", case["data"], "--out", tmp_path / "banked")
    assert code == 0, errors


def test_an_ordinary_report_may_follow(capsys, case, tmp_path):
    """Both kinds are known as ours, in either order."""
    out = ("--out", tmp_path / "out", "--overwrite")
    for kind in ("miga", "pgd", "miga"):
        more = ("--task", f"{case['task']}:sides") if kind == "miga" else ()
        code, _, errors = run(
            capsys, "attack", "--attack", kind, "--model", "dncnn", "--weights", case["weights"], "--data",
            case["data"], "--steps", 1, *more, *out,
        )  # fmt: skip
        assert code == 0, errors
        assert ("says_noisy" in (tmp_path / "out" / "report.json").read_text()) == (kind == "miga")


TASKED = ["--task", "{tmp}/task.py:sides"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attack", "pgd"], ["lambda-rec", "pgd"]),
        (["--task", "dncnn:x.pth"], ["task: ", "FILE.py:function", "dncnn"]),
        (["--task", "embedded"], ["task: ", "embedded"]),
        (["--task", "nothing"], ["task: ", "nothing"]),
        (["--task", "{tmp}/task.py:side"], ["task: ", "side", "nearest"]),
        (["--task", "{tmp}/none.py:f"], ["task: ", "none.py"]),
        (["--task", "{tmp}/task.py:rounded"], ["task: ", "differentiable"]),
        (["--task", "{tmp}/task.py:blunt"], ["task: ", "differentiable"]),
        (["--task", "{tmp}/task.py:strict"], ["task: ", "16", "28 x 28, please"]),
        (["--task", "{tmp}/task.py:mute"], ["task_loss", "says"]),
        (["--task", "{tmp}/task.py:vector"], ["task: ", "logits", "says"]),
        (["--task", "{tmp}/task.py:boxes"], ["task: ", "logits", "got dict"]),
        (["--task", "{tmp}/task.py:misnamed"], ["classes", "2", "1"]),
        ([*TASKED, "--labels", "{tmp}/none.json"], ["none.json"]),
        ([*TASKED, "--labels", "{tmp}/task.py"], ["labels", "task.py", "JSON"]),
        ([*TASKED, "--labels", "{tmp}/list.json"], ["labels", "list.json", "[1, 2]"]),
        ([*TASKED, "--labels", "{tmp}/few.json"], ["labels", "few.json", "'b'", "nothing"]),
        ([*TASKED, "--labels", "{tmp}/wrong.json"], ["labels", "'d'", "2", "0 to 1"]),
        ([*TASKED, "--target", "left"], ["target", "left", "top"]),
        (["--labels", "{tmp}/labels.json"], ["labels", "task model"]),
        (["--target", "1"], ["target", "task model"]),
        ([*TASKED, "--bank", "{tmp}/data"], ["bank", "unknown task"]),
        ([*TASKED, "--estimator", "dv"], ["estimator", "unknown task"]),
        (["--estimator", "mine"], ["estimator", "mine"]),
        (["--restarts", "2"], ["restarts", "unknown task"]),
        (["--data", "{tmp}/data/a.png"], ["bank", "'a'", "16 x 16"]),
        (["--max-batch", "3"], ["bank", "'d'", "max-batch"]),
        (["--bank", "{tmp}/odd"], ["bank", "16 x 16", "odd"]),
        ([*TASKED, "--lambda-mi", "much"], ["lambda-mi", "much"]),
        ([*TASKED, "--lambda-mi", "1:2:3"], ["lambda-mi", "2:3"]),
        ([*TASKED, "--lambda-com", "-1"], ["lambda_com", ">= 0"]),
        ([*TASKED, "--lambda-mi", "0", "--lambda-rec", "0", "--lambda-com", "0"], ["lambda_mi", "got 0 for all"]),
        ([*TASKED, "--perceptual", "vgg"], ["perceptual", "vgg"]),
        ([*TASKED, "--lpips-weights", "{tmp}/task.py"], ["lpips_weights"]),
        ([*TASKED, "--perceptual", "lpips", "--lpips-weights", "{tmp}/none.pth"], ["none.pth"]),
        ([*TASKED, "--eps", "5"], ["eps", "5/255"]),
        ([*TASKED, "--data", "{tmp}/odd"], ["data", "11 x 11", "9 x 9"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_replaced(capsys, case, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setenv("FASTATTACK_CACHE", str(tmp_path / "cache"))
    for name, content in (("list", [1, 2]), ("few", {"a": 0}), ("wrong", {"a": 0, "b": 0, "c": 1, "d": 2})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "odd").mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "odd" / "small.png")
    out = tmp_path / "out"
    code = run(
        capsys, "attack", "--attack", "fgsm", "--model", "dncnn", "--weights", case["weights"], "--data",
        case["data"] / "a.png", "--out", out,
    )[0]  # fmt: skip
    assert code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    code, _, errors = attack(capsys, case, *filled, "--out", out, "--overwrite")
    lines = errors.strip().splitlines()
    assert code == 2, errors
    assert len(lines) == 1, errors
    for word in words:
        assert word in lines[0]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
