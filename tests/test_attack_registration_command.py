"""`fastattack attack --task registration`: its report beside figures made in NumPy, and every option that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fastattack import models
from fastattack.images import read_image
from fastattack.job import add_noise
from fastattack.models import llm_morph
from fastattack.registration import Synthetic, dice, warp_labels
from tests.command import run

SIZE = 24
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, dims):
        super().__init__()
        torch.manual_seed(0)
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.body = nn.Sequential(kind(2, 6, 5, padding=2), nn.Tanh(), kind(6, dims, 5, padding=2))
        self.dims = dims

    def forward(self, pair):
        return 4 * self.body(pair)


def flat():
    return Net(2)


def deep():
    return Net(3)


def box():
    net = Net(2)

    class Box:
        dims, differentiable = 2, False

        def __call__(self, pair):
            with torch.no_grad():
                return net(pair)

    return Box()


def wrong():
    return lambda pair: pair[:, :1]
"""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A folder with models and two smooth images."""
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "data").mkdir()
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    for k, name in enumerate("ab"):
        image = 0.5 + 0.3 * np.sin(9 * rows + k) * np.cos(7 * columns + 2 * k)
        Image.fromarray(np.uint8(255 * image)).save(tmp_path / "data" / f"{name}.png")
    return tmp_path


def net(case: Path, name: str = "flat") -> Any:
    scope: dict[str, Any] = {}
    with torch.random.fork_rng([]):
        exec(compile(MODEL, "net", "exec"), scope)
        return scope[name]()


def attack(capsys: Any, case: Path, *more: object, model: str | None = None) -> tuple[int, str, str]:
    given = () if {"--data", "--moving"} & set(map(str, more)) else ("--data", case / "data")
    named = f"{case / 'net.py'}:flat" if model is None else model
    return run(
        capsys, "attack", "--task", "registration", "--model", named, "--eps", "12/255", "--steps", 4, *given, *more
    )  # fmt: skip


def test_the_report_is_what_numpy_makes_of_the_fields(capsys: Any, case: Path) -> None:
    out = case / "out"
    code, shown, errors = attack(capsys, case, "--side", "moving", "--out", out, "--seed", 3)
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text())
    assert report["config"]["task"] == "registration"
    assert report["config"]["truth"] == ["field", "landmarks"]
    attacked, fields = load_file(out / "attacked.safetensors"), load_file(out / "fields.safetensors")
    errors_after = []
    for number, row in enumerate(report["pairs"]):
        name = "ab"[number]
        assert row["name"] == name
        image = read_image(case / "data" / f"{name}.png", 1)
        made = Synthetic().pairs(image[None], seed=3, ids=[number])
        change = (attacked[name] - made.pair[0]).abs()
        assert change[0].max() <= 12 / 255
        assert not change[1].any()
        assert row["linf_moving"] == pytest.approx(change[0].max().item(), rel=1e-6)
        assert row["linf_fixed"] == 0
        with torch.no_grad():
            for when, pair in (("before", made.pair), ("after", attacked[name][None])):
                want = net(case)(pair)
                assert torch.allclose(fields[f"{name}/{when}"], want[0], atol=1e-5)
                apart = want[0].double().numpy() - made.truth.field[0].double().numpy()  # type: ignore[index]
                mean = np.sqrt((apart**2).sum(0)).mean()
                assert row[f"field_error_{when}"] == pytest.approx(mean, rel=1e-5)
        assert row["field_error_after"] > row["field_error_before"]
        assert row["tre_after"] > 0
        assert (out / "pictures" / f"{name}.png").is_file()
        errors_after.append(row["field_error_after"])
    assert report["summary"]["field_error_after"] == pytest.approx(np.mean(errors_after))
    assert report["summary"]["folded_rise"] == pytest.approx(
        np.mean([row["folded_after"] - row["folded_before"] for row in report["pairs"]])
    )
    folds = [sum(row[f"folded_{when}"] > 0 for row in report["pairs"]) for when in ("before", "after")]
    assert f"fields that fold somewhere: {folds[0]} before, {folds[1]} after the attack, of 2" in shown
    assert "field error, pixels" in shown
    assert report["config"]["unit"] == "pixels"
    again = case / "again"
    assert attack(capsys, case, "--side", "moving", "--out", again, "--seed", 3, "--max-batch", 1)[0] == 0
    alone = load_file(again / "attacked.safetensors")
    assert all(torch.allclose(alone[name], attacked[name], atol=1e-6) for name in "ab")


def test_two_images_without_a_truth_leave_the_model_s_own_field(capsys: Any, case: Path) -> None:
    moving, fixed, out = case / "data" / "a.png", case / "data" / "b.png", case / "out"
    files = ("--moving", moving, "--fixed", fixed, "--out", out)
    code, shown, errors = attack(capsys, case, *files, "--attack", "apgd")
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text())
    assert report["config"]["truth"] == "the model's own field"
    (row,) = report["pairs"]
    fields = load_file(out / "fields.safetensors")
    moved = (fields["a-b/after"] - fields["a-b/before"]).double().norm(dim=0).mean().item()
    assert (row["field_error_before"], row["field_error_after"]) == (0, pytest.approx(moved, rel=1e-5))
    assert moved > 0
    assert "Field beside the model's own" in shown
    code, _, errors = attack(capsys, case, *files, "--overwrite", "--attack", "fgsm", "--steps", 1)
    assert code == 2
    assert "truth: wanted what is known of the pairs for FGSM" in errors
    assert json.loads((out / "report.json").read_text()) == report, "what was there is still there"


def test_volumes_with_labels_lose_their_overlap(capsys: Any, case: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    generator = np.random.default_rng(0)
    grid = np.mgrid[:10, :11, :12] / 10
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    labels = {}
    for name in ("m", "f"):
        shift = 0.1 if name == "m" else 0.0
        blob = ((grid - 0.5 - shift) ** 2).sum(0)
        labels[name] = np.int32(blob < 0.06) + np.int32(blob < 0.03)
        image = np.float32(100 * labels[name] + 10 * generator.random(blob.shape))
        nibabel.save(nibabel.Nifti1Image(image, affine), case / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels[name], affine), case / f"{name}_labels.nii.gz")
    given = [
        "--moving", case / "m.nii.gz", "--fixed", case / "f.nii.gz", "--labels-moving", case / "m_labels.nii.gz",
        "--labels-fixed", case / "f_labels.nii.gz", "--out", case / "out",
    ]  # fmt: skip
    code, shown, errors = attack(capsys, case, *given, model=f"{case / 'net.py'}:deep")
    assert code == 0, errors
    report = json.loads((case / "out" / "report.json").read_text())
    (row,) = report["pairs"]
    assert report["config"]["truth"] == ["labels_fixed"]
    field = load_file(case / "out" / "fields.safetensors")["m-f/after"][None]
    moving, fixed = (torch.tensor(labels[name]).long()[None, None] for name in ("m", "f"))
    wanted = dice(warp_labels(moving, field.double()), fixed, labels=[1, 2]).mean().item()
    assert row["dice_after"] == pytest.approx(wanted, abs=1e-9)
    assert row["loss"] > 0
    assert "Dice" in shown
    assert report["config"]["unit"] == "mm"
    chosen = ("--overwrite", "--objective", "field-error")  # labels do not take it away
    code, _, errors = attack(capsys, case, *given, *chosen, model=f"{case / 'net.py'}:deep")
    assert code == 0, errors
    (row,) = json.loads((case / "out" / "report.json").read_text())["pairs"]
    assert row["field_error_before"] == 0 < row["field_error_after"]
    code, _, errors = attack(capsys, case, *given[:4], "--objective", "folding", model=f"{case / 'net.py'}:flat")
    assert code == 2
    assert "wanted one for 3D images" in errors


def test_noise_keeps_its_mean_and_norm(capsys: Any, case: Path) -> None:
    out = case / "out"
    code, _, errors = attack(capsys, case, "--sigma", 15, "--preserve-noise", "--side", "fixed", "--out", out)
    assert code == 0, errors
    attacked = load_file(out / "attacked.safetensors")
    for number, name in enumerate("ab"):
        clean = Synthetic().pairs(read_image(case / "data" / f"{name}.png", 1)[None], seed=0, ids=[number]).pair[0]
        noisy = add_noise(clean, 15, 0, number)
        assert torch.equal(attacked[name][0], noisy[0])
        before, after = ((y - clean)[1].double() for y in (noisy, attacked[name]))
        assert not torch.equal(before, after)
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=1e-7)
        assert after.norm().item() == pytest.approx(before.norm().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["square", "simba"])
def test_a_black_box_is_asked(capsys: Any, case: Path, name: str) -> None:
    model, out = f"{case / 'net.py'}:box", case / "out"
    code, _, errors = attack(capsys, case, "--attack", name, "--steps", 60, "--out", out, model=model)
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text())
    assert report["summary"]["field_error_rise"] > 0
    assert {row["steps_used"] for row in report["pairs"]} == {60}
    code, _, errors = attack(capsys, case, model=model)
    assert code == 2
    assert "attack: wanted square or simba for net.box, which has no gradient, got 'pgd'" in errors


def test_an_llm_morph_from_its_file(capsys: Any, case: Path) -> None:
    net = models.LLMMorph(dims=2, width=4, levels=2, blocks=1, heads=2)
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(1)
        for p in net.heads.parameters():
            p.normal_(std=0.1)
    llm_morph.save(net, case / "net.safetensors")
    out = case / "out"
    code, _, errors = attack(
        capsys, case, "--objective", "tre", "--norm", "l2", "--eps", 1, "--out", out,
        model=f"llm-morph:{case / 'net.safetensors'}",
    )  # fmt: skip
    assert code == 0, errors
    report = json.loads((out / "report.json").read_text())
    assert len(report["config"]["model_sha256"]) == 64
    for row in report["pairs"]:
        assert row["tre_after"] > row["tre_before"]
        assert row["l2_moving"] ** 2 + row["l2_fixed"] ** 2 <= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--side", "left"], "side: wanted one of 'moving', 'fixed', 'both', got 'left'"),
        (["--objective", "mse"], "objective: wanted one of field-error, tre, overlap, folding, got 'mse'"),
        (["--objective", "overlap"], "objective: .overlap. wants labels of both images: --labels-moving"),
        (["--moving", "data/a.png", "--fixed", "data/b.png", "--objective", "tre"], "landmarks are known of --data"),
        (["--attack", "miga"], "attack: wanted one of pgd, .* with task registration, got 'miga'"),
        (["--attack", "denoising-pgd"], "pgd with preserve-noise is it"),
        (["--preserve-noise"], "sigma: wanted a noise level on the 0-255 scale with preserve-noise"),
        (["--sigma", "0"], "sigma: wanted a noise level on the 0-255 scale, 0 < sigma"),
        (["--eps", "5"], "eps: wanted a radius for images in .0, 1."),
        (["--weights", "x.pt"], "weights: wanted none with task registration"),
        (["--moving", "a.png"], "fixed: wanted a file beside moving"),
        (["--labels-fixed", "a.png"], "moving and fixed: wanted a file beside labels-fixed"),
        (["--moving", "no.png", "--fixed", "no.png"], "no.png: no such image file"),
        (["--labels", "x.json"], "labels: wanted none with task registration, it is of miga"),
        (["--language", "here"], "language: wanted with llm-morph:FILE alone"),
    ],
)
def test_what_cannot_be_is_named(capsys: Any, case: Path, options: list[str], told: str) -> None:
    import re

    given = [str(case / option) if option.startswith("data/") else option for option in options]
    code, _, errors = attack(capsys, case, *given, "--out", case / "out")
    assert code == 2
    assert re.search(told, errors), errors
    assert not (case / "out").exists()


def test_pairs_of_different_shape_and_models_of_none(capsys: Any, case: Path) -> None:
    Image.fromarray(np.zeros((SIZE, SIZE + 1), np.uint8)).save(case / "wide.png")
    code, _, errors = attack(capsys, case, "--moving", case / "data" / "a.png", "--fixed", case / "wide.png")
    assert code == 2
    assert "(24, 24)" in errors
    assert "(24, 25)" in errors
    code, _, errors = attack(
        capsys, case, "--moving", case / "data" / "a.png", "--fixed", case / "wide.png", "--data", case
    )
    assert "data: wanted none beside moving and fixed" in errors
    code, _, errors = attack(capsys, case, model=f"{case / 'net.py'}:wrong")
    assert code == 2
    assert "wanted a floating tensor (B, 2, H, W)" in errors
    code, _, errors = attack(capsys, case, model="dncnn")
    assert code == 2
    assert "model: wanted [label=]llm-morph:FILE" in errors


def test_its_options_are_for_registration_alone(capsys: Any, case: Path) -> None:
    code, _, errors = run(capsys, "attack", "--data", case / "data", "--side", "moving")
    assert code == 2
    assert "side: wanted none for a denoiser, it is of task registration, got 'moving'" in errors
    code, _, errors = run(capsys, "attack", "--data", case / "data", "--task", "net.py:f")
    assert code == 2
    assert "task: wanted none for denoising-pgd, it is of miga" in errors
