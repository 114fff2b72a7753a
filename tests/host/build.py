"""Compiles csrc/cuda with g++ against cuda_shim.h into .cache/host, once for each state of the sources and for all
processes: who comes second waits."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CUDA = ROOT / "csrc" / "cuda"
INCLUDE = ROOT / "csrc" / "include"
# -ffp-contract=off is nvcc's --fmad=false. A misaligned 16-byte access traps instead of passing unnoticed.
FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror",
    "-Wno-unknown-pragmas",  # unrolling
    "-fsanitize=alignment,bounds,shift", "-fsanitize-undefined-trap-on-error",
    "-include", str(HERE / "cuda_shim.h"), f"-I{HERE}", f"-I{INCLUDE}",
    f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_paths()['include']}",
]  # fmt: skip


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def sources() -> list[Path]:
    return [*sorted(CUDA.glob("*.cu")), CUDA / "module.cpp", HERE / "emulator.cpp"]


def digest() -> str:
    files = [*sources(), *sorted(CUDA.glob("*.*h")), *sorted(INCLUDE.rglob("*.h")), *sorted(HERE.glob("*.h"))]
    text = b"\0".join(f.read_bytes() for f in files) + " ".join(FLAGS).encode() + pybind11.__version__.encode()
    return hashlib.sha256(text).hexdigest()[:16]


def compile_one(source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    command = [compiler() or "g++", *FLAGS, "-x", "c++", "-c", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return target


def build() -> Path:
    """The path of the host build's _cuda module."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    target = ROOT / ".cache" / "host" / digest() / f"_cuda{suffix}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _make(target)
    return target


def _make(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        folder = Path(made)
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(lambda s: compile_one(s, folder), sources()))
        linked = folder / target.name
        subprocess.run([compiler() or "g++", "-shared", *map(str, objects), "-o", str(linked)], check=True)
        linked.replace(target)  # in one step: a build that is killed leaves nothing
