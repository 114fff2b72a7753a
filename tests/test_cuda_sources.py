"""The CUDA sources compile for every GPU we ship for, without spills; _cuda says so where there is no driver.

What the kernels compute is tested by the table of backends, which runs them on the host (tests/host).
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fastattack.ops import check, cuda, cupy, launch, reference
from fastattack.ops.backend import BackendUnavailable
from tests import host
from tests.every_op import every_op

ARCHITECTURES = (80, 90, 100)
STEMS = tuple(launch.KERNELS)
CUDA = Path(__file__).resolve().parents[1] / "csrc" / "cuda"


def find_nvrtc() -> ctypes.CDLL | None:
    """The library of the package nvidia-cuda-nvrtc, which has no Python module of its own."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).rglob("libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    return None


def nvrtc_compile(code: str, names: tuple[str, ...], options: tuple[str, ...]) -> tuple[bool, str, str]:
    """(worked, log, PTX)"""
    nvrtc = find_nvrtc()
    if nvrtc is None:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"fastattack.cu", 0, None, None) == 0
    try:
        for name in names:
            assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
        encoded = [o.encode() for o in options]
        worked = nvrtc.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)) == 0
        lowered = ctypes.c_char_p()
        for name in names if worked else ():
            worked &= nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)) == 0 and bool(lowered)
        return worked, text(nvrtc, program, "ProgramLog"), text(nvrtc, program, "PTX") if worked else ""
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc, f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.value.decode()


IN_TURN = list(zip(STEMS, itertools.cycle((ARCHITECTURES[0], ARCHITECTURES[-1]))))  # no source asks which it is


@pytest.mark.parametrize(("stem", "architecture"), IN_TURN)
def test_nvrtc_takes_every_name_expression(stem: str, architecture: int) -> None:
    names = tuple(name for storage in launch.STORAGE.values() for name in cupy.expressions(stem, storage))
    worked, log, ptx = nvrtc_compile(cupy.source(stem), names, (*cupy.options(), f"-arch=compute_{architecture}"))
    assert worked, log
    assert "warning" not in log, log
    assert ptx.count(".entry ") == len(names)
    assert "fma.rn" not in ptx, "a fused multiply-add changes the bits"
    if stem != "random_start":
        # typical_noise takes four elements at a time, which are 8 bytes of the two-byte types
        storages = ("float", "double") if stem == "typical_noise" else launch.STORAGE.values()
        for storage in storages:
            assert re.search(r"ld\.global\.(v4\.\w32|v2\.\w64)", entries(ptx, storage)), (
                f"no 16-byte loads for {storage}"
            )


def entries(ptx: str, storage: str) -> str:
    """The PTX of the kernels over one storage type."""
    code = {"float": "IfE", "double": "IdE", "half_t": "6half_tE", "bfloat_t": "8bfloat_tE"}[storage]
    return "".join(part for part in ptx.split(".entry ")[1:] if code in part.split("(")[0])


def test_nvrtc_refuses_a_wrong_name() -> None:
    wrong = cupy.expression("pgd_step_sideways_kernel<float>")
    assert not nvrtc_compile(cupy.source("pgd_step"), (wrong,), (*cupy.options(), "-arch=compute_90"))[0]


def test_nvrtc_sees_a_fused_multiply_add() -> None:
    fused = tuple(o.replace("--fmad=false", "--fmad=true") for o in cupy.options())
    names = cupy.expressions("random_start", "float")
    assert "fma.rn" in nvrtc_compile(cupy.source("random_start"), names, (*fused, "-arch=compute_90"))[2]


def find_nvcc() -> str:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    return nvcc


def resources(binary: Path) -> list[tuple[str, int, int]]:
    """(kernel, bytes of stack, bytes of local memory) of all device code in a library or an object file."""
    triton = importlib.util.find_spec("triton")
    bundled = None if triton is None else Path(str(triton.origin)).parent / "backends/nvidia/bin/cuobjdump"
    tool = shutil.which("cuobjdump") or (str(bundled) if bundled is not None and bundled.exists() else None)
    if tool is None:
        pytest.skip("cuobjdump was not found, neither on the path nor in triton")
    done = subprocess.run([tool, "--dump-resource-usage", str(binary)], capture_output=True, text=True, check=True)
    found = re.findall(r"Function (\S+):\s+REG:\d+ STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", done.stdout)
    return [(name, int(stack), int(local)) for name, stack, local in found]


