"""Registering: the function, its pictures, and `fastattack register` from files to its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fastattack as fa
from fastattack import registration as r
from fastattack.images import read_image, save_png
from fastattack.models import llm_morph
from fastattack.registration.opening import open_registration
from fastattack.registration.pictures import beside, middle_fields, middle_slices
from tests.command import run

SIZE = (18, 24)

MODELS = """
import torch


def right(pair, by=3.0):
    # what lies three columns to the right comes here
    field = torch.zeros(len(pair), pair.dim() - 2, *pair.shape[2:])
    field[:, -1] = by
    return field


def folding(pair):
    # the columns 6, 7, 8, 9 come in the reverse order: 9, 8, 7, 6
    field = torch.zeros(len(pair), pair.dim() - 2, *pair.shape[2:])
    field[:, -1, ..., 6:10] = torch.tensor([3.0, 1.0, -1.0, -3.0])
    return field


def shift():
    return right


def fold():
    return folding


def flat():
    return lambda pair: torch.zeros(len(pair), 2, 4, 4)


def lost():
    return lambda pair: right(pair) * float("nan")
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


def image(seed: int, size: tuple[int, ...] = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(size, generator=generator) * 255).round() / 255


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two gray PNG files of one size."""
    for name, seed in (("moving", 1), ("fixed", 2)):
        save_png(tmp_path / f"{name}.png", image(seed))
    return tmp_path / "moving.png", tmp_path / "fixed.png"


def register(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """(report.json, stdout)"""
    code, told, err = run(capsys, "register", *arguments, "--out", out)
    assert code == 0, err
    return json.loads((out / "report.json").read_text()), told


# -- the command ---------------------------------------------------------------------------------------------------


def test_png_files_are_registered_and_the_folder_holds_what_the_model_gave(
    files: tuple[Path, Path], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    labels = (image(3) * 3).long()
    for name, value in (("lm", labels), ("lf", labels.roll(-3, 1))):
        Image.fromarray(value.numpy().astype(np.uint8)).save(tmp_path / f"{name}.png")
    report, told = register(
        capsys, out, *files, "--model", f"{models}:shift", "--labels-moving", tmp_path / "lm.png",
        "--labels-fixed", tmp_path / "lf.png",
    )  # fmt: skip
    columns = np.minimum(np.arange(SIZE[1]) + 3, SIZE[1] - 1)  # the last column stands for what lies beyond
    assert torch.equal(read_image(out / "warped.png", 1)[0], image(1)[:, columns])
    assert np.array_equal(np.array(Image.open(out / "labels.png")), labels.numpy()[:, columns])
    with np.load(out / "field.npz") as stored:
        assert np.array_equal(stored["field"], np.stack([np.zeros(SIZE), np.full(SIZE, 3.0)]))
    assert report["largest_displacement"] == report["mean_displacement"] == 3.0
    assert report["unit"] == "pixels"
    assert report["measures"]["folded"] == {"before": 0.0, "after": 0.0}
    assert report["measures"]["least_determinant"]["after"] == 1.0
    assert report["folds"] is False
    assert "folds" not in told
    dice = report["measures"]["dice"]
    assert dice["after"] > 0.85 > 0.5 > dice["before"]  # all columns but the last three agree
    assert {p.name for p in out.iterdir()} == {
        "report.json", "warped.png", "labels.png", "field.npz", "checkerboard.png", "checkerboard_before.png",
        "grid.png", "determinant.png",
    }  # fmt: skip


def test_a_field_that_folds_is_told_everywhere(
    files: tuple[Path, Path], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    report, told = register(capsys, out, *files, "--model", f"{models}:fold")
    # slopes of the columns 5|6 .. 9|10: 3, -2, -2, -2, 3: the columns 6 to 9 have a neighbour on the other side
    assert report["measures"]["folded"]["after"] == pytest.approx(4 / SIZE[1])
    assert report["measures"]["least_determinant"]["after"] == pytest.approx(-1.0)
    assert report["folds"] is True
    assert f"the field folds at {4 / SIZE[1]:.2%} of the voxels" in told
    red = read_image(out / "determinant.png", 3)[:, 5].T
    zoom = len(red) // SIZE[1]
    is_red = (red[:, 0] > 0.8) & (red[:, 1] < 0.2)
    assert is_red.nonzero().flatten().tolist() == list(range(6 * zoom, 10 * zoom))


@pytest.mark.parametrize("size", [(7, 9, 8), (12, 10, 1)])
def test_nifti_keeps_grid_and_grey_values_and_tells_the_field_in_millimetres(
    size: tuple[int, int, int], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[2.0, 0, 0, -5], [0, 1.5, 0, 7], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    grey = {name: (900 * image(seed, size) - 100).numpy() for name, seed in (("moving", 1), ("fixed", 2))}
    for name, data in grey.items():
        nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    report, _ = register(
        capsys, out, tmp_path / "moving.nii.gz", tmp_path / "fixed.nii.gz", "--model", f"{models}:shift"
    )
    axis, step = (2, 3.0) if size[2] > 1 else (1, 1.5)  # an axis of one voxel is none
    warped = nibabel.load(out / "warped.nii.gz")
    assert np.array_equal(warped.affine, affine)
    wanted = grey["moving"].take(np.minimum(np.arange(size[axis]) + 3, size[axis] - 1), axis)
    assert np.allclose(warped.get_fdata(), wanted, atol=1e-3)
    field = nibabel.load(out / "field.nii.gz")
    assert field.header.get_intent()[0] == "vector"
    assert np.allclose(field.get_fdata()[..., 0, -1], 3 * step)
    assert report["unit"] == "mm"
    assert report["largest_displacement"] == pytest.approx(3 * step)
    assert report["config"]["same_place"] is True
    affine[0, 3] += 4
    nibabel.save(nibabel.Nifti1Image(grey["moving"], affine), tmp_path / "elsewhere.nii.gz")
    elsewhere, told = register(
        capsys, out, tmp_path / "elsewhere.nii.gz", tmp_path / "fixed.nii.gz", "--model", f"{models}:shift",
        "--overwrite",
    )  # fmt: skip
    assert elsewhere["config"]["same_place"] is False
    assert "the two grids lie at different places" in told
    assert report["config"]["spacing"] == [2.0, 1.5, 3.0][: 3 if size[2] > 1 else 2]


def test_a_saved_net_gives_in_the_command_what_it_gives_in_python(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = fa.models.LLMMorph(width=4, levels=2, blocks=1, heads=2).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.heads.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    llm_morph.save(net, tmp_path / "net.safetensors")
    report, told = register(capsys, tmp_path / "out", *files, "--model", f"llm-morph:{tmp_path / 'net.safetensors'}")
    with torch.no_grad():
        field = net(torch.stack([image(1), image(2)])[None])[0]
    with np.load(tmp_path / "out" / "field.npz") as stored:
        assert np.allclose(stored["field"], field.numpy(), atol=1e-6)
    assert report["largest_displacement"] > 0.01
    assert "by net" in told


def test_a_classical_method_brings_a_moved_image_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("SimpleITK")
    axes = torch.meshgrid(torch.arange(48.0), torch.arange(56.0), indexing="ij")
    fixed = torch.exp(-((axes[0] - 20) ** 2 / 60 + (axes[1] - 24) ** 2 / 90)) / 2 + torch.sin(axes[1] / 5) ** 2 / 4
    save_png(tmp_path / "fixed.png", fixed)
    save_png(tmp_path / "moving.png", 1 - fixed.roll(2, 1))  # p of the fixed image is p + (0, 2) here, dark for bright
    report, told = register(capsys, tmp_path / "out", tmp_path / "moving.png", tmp_path / "fixed.png")
    with np.load(tmp_path / "out" / "field.npz") as stored:
        inner = stored["field"][:, 10:32, 10:40]
    assert abs(inner[1].mean() - 2) < 0.5
    assert abs(inner[0].mean()) < 0.5
    assert report["measures"]["nmi"]["after"] < report["measures"]["nmi"]["before"]
    assert "by bspline" in told


def test_what_does_not_fit_is_one_line_and_leaves_no_folder(
    files: tuple[Path, Path], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(tmp_path / "small.png", image(3, (10, 24)))
    llm_morph.save(fa.models.LLMMorph(dims=3, width=4, levels=2), tmp_path / "deep.safetensors")
    shift, out = f"{models}:shift", tmp_path / "out"
    for arguments, error in (
        ((files[0], tmp_path / "small.png", "--model", shift), r"\(18, 24\).*\(10, 24\)"),
        ((files[0], tmp_path / "none.png", "--model", shift), "none.png: no such image file"),
        ((*files, "--model", f"llm-morph:{tmp_path / 'deep.safetensors'}"), "model: wanted one for 2D images.*3D"),
        ((*files, "--model", "llm-morph"), "wanted llm-morph:FILE"),
        ((*files, "--model", "llm-morph:none.safetensors"), "no such file"),
        ((*files, "--model", "dncnn"), "model: wanted .*llm-morph:FILE, bspline or syn.*got 'dncnn'"),
        ((*files, "--model", shift, "--language", "x"), "language: wanted with llm-morph"),
        ((*files, "--model", f"{models}:flat"), r"wanted a field \(1, 2, 18, 24\) for pairs .*, got \(1, 2, 4, 4\)"),
        ((*files, "--model", f"{models}:lost"), "wanted finite displacements"),
        ((*files, "--model", shift, "--labels-moving", tmp_path / "small.png"), r"small.png"),
        ((*files, "--model", shift, "--labels-fixed", files[1]), "labels-moving: wanted a file beside labels-fixed"),
    ):
        code, _, err = run(capsys, "register", *arguments, "--out", out)
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        assert re.search(error, err), err
        assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_an_earlier_registration_stays_unless_it_shall_go(
    files: tuple[Path, Path], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    register(capsys, out, *files, "--model", f"{models}:shift")
    before = (out / "field.npz").read_bytes()
    code, _, err = run(capsys, "register", *files, "--model", f"{models}:fold", "--out", out)
    assert code == 2
    assert "--overwrite" in err
    code, _, err = run(capsys, "register", *files, "--model", f"{models}:lost", "--out", out, "--overwrite")
    assert code == 2
    assert (out / "field.npz").read_bytes() == before
    report, _ = register(capsys, out, *files, "--model", f"{models}:fold", "--overwrite")
    assert report["folds"] is True


# -- the function --------------------------------------------------------------------------------------------------


class Shift(nn.Module):
    """Has a weight, a mode and batch norm, so that whoever does not leave it as found is found out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.by = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.dims = 2

    def forward(self, pair: Tensor) -> Tensor:
        assert not self.training
        return 0 * self.norm(pair) + self.by.view(1, 2, 1, 1)


