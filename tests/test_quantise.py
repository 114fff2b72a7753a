"""quantise_: against a search over every grid point, in the ball, and through PNG files to the bit."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattack import ops
from fastattack.images import read_image, save_png
from tests.cases import all_images, as_format, images
from tests.subjects import Subject

DTYPES = [torch.float32, torch.float64]
NORMS = ["linf", "l2", "l1"]


def grid(bits, dtype):
    """Every point, divided by NumPy in the dtype."""
    real = np.float32 if dtype is torch.float32 else np.float64
    return np.arange(2**bits, dtype=real) / real(2**bits - 1)


def search(adv, origin, eps, bits, norm, bounds):
    """Brute force: distances in the dtype for the ball, in float64 to adv; the first of the nearest, or NaN."""
    points = grid(bits, adv.dtype)
    exact = points.astype(np.float64)
    a, o = (t.cpu().numpy().reshape(-1, 1) for t in (adv, origin))
    reach = points.dtype.type(eps) if norm == "linf" else np.abs(a - o)
    allowed = (np.abs(points - o) <= reach) & (exact >= bounds[0]) & (exact <= bounds[1])
    distance = np.where(allowed, np.abs(exact - a.astype(np.float64)), np.inf)
    best = np.where(allowed.any(1), points[distance.argmin(1)], np.nan)
    return torch.from_numpy(best.astype(points.dtype)).reshape(adv.shape)


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


def on_grid(x, bits):
    return ops.quantise_(x.clone(), x, eps=1.0, bits=bits)


Searched = tuple[torch.Tensor, torch.Tensor, float, tuple[float, float], bool, torch.Tensor]


@functools.cache
def searched(bits: int, norm: str, dtype: torch.dtype) -> list[Searched]:
    """(adv, origin, eps, bounds, whether slow backends try it, nearest): random pixels inside and outside [0, 1], on
    the grid, between two points, and balls of a few grid steps. Searched once for all backends."""
    g = torch.Generator().manual_seed(bits)
    count = 200 if bits == 8 else 4
    points, unit = torch.from_numpy(grid(bits, dtype)), 1 / (2**bits - 1)
    pick = torch.randint(0, 2**bits, (5, count), generator=g)
    base = points[pick]
    spread = torch.tensor([0.6, 3.0, 0.0, 0.5, 40.0]).to(dtype)[:, None] * unit
    noise = spread * torch.randn(5, count, generator=g).to(dtype)
    found: list[Searched] = []
    for origin in (base, base + noise, base + 0.5 * unit, torch.rand(5, count, generator=g).to(dtype) * 1.2 - 0.1):
        advs = (base + 2 * noise, (base + points[(pick + 1) % 2**bits]) / 2, base + 0.5 * unit, origin.clone())
        for number, adv in enumerate(advs):
            # Of l2 and l1 eps plays no part.
            for eps in (0.0, 0.49 * unit, 0.5 * unit, unit, 2.5 * unit, 0.1, 3.0)[: None if norm == "linf" else 1]:
                real = float(np.float32(eps))
                bounds = (0.0, 1.0) if real > unit else (0.2, 0.7)
                few = number < 2 and eps <= 2.5 * unit
                found.append((adv, origin, real, bounds, few, search(adv, origin, real, bits, norm, bounds)))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bits", [8, 16])
def test_the_nearest_of_all_points(subject: Subject, bits, norm, dtype):
    for adv, origin, eps, bounds, few, nearest in searched(bits, norm, dtype):
        if few or not subject.slow:
            got = ops.quantise_(
                adv.to(subject.device, copy=True), origin.to(subject.device), eps=eps, bits=bits, norm=norm,
                bounds=bounds, backend=subject.backend,
            )  # fmt: skip
            assert same(got.cpu(), nearest), (eps, bounds)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_backends_agree_to_the_bit(subject: Subject, norm, dtype):
    g = torch.Generator().manual_seed(1)
    for kind, case in all_images(dtype, subject.device):
        many = (0.05 * torch.rand(case.adv.shape[0], generator=g)).to(subject.device)
        mask = (torch.rand(case.adv.shape, generator=g) < 0.6).to(subject.device)
        every = (
            {"eps": many, "bits": 16}, {"eps": 0.02, "mask": mask}, {"eps": 0.01}, {"eps": 0.1, "bounds": None},
            {"eps": 0.05, "bounds": (0.3, 0.301)},
        )  # fmt: skip
        for options in every[:2] if subject.slow else every:
            want, got = case.fresh(kind), case.fresh(kind)
            ops.quantise_(want, case.origin, norm=norm, backend="reference", **options)
            assert ops.quantise_(got, case.origin, norm=norm, backend=subject.backend, **options) is got
            assert same(got, want), f"{case.label} {options}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [8, 16])
def test_every_value_is_the_one_that_files_give(subject: Subject, bits, dtype):
    """Correctly rounded quotients, all of them; pixels far off go to the ends."""
    points = torch.from_numpy(grid(bits, dtype))[None]
    points = points[:, :: 37 if subject.slow and bits == 16 else 1].to(subject.device)
    shaken = points + 0.4 / (2**bits - 1) * (2 * torch.rand(points.shape, generator=torch.Generator()).to(points) - 1)
    got = ops.quantise_(shaken, points, eps=1.0, bits=bits, backend=subject.backend)
    assert torch.equal(got, points)
    ends = torch.tensor([[-5.0, -0.0, 1.0, 7e9, float("inf"), -1e-30]], dtype=dtype, device=subject.device)
    middle = torch.full_like(ends, float(points[0, points.shape[1] // 2]))
    got = ops.quantise_(ends.clone(), middle, eps=1.0, bits=bits, backend=subject.backend)
    assert got[0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_pixel_without_a_point_is_nan_and_so_is_a_nan(subject: Subject):
    origin = torch.tensor([[0.5 / 255, 0.5 / 255, 10.0 / 255, -0.3, 10.0 / 255, float("nan")]], device=subject.device)
    adv = torch.tensor([[0.5 / 255, 0.5 / 255, float("nan"), 0.1, 12.0 / 255, 0.5]], device=subject.device)
    small = ops.quantise_(adv.clone(), origin, eps=0.4 / 255, backend=subject.backend)
    assert small.isnan().tolist() == [[True, True, True, True, False, True]]
    assert small[0, 4] == torch.tensor(10.0) / 255
    large = ops.quantise_(adv.clone(), origin, eps=0.6 / 255, backend=subject.backend)
    assert large.isnan().tolist() == [[False, False, True, True, False, True]]
    assert large[0, :2].tolist() == [0.0, 0.0]  # two equally near: the lower


def test_grid_gap_says_when_there_is_a_point_everywhere(subject: Subject):
    for bits in (8, 16):
        g = torch.Generator().manual_seed(5)
        origin = torch.rand(4, 1, 9, 11, generator=g).to(subject.device)
        gap = ops.grid_gap(origin, bits=bits)
        below = torch.nextafter(gap, torch.zeros_like(gap))
        adv = origin + 0.1 * torch.randn(origin.shape, generator=g).to(subject.device)
        enough = ops.quantise_(adv.clone(), origin, eps=gap, bits=bits, backend=subject.backend)
        assert not enough.isnan().any()
        short = ops.quantise_(adv.clone(), origin, eps=below, bits=bits, backend=subject.backend)
        assert short.flatten(1).isnan().any(1).all()
        assert (ops.grid_gap(enough, bits=bits) == 0).all()


def test_grid_gap_values():
    x = torch.tensor([[0.0, 1.0, 0.2], [1.3, 0.0, 1.0], [0.5 / 255, 0.0, 0.0], [float("nan"), 0.0, 0.0]])
    gap = ops.grid_gap(x)
    assert gap[:3].tolist() == pytest.approx([0.0, 0.3, 0.5 / 255], rel=1e-6)
    assert gap[0] == 0
    assert gap[3].isnan()
    assert ops.grid_gap(torch.zeros(0, 3)).shape == (0,)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_through_a_png_file_to_the_bit(tmp_path, channels, dtype, bits):
    case = images((1, channels, 33, 47), "contiguous", dtype, "cpu")
    origin = on_grid(case.origin.clamp(0, 1), bits)
    for norm in NORMS:
        adv = ops.quantise_(case.adv.clone(), origin, eps=8 / 255, bits=bits, norm=norm)
        save_png(tmp_path / "x.png", adv[0], bits=bits)
        back = read_image(tmp_path / "x.png", channels)
        assert torch.equal(back, adv[0].float())
        assert (back - origin[0].float()).abs().max() > 0
        if dtype is torch.float32 and norm == "linf":
            assert (back - origin[0]).abs().max().item() <= 8 / 255


def test_masked_pixels_keep_the_origin_to_the_bit(subject: Subject):
    case = images((2, 3, 8, 8), "contiguous", torch.float32, subject.device)
    mask = torch.zeros(8, 8, device=subject.device)
    mask[2:5, 1:7] = 1.0
    for norm in NORMS:
        adv = ops.quantise_(case.adv.clone(), case.origin, eps=0.1, norm=norm, mask=mask, backend=subject.backend)
        still = (mask == 0).expand_as(adv)
        assert torch.equal(adv[still], case.origin[still])
        assert not torch.equal(adv[~still], case.origin[~still])


def test_only_adv_is_written(subject: Subject):
    case = images((2, 3, 8, 9), "strided", torch.float32, subject.device)
    adv, origin = case.fresh("strided"), case.origin.clone()
    room = adv._base
    ops.quantise_(adv, case.origin, eps=0.1, backend=subject.backend)
    written = torch.zeros_like(room, dtype=torch.bool)
    written[tuple(slice(None, None, 2) for _ in adv.shape)] = True
    assert room[~written].isnan().all()
    assert torch.equal(origin, case.origin)
    assert as_format(origin, "strided").shape == adv.shape


def test_bad_input_is_named():
    x, y = torch.rand(2, 3), torch.rand(2, 3)
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=r"adv: wanted float32 or float64, got .*which does not hold"):
            ops.quantise_(x.to(dtype), y.to(dtype), eps=0.1)
        with pytest.raises(TypeError, match="image: wanted float32 or float64"):
            ops.grid_gap(x.to(dtype))
    for bits in (0, 10, 8.5, True, "8", None):
        with pytest.raises(ValueError, match="bits: wanted 8 or 16, got"):
            ops.quantise_(x, y, eps=0.1, bits=bits)
    with pytest.raises(ValueError, match="norm: wanted one of 'linf', 'l2', 'l1', got 'l0'"):
        ops.quantise_(x, y, eps=0.1, norm="l0")
    with pytest.raises(ValueError, match="eps"):
        ops.quantise_(x, y, eps=-0.1)
    with pytest.raises(ValueError, match="origin: shares its memory"):
        ops.quantise_(x, x, eps=0.1)
    with pytest.raises(ValueError, match="mask"):
        ops.quantise_(x, y, eps=0.1, mask=torch.ones(5))
    empty = torch.zeros(0, 3)
    assert ops.quantise_(empty, empty.clone(), eps=0.1) is empty


@settings(max_examples=80, deadline=None)
@given(
    eps=st.floats(0, 0.25, width=32), norm=st.sampled_from(NORMS), dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from([8, 16]), seed=st.integers(0, 999), start_on_grid=st.booleans(),
)  # fmt: skip
def test_on_the_grid_inside_and_idempotent(eps, norm, dtype, bits, seed, start_on_grid):
    case = images((2, 1, 5, 7), "contiguous", dtype, "cpu", seed)
    origin = on_grid(case.origin.clamp(0, 1), bits) if start_on_grid else case.origin
    got = ops.quantise_(case.adv.clone(), origin, eps=eps, bits=bits, norm=norm)
    fine = ~got.isnan()
    if start_on_grid:
        assert fine.all()
    assert torch.isin(got[fine], torch.from_numpy(grid(bits, dtype))).all()
    if norm == "linf":
        assert ((got - origin)[fine].abs() <= eps).all()
    else:
        before, after = (case.adv - origin)[fine], (got - origin)[fine]
        assert (after.abs() <= before.abs()).all()
        for p in (1, 2, float("inf")):
            assert after.double().norm(p) <= before.double().norm(p)
    assert same(ops.quantise_(got.clone(), origin, eps=eps, bits=bits, norm=norm), got)