def test_the_built_kernels_keep_everything_in_registers() -> None:
    """Spilled registers lie on the stack. The build has compiled for all architectures already."""
    module = importlib.util.find_spec("fastattack._cuda")
    if module is None or module.origin is None:
        pytest.skip("fastattack._cuda is not built")
    found = resources(Path(module.origin))
    kernels = sum(len(parts) for parts in launch.KERNELS.values())
    assert len(found) == kernels * len(launch.STORAGE) * len(ARCHITECTURES)
    assert [entry for entry in found if entry[1] or entry[2]] == []


SPILLING = """
__global__ void __launch_bounds__(1024, 2) spilling(double* x) {
  double kept[40];
  for (int i = 0; i < 40; ++i) kept[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 40; ++i) x[i * 1024 + threadIdx.x] = kept[39 - i] * kept[(7 * i) % 40];
}
"""


def test_the_spill_check_sees_spills(tmp_path: Path) -> None:
    source, target = tmp_path / "spilling.cu", tmp_path / "spilling.o"
    source.write_text(SPILLING)
    command = [find_nvcc(), "-gencode=arch=compute_90,code=sm_90", "-c", str(source), "-o", str(target)]
    subprocess.run(command, capture_output=True, check=True)
    assert [stack > 0 for _, stack, _ in resources(target)] == [True]


def test_built_module_without_a_driver() -> None:
    if importlib.util.find_spec("fastattack._cuda") is None:
        pytest.skip("fastattack._cuda is not built")
    native = importlib.import_module("fastattack._cuda")
    assert {name.split("<")[0] for name in native.names()} == {k for names in launch.KERNELS.values() for k in names}
    usable, reason = native.available()
    if usable:
        pytest.skip("there is a CUDA device here")
    argument = launch.pack(stats_words(torch.zeros(1, 4)))
    with pytest.raises(RuntimeError, match="no CUDA driver"):
        native.launch("noise_stats_sums_kernel<float>", 1, argument, 0)
    with pytest.raises(ValueError, match="no kernel is called"):
        native.launch("sideways", 1, b"", 0)
    with pytest.raises(ValueError, match="bytes, got 8"):
        native.launch("noise_stats_kernel<float>", 1, bytes(8), 0)
    assert "no CUDA driver" in reason
    with pytest.raises(BackendUnavailable, match="no CUDA driver"):
        cuda.load()


def test_cupy_says_why_it_cannot_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(BackendUnavailable, match=r"cupy is not installed|no CUDA"):
        cupy.load()


def test_the_order_of_blocks_changes_no_bit() -> None:
    """Blocks of one launch must not read what another of them writes."""
    backend = host.cuda_backend()
    forwards = every_op(backend)
    with host.backwards():
        assert all(
            torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(forwards, every_op(backend), strict=True)
        )
    for got, wanted in zip(forwards, every_op(reference.BACKEND), strict=True):
        torch.testing.assert_close(got, wanted, equal_nan=True)


def test_launch_errors_are_raised() -> None:
    noise = torch.ones(2, 8)
    with host.no_driver(), pytest.raises(RuntimeError, match=r"noise_stats_sums_kernel<float>: no CUDA driver"):
        host.cuda_backend().noise_stats(noise, 1.0, 0.0)
    with pytest.raises(ValueError, match="0 blocks do not make a grid"):
        host.native().launch("noise_stats_kernel<float>", 0, bytes(8 * len(stats_words(noise))), 0)


def stats_words(noise: torch.Tensor) -> launch.Words:
    """The argument of the noise_stats kernels, without workspace."""
    with launch.samples(noise) as at:
        return [*at.words, *[0, 1.0] * 3, 0, 0]


def test_other_arrays_share_memory() -> None:
    class Array:
        """A DLPack exporter that is no tensor, as CuPy's arrays are."""

        def __init__(self, inner: torch.Tensor) -> None:
            self.inner = inner

        def __dlpack__(self, **options: object) -> object:
            return self.inner.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.inner.__dlpack_device__()

    inner = torch.zeros(3)
    check.as_tensor(Array(inner), "x").fill_(1.0)
    assert inner.tolist() == [1.0, 1.0, 1.0]
    assert check.as_tensor(inner, "x") is inner
    with pytest.raises(TypeError, match="got list"):
        check.as_tensor([1.0], "x")