def test_register_tells_all_and_leaves_the_model_as_found() -> None:
    moving, fixed = torch.stack([image(1), image(2)])[:, None], torch.stack([image(3), image(4)])[:, None]
    labels = (moving * 3).long()
    model = Shift().train()
    found = r.register(model, moving, fixed, spacing=(1.0, 2.0), labels_moving=labels, labels_fixed=labels.roll(-1, 3))
    assert model.training
    assert model.by.requires_grad
    assert torch.equal(model.norm.num_batches_tracked, torch.tensor(0))
    assert torch.allclose(found.warped[..., :-1], moving[..., 1:], atol=1e-5)
    assert found.labels_warped is not None
    assert torch.equal(found.labels_warped[..., :-1], labels[..., 1:])
    assert torch.equal(found.determinant, torch.ones(2, *SIZE))
    assert torch.equal(found.measures.folded, torch.zeros(2, dtype=torch.float64))
    assert found.measures.tre is None
    assert (found.measures.dice > 0.9).all()
    assert (found.measures_before.dice < 0.6).all()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m, f: (m[:, 0], f), r"moving: wanted \(B, 1, H, W\)"),
        (lambda m, f: (m, f[..., 1:]), r"moving: wanted the shape \(1, 1, 18, 23\)"),
        (lambda m, f: (m * 255, f), r"moving: wanted grey values in \[0, 1\]"),
        (lambda m, f: (m, f * float("nan")), r"fixed: wanted grey values in \[0, 1\]"),
        (lambda m, f: ((m * 255).long(), f), "moving: wanted a floating tensor"),
        (lambda m, f: (m[..., None], f[..., None]), "model: wanted one for 3D images.*2D"),
    ],
)
def test_images_that_cannot_be_registered_are_named(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        r.register(Shift(), *change(image(1)[None, None], image(2)[None, None]))


def test_labels_of_another_shape_are_refused() -> None:
    m, f = image(1)[None, None], image(2)[None, None]
    with pytest.raises(ValueError, match="labels_fixed"):
        r.register(Shift(), m, f, labels_fixed=torch.zeros(1, 1, 4, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="labels_moving: wanted those of the moving image beside labels_fixed"):
        r.register(Shift(), m, f, labels_fixed=torch.zeros(m.shape, dtype=torch.long))
    alone = r.register(Shift(), m, f, labels_moving=torch.zeros(m.shape, dtype=torch.long))
    assert alone.labels_warped is not None


def test_a_label_before_the_model_is_what_it_is_called(models: Path) -> None:
    found = open_registration(f"mine={models}:shift", dims=2)
    assert (found.label, found.spec, found.dims) == ("mine", f"mine={models}:shift", None)
    assert open_registration(f"{models}:shift", dims=3).label == "models.shift"
    for label in ("exported", "python2", "torchscripts"):  # begin as kinds of programs do
        assert open_registration(f"{label}=syn", dims=2).label == label


# -- pictures ------------------------------------------------------------------------------------------------------


def test_a_checkerboard_has_squares_of_both_in_turn() -> None:
    a, b = torch.zeros(8, 12), torch.ones(8, 12)
    found = r.checkerboard(a, b, tiles=4)
    wanted = np.array([[(i // 3 + k // 3) % 2 for k in range(12)] for i in range(8)], np.float32)
    assert np.array_equal(found.numpy(), np.stack([wanted] * 3))
    for wrong in ((a, b[1:]), (a[None], b[None])):
        with pytest.raises(ValueError, match="a: wanted"):
            r.checkerboard(*wrong)


def test_lines_of_the_grid_lie_where_the_field_takes_them_from() -> None:
    field = torch.zeros(2, 32, 32)
    still = r.grid_picture(field, step=8)
    dark = still.mean(0) < 0.5
    assert dark[:, 0].all()
    assert dark[4, [0, 8, 16, 24]].all()
    assert dark[4].sum() == 4
    field[1] = 3.0  # what lies at 8 comes to 5
    moved = r.grid_picture(field, step=8).mean(0) < 0.5
    assert moved[4].nonzero().flatten().tolist() == [5, 13, 21, 29]
    red = torch.zeros(32, 32, dtype=torch.bool)
    red[10:12, 20] = True
    picture = r.grid_picture(torch.zeros(2, 32, 32), step=8, folds=red)
    assert torch.equal(picture[0] - picture[1] > 0.3, red)


def test_of_a_volume_the_slices_through_its_middle_are_shown() -> None:
    volume = torch.arange(4 * 6 * 8).view(4, 6, 8).float()
    assert [tuple(s.shape) for s in middle_slices(volume)] == [(6, 8), (4, 8), (4, 6)]
    assert torch.equal(middle_slices(volume)[1], volume[:, 3])
    field = torch.stack([volume, 10 + volume, 20 + volume])
    assert torch.equal(middle_fields(field)[1], torch.stack([field[0, :, 3], field[2, :, 3]]))
    joined = beside([torch.zeros(3, 6, 8), torch.zeros(3, 4, 8)], upright=True)
    assert joined.shape == (3, 8, 6 + 4 + 4)
    assert joined[:, :, 6:10].eq(1).all()
