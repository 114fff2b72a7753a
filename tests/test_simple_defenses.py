"""Blur, median, JPEG and BM3D as defences, against scipy, Pillow and the package bm3d themselves."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

import fastattack as fa
from fastattack.defenses import Blur, Bm3d, Defended, Jpeg, Median

SIMPLE = (Blur(1.0), Median(3), Jpeg(60))


def images(channels: int = 1, height: int = 13, width: int = 10, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def each(x: Tensor, one: Any) -> Tensor:
    """A filter of (H, W) arrays on every channel."""
    planes = [torch.from_numpy(one(plane.numpy())) for plane in x.flatten(0, 1)]
    return torch.stack(planes).reshape(x.shape)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("size", [(13, 10), (1, 3)])
def test_blur_is_scipys(sigma: float, size: tuple[int, int]) -> None:
    x = images(3, *size)
    wanted = each(x, lambda plane: ndimage.gaussian_filter(plane, sigma, mode="nearest", radius=round(4 * sigma)))
    torch.testing.assert_close(Blur(sigma).purify(x), wanted, atol=1e-14, rtol=0)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("edges", [(13, 10), (1, 2)])
def test_median_is_scipys(size: int, edges: tuple[int, int]) -> None:
    x = images(2, *edges)
    assert torch.equal(Median(size).purify(x), each(x, lambda p: ndimage.median_filter(p, size, mode="nearest")))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [20, 90])
def test_jpeg_is_pillows(channels: int, quality: int) -> None:
    x = images(channels, 21, 17)
    x[0, :, :2], x[0, :, 2:4] = -0.5, 1.5  # cut to [0, 1]
    for image, coded in zip(x, Jpeg(quality).purify(x), strict=True):
        levels = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        buffer = io.BytesIO()
        Image.fromarray(levels if channels == 3 else levels[:, :, 0]).save(buffer, "JPEG", quality=quality)
        wanted = np.asarray(Image.open(buffer)).reshape(levels.shape) / 255
        np.testing.assert_allclose(coded.permute(1, 2, 0).numpy(), wanted, atol=1e-15)
    rough, fine = ((Jpeg(q).purify(x) - x.clamp(0, 1)).square().mean() for q in (20, 90))
    assert fine < rough


def test_bm3d_is_the_packages() -> None:
    package = pytest.importorskip("bm3d")
    x = images(1, 9, 10)[:1]
    profile = package.BM3DProfile()
    profile.num_threads = 1
    wanted = each(x, lambda plane: package.bm3d(plane, 25 / 255, profile))
    torch.testing.assert_close(Bm3d(25 / 255).purify(x), wanted, atol=1e-6, rtol=0)
    y = x.float().requires_grad_()
    Bm3d(25 / 255).purify(y).square().sum().backward()
    torch.testing.assert_close(y.grad, 2 * wanted.float(), atol=1e-5, rtol=0)  # BPDA: as if nothing were between


def test_bm3d_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(RuntimeError, match=r"fastattack\[bm3d\]"):
        Bm3d(0.123)


@pytest.mark.parametrize("defense", [Blur(0.8), Median(3)], ids=str)
def test_gradients_are_those_of_the_filter(defense: Any) -> None:
    x = images(2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(defense.purify, (x,))


def test_jpegs_backward_pass_is_the_identity() -> None:
    x, weights = images(3).requires_grad_(), images(3) - 0.5
    (Jpeg(30).purify(x) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


@pytest.mark.parametrize("defense", SIMPLE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_layouts_and_batches(defense: Any, dtype: torch.dtype) -> None:
    x = images(3, dtype=torch.float32).to(dtype)
    found = defense.purify(x)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    assert torch.equal(found, defense.purify(x.float()).to(dtype))
    assert torch.equal(found[1:], defense.purify(x[1:]))
    assert torch.equal(found, defense.purify(x.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(found, defense.purify(x, sample_ids=torch.tensor([7, 3]), draw=5))
    assert defense.purify(x[:0]).shape == (0, *x.shape[1:])


class Task(nn.Module):
    """Two classes: light above or light below."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        gap = self.scale * (x[:, :, :6].mean((1, 2, 3)) - x[:, :, -6:].mean((1, 2, 3)))
        return torch.stack([gap, -gap], 1)


