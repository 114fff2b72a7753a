"""Builds fastattack._cpu always and fastattack._cuda where nvcc is found, with CMake and Ninja.

FASTATTACK_CUDA=0 leaves _cuda out, FASTATTACK_CUDA=1 makes a missing nvcc an error. FASTATTACK_BUILD names a folder
that keeps the objects for the next build. FASTATTACK_LIGHT="portable avx512" compiles these instruction sets with -O1,
in half the time. torch is not needed to build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def find_nvcc() -> str | None:
    """nvcc by CUDACXX, PATH, then CUDA_HOME or /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    candidates = [os.environ.get("CUDACXX"), "nvcc", *(f"{home}/bin/nvcc" for home in homes if home)]
    return next((found for c in candidates if c and (found := shutil.which(c))), None)


def wanted_nvcc() -> str | None:
    """nvcc where _cuda is to be built, else None. Exits where FASTATTACK_CUDA=1 cannot be met."""
    choice = os.environ.get("FASTATTACK_CUDA", "")
    if choice not in ("", "0", "1"):
        sys.exit(f"FASTATTACK_CUDA: wanted 0 or 1, got {choice!r}")
    nvcc = None if choice == "0" else find_nvcc()
    if choice == "1" and nvcc is None:
        sys.exit("FASTATTACK_CUDA=1, but nvcc was not found (looked at CUDACXX, PATH, CUDA_HOME, /usr/local/cuda)")
    return nvcc


def light_sets() -> list[str]:
    """The instruction sets of FASTATTACK_LIGHT. Exits where there is no such one."""
    found = os.environ.get("FASTATTACK_LIGHT", "").split()
    if not {*found} <= {"portable", "avx2", "avx512"}:
        sys.exit(f"FASTATTACK_LIGHT: wanted some of portable, avx2, avx512, got {' '.join(found)!r}")
    return found


class CMakeBuild(build_ext):
    """One CMake project makes all extensions; they land where setuptools wants the first."""

    def run(self) -> None:
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name)).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
        self.cmake(target.parent)

    def cmake(self, target: Path) -> None:
        # An editable install keeps its objects, so that the next one compiles only what changed.
        kept = os.environ.get("FASTATTACK_BUILD") or (ROOT / "build" if self.editable_mode else self.build_temp)
        build = Path(kept).resolve() / f"cmake-{sys.version_info[1]}"
        build.mkdir(parents=True, exist_ok=True)
        nvcc = wanted_nvcc()
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DPYBIND11_FINDPYTHON=ON",
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DFASTATTACK_CUDA={'ON' if nvcc else 'OFF'}",
            f"-DFASTATTACK_LIGHT={';'.join(light_sets())}",
        ]
        if nvcc:
            options.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
        subprocess.run(["cmake", "-G", "Ninja", *options, str(ROOT)], cwd=build, check=True)
        subprocess.run(["cmake", "--build", "."], cwd=build, check=True)


class PackageSources(build_py):
    """Ships the CUDA device sources, which the cupy backend compiles on the user's machine."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the sources are beside the package
        for pattern, folder in (("include/fastattack/*.h", "include/fastattack"), ("cuda/*.cuh", "cuda")):
            target = Path(self.build_lib) / "fastattack" / "_csrc" / folder
            target.mkdir(parents=True, exist_ok=True)
            for source in sorted((ROOT / "csrc").glob(pattern)):
                shutil.copy2(source, target)


names = ["fastattack._cpu"] + (["fastattack._cuda"] if wanted_nvcc() else [])
setup(
    ext_modules=[Extension(name, sources=[]) for name in names],
    cmdclass={"build_ext": CMakeBuild, "build_py": PackageSources},
)
