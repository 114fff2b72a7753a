"""The parts of bench/gpu.sh: each has a time limit of its own, and one that fails is recorded while the rest goes on.

Needs no more than the standard library and, to see whether there is a GPU, torch: the first part builds fastattack.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "out" / "gpu"
GRACE = 3.0
"""Seconds that a part has to end once it was told so."""
TAIL = 4000
"""Characters of a log that the result keeps."""
ON_GPU = "(triton or cuda or cupy) and not host"
PACKAGES = (
    "torch",
    "triton",
    "cupy-cuda13x",
    "numpy",
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "setuptools",
    "pybind11",
)


@dataclass(frozen=True)
class Part:
    """``limit`` in seconds; ``result``: a JSON file that the command writes."""

    name: str
    limit: float
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    result: Path | None = None


def parts_of(python: str, folder: Path) -> list[Part]:
    """All of them; their limits and their time to end stay under nine minutes."""
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install"]
    build = [*pip, "--no-index", "--no-deps", "--no-build-isolation", "-v", "-e", "."]
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", "-rfE"]
    several = ["-n", str(min(12, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    ops, attacks = folder / "ops", folder / "attacks"
    bench = [python, "-m", "fastattack", "bench", "--device", "cuda", "--no-figures", "--overwrite", "--rounds", "5"]
    some = [word for case in ("pgd_step_", "noise_stats", "distances") for word in ("--only", case)]
    some += ["--dtype", "float32", "--shape", "64x3x512x512", "--shape", "1x1x64x64"]
    return [
        Part("build", 115, build, {"FASTATTACK_CUDA": "1"}),
        Part("tests", 190, [*pytest, *several, "--continue-on-collection-errors", "tests"]),
        sanitizer("memcheck", 50, pytest),
        sanitizer("racecheck", 50, pytest),
        Part("ops", 50, [*bench, "--suite", "ops", *some, "--out", str(ops)], result=ops / "bench.json"),
        Part("attacks", 50, [*bench, "--suite", "attacks", "--out", str(attacks)], result=attacks / "bench.json"),
    ]


def sanitizer(tool: str, limit: float, pytest: Sequence[str]) -> Part:
    """Every op of every GPU backend. torch's own cache of memory would hide what lies between two tensors."""
    program = tool_of("compute-sanitizer")
    command = [program, "--tool", tool, "--error-exitcode", "86", "--print-limit", "20", *pytest]
    return Part(
        tool, limit, [*command, "tests/test_every_op.py", "-k", ON_GPU], {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    )


def tool_of(name: str) -> str:
    return shutil.which(name) or shutil.which(f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/{name}") or name


def no_gpu() -> str:
    """Why nothing can run here; empty where a GPU can be used."""
    try:
        import torch
    except ImportError as error:
        return f"torch is not installed for {sys.executable}: {error}"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU"
    return ""


def environment(folder: Path) -> str:
    """The Python that the parts run: this one where it is a virtual environment's, else that of one which sees it."""
    if sys.prefix != sys.base_prefix:
        return sys.executable
    where = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", str(where)], check=True)
    return str(where / "bin" / "python")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt, so that pytest still sums up; then the whole group, which is ours alone (start_new_session)."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def done(part: Part, folder: Path) -> dict[str, Any]:
    """Runs a part; what became of it."""
    log, began, timed_out = folder / f"{part.name}.log", time.monotonic(), False
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # cmake and ninja beside it
    if part.result is not None:
        part.result.unlink(missing_ok=True)  # an older run's is not this one's
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                part.command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PATH": path} | part.environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            out.write(f"{part.command[0]}: {error.strerror}\n".encode())
            code = 127
        else:
            try:
                code = process.wait(part.limit)
            except subprocess.TimeoutExpired:
                timed_out, code = True, 124
            finally:  # also on an interrupt of our own
                stop(process)
    text = log.read_text(errors="replace")
    return {
        "ok": code == 0, "code": code, "timed_out": timed_out, "seconds": round(time.monotonic() - began, 1),
        "limit": part.limit, "counts": counts(text), "tail": text[-TAIL:], "result": read(part.result),
    }  # fmt: skip


def counts(log: str) -> dict[str, int]:
    """What pytest and compute-sanitizer have counted, from the last lines of theirs."""
    lines = [
        line for line in log.splitlines() if re.search(r"\d+ (passed|failed|skipped|errors?)\b.* in [\d.]+s", line)
    ]
    found = {kind.rstrip("s"): int(n) for n, kind in re.findall(r"(\d+) ([a-z]+)", lines[-1])} if lines else {}
    summary = re.findall(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", log)
    return found | ({"sanitizer": sum(map(int, summary))} if summary else {})


def read(path: Path | None) -> Any:
    """The JSON that a part has written, None where it has not."""
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        return {"unreadable": str(error)}


def said(command: Sequence[str]) -> str | None:
    """What a command prints, None where there is no such command."""
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return out.strip() or None


def machine() -> dict[str, Any]:
    import torch

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "driver": said([tool_of("nvidia-smi"), "--query-gpu=driver_version", "--format=csv,noheader"]),
        "nvcc": (said([tool_of("nvcc"), "--version"]) or "not found").splitlines()[-1],
        "python": platform.python_version(),
        "versions": versions,
        "missing": [name for name in PACKAGES if name not in versions],
        "cores": os.cpu_count(),
        "commit": said(["git", "rev-parse", "HEAD"]),
    }


@contextlib.contextmanager
def written(target: Path, found: dict[str, Any]) -> Iterator[None]:
    """``found`` is written in any case, beside the old file and then in its place."""
    try:
        yield
    finally:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        beside.write_text(json.dumps(found, indent=1) + "\n")
        beside.replace(target)


def run_parts(parts: Sequence[Part], folder: Path, target: Path, about: dict[str, Any]) -> bool:
    """Runs them in turn and writes the result; whether all went well."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": about, "parts": {}}
    with written(target, found):
        for part in parts:
            print(f"{part.name}: at most {part.limit:g} s", flush=True)
            one = found["parts"][part.name] = done(part, folder)
            how = "ok" if one["ok"] else "TIMED OUT" if one["timed_out"] else f"FAILED with {one['code']}"
            print(f"{part.name}: {how} after {one['seconds']} s {one['counts'] or ''}", flush=True)
            if not one["ok"]:
                print("  " + "\n  ".join(one["tail"].splitlines()[-15:]), flush=True)
    return all(one["ok"] for one in found["parts"].values())


def ended(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="docs/results/gpu-NAME.json by default")
    parser.add_argument("--list", action="store_true", help="the parts and their limits in seconds; runs nothing")
    options = parser.parse_args()
    if options.list:
        for part in parts_of("python", WORK):
            print(f"{part.name:<10} {part.limit:>4g}  {' '.join(part.command)}")
        return 0
    reason = no_gpu()
    if reason:
        print(f"bench/gpu.sh: nothing was run or written: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, ended)  # so that the result is written
    about = machine()
    slug = re.sub(r"[^a-z0-9]+", "-", about["gpu"].lower()).strip("-")
    target = (options.file or ROOT / "docs" / "results" / f"gpu-{slug}.json").absolute()
    if about["missing"]:
        print(f"not installed, so less is run: {', '.join(about['missing'])}")
    WORK.mkdir(parents=True, exist_ok=True)
    good = run_parts(parts_of(environment(WORK), WORK), WORK, target, about)
    print(f"{target}: {'all well' if good else 'a part failed'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
