"""The C++ module itself: how it reads its arguments."""

import pytest
import torch

from fastattack import _cpu
from fastattack.ops.cpu import DTYPES


def test_plain_describes_contiguous_tensors():
    a, b = torch.zeros(3, 2, 4, 5), torch.ones(3, 2, 4, 5)
    assert _cpu.plain(DTYPES, a, None, b) == (a.data_ptr(), 0, b.data_ptr(), 3, 40, None, 0)
    assert _cpu.plain(DTYPES, torch.zeros(7, dtype=torch.bfloat16))[1:] == (7, 1, None, 3)


def test_plain_leaves_other_layouts_to_the_walk():
    a = torch.zeros(3, 2, 4, 5)
    images = a.contiguous(memory_format=torch.channels_last)
    assert _cpu.plain(DTYPES, a, images) is None
    assert _cpu.plain(DTYPES, a.mT, None) is None
    assert _cpu.plain(DTYPES, a, torch.ones(1, dtype=torch.bool).expand(a.shape)) is None


def test_plain_names_what_is_no_tensor_of_a_known_type():
    with pytest.raises(TypeError, match="dtype"):
        _cpu.plain(DTYPES, torch.zeros(2, 2, dtype=torch.int32))
    with pytest.raises(AttributeError, match="is_contiguous"):
        _cpu.plain(DTYPES, "nothing")


@pytest.mark.parametrize(("at", "value"), [(0, "x"), (0, -1), (2, 1.5), (4, 1.5), (7, None), (8, "x"), (10, 1.5)])
def test_an_argument_of_another_type_is_refused_before_the_kernel(at, value):
    total, grad = torch.ones(1, 4), torch.ones(1, 4)
    arguments = [total.data_ptr(), grad.data_ptr(), 1, 4, None, 0, 0.5, 0, 2.0, 0, 1]
    _cpu.accumulate(*arguments)
    arguments[at] = value
    with pytest.raises((TypeError, OverflowError, RuntimeError)):
        _cpu.accumulate(*arguments)
    assert total.tolist() == [[2.5] * 4]


def test_a_wrong_number_of_arguments_is_refused():
    with pytest.raises(TypeError, match="wanted 11 arguments, got 2"):
        _cpu.accumulate(0, 0)
