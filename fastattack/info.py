"""What `fastattack info` says: versions, threads, backends and why some are missing."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import torch

from .ops import available, dispatch


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _thread_pools() -> str:
    """The OpenMP libraries in this process: one is right; two would spin against each other."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return "unknown (no /proc)"
    names = {line.split()[-1] for line in lines if "omp" in Path(line.split()[-1]).name and ".so" in line}
    libraries = sorted(name for name in names if Path(name).name.startswith(("libgomp", "libiomp", "libomp")))
    return ", ".join(libraries) or "none"


def describe() -> dict[str, str]:
    """Label -> text, in the order of display."""
    facts = {
        "fastattack": _version("fastattack"),
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "triton": _version("triton"),
        "cupy": next(
            (f"{p} {v}" for p in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if (v := _version(p))[0].isdigit()),
            "not installed",
        ),
        "threads": str(torch.get_num_threads()),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use",
    }
    try:
        from . import _cpu

        facts["CPU kernels"] = f"{_cpu.instruction_set()}, {'OpenMP' if _cpu.openmp else 'one thread'}"
    except ImportError as error:
        facts["CPU kernels"] = f"not built: {error}"
    facts["OpenMP libraries"] = _thread_pools()
    for name, reason in available().items():
        facts[f"backend {name}"] = "available" if reason is None else f"not available: {reason}"
    kinds = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for kind in kinds:
        facts[f"auto on {kind}"] = dispatch.resolve(torch.device(kind)).name
    return facts
