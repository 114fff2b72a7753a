"""What every test file uses: the backends under test, and where the real data are."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported: its kernels then run on the CPU

from tests.interpreter import quicken
from tests.subjects import NAMES, Subject, subject_called


def pytest_configure(config: pytest.Config) -> None:
    quicken()
    if hasattr(config, "workerinput") or os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)  # the workers share the cores


#: In the names of the tests that go through every kernel in every type, layout and option.
TABLES = ("backend", "against_numpy", "every_op")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """cupy-host runs the kernels of cuda-host by the same launches (ops/launch.py). What is its own, the names of the
    kernels and how their argument is passed, the tables meet."""
    if "subject" in metafunc.fixturenames:
        table = any(part in metafunc.function.__name__ for part in TABLES)
        names = [name for name in NAMES if table or name != "cupy-host"]
        metafunc.parametrize("subject", names, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """One backend under test; public ops called with ``backend=subject.backend`` on ``subject.device`` run it."""
    with subject_called(request.param) as found:
        yield found
