"""Files of images, labels and fields: what is written is what nibabel and PIL read, and the other way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastattack.images import save_png
from fastattack.registration.volumes import (
    normalise,
    read_labels,
    read_pair,
    read_volume,
    write_field,
    write_volume,
)

nibabel = pytest.importorskip("nibabel")
GRID = np.random.default_rng(0).uniform(0, 900, (5, 6, 7)).astype(np.float32)
AFFINE = np.array([[2.0, 0, 0, -9], [0, 3.0, 0, 4], [0, 0, 1.5, 1], [0, 0, 0, 1]])


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_is_read_as_it_is_stored(tmp_path: Path, name: str) -> None:
    found = read_volume(save(tmp_path / name, GRID))
    assert found.data.dtype == torch.float32
    np.testing.assert_array_equal(found.data.numpy(), GRID)
    assert found.spacing == (2.0, 3.0, 1.5)
    np.testing.assert_array_equal(found.affine, AFFINE)


def test_axes_are_turned_to_canonical_ones(tmp_path: Path) -> None:
    turned = np.array([[0, 0, -2.0, 3], [1.5, 0, 0, 4], [0, 3.0, 0, 1], [0, 0, 0, 1]])  # axes: y, z, -x
    found = read_volume(save(tmp_path / "a.nii", GRID, turned))
    np.testing.assert_array_equal(found.data.numpy(), GRID.transpose(2, 0, 1)[::-1])
    assert found.spacing == (2.0, 1.5, 3.0)


def test_an_axis_of_one_voxel_is_dropped_and_written_again(tmp_path: Path) -> None:
    found = read_volume(save(tmp_path / "a.nii", GRID[:, :1]))
    assert found.data.shape == (5, 7)
    assert found.spacing == (2.0, 1.5)
    write_volume(tmp_path / "b.nii.gz", found.data, like=found)
    again = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(again.get_fdata(), GRID[:, :1])
    np.testing.assert_array_equal(again.affine, AFFINE)
    field = torch.arange(70.0).view(2, 5, 7)
    write_field(tmp_path / "f.nii", field, like=found)
    stored = nibabel.load(tmp_path / "f.nii")
    assert stored.shape == (5, 1, 7, 1, 2)
    np.testing.assert_array_equal(stored.get_fdata()[:, 0, :, 0, 1], field[1].numpy() * 1.5)


def test_a_file_of_two_axes(tmp_path: Path) -> None:
    found = read_volume(save(tmp_path / "a.nii", GRID[:, :, 0]))
    np.testing.assert_array_equal(found.data.numpy(), GRID[:, :, 0])
    assert found.spacing == (2.0, 3.0)


def test_a_field_is_vectors_in_mm(tmp_path: Path) -> None:
    like = read_volume(save(tmp_path / "a.nii", GRID))
    field = torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    write_field(tmp_path / "f.nii.gz", field, like=like)
    stored = nibabel.load(tmp_path / "f.nii.gz")
    assert stored.shape == (5, 6, 7, 1, 3)
    assert stored.header["intent_code"] == 1007
    for k, step in enumerate((2.0, 3.0, 1.5)):
        np.testing.assert_allclose(stored.get_fdata()[..., 0, k], field[k].numpy() * step, rtol=1e-6)


def test_labels(tmp_path: Path) -> None:
    classes = (GRID // 300).astype(np.int16)
    found = read_labels(save(tmp_path / "l.nii", classes))
    assert found.data.dtype == torch.int64
    np.testing.assert_array_equal(found.data.numpy(), classes)
    write_volume(tmp_path / "w.nii", found.data, like=found)
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "w.nii").dataobj), classes)
    with pytest.raises(ValueError, match=r"a\.nii: wanted labels, whole numbers >= 0"):
        read_labels(save(tmp_path / "a.nii", GRID))
    with pytest.raises(ValueError, match="shape"):
        read_labels(tmp_path / "l.nii", like=read_volume(save(tmp_path / "b.nii", GRID[:4])))
    save_png(tmp_path / "l.png", torch.tensor([[0, 1], [2, 255]]) / 255)
    assert read_labels(tmp_path / "l.png").data.tolist() == [[0, 1], [2, 255]]


def test_lengths_are_mm_of_the_affine(tmp_path: Path) -> None:
    for unit, factor in (("mm", 1), ("unknown", 1), ("micron", 1e-3), ("meter", 1e3)):
        for data in (GRID, GRID[:, :, 0]):
            stored = nibabel.Nifti1Image(data, AFFINE)
            stored.header.set_xyzt_units(unit)
            nibabel.save(stored, tmp_path / "a.nii")
            found = read_volume(tmp_path / "a.nii")
            assert found.spacing == pytest.approx(np.multiply((2.0, 3.0, 1.5)[: data.ndim], factor))
            np.testing.assert_allclose(found.affine[:3], AFFINE[:3] * factor)
    raw = bytearray(save(tmp_path / "b.nii", GRID).read_bytes())
    raw[80:92] = np.ones(3, "<f4").tobytes()  # pixdim, beside an sform of 2 x 3 x 1.5
    (tmp_path / "b.nii").write_bytes(raw)
    assert nibabel.load(tmp_path / "b.nii").header.get_zooms() == (1, 1, 1)
    assert read_volume(tmp_path / "b.nii").spacing == (2.0, 3.0, 1.5)


def test_labels_of_nifti_are_exact_and_lie_on_their_image(tmp_path: Path) -> None:
    classes = np.full((4, 5, 6), 2**24 + 1, np.int32)
    image = read_volume(save(tmp_path / "i.nii", GRID[:4, :5, :6]))
    found = read_labels(save(tmp_path / "l.nii", classes), like=image)
    assert found.data.unique().tolist() == [2**24 + 1]
    write_volume(tmp_path / "w.nii", found.data * 1024, like=found)
    assert read_labels(tmp_path / "w.nii").data.unique().tolist() == [2**34 + 2**10]
    assert read_labels(save(tmp_path / "f.nii", classes.astype(np.float64))).data.unique().tolist() == [2**24 + 1]
    moved = AFFINE.copy()
    moved[0, 3] += 100
    with pytest.raises(ValueError, match=r"far\.nii and .*i\.nii lie at different places"):
        read_labels(save(tmp_path / "far.nii", classes, moved), like=image)


def test_labels_of_image_files_are_what_is_stored(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 3]], np.uint8)
    palette = Image.fromarray(indices, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png").data, indices)
    Image.fromarray(np.array([[0, 300], [65535, 1]], np.uint16)).save(tmp_path / "w.png")
    assert read_labels(tmp_path / "w.png").data.tolist() == [[0, 300], [65535, 1]]
    wide = read_labels(tmp_path / "w.png")
    for values in (wide.data, wide.data.clamp(max=255)):
        write_volume(tmp_path / "again.png", values, like=wide)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), values)
    with pytest.raises(ValueError, match="from 0 to 65535 in a PNG, got 1 to 65536"):
        write_volume(tmp_path / "again.png", wide.data + 1, like=wide)
    palette.convert("RGB").save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c\.png: wanted labels in a gray image .* 'RGB'"):
        read_labels(tmp_path / "c.png")


def test_nifti_beside_an_image_file_is_no_pair(tmp_path: Path) -> None:
    a = save(tmp_path / "a.nii", GRID[..., 0])
    save_png(tmp_path / "b.png", torch.rand(5, 6))
    with pytest.raises(ValueError, match=r"a\.nii\) is NIfTI and fixed \(.*b\.png\) is an image file"):
        read_pair(a, tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is an image file and .*a\.nii is NIfTI"):
        read_labels(tmp_path / "b.png", like=read_volume(a))


def test_pair_of_images(tmp_path: Path) -> None:
    a, b = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0))
    save_png(tmp_path / "a.png", a)
    save_png(tmp_path / "b.png", b)
    found = read_pair(tmp_path / "a.png", tmp_path / "b.png")
    assert found.pair.shape == (1, 2, 6, 8)
    torch.testing.assert_close(found.pair[0], torch.stack([a, b]), atol=0.5 / 255 + 1e-6, rtol=0)
    write_volume(tmp_path / "w.png", found.fixed.data, like=found.fixed)
    assert torch.equal(read_volume(tmp_path / "w.png").data, found.pair[0, 1])
    write_field(tmp_path / "f.npz", torch.ones(2, 6, 8), like=found.fixed)
    with np.load(tmp_path / "f.npz") as stored:
        assert stored["field"].shape == (2, 6, 8)
        assert stored["spacing"].tolist() == [1, 1]


def test_pair_of_nifti_is_normalised(tmp_path: Path) -> None:
    paths = save(tmp_path / "a.nii", GRID), save(tmp_path / "b.nii", 5 * GRID + 7)
    found = read_pair(*paths, percentiles=(10, 90))
    low, high = np.percentile(GRID.astype(np.float64), (10, 90))
    expected = torch.tensor(((GRID - low) / (high - low)).clip(0, 1)).float()
    torch.testing.assert_close(found.pair[0, 0], expected)
    torch.testing.assert_close(found.pair[0, 1], expected, atol=1e-5, rtol=0)


def test_pairs_that_do_not_fit(tmp_path: Path) -> None:
    a = save(tmp_path / "a.nii", GRID)
    with pytest.raises(ValueError, match=r"a\.nii\) has shape \(5, 6, 7\) and fixed \(.*b\.nii\) \(4, 6, 7\)"):
        read_pair(a, save(tmp_path / "b.nii", GRID[:4]))
    with pytest.raises(ValueError, match=r"2 x 3 x 1\.5 mm and .*c\.nii\) of 2 x 3 x 1\.6 mm"):
        read_pair(a, save(tmp_path / "c.nii", GRID, AFFINE + np.diag([0, 0, 0.1, 0])))
    with pytest.raises(ValueError, match=r"3D and .* is 2D"):
        read_pair(a, save(tmp_path / "d.nii", GRID[..., :1]))
    moved = AFFINE.copy()
    moved[:3, 3] += 20
    read_pair(a, save(tmp_path / "e.nii", GRID, moved))


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.nii"):
        read_volume(tmp_path / "none.nii")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match=r"x\.txt: wanted \.nii, \.nii\.gz or an image"):
        read_volume(tmp_path / "x.txt")
    for name in ("x.nii", "x.nii.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b no image")
        with pytest.raises(ValueError, match="cannot be read as NIfTI"):
            read_volume(tmp_path / name)
    with pytest.raises(ValueError, match="2D or 3D"):
        read_volume(save(tmp_path / "four.nii", np.zeros((3, 3, 3, 2), np.float32)))
    with pytest.raises(ValueError, match="NaN"):
        read_volume(save(tmp_path / "nan.nii", np.full((3, 3, 3), np.nan, np.float32)))
    flat = read_volume(save(tmp_path / "flat.nii", np.ones((3, 3, 3), np.float32)))
    with pytest.raises(ValueError, match="no contrast"):
        normalise(flat)
    with pytest.raises(ValueError, match="percentiles"):
        normalise(flat, (50, 50))


def test_what_was_there_stays(tmp_path: Path) -> None:
    like = read_volume(save(tmp_path / "a.nii", GRID))
    before = (tmp_path / "a.nii").read_bytes()
    with pytest.raises(ValueError, match="wanted data"):
        write_volume(tmp_path / "a.nii", like.data[:2], like=like)
    with pytest.raises(ValueError, match="wanted a field"):
        write_field(tmp_path / "a.nii", torch.zeros(3, 2, 2, 2), like=like)
    with pytest.raises(ValueError, match=r"ends in \.nii"):
        write_volume(tmp_path / "a.png", like.data, like=like)
    assert (tmp_path / "a.nii").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]
