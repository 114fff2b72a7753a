"""images: finding, reading and writing image files. The oracle for pixels is numpy on arrays written by hand."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fastattack.files import write_atomic
from fastattack.images import find_images, read_image, save_png

ASSETS = Path(__file__).resolve().parents[1] / "fastattack" / "assets"
RNG = np.random.default_rng(0)
Array = npt.NDArray[np.integer]


def png16(path: Path, values: Array, color_type: int) -> Path:
    """A 16-bit PNG [H, W, bands], encoded here: PIL cannot write one in color."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", w, h, 16, color_type, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def tiff16_rgb(path: Path, values: Array, order: str) -> Path:
    """An uncompressed 16-bit RGB TIFF [H, W, 3] of one strip; order "<" or ">"."""
    h, w, _ = values.shape
    data = values.astype(order + "u2").tobytes()
    bits_at = 8 + 2 + 9 * 12 + 4
    entries = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 3, bits_at), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, bits_at + 6), (277, 3, 1, 3), (278, 4, 1, h), (279, 4, 1, len(data))]
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        inline = kind == 3 and count == 1
        out += struct.pack(order + ("HHIHxx" if inline else "HHII"), tag, kind, count, value)
    path.write_bytes(out + struct.pack(order + "I", 0) + struct.pack(order + "HHH", 16, 16, 16) + data)
    return path


def luma(color: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.299 * color[..., 0] + 0.587 * color[..., 1] + 0.114 * color[..., 2]


# ---- find_images


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.tiff", "d.webp", "e.pgm", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    names = ["a.JPG", "b.png", "c.tiff", "d.webp", "e.pgm"]
    assert [p.name for p in find_images(tmp_path)] == names
    assert find_images(str(tmp_path)) == find_images([tmp_path, tmp_path / "b.png"])
    assert find_images([tmp_path / "c.tiff", tmp_path / "b.png"]) == [tmp_path / "b.png", tmp_path / "c.tiff"]


def test_find_images_raises(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=tmp_path.name):
        find_images(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt"):
        find_images([tmp_path / "notes.txt"])
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        find_images([tmp_path / "absent.png"])
    with pytest.raises(ValueError, match="no image"):
        find_images([])


# ---- read_image, 8 bits


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_read_color(tmp_path: Path, suffix: str) -> None:
    a = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(a).save(path, lossless=True)  # only WebP knows the option
    color = read_image(path, 3)
    assert color.shape == (3, 5, 7)
    assert color.dtype == torch.float32
    assert color.is_contiguous()
    np.testing.assert_allclose(color.numpy(), a.transpose(2, 0, 1) / 255, rtol=1e-7)
    gray = read_image(path, 1)
    assert gray.shape == (1, 5, 7)
    assert np.abs(gray.numpy()[0] * 255 - luma(a.astype(np.float64))).max() <= 0.51  # rounded to 8 bits
    np.testing.assert_array_equal(gray.numpy()[0], np.asarray(Image.fromarray(a).convert("L"), np.float32) / 255)


@pytest.mark.parametrize("suffix", ["png", "pgm", "bmp"])
def test_read_gray(tmp_path: Path, suffix: str) -> None:
    a = RNG.integers(0, 256, (4, 9), dtype=np.uint8)
    Image.fromarray(a).save(tmp_path / f"x.{suffix}")
    for channels in (1, 3):
        image = read_image(str(tmp_path / f"x.{suffix}"), channels)
        assert image.is_contiguous()
        np.testing.assert_allclose(image.numpy(), np.broadcast_to(a / 255, (channels, 4, 9)), rtol=1e-7)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    a = RNG.integers(0, 256, (4, 5, 4), dtype=np.uint8)
    a[0, :, 3] = 0
    Image.fromarray(a, "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(a[..., :2], "LA").save(tmp_path / "la.png")
    np.testing.assert_allclose(read_image(tmp_path / "rgba.png", 3).numpy(), a[..., :3].transpose(2, 0, 1) / 255, 1e-7)
    np.testing.assert_allclose(read_image(tmp_path / "la.png", 1).numpy()[0], a[..., 0] / 255, 1e-7)


def test_palette_and_bilevel(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "p.png")
    expected = np.array([[[10, 200], [200, 10]], [[20, 100], [100, 20]], [[30, 50], [50, 30]]]) / 255
    np.testing.assert_allclose(read_image(tmp_path / "p.png", 3).numpy(), expected, rtol=1e-7)
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png", 1).tolist() == [[[0.0, 1.0]]]


# ---- read_image, 16 bits


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_gray(tmp_path: Path, suffix: str) -> None:
    a = RNG.integers(0, 65536, (6, 5), dtype=np.uint16)
    a[0, 0], a[0, 1] = 0, 65535
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 5 6 65535\n" + a.astype(">u2").tobytes())
    else:
        Image.fromarray(a).save(path)
    for channels in (1, 3):
        got = read_image(path, channels).numpy()
        np.testing.assert_allclose(got, np.broadcast_to(a / 65535, (channels, 6, 5)), rtol=1e-7)


@pytest.mark.parametrize("kind", ["png rgb", "png rgba", "tiff <", "tiff >"])
def test_sixteen_bit_color(tmp_path: Path, kind: str) -> None:
    a = RNG.integers(0, 65536, (6, 5, 4 if kind == "png rgba" else 3), dtype=np.uint16)
    a[0, 0], a[0, 1] = 0, 65535
    if kind.startswith("png"):
        path = png16(tmp_path / "x.png", a, 6 if a.shape[2] == 4 else 2)
    else:
        path = tiff16_rgb(tmp_path / "x.tif", a, kind[-1])
    expected = a[..., :3] / 65535
    np.testing.assert_allclose(read_image(path, 3).numpy(), expected.transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(read_image(path, 1).numpy()[0], luma(expected), rtol=1e-6)


# ---- read_image, errors


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"broken_one.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match="broken_one"):
        read_image(path, 3)


def test_read_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png", 1)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png"):
        read_image(tmp_path / "text.png", 1)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif.*'F'"):
        read_image(tmp_path / "float.tif", 1)
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "int.tif")
    with pytest.raises(ValueError, match=r"int\.tif.*'I'"):
        read_image(tmp_path / "int.tif", 1)
    with pytest.raises(ValueError, match="channels"):
        read_image(tmp_path / "text.png", 2)


# ---- writing


def test_save_png_rounds_and_clips(tmp_path: Path) -> None:
    image = torch.tensor([[[-0.3, 0.0, 0.4 / 255, 0.6 / 255, 99.51 / 255, 254.4 / 255, 254.6 / 255, 1.0, 7.0]]])
    save_png(tmp_path / "new" / "x.png", image)
    got = np.asarray(Image.open(tmp_path / "new" / "x.png"))
    assert got.dtype == np.uint8
    assert got.tolist() == [[0, 0, 0, 1, 100, 254, 255, 255, 255]]


@pytest.mark.parametrize("shape", [(256,), (16, 16), (1, 16, 16), (3, 16, 16)])
def test_save_png_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) == 1:  # every level, exactly
        image = (torch.arange(256) / 255).reshape(1, 16, 16)
    else:
        image = torch.from_numpy(RNG.integers(0, 256, shape)).float() / 255
    save_png(tmp_path / "x.png", image.requires_grad_())
    back = read_image(tmp_path / "x.png", 3 if shape[0] == 3 else 1)
    torch.testing.assert_close(back, image.detach().reshape(back.shape), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(7, 5), (1, 7, 5), (3, 7, 5), (1, 256, 256)])
