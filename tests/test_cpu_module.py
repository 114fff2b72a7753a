"""The C++ module itself: how it reads its arguments, and which tensors it vouches for."""

import ctypes
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from fastattack import _cpu, ops
from fastattack.ops import dispatch
from fastattack.ops.cpu import DTYPES, _walk

dispatch.load("cpu")  # which tells the module about torch

FULL = {
    ops.pgd_step_: (3, {"norm": "linf", "eps": 0.1, "step": 0.02, "bounds": (0.0, 1.0)}),
    ops.project_: (2, {"norm": "l2", "eps": 0.1, "bounds": (0.0, 1.0)}),
    ops.preserve_noise_: (3, {"norm": "l2", "eps": 0.1}),
    ops.random_start_: (2, {"norm": "linf", "eps": 0.1, "seed": 3}),
    ops.momentum_step_: (4, {"norm": "linf", "eps": 0.1, "step": 0.02}),
    ops.accumulate_: (2, {}),
    ops.diffusion_step_: (2, {"coefficients": (0.9, 0.1, 0.1), "seed": 3}),
    ops.apgd_step_: (4, {"norm": "linf", "eps": 0.1, "step": 0.02}),
    ops.zero_mean_step_: (3, {"eps": 0.1, "step": 0.02}),
    ops.project_zero_mean_: (2, {"eps": 0.1}),
    ops.quantise_: (2, {"eps": 0.1}),
    ops.l1_step_: (3, {"eps": 0.1, "step": 0.02}),
    ops.distances: (2, {}),
    ops.noise_stats: (1, {"sigma": 0.1}),
}


class Named(torch.Tensor):
    """A subclass, as libraries make them."""


def images(count, *, shape=(2, 1, 3, 4), dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    return [torch.rand(shape, generator=draw).to(dtype) for _ in range(count)]


def change(at, function):
    def made(count):
        given = images(count)
        place = at if at >= 0 else count + at
        given[place] = function(given[place])
        return given

    return made


def overlapping(count):
    memory = images(1, shape=(24 * count,))[0]
    return [memory[8 * i : 8 * i + 24].view(2, 1, 3, 4) for i in range(count)]


def inference(count):
    with torch.inference_mode():
        return images(count)


CASES = {
    "plain": images,
    "float64": lambda n: images(n, dtype=torch.float64),
    "float16": lambda n: images(n, dtype=torch.float16),
    "bfloat16": lambda n: images(n, dtype=torch.bfloat16),
    "int": lambda n: images(n, dtype=torch.int32),
    "bool": lambda n: images(n, dtype=torch.bool),
    "complex": lambda n: images(n, dtype=torch.complex64),
    "float8": lambda n: images(n, dtype=torch.float8_e4m3fn),
    "no dimensions": lambda n: images(n, shape=()),
    "no samples": lambda n: images(n, shape=(0, 3)),
    "no elements": lambda n: images(n, shape=(2, 0)),
    "one number": lambda n: images(n, shape=(1,)),
    "six dimensions": lambda n: images(n, shape=(2, 1, 2, 2, 3, 2)),
    "channels_last": lambda n: [t.contiguous(memory_format=torch.channels_last) for t in images(n, shape=(2, 3, 4, 5))],
    "transposed": change(0, lambda t: t.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)),
    "every other": change(-1, lambda t: torch.stack([t, t], -1)[..., 0]),
    "expanded": change(0, lambda t: t[:1].expand(t.shape)),
    "expanded last": change(-1, lambda t: t[:1].expand(t.shape)),
    "another shape": change(-1, lambda t: t[:, :, :2]),
    "as many elements": change(-1, lambda t: t.view(2, 1, 4, 3)),
    "another rank": change(-1, lambda t: t.view(2, 12)),
    "another dtype": change(-1, torch.Tensor.double),
    "half and bfloat": lambda n: [t.half() for t in images(n)[:-1]] + [t.bfloat16() for t in images(n)[-1:]],
    "meta": change(-1, lambda t: t.to("meta")),
    "sparse": change(-1, torch.Tensor.to_sparse),
    "sparse first": change(0, torch.Tensor.to_sparse),
    "requires grad": change(0, torch.Tensor.requires_grad_),
    "last requires grad": change(-1, torch.Tensor.requires_grad_),
    "made by autograd": change(0, lambda t: t.requires_grad_() * 2),
    "parameter": change(-1, nn.Parameter),
    "subclass": change(-1, lambda t: t.as_subclass(Named)),
    "subclass first": change(0, lambda t: t.as_subclass(Named)),
    "array": change(-1, torch.Tensor.numpy),
    "no tensor": change(-1, torch.Tensor.tolist),
    "none": change(-1, lambda t: None),
    "the same twice": lambda n: images(1) * n,
    "overlapping": overlapping,
    "side by side": lambda n: list(images(1, shape=(n, 2, 1, 3, 4))[0].unbind(0)),
    "inference": inference,
}


