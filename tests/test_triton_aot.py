"""Every Triton kernel compiled ahead of time, without a GPU: it must build for each architecture and must not spill.

The backend's own launcher says what to compile: its launches are recorded and not run. All of it happens in processes
of their own, because a process that has TRITON_INTERPRET set cannot compile.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ARCHITECTURES = (80, 90, 100)
# (type, form, architecture). Strided is the long form: strides, mask, numbers per sample and sample ids; with float64
# it needs the most registers. Every kernel is built for each architecture: in float32 and in float64 always, and in
# what the kernels take in turn, where arithmetic is in float32 too (the two-byte types) or the form is the other one.
# The walk over a sample, its loads and its stores are the same functions in all kernels. The whole product would take
# seven times as long.
ALWAYS = ((torch.float32, "flat", 90), (torch.float64, "strided", 80))
IN_TURN = (
    (torch.float16, "flat", 100),
    (torch.float32, "strided", 100),
    (torch.bfloat16, "flat", 100),
    (torch.float64, "flat", 100),
    (torch.bfloat16, "strided", 100),
)
PARTS = 2  # processes that share the work
STREAMING = {"pgd_step_linf", "pgd_step_sums", "pgd_step_l2", "project_linf", "project_sums", "project_l2"} | {
    "preserve_moments", "preserve_round", "preserve_linf", "preserve_l2", "noise_sums", "start_linf", "start_l2",
    "distance_sums",
    "largest",
    "accumulate",
    "momentum_magnitudes",
    "momentum_linf",
    "momentum_sums",
    "zero_mean_sums", "zero_mean_move",
    "quantise", "diffusion_step",
    "l1_sums", "l1_round", "l1_apply", "l1_count", "l1_move",
}  # fmt: skip
STREAMING |= {"apgd_step_linf", "apgd_step_sums", "apgd_step_measure", "apgd_step_l2"}
KERNELS = STREAMING | {"noise_finish", "distance_finish", "start_squares", "typical_sums", "typical_write"}
TURN = {kernel: turn % len(IN_TURN) for turn, kernel in enumerate(sorted(KERNELS))} | {
    "quantise": 1
}  # no two-byte types
# Nothing here divides, so machine code has no FFMA either.
UNFUSED = (
    "pgd_step_linf",
    "project_linf",
    "start_linf",
    "accumulate",
    "apgd_step_linf",
)
FUSED = r"\b[DFH]FMA\S* (?!R\d+, -RZ, RZ,)"  # what ptxas writes with two zeros is a constant
# Options under which the checks below must fail, or they check nothing.
SPOILT: tuple[str, dict[str, dict[str, Any]]] = (
    "torch.float32 flat",
    {"preserve_round": {"maxnreg": 24}, "start_linf": {"enable_fp_fusion": True}},
)


def launches() -> Iterator[tuple[str, Any, tuple[Any, ...], dict[str, Any], int]]:
    """(case, kernel, arguments, options, architecture) of every launch worth compiling."""
    import triton

    from fastattack.ops import triton as backend

    recorded: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        recorded.append((kernel, args, options))

    triton.runtime.jit.JITFunction.run = record
    torch.cuda.is_available = lambda: True
    torch.empty = torch.zeros  # nothing runs: what lies in new memory must not look like a round that was the last
    ops = backend.load()
    for turn, (dtype, form, architecture) in enumerate((*IN_TURN, *ALWAYS)):
        if form == "flat":
            run_all(ops, torch.zeros(2, 4096, dtype=dtype), None, 0.1, None)
        else:
            strided = torch.zeros(2, 8, 9, 10, 11, dtype=dtype)[:, ::2, ::3, ::2, ::2]
            mask = torch.ones(2, 1, 3, 5, 6, dtype=torch.bool).expand(strided.shape)
            run_all(ops, strided, mask, torch.ones(2, dtype=torch.float64), torch.arange(2))
        for kernel, args, options in recorded:
            if turn >= len(IN_TURN) or TURN[kernel.__name__] == turn:
                yield f"{dtype} {form}", kernel, args, options, architecture
        recorded.clear()


def run_all(ops: Any, x: torch.Tensor, mask: Any, number: Any, ids: Any) -> None:
    for norm in ("linf", "l2"):
        ops.pgd_step(x, x, x, mask, norm, number, number, (0.0, 1.0))
        ops.project(x, x, mask, norm, number, (0.0, 1.0))
        ops.preserve_noise(x, x, x, norm, number)
        ops.momentum_step(x, x, x, x, mask, norm, number, number, number, (0.0, 1.0))
        ops.random_start(x, x, norm, number, (0.0, 1.0), 7, ids)
        ops.apgd_step(x, x, x, x, mask, norm, number, number, number, (0.0, 1.0))
    ops.zero_mean_step(x, x, x, number, number)
    ops.zero_mean_step(x, None, x, number, 0.0)
    if x.dtype in (torch.float32, torch.float64):
        ops.quantise(x, x, mask, "linf", number, 8, (0.0, 1.0))
        ops.quantise(x, x, mask, "l2", number, 16, (0.0, 1.0))
    ops.l1_step(x, x, x, mask, number, number, number, (0.0, 1.0))  # and l1_project
    ops.noise_stats(x, number, number)
    ops.distances(x, x)
    ops.accumulate(x, x, number, number)
    ops.diffusion_step(x, x, number, number, number, 7, 3, ids)
    ops.diffusion_step(x, None, number, 0.0, number, 7, 3, ids)
    ops.typical_noise(x, x, number, number, number, 7, ids)
    ops.typical_noise(x, None, number, float("nan"), number, 7, ids)


def describe(arg: Any, annotation: str, path: tuple[int, ...], constants: Any, attributes: Any) -> Any:
    """The type of an argument as Triton's launcher would see it; constants and alignments are noted by path."""
    if isinstance(arg, tuple):
        return tuple(describe(a, "", (*path, i), constants, attributes) for i, a in enumerate(arg))
    if isinstance(arg, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        names = {"float": "fp", "bfloat": "bf", "int": "i", "uint": "u"}
        kind, bits = re.fullmatch(r"torch\.([a-z]+)(\d+)", str(arg.dtype)).groups()  # type: ignore[union-attr]
        return f"*{names[kind]}{bits}"
    if isinstance(arg, float):
        return annotation  # "fp64": without it a float would come as fp32
    if isinstance(arg, int) and (annotation or arg != 1):
        if arg % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return annotation or "i32"
    constants[path] = arg
    return "constexpr"


def source_of(kernel: Any, args: tuple[Any, ...]) -> Any:
    from triton.compiler import ASTSource

    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    signature = {
        param.name: describe(arg, param.annotation_type, (i,), constants, attributes)
        for i, (param, arg) in enumerate(zip(kernel.params, args, strict=True))
    }
    return ASTSource(kernel, signature, constants, attributes)


def build(source: Any, options: dict[str, Any], architecture: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget

    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        done = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    assert frame, f"ptxas said nothing of spills: {log.getvalue()}"
    ptx = done.asm["ptx"]
    sass = done.asm["sass"] if source.name in UNFUSED else ""
    return {
        "kernel": source.name,
        "architecture": architecture,
        "spills": [int(n) for n in frame.groups()],
        "fused": len(re.findall(r"\bfma\.", ptx)) + len(re.findall(FUSED, sass)),
        "wide_loads": len(re.findall(r"ld\.global\S*\.v[24]", ptx)),
        "wide_stores": len(re.findall(r"st\.global\S*\.v[24]", ptx)),
    }


def compile_part(part: int) -> dict[str, Any]:
    import triton

    triton.knobs.nvidia.dump_ptxas_log = True
    jobs: dict[tuple[str, int], Any] = {}
    for case, kernel, args, options, architecture in launches():
        source = source_of(kernel, args)  # many launches differ in their numbers alone
        jobs[source.hash(), architecture] = (case, source, options, architecture)
    built, spoilt = [], []
    for case, source, options, architecture in list(jobs.values())[part::PARTS]:
        built.append({"case": case, **build(source, options, architecture)})
        if case == SPOILT[0] and source.name in SPOILT[1]:
            spoilt.append(build(source, {**options, **SPOILT[1][source.name]}, architecture))
    return {"jobs": [f"{key} {architecture}" for key, architecture in jobs], "built": built, "spoilt": spoilt}


def test_kernels_build_without_spills_or_fused_multiply_adds(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)  # a kernel from the cache says nothing of spills
    commands = [[sys.executable, str(Path(__file__).resolve()), str(part)] for part in range(PARTS)]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(c, env=environment, stdout=pipe, stderr=pipe, text=True) for c in commands]
    outputs = [worker.communicate() for worker in workers]
    assert not any(worker.returncode for worker in workers), "".join(errors[-2000:] for _, errors in outputs)
    parts = [json.loads(output) for output, _ in outputs]
    built, spoilt = ([row for part in parts for row in part[key]] for key in ("built", "spoilt"))

    # Each process makes the list of jobs anew and takes its share: lists that differ leave kernels out.
    jobs = parts[0]["jobs"]
    assert all(part["jobs"] == jobs for part in parts)
    assert len(built) == len(jobs)
    assert {row["kernel"] for row in built} == KERNELS
    for architecture in ARCHITECTURES:
        there = {row["kernel"] for row in built if row["architecture"] == architecture}
        assert there | {"largest"} == KERNELS  # which serves float64 alone
    assert [row for row in built if any(row["spills"])] == []
    assert [row for row in built if row["fused"]] == []
    # Where alignment is known, images come in 16-byte words (8 for the two-byte types).
    flat = [row for row in built if "flat" in row["case"]]
    assert [row for row in flat if row["kernel"] in STREAMING and not row["wide_loads"]] == []
    assert [row for row in flat if row["kernel"] == "typical_write" and not row["wide_stores"]] == []
    assert any(row["kernel"] == "typical_write" and row["wide_loads"] for row in flat)  # with clean images
    # The checks themselves must be able to fail.
    assert any(row["kernel"] == "preserve_round" and all(row["spills"]) for row in spoilt)
    assert any(row["kernel"] == "start_linf" and row["fused"] for row in spoilt)


if __name__ == "__main__":
    print(json.dumps(compile_part(int(sys.argv[1]))))
