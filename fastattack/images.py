"""Image files: find them, read them as float tensors, and write PNG files that are either whole or not there."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from .files import write_atomic

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's mode "L"
Pixels = npt.NDArray[Any]

_NATIVE_SWAPPED = "16B" if sys.byteorder == "little" else "16L"
_OTHER_ORDER = {  # PIL's raw modes with 16 bits a band -> the one that takes the other byte of each value
    f"{bands};{order}": f"{bands};{other}"
    for bands in ("RGB", "RGBA")
    for order, other in (("16B", "16L"), ("16L", "16B"), ("16N", _NATIVE_SWAPPED))
}


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Image files among `paths`: files as named, folders by their direct contents; sorted, without repeats.

    Known: png, jpg, jpeg, bmp, tif, tiff, webp, pgm, ppm. Hidden files in a folder are left out.

    Raises:
        FileNotFoundError: a path does not exist; the message names it.
        ValueError: a folder without images, a file of another kind, or no path at all.
    """
    found: set[Path] = set()
    for item in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(item)
        if path.is_dir():
            inside = {p for p in path.iterdir() if _is_image(p) and not p.name.startswith(".")}
            if not inside:
                raise ValueError(f"{path}: no images in this folder ({_known()})")
            found |= inside
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        elif not _is_image(path):
            raise ValueError(f"{path}: not a known kind of image ({_known()})")
        else:
            found.add(path)
    if not found:
        raise ValueError("no image paths given")
    return sorted(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _known() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


def read_image(path: str | Path, channels: int) -> Tensor:
    """Read one image as [channels, H, W] float32 in [0, 1].

    8-bit values are divided by 255, 16-bit values by 65535. Color becomes gray by ITU-R 601 luma (8-bit files: PIL's
    "L", rounded to 8 bits as there); gray becomes RGB by repetition. An alpha channel is dropped, the color values
    stay as stored. The first frame is taken, and an EXIF rotation is not applied. Of 16-bit PPM and 16-bit gray PNG
    with alpha, PIL gives the upper 8 bits only.

    Args:
        path: image file.
        channels: 1 or 3.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read as an image, is truncated, or has an unsupported pixel type (32-bit
            integer, floating point); the message names it.
    """
    path = Path(path)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    try:
        with Image.open(path) as image:
            pixels = _decode(image, path, channels)
    except (PermissionError, MemoryError):
        raise
    except Exception as exc:  # PIL raises many kinds for damaged files: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{path}: cannot be read as an image: {exc}") from exc
    tensor = torch.from_numpy(pixels)
    tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    return tensor.expand(channels, -1, -1).contiguous()


def stored_channels(path: str | Path) -> int:
    """1 where the file holds a gray image, else 3.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as an image; the message names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    try:
        with Image.open(path) as image:
            mode = image.mode
    except (PermissionError, MemoryError):
        raise
    except Exception as exc:
        raise ValueError(f"{path}: cannot be read as an image: {exc}") from exc
    return 1 if mode in ("1", "L", "LA", "La", "F") or mode.startswith("I") else 3


def _decode(image: Image.Image, path: Path, channels: int) -> Pixels:
    """Pixels in [0, 1]: [H, W] of a gray image or when gray is asked for, else [H, W, 3]."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"unsupported pixel type {image.mode!r}, only 8-bit and 16-bit integers are read")
    if image.mode.startswith("I"):
        return (np.asarray(image).astype(np.float64) / 65535).astype(np.float32)
    if image.mode in ("RGB", "RGBA") and (low := _low_bytes(path)) is not None:
        high = np.asarray(image, dtype=np.float64)[..., :3]
        color = (256 * high + low[..., :3]) / 65535
        return (color @ np.array(LUMA) if channels == 1 else color).astype(np.float32)
    gray = channels == 1 or image.mode in ("1", "L", "LA", "La")
    return np.asarray(image.convert("L" if gray else "RGB"), dtype=np.float32) / np.float32(255)


def _low_bytes(path: Path) -> Pixels | None:
    """Lower bytes [H, W, bands] of a color file with 16 bits a band; None for any other.

    PIL opens such a file in an 8-bit mode and keeps the upper byte of each value. Decoding the same tiles with the
    other byte order gives the lower one.
    """
    with Image.open(path) as image:
        swapped: list[Any] = []
        for tile in getattr(image, "tile", []):
            *place, args = tile
            raw, *rest = (args,) if isinstance(args, str) else args
            if raw not in _OTHER_ORDER:
                return None
            args = (_OTHER_ORDER[raw], *rest) if rest else _OTHER_ORDER[raw]
            swapped.append(getattr(tile, "_make", tuple)((*place, args)))
        if not swapped:
            return None
        image.tile = swapped
        return np.asarray(image, dtype=np.float64)


def central(image: Tensor, crop: int | None) -> Tensor:
    """The middle crop x crop pixels of an image [..., H, W], as a view; with None all of it."""
    if crop is None:
        return image
    top, left = ((n - crop) // 2 for n in image.shape[-2:])
    return image[..., top : top + crop, left : left + crop]


def save_png(path: str | Path, image: Tensor, *, bits: int = 8) -> None:
    """Write an image as PNG: clipped to [0, 1], rounded to the nearest of 256 or 65536 levels.

    What `fa.ops.quantise_` made of a float32 image comes back from `read_image` to the bit.

    Args:
        path: target, ends in .png; missing folders are made. Replaced in one step, see `write_atomic`.
        image: [H, W], [1, H, W] or [3, H, W], floating point.
        bits: 8 or 16 for each value.

    Raises:
        ValueError: another suffix, shape or number of bits, an integer dtype, or NaN in the image.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: expected a name that ends in .png")
    if isinstance(bits, bool) or bits not in (8, 16):
        raise ValueError(f"bits: wanted 8 or 16, got {bits!r}")
    if not image.is_floating_point() or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)):
        raise ValueError(f"{path}: expected a float image [H, W] or [1 or 3, H, W], got {tuple(image.shape)}")
    if image.isnan().any():
        raise ValueError(f"{path}: the image holds NaN")
    levels = (image.detach().double().clamp(0, 1) * (2**bits - 1)).round().to("cpu", torch.int32)
    array = levels.permute(1, 2, 0).squeeze(2).numpy() if levels.ndim == 3 else levels.numpy()
    if bits == 16:
        write_atomic(path, _png16(array))
        return
    picture = Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))
    write_atomic(path, lambda file: picture.save(file, format="PNG"))


def _png16(levels: Pixels) -> bytes:
    """A PNG file of [H, W] or [H, W, 3] with 16 bits a value, which PIL does not write in colour."""
    height, width = levels.shape[:2]
    lines = levels.astype(">u2").reshape(height, -1).view(np.uint8)
    unfiltered = np.zeros((height, 1), np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if levels.ndim == 3 else 0, 0, 0, 0)
    data = zlib.compress(np.hstack([unfiltered, lines]).tobytes(), 6)
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
