"""bench/gpu.sh without a GPU: it says so; a part that fails or hangs is recorded, and the rest goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_suite
from bench.gpu_suite import GRACE, ROOT, Part, counts, parts_of, run_parts

SCRIPT = ROOT / "bench" / "gpu.sh"


def shell(code: str) -> list[str]:
    return ["bash", "-c", code]


def gpu_sh(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=environment, cwd="/")


def test_the_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_the_limits_stay_under_nine_minutes() -> None:
    """Those that it lists, each with the time that a hanging part is given to end; ten seconds for all around them."""
    done = gpu_sh("--list")
    listed = [line.split()[:2] for line in done.stdout.splitlines()]
    assert [name for name, _ in listed] == ["build", "tests", "memcheck", "racecheck", "ops", "attacks"]
    assert sum(float(limit) + GRACE for _, limit in listed) + 10 < 9 * 60
    assert done.returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_nothing_is_touched(tmp_path: Path) -> None:
    target = tmp_path / "gpu.json"
    target.write_text("before")
    work = gpu_suite.WORK.exists()
    done = gpu_sh(str(target))
    assert done.returncode == 2
    assert re.search(r"nothing was run or written: torch .* sees no GPU", done.stderr)
    assert done.stdout == ""
    assert target.read_text() == "before"
    assert gpu_suite.WORK.exists() == work


def test_failures_are_recorded_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sleep that ignores the interrupt and has a child holds the suite no longer than limit and grace."""
    answer, target = tmp_path / "answer.json", tmp_path / "deep" / "out.json"
    answer.write_text('{"old": 1}')
    parts = [
        Part("fails", 20, shell("echo what went wrong; exit 7")),
        Part("hangs", 0.5, shell("trap '' INT; echo begun; sleep 60 & wait; sleep 60")),
        Part("missing", 20, ["no-such-program"]),
        Part("silent", 20, ["true"], result=answer),
        Part("good", 20, shell(f'echo "[$X]" > {answer}'), {"X": "3"}, answer),
    ]
    began = time.monotonic()
    assert not run_parts(parts, tmp_path / "work", target, {"gpu": "none"})
    assert time.monotonic() - began < 30
    found = json.loads(target.read_text())
    assert found["machine"] == {"gpu": "none"}
    parts_found = found["parts"]
    assert {name: (one["ok"], one["code"]) for name, one in parts_found.items()} == {
        "fails": (False, 7), "hangs": (False, 124), "missing": (False, 127), "silent": (True, 0), "good": (True, 0),
    }  # fmt: skip
    assert "what went wrong" in parts_found["fails"]["tail"]
    assert parts_found["hangs"]["timed_out"]
    assert "begun" in parts_found["hangs"]["tail"]
    assert "no-such-program: No such file" in parts_found["missing"]["tail"]
    assert parts_found["silent"]["result"] is None, "an older run's result is not this one's"
    assert parts_found["good"]["result"] == [3]
    out = capsys.readouterr().out
    assert "hangs: TIMED OUT" in out
    assert "fails: FAILED with 7" in out


def test_all_well_and_an_old_result_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    assert run_parts([Part("good", 20, ["true"])], tmp_path, target, {})
    assert json.loads(target.read_text())["parts"]["good"]["ok"]
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


PROGRAM = """
import signal, sys
from pathlib import Path
from bench.gpu_suite import Part, ended, run_parts
signal.signal(signal.SIGTERM, ended)
parts = [Part("first", 20, ["true"]), Part("second", 60, ["bash", "-c", "sleep 60 & echo $! > {pid}; wait"])]
run_parts(parts, Path("{folder}"), Path("{target}"), {{}})
"""


def runs(pid: int) -> bool:
    """It is there, and no zombie that nobody has waited for."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_terminated_suite_writes_what_it_has(tmp_path: Path) -> None:
    pid, target = tmp_path / "pid", tmp_path / "out.json"
    code = PROGRAM.format(pid=pid, folder=tmp_path, target=target)
    suite = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    suite.send_signal(signal.SIGTERM)
    assert suite.wait(30) == 128 + signal.SIGTERM
    assert json.loads(target.read_text())["parts"]["first"]["ok"]
    deadline = time.monotonic() + 20
    while runs(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(int(pid.read_text())), "the part's own children end with it"


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        ("...\n3 failed, 120 passed, 7 skipped in 61.20s (0:01:01)\n", {"failed": 3, "passed": 120, "skipped": 7}),
        ("===== 1 passed, 2 errors in 0.10s =====", {"passed": 1, "error": 2}),
        ("1 passed in 2.00s\n========= ERROR SUMMARY: 4 errors\n", {"passed": 1, "sanitizer": 4}),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", {"sanitizer": 0}),
        ("12 of 30 files compiled\n", {}),
    ],
)
def test_counts(log: str, wanted: dict[str, int]) -> None:
    assert counts(log) == wanted


def test_sanitizers_run_the_gpu_backends_alone(tmp_path: Path) -> None:
    for part in parts_of("python", tmp_path)[2:4]:
        assert part.command[-3:] == ["tests/test_every_op.py", "-k", "(triton or cuda or cupy) and not host"]
        assert part.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        assert (ROOT / part.command[-3]).is_file()


def test_benchmarks_are_commands_of_the_suite(tmp_path: Path) -> None:
    """Their options are those of `fastattack bench`: on this machine they fail for want of a GPU alone."""
    for part in parts_of(sys.executable, tmp_path)[4:]:
        done = subprocess.run(part.command, capture_output=True, text=True, cwd=ROOT)
        if not torch.cuda.is_available():
            assert done.returncode == 2
            assert done.stderr.strip() == "fastattack: device: wanted cuda, but torch sees no GPU here"
        assert part.result is not None
        assert part.result.name == "bench.json"