def test_sixteen_bits_come_back_to_the_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Also through PIL alone for gray, whose decoder is not ours."""
    levels = RNG.integers(0, 65536, shape)
    levels.flat[:2] = 0, 65535
    if levels.size == 65536:
        levels = np.arange(65536).reshape(shape)
    image = levels.astype(np.float32) / np.float32(65535)
    save_png(tmp_path / "x.png", torch.from_numpy(image), bits=16)
    back = read_image(tmp_path / "x.png", 3 if shape[0] == 3 else 1).numpy()
    np.testing.assert_array_equal(back, image.reshape(back.shape))
    if shape[0] != 3:
        with Image.open(tmp_path / "x.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), levels.reshape(shape[-2:]))


def test_sixteen_bits_round_and_clip(tmp_path: Path) -> None:
    image = torch.tensor([[-0.3, 0.4 / 65535, 0.6 / 65535, 1.0, 7.0]])
    save_png(tmp_path / "x.png", image, bits=16)
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == [[0, 0, 1, 65535, 65535]]
    for bits in (1, 12, 32, True, "8"):
        with pytest.raises(ValueError, match="bits: wanted 8 or 16"):
            save_png(tmp_path / "y.png", image, bits=bits)
    assert not (tmp_path / "y.png").exists()


def test_save_png_raises(tmp_path: Path) -> None:
    good = torch.zeros(1, 4, 4)
    nan = good.clone()
    nan[0, 0, 0] = float("nan")
    bad: list[tuple[str, torch.Tensor, str]] = [
        ("x.jpg", good, r"\.png"),
        ("x.png", good[None], "expected a float image"),
        ("x.png", good.expand(2, 4, 4), "expected a float image"),
        ("x.png", good.int(), "expected a float image"),
        ("x.png", nan, "NaN"),
    ]
    for name, image, message in bad:
        with pytest.raises(ValueError, match=message):
            save_png(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.bin"
    write_atomic(path, b"one")
    write_atomic(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o600 == 0o600

    def fails(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomic(path, fails)
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


# ---- the packaged images


def test_packaged_images() -> None:
    files = find_images(ASSETS / "images")
    assert [p.stem for p in files] == ["astronaut", "camera", "chelsea", "coffee"]
    assert sum(p.stat().st_size for p in files) < 500_000
    for path in files:
        image = read_image(path, 3)
        assert min(image.shape[1:]) >= 192
        assert 0.05 < image.std() < 0.5
        assert path.stem in (ASSETS / "README.md").read_text()
