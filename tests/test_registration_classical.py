"""Classical methods find fields that are known, in our convention."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor

from fastattack.registration import classical
from fastattack.registration.classical import METHODS, Classical


@lru_cache
def model_called(method: str, dims: int = 2) -> Classical:
    pytest.importorskip(METHODS[method])
    return Classical(method, dims=dims)


def scene(places: list[np.ndarray]) -> np.ndarray:
    """A few soft discs, a closed form at any place: nothing is interpolated."""
    centres = ((20, 18, 13), (30, 34, 17), (14, 33, 10), (35, 15, 20))
    out = np.zeros_like(places[0])
    for k, centre in enumerate(centres):
        distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(places, centre, strict=False)))
        out += (0.25 + 0.2 * k) / (1 + np.exp((distance - 6.5) / 0.7))
    return out.clip(0, 1)


def grid(*shape: int) -> list[np.ndarray]:
    return [axis.astype(np.float64) for axis in np.meshgrid(*map(np.arange, shape), indexing="ij")]


def known_translation(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """(pair, field, where it can be seen): fixed(p) = moving(p + t), contrast turned round."""
    t = (2.0, -1.5, 1.0)[: len(shape)]
    places = grid(*shape)
    fixed = scene(places)
    moving = 0.9 - 0.8 * scene([p - shift for p, shift in zip(places, t, strict=True)])
    pair = torch.tensor(np.stack([moving, fixed]), dtype=torch.float32)[None]
    field = torch.tensor(t).view(1, -1, *[1] * len(shape)).expand(1, -1, *shape)
    slopes = np.sqrt(sum(g**2 for g in np.gradient(fixed)))
    return pair, field, torch.tensor(slopes > 0.05)


def error(found: Tensor, field: Tensor, seen: Tensor) -> float:
    return float((found - field).norm(dim=1)[0][seen].mean())


@pytest.mark.parametrize("method", list(METHODS))
def test_a_known_translation(method: str) -> None:
    pair, field, seen = known_translation(48, 52)
    found = model_called(method)(pair)
    assert found.shape == field.shape
    assert found.dtype == pair.dtype
    assert error(torch.zeros_like(field), field, seen) == pytest.approx(2.5)
    assert error(found, field, seen) < 0.8  # both hold the rim, so that no field can be the same everywhere


@pytest.mark.parametrize("method", list(METHODS))
def test_a_known_smooth_deformation(method: str) -> None:
    """p + u(p) = p + 2.5 sin(...): fixed(p) = moving(p + u(p)), so that moving is the scene and fixed is made of it."""
    places = grid(48, 52)
    u = [2.5 * np.sin(2 * np.pi * places[1] / 52), 2.0 * np.sin(2 * np.pi * places[0] / 48)]
    fixed = scene([p + step for p, step in zip(places, u, strict=True)])
    pair = torch.tensor(np.stack([0.9 - 0.8 * scene(places), fixed]), dtype=torch.float32)[None]
    field = torch.tensor(np.stack(u), dtype=torch.float32)[None]
    seen = torch.tensor(np.sqrt(sum(g**2 for g in np.gradient(fixed))) > 0.05)
    before = error(torch.zeros_like(field), field, seen)
    assert error(model_called(method)(pair), field, seen) < 0.4 * before


@pytest.mark.parametrize(("method", "shape"), [("bspline", (20, 20, 16)), ("syn", (24, 24, 18))])
def test_three_dimensions(method: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "_STEPS", 6)
    pair, field, seen = known_translation(*shape)
    before = error(torch.zeros_like(field), field, seen)
    found = model_called(method, 3)(pair)
    assert error(found, field, seen) < 0.7 * before  # in so small a volume the rim is everywhere near
    mean = found[0][:, seen].mean(1)
    assert (mean * field[0, :, 0, 0, 0] > 0).all()  # each axis its own way


@pytest.mark.parametrize("method", list(METHODS))
def test_a_result_depends_on_its_pair_alone(method: str) -> None:
    model = model_called(method)
    one = known_translation(24, 26)[0]
    pairs = torch.cat([one, one.flip(1), torch.full_like(one, 0.5)])
    found = model(pairs)
    assert torch.equal(found[:1], model(one))
    assert torch.equal(found[1:2], model(pairs[1:2]))
    assert not found[2].any()  # no contrast, nothing to compare


def test_pairs_that_cannot_be() -> None:
    model = model_called("bspline")
    with pytest.raises(ValueError, match=r"pair: wanted \(B, 2, H, W\), 16 voxels"):
        model(torch.zeros(1, 2, 8, 32))
    with pytest.raises(ValueError, match="pair: wanted"):
        model(torch.zeros(1, 2, 32, 32, 32))
    with pytest.raises(ValueError, match="NaN"):
        model(torch.full((1, 2, 32, 32), float("nan")))
    with pytest.raises(RuntimeError, match="no gradient"):
        model(torch.zeros(1, 2, 32, 32, requires_grad=True))
    with pytest.raises(TypeError, match=r"pair: wanted a floating tensor, got torch.uint8"):
        model(torch.zeros(1, 2, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="method: wanted one of bspline, syn, got 'demons'"):
        Classical("demons")
    with pytest.raises(ValueError, match="dims: wanted 2 or 3"):
        Classical(dims=4)


def test_a_pair_on_which_a_method_gives_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_called("bspline")

    def broken(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        raise RuntimeError("Exception thrown in SimpleITK:\nitk::ERROR: All samples map outside")

    monkeypatch.setattr(model, "_register", broken)
    pairs = torch.stack([torch.full((2, 16, 16), 0.5), torch.rand(2, 16, 16)])
    with pytest.raises(RuntimeError, match="bspline gave up on sample 1: itk::ERROR: All samples map outside"):
        model(pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_field_is_in_float32_at_least(dtype: torch.dtype) -> None:
    found = model_called("bspline")(torch.full((1, 2, 16, 16), 0.5, dtype=dtype))
    assert found.dtype is torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize(("method", "package"), list(METHODS.items()))
def test_a_package_that_is_not_there(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=rf"wanted {package}.*fastattack\[registration-data\]"):
        Classical(method)
