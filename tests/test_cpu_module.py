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
def without_exchange():
    """As under a torch without the DLPack exchange API."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(torch.Tensor, "__dlpack_c_exchange_api__", raising=False)
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
        with without_exchange():
            assert not _cpu.fit(tuple(images(2)), 0)
            wanted = outcome(op, case)
        assert outcome(op, case) == wanted, case
