"""Every op once on each backend, beside the reference on the CPU: quick enough for compute-sanitizer (bench/gpu.sh)."""

from __future__ import annotations

import pytest
import torch

from fastattack.ops import dispatch, reference
from tests.every_op import every_op
from tests.subjects import Subject


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        (torch.float32, torch.contiguous_format),
        (torch.bfloat16, torch.channels_last),
        (torch.float64, torch.channels_last),
    ],
)
def test_every_op_gives_what_the_reference_gives(
    subject: Subject, dtype: torch.dtype, form: torch.memory_format
) -> None:
    if subject.name == "triton-interpreted":
        pytest.skip("minutes in Triton's interpreter; the tests of each op run it there")
    found = every_op(dispatch.load(subject.backend), subject.device, dtype, form)
    for got, wanted in zip(found, every_op(reference.BACKEND, "cpu", dtype, form), strict=True):
        assert got.device.type == subject.device
        torch.testing.assert_close(got.cpu(), wanted, equal_nan=True)