@pytest.mark.parametrize(("defense", "how"), [
    (Blur(1.0), "fp32, through a Gaussian blur: full gradient"),
    (Median(3), "fp32, through a median filter: full gradient"),
    (Jpeg(75), "fp32, through JPEG: BPDA"),
], ids=str)  # fmt: skip
def test_a_defended_model_is_attacked_through_its_defence(defense: Any, how: str) -> None:
    x, task = images(), Task()
    defended = defense(task).eval()
    assert isinstance(defended, Defended)
    assert torch.equal(defended(x), task(defense.purify(x)))
    labels = task(x).argmax(1)
    found = fa.PGD(defended, eps=8 / 255, steps=5, objective=fa.objectives.cross_entropy).run(x, labels)
    assert found.how == how
    loss = nn.functional.cross_entropy(defended(x), labels, reduction="none")
    assert (found.loss > loss).all()
    assert task.scale.grad is None


def test_a_random_defence_behind_a_simple_one_still_draws_by_name() -> None:
    class Drawing:
        how = "random"

        def purify(self, x: Tensor, *, sample_ids: Tensor | None = None, draw: int = 0) -> Tensor:
            seen.append((None if sample_ids is None else sample_ids.tolist(), draw))
            return x

    seen: list[Any] = []
    defended = Blur(1.0)(Defended(Drawing(), Task()))
    x = images()
    fa.PGD(defended, eps=1 / 255, steps=1, eot=2, objective=fa.objectives.cross_entropy)(x, torch.tensor([0, 1]))
    assert len({draw for _, draw in seen}) > 1
    assert ([0, 1], 0) in seen


def test_equal_options_are_equal_and_frozen() -> None:
    assert Blur(1.0) == Blur(1.0) != Blur(2.0)
    assert repr(Jpeg(30)) == "Jpeg(quality=30)"
    with pytest.raises(AttributeError):
        Median(3).size = 5  # type: ignore[misc]


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Blur(0), r"sigma: wanted a width in pixels > 0, got 0"),
    (lambda: Blur(float("nan")), r"sigma: .*got nan"),
    (lambda: Blur(True), r"sigma: .*got True"),
    (lambda: Blur("1"), r"sigma: wanted a width in pixels > 0, got '1'"),
    (lambda: Blur(None), r"sigma: .*got None"),
    (lambda: Bm3d("1"), r"sigma: wanted a noise level .* got '1'"),
    (lambda: Median(4), r"size: wanted an odd whole number >= 3, got 4"),
    (lambda: Median(1), r"size: .*got 1"),
    (lambda: Jpeg(0), r"quality: wanted a whole number from 1 to 100, got 0"),
    (lambda: Jpeg(75.0), r"quality: .*got 75.0"),
    (lambda: Bm3d(25), r"sigma: wanted a noise level from 0 to 1 \(images in \[0, 1\]\), got 25"),
    (lambda: Blur(1.0).purify(torch.rand(8, 8)), r"x: wanted images \(B, C, H, W\), got \(8, 8\)"),
    (lambda: Median(3).purify(torch.rand(1, 1, 0, 8)), r"x: wanted images"),
    (lambda: Jpeg(75).purify(torch.rand(1, 2, 8, 8)), r"x: wanted images \(B, 1 or 3, H, W\) for JPEG"),
])  # fmt: skip
def test_bad_values_are_named(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_kinds_and_numbers_are_named() -> None:
    x = images()
    with pytest.raises(TypeError, match="x: wanted a float tensor"):
        Blur(1.0).purify((255 * x).to(torch.uint8))
    with pytest.raises(TypeError, match=r"model: .*got Tensor; purify\(x\) is for images"):
        Blur(1.0)(x)  # type: ignore[arg-type]
    x[1, 0, 2, 2] = float("nan")
    assert Blur(1.0).purify(x)[1].isnan().any()
    assert Median(3).purify(x)[1].isnan().any()
    with pytest.raises(fa.NonFiniteError, match=r"x: .* sample 1"):
        Jpeg(75).purify(x)