@contextmanager
def exchange(offered=None):
    """As under a torch whose tensors offer this as DLPack exchange API; None: under one without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(torch.Tensor, "__dlpack_c_exchange_api__", raising=False)
        if offered is not None:
            patch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", offered, raising=False)
        _cpu.use_torch(torch.Tensor, DTYPES, _walk)
        yield
    _cpu.use_torch(torch.Tensor, DTYPES, _walk)


def outcome(op, case):
    """What came of the call: an error, and every tensor's values (repr tells all bits of a number) and version."""
    count, options = FULL[op]
    given = CASES[case](count)
    try:
        result = op(*given, **options)
    except Exception as error:
        result = error
    seen = [repr(result) if isinstance(result, Exception) else "fine"]
    for t in [*given, *(result if isinstance(result, tuple) else ())]:
        if type(t) is torch.Tensor and t.layout is torch.strided and t.device.type == "cpu":
            seen.append((repr(t.detach().tolist()), None if t.is_inference() else t._version))
    return seen


@pytest.mark.parametrize("op", FULL, ids=lambda op: op.__name__)
def test_results_and_errors_are_those_without_the_exchange(op):
    for case in CASES:
        with exchange():
            assert not _cpu.fit(tuple(images(2)), 0)
            wanted = outcome(op, case)
        assert outcome(op, case) == wanted, case


NAME = b"dlpack_exchange_api"
offered = pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="an older torch")


@offered
@pytest.mark.parametrize(("major", "used"), [(1, True), (2, False)])
def test_an_exchange_of_another_major_version_is_not_used(major, used):
    python = ctypes.pythonapi
    python.PyCapsule_GetPointer.restype, python.PyCapsule_New.restype = ctypes.c_void_p, ctypes.py_object
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    api = (ctypes.c_uint32 * 14).from_address(python.PyCapsule_GetPointer(torch.Tensor.__dlpack_c_exchange_api__, NAME))
    copy = (ctypes.c_uint32 * 14)(major, *api[1:])  # its first two words are the version
    with exchange(python.PyCapsule_New(ctypes.addressof(copy), NAME, None)):
        assert _cpu.fit(tuple(images(2)), 0) is used


@offered
def test_what_is_no_exchange_is_not_used():
    with exchange("no capsule"):
        assert not _cpu.fit(tuple(images(2)), 0)


UNFIT = set(CASES) - {
    "plain", "float64", "float16", "bfloat16", "one number", "six dimensions", "last requires grad", "side by side",
    "inference",
}  # fmt: skip


@offered
@pytest.mark.parametrize("case", CASES)
def test_fit_vouches_for_plain_tensors_alone(case):
    assert _cpu.fit(tuple(CASES[case](3)), 1) is (case not in UNFIT)


@offered
def test_fit_looks_at_what_is_written():
    a, b = images(2)
    assert _cpu.fit((a, b, b), 1)
    assert not _cpu.fit((a, b, b), 2)
    assert _cpu.fit((a, a), 0)
    assert not _cpu.fit((a, a), 1)
    memory = torch.zeros(16)
    for start, free in ((7, False), (8, True)):
        assert _cpu.fit((memory[None, :8], memory[None, start : start + 8]), 1) is free
        assert _cpu.fit((memory[None, start : start + 8], memory[None, :8]), 1) is free
    b.requires_grad_()
    assert _cpu.fit((b, a), 0)
    assert not _cpu.fit((b, a), 1)


@offered
def test_fit_leaves_wrapped_tensors_to_torch():
    seen = []
    look = lambda t: seen.append(_cpu.fit((t,), 0)) or (t * t).sum()  # noqa: E731
    x = images(1)[0]
    torch.vmap(look)(x)
    torch.func.grad(look)(x)
    torch.func.functionalize(look)(x)
    assert seen == [False] * 3


def test_fit_takes_a_tuple():
    for wrong in ([], (), images(2), None, ("a",), tuple(images(6))):
        assert not _cpu.fit(wrong, 0)


def test_a_call_names_what_is_no_tensor_of_a_known_type():
    with pytest.raises(TypeError, match="dtype"):
        _cpu.accumulate((torch.zeros(2, 2, dtype=torch.int32),) * 2, 1.0, 1.0, 1)
    with pytest.raises(AttributeError, match="is_contiguous"):
        _cpu.accumulate(("nothing", "at all"), 1.0, 1.0, 1)
    with pytest.raises(TypeError, match="wanted more tensors"):
        _cpu.accumulate((torch.zeros(2, 2),), 1.0, 1.0, 1)
    for wrong in ((), torch.zeros(2, 2), (torch.zeros(2, 2),) * 6):
        with pytest.raises(TypeError, match="wanted a tuple of 1 to 5 tensors"):
            _cpu.accumulate(wrong, 1.0, 1.0, 1)


@pytest.mark.parametrize(
    ("at", "value"), [(1, "x"), (2, None), (3, "x"), (4, "x"), (4, (0.0,)), (4, ("x", 1.0)), (5, 1.5)]
)
def test_an_argument_of_another_type_is_refused_before_the_kernel(at, value):
    adv, origin, grad = torch.zeros(1, 4), torch.zeros(1, 4), torch.ones(1, 4)
    arguments = [(adv, grad, origin, None), 0, 1.0, 0.5, (0.0, 1.0), 1]
    _cpu.pgd_step(*arguments)
    arguments[at] = value
    with pytest.raises((TypeError, AttributeError)):
        _cpu.pgd_step(*arguments)
    assert adv.tolist() == [[0.5] * 4]


def test_a_wrong_number_of_arguments_is_refused():
    with pytest.raises(TypeError, match="wanted 4 arguments, got 2"):
        _cpu.accumulate(0, 0)
