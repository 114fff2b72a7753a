"""What a result was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("fastattack", "torch", "triton", "numpy", "cupy-cuda13x", "cupy-cuda12x", "torchattacks", "foolbox",
            "adversarial-robustness-toolbox", "autoattack", "adv-lib", "cospgd")  # fmt: skip


def check_device(device: str) -> None:
    """Raises ValueError for another device than "cpu" and "cuda", and for a GPU that is not there."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: wanted cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: wanted cuda, but torch sees no GPU here")


def describe(device: str) -> dict[str, Any]:
    """Machine, versions, threads and commit; plain values for JSON."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction set": _instruction_set(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "tf32": [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32] if device == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _instruction_set() -> str | None:
    try:
        from .. import _cpu
    except ImportError:
        return None
    return _cpu.instruction_set()


def _commit() -> str | None:
    """Of the checkout that the package lies in, with "+" where files have been changed; None for an installed one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        run = [["git", *words] for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])]
        commit, changed = (
            subprocess.run(one, cwd=folder, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            for one in run
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")
