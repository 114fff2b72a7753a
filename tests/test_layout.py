"""collapse: every order walks each element of all tensors together, once, and mixed formats get long runs."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from fastattack.ops.layout import collapse

SHAPE = (2, 3, 40, 5)


def formats() -> dict[str, Tensor]:
    return {
        "contiguous": torch.empty(SHAPE),
        "channels_last": torch.empty(SHAPE).to(memory_format=torch.channels_last),
        "rows": torch.empty(2, 3, 80, 5)[:, :, ::2],
        "cropped": torch.empty(2, 3, 40, 7)[..., 1:-1],
        "expanded": torch.empty(2, 1, 40, 5).expand(SHAPE),
        "transposed": torch.empty(2, 3, 5, 40).mT,
    }


def places(strides: list[tuple[int, ...]], sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Where each element lies in each tensor, as offsets."""
    indices = product(*(range(size) for size in sizes))
    return [tuple(sum(i * s for i, s in zip(index, stride, strict=True)) for stride in strides) for index in indices]


@pytest.mark.parametrize("keep_order", [False, True])
@pytest.mark.parametrize("second", formats())
@pytest.mark.parametrize("first", formats())
def test_every_element_once(first, second, keep_order):
    a, b = formats()[first], formats()[second]
    layout = collapse(a, b, keep_order=keep_order)
    assert layout is not None
    got = places(list(layout.strides), (layout.batch, *layout.sizes))
    want = places([a.stride(), b.stride()], SHAPE)
    assert got == want if keep_order else sorted(got) == sorted(want)


def test_alike_tensors_are_one_run_and_mixed_formats_walk_the_longest():
    at = formats()
    assert collapse(at["channels_last"], at["channels_last"]).flat
    for first, second in (("channels_last", "contiguous"), ("contiguous", "channels_last")):
        assert collapse(at[first], at[second]).sizes[-1] == 200, (first, second)  # not three pixels
