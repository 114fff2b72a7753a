"""typical_noise: the same bits everywhere, on the shell to the digits promised, errors that name their argument."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fastattack import ops
from tests.cases import DTYPES, LAYOUTS, as_format
from tests.subjects import Subject

NAN = float("nan")
SHAPES = [(8,), (2, 2, 2), (1, 5, 7), (3, 33, 17), (3, 128, 128)]
GAPS = [-0.4, -0.1, 0.0, 0.013, 0.5, 2.0]


def calls(batch: int, elements: int, device: str):
    """Options of every kind; samples of one element have no shell."""
    ids = torch.arange(batch, device=device) * (2**33 + 1) + 5
    sigma = torch.linspace(0.1, 0.3, batch, device=device)
    yield {"sigma": 0.1, "typicality": None, "mean": 0.02, "seed": 3}
    yield {"sigma": sigma, "typicality": torch.full((batch,), NAN), "seed": 2**63}
    if elements > 1:
        gaps = torch.linspace(-0.4, 2, batch, device=device)
        holes = torch.where(torch.arange(batch, device=device) % 2 == 1, NAN, gaps)
        yield {"sigma": 0.1, "typicality": 0.2, "mean": 0.01, "seed": 3}
        yield {"sigma": sigma, "typicality": gaps, "mean": sigma / 9, "seed": 2**64 - 1, "sample_ids": ids}
        yield {"sigma": sigma.double(), "typicality": holes, "mean": -0.01, "seed": 5, "sample_ids": ids}
        yield {"sigma": (0.1, 0.2), "typicality": (-0.2, 0.3), "mean": (-0.01, 0.02), "seed": 1, "sample_ids": ids}


def cases(dtype: torch.dtype, device: str):
    """(layout, number, kind, image, options with and without clean)"""
    for layout, (shape, kind) in enumerate(LAYOUTS):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        options = calls(shape[0], image[0].numel(), device)
        for number, (option, clean) in enumerate(itertools.product(options, (None, as_format(image, kind)))):
            yield layout, number, kind, image, option | {"clean": clean}


@functools.cache
def reference(dtype: torch.dtype) -> list[torch.Tensor]:
    return [ops.typical_noise(x, backend="reference", **option) for *_, x, option in cases(dtype, "cpu")]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_on_every_backend(subject: Subject, dtype):
    for want, (layout, number, kind, x, option) in zip(reference(dtype), cases(dtype, subject.device), strict=True):
        if subject.name == "triton-interpreted" and (layout + number) % 4:
            continue  # slow: each case comes with another layout
        got = as_format(torch.full_like(x, NAN), kind)
        assert ops.typical_noise(x, out=got, backend=subject.backend, **option) is got
        assert torch.equal(got.cpu(), want), f"{tuple(x.shape)} {kind} {option}"
        assert want.isfinite().all()
        if kind == "strided":
            assert int(got._base.isnan().sum()) == got._base.numel() - got.numel(), "written beside out"


def test_an_empty_batch_passes(subject: Subject):
    empty = torch.zeros(0, 3, 4, 4, device=subject.device)
    for typicality, spectrum in itertools.product((0.0, None), (None, "adversarial")):
        options = {"sigma": 0.1, "typicality": typicality, "spectrum": spectrum, "seed": 0}
        assert ops.typical_noise(empty, out=empty, clean=empty.clone(), backend=subject.backend, **options) is empty
        assert ops.typical_noise((0, 3, 4, 4), **options).shape == (0, 3, 4, 4)


def check_shell(noise: torch.Tensor, sigma, gap, mean) -> None:
    """norm to 1e-5 relative and mean to 1e-5 sigma, in float64 NumPy."""
    n = noise.double().flatten(1).numpy()
    sigma, gap, mean = (np.broadcast_to(np.asarray(v, dtype=float), len(n)) for v in (sigma, gap, mean))
    length = np.sqrt(np.square(n - mean[:, None]).sum(1))
    assert np.abs(length / (sigma * np.sqrt(n.shape[1] * (1 + 2 * gap))) - 1).max() <= 1e-5
    assert np.abs((n.mean(1) - mean) / sigma).max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", GAPS)
def test_on_the_shell(gap, dtype):
    for shape, mean in itertools.product(SHAPES, (0.0, 0.03)):
        like = torch.empty(4, *shape, dtype=dtype)
        check_shell(ops.typical_noise(like, sigma=0.1, typicality=gap, mean=mean, seed=8), 0.1, gap, mean)
    sigma = torch.tensor([0.01, 0.1, 1.0, 4.0])
    noise = ops.typical_noise(like, sigma=sigma, typicality=gap, mean=-0.1 * sigma, seed=8)
    check_shell(noise, sigma.double(), gap, (-0.1 * sigma).double())


@settings(deadline=None, max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(8, 24), st.integers(1, 24)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    sigma=st.floats(1e-3, 10.0),
    gap=st.floats(-0.4, 2.0),
    part=st.floats(-1.0, 1.0),
    seed=st.integers(0, 2**64 - 1),
)
def test_on_the_shell_whatever_is_asked(shape, dtype, sigma, gap, part, seed):
    mean = part * sigma * math.sqrt(1 + 2 * gap) * (1 - 1e-9)
    noise = ops.typical_noise(torch.empty(shape, dtype=dtype), sigma=sigma, typicality=gap, mean=mean, seed=seed)
    check_shell(noise, sigma, gap, mean)


def test_a_nan_in_typicality_makes_that_sample_plain():
    gaps = torch.tensor([0.1, NAN, -0.2, NAN])
    mixed = ops.typical_noise((4, 3, 9, 9), sigma=0.2, typicality=gaps, mean=0.01, seed=6)
    plain = ops.typical_noise((4, 3, 9, 9), sigma=0.2, typicality=None, mean=0.01, seed=6)
    assert torch.equal(mixed[1::2], plain[1::2])
    assert not torch.equal(mixed[0], plain[0])
    check_shell(mixed[::2], 0.2, gaps[::2].double(), 0.01)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clean_is_added_and_rounded_once(dtype):
    clean = torch.rand(3, 1, 20, 21).to(dtype)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    for gap in (None, 0.1):
        options = {"sigma": 0.1, "typicality": gap, "mean": 0.01, "seed": 4}
        noise = ops.typical_noise(clean.to(wide), **options)
        noisy = ops.typical_noise(clean.shape, clean=clean, **options)
        assert noisy.dtype is dtype
        assert torch.equal(noisy, (clean.to(wide) + noise).to(dtype))
        assert torch.equal(ops.typical_noise(clean, **options), noise.to(dtype))


OPTIONS = {"sigma": (0.1, 0.2), "typicality": (-0.2, 0.3), "mean": (-0.01, 0.02), "seed": 9}


@pytest.mark.parametrize("typicality", [(-0.2, 0.3), None])
def test_the_same_numbers_in_every_split_format_and_thread_count(typicality):
    options = OPTIONS | {"typicality": typicality}
    clean = torch.rand(6, 3, 70, 71)
    whole = ops.typical_noise(clean, clean=clean, **options)
    for part in (slice(4, 6), slice(1, 2)):
        ids = torch.arange(6)[part]
        assert torch.equal(whole[part], ops.typical_noise(clean[part], clean=clean[part], sample_ids=ids, **options))
    last = clean.to(memory_format=torch.channels_last)
    got = ops.typical_noise(last, clean=last, **options)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, whole)
    flat = ops.typical_noise((6, 3 * 70 * 71), clean=clean.flatten(1), **options)
    assert torch.equal(flat.reshape(whole.shape), whole)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(ops.typical_noise(clean, clean=clean, **options), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["contiguous", "channels_last"])
def test_threads_share_a_large_sample(dtype, kind):
    """270,900 elements: several segments, and above the size from which one sample is split."""
    clean = as_format(torch.rand(1, 3, 300, 301, generator=torch.Generator().manual_seed(0)).to(dtype), kind)
    options = {"sigma": 0.1, "typicality": 0.3, "mean": 0.02, "seed": 7}
    want = ops.typical_noise(clean, clean=clean, backend="reference", **options)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(ops.typical_noise(clean, clean=clean, backend="cpu", **options), want)
            alone = ops.typical_noise(clean, backend="cpu", **options)  # without an image: nothing but the op's writing
            assert torch.equal(alone, ops.typical_noise(clean, backend="reference", **options))
    finally:
        torch.set_num_threads(threads)


def test_no_gradient_is_recorded():
    clean = torch.rand(2, 1, 4, 4, requires_grad=True)
    for backend in ("cpu", "reference"):
        assert not ops.typical_noise(clean, clean=clean, sigma=0.1, seed=0, backend=backend).requires_grad


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operator makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.size = max(self.size, out.numel() * out.element_size())
        return out


PEAK = """
import resource, torch
from fastattack import ops
clean, out = torch.rand(4, 1, 2048, 2048), torch.zeros(4, 1, 2048, 2048)
ops.typical_noise((2, 64, 64), sigma=0.1, seed=0)  # what the first call sets up
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for gap in (None, 0.1): ops.typical_noise(out, out=out, clean=clean, sigma=0.1, typicality=gap, seed=0)
print(peak() - before)
"""


def test_no_temporary_of_the_size_of_an_image():
    clean = torch.rand(2, 3, 128, 128)
    for gap in (None, 0.1, (0.0, 0.1), torch.tensor([0.1, NAN])):
        with Largest() as seen:
            ops.typical_noise(clean, out=torch.empty_like(clean), clean=clean, sigma=0.1, typicality=gap, seed=0)
        assert seen.size <= clean.nbytes
        out = torch.empty_like(clean)
        with Largest() as seen:
            ops.typical_noise(clean, out=out, clean=clean, sigma=0.1, typicality=gap, seed=0)
        assert seen.size < 1024
    grown = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 4096, "kilobytes; an image has 16384"


def compiled(clean, out, gap, mean):
    noisy = ops.typical_noise(clean * 1, clean=clean, sigma=0.1, typicality=gap, mean=mean, seed=2**63 + 1)
    ops.typical_noise(out, out=out, sigma=(0.1, 0.2), typicality=None, seed=1)
    return noisy + out


@pytest.mark.parametrize("gap", [0.1, (-0.1, 0.2), torch.tensor([0.1, NAN]), None])
def test_a_compiled_function_traces_through(gap):
    clean = torch.rand(2, 1, 16, 17)
    outs = [torch.full_like(clean, NAN) for _ in range(2)]
    want = compiled(clean, outs[0], gap, torch.tensor([0.01, 0.02]))
    step = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    assert torch.equal(step(clean, outs[1], gap, torch.tensor([0.01, 0.02])), want)
    assert torch.equal(outs[0], outs[1])


def test_the_custom_op_passes_torchs_own_checks():
    levels = (0.1, None, 0.2, None, torch.tensor([0.1, NAN]), None, 0.0, None, None)
    op = torch.ops.fastattack.typical_noise_
    for clean in (None, torch.rand(2, 3, 4)):
        torch.library.opcheck(
            op, (torch.rand(2, 3, 4), clean, *levels, "7", None, "auto"), test_utils=("test_schema", "test_faketensor")
        )


def test_autograd_notices_the_write():
    w, out = torch.ones(4, requires_grad=True), torch.zeros(1, 4)
    loss = (out * w).sum()
    ops.typical_noise(out, out=out, sigma=0.1, seed=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        ops.typical_noise(torch.empty(1, 8), sigma=0.1, seed=0)


X = torch.rand(2, 3, 4, 4)
ROOM = torch.rand(97)
BAD = [
    ({"sigma": 0.0}, ValueError, ["sigma", "> 0", "0"]),
    ({"sigma": -0.1}, ValueError, ["sigma", "-0.1"]),
    ({"sigma": NAN}, ValueError, ["sigma", "nan"]),
    ({"sigma": math.inf}, ValueError, ["sigma", "inf"]),
    ({"sigma": torch.tensor([0.1, 0.0])}, ValueError, ["sigma", "> 0"]),
    ({"sigma": torch.tensor([0.1, NAN])}, ValueError, ["sigma", "nan"]),
    ({"sigma": torch.ones(3)}, ValueError, ["sigma", "(2,)", "(3,)"]),
    ({"sigma": "25/255"}, TypeError, ["sigma", "str"]),
    ({"sigma": (0.2, 0.1)}, ValueError, ["sigma", "low <= high", "(0.2, 0.1)"]),
    ({"sigma": (0.0, 0.1)}, ValueError, ["sigma", "> 0"]),
    ({"sigma": (0.1, 0.2, 0.3)}, TypeError, ["sigma", "interval"]),
    ({"typicality": -0.5}, ValueError, ["typicality", "> -1/2", "-0.5"]),
    ({"typicality": math.inf}, ValueError, ["typicality", "inf"]),
    ({"typicality": NAN}, ValueError, ["typicality", "None", "nan"]),
    ({"typicality": (0.1, -0.1)}, ValueError, ["typicality", "low <= high", "(0.1, -0.1)"]),
    ({"typicality": (NAN, 0.1)}, ValueError, ["typicality", "low <= high"]),
    ({"typicality": (-0.5, 0.1)}, ValueError, ["typicality", "> -1/2"]),
    ({"typicality": torch.tensor([0.1, -0.6])}, ValueError, ["typicality", "> -1/2", "-0.6"]),
    ({"mean": 0.11}, ValueError, ["mean", "sqrt(1 + 2 typicality)", "0.11"]),
    ({"mean": (-0.11, 0.0)}, ValueError, ["mean", "-0.11"]),
    ({"mean": torch.tensor([0.0, 0.2])}, ValueError, ["mean", "0.2"]),
    ({"mean": 0.09, "typicality": torch.tensor([0.0, -0.2])}, ValueError, ["mean", "0.09"]),
    ({"mean": NAN}, ValueError, ["mean", "nan"]),
    ({"shape_or_like": (2.7, 9)}, TypeError, ["shape_or_like", "(2.7, 9)"]),
    ({"shape_or_like": "29"}, TypeError, ["shape_or_like", "'29'"]),
    ({"shape_or_like": (2, 3)}, ValueError, ["shape_or_like", "at least 4 elements", "(2, 3)"]),
    ({"shape_or_like": ()}, ValueError, ["shape_or_like", "(B, ...)"]),
    ({"shape_or_like": (2, -3)}, ValueError, ["shape_or_like", "(2, -3)"]),
    ({"shape_or_like": 4}, TypeError, ["shape_or_like", "int"]),
    ({"shape_or_like": torch.ones(2, 3, dtype=torch.uint8)}, TypeError, ["shape_or_like", "uint8", "255"]),
    ({"out": X[:1].clone()}, ValueError, ["out", "(2, 3, 4, 4)", "(1, 3, 4, 4)"]),
    ({"out": X.double()}, ValueError, ["out", "float32", "float64"]),
    ({"out": X[:1].expand(2, 3, 4, 4)}, ValueError, ["out", "expanded"]),
    ({"clean": X[..., :3]}, ValueError, ["clean", "(2, 3, 4, 4)", "(2, 3, 4, 3)"]),
    ({"clean": X.half()}, ValueError, ["clean", "float32", "float16"]),
    ({"shape_or_like": (3, 3, 4, 4), "clean": X}, ValueError, ["clean", "(3, 3, 4, 4)", "(2, 3, 4, 4)"]),
    ({"clean": X, "out": X}, ValueError, ["clean", "shares its memory with out"]),
    ({"clean": ROOM[:96].view(X.shape), "out": ROOM[1:97].view(X.shape)}, ValueError, ["clean", "shares its memory"]),
    ({"seed": -1}, ValueError, ["seed", "2**64", "-1"]),
    ({"seed": 2**64}, ValueError, ["seed", "2**64"]),
    ({"seed": 1.5}, TypeError, ["seed", "float"]),
    ({"sample_ids": torch.arange(3)}, ValueError, ["sample_ids", "2 integers", "(3,)"]),
    ({"sample_ids": torch.rand(2)}, ValueError, ["sample_ids", "float32"]),
    ({"backend": "gpu"}, ValueError, ["backend", "'gpu'"]),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD)
def test_bad_input_is_named(options, error, words):
    for spectrum in (None, "adversarial"):
        with pytest.raises(error) as caught:
            ops.typical_noise(**{"shape_or_like": X, "sigma": 0.1, "seed": 0, "spectrum": spectrum} | options)
        assert str(caught.value).startswith(words[0])
        for word in words:
            assert word in str(caught.value)
