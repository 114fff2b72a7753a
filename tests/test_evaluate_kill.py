"""An evaluation that is killed at any step on the disk, or shared by processes that may die, ends in the same files."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests import small_study

pytest.importorskip("pyarrow")
ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def arguments(*what: Any, **options: Any) -> list:
    """Of the study, without SSIM: torchmetrics takes longer to import than the rest to run."""
    return [*small_study.arguments(*what, **options), "--quality", "none"]


def _run_here(*arguments: object) -> int:
    from fastattack import cli

    sys.argv = ["fastattack", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _shards(out: Path) -> int:
    return len(list(out.with_name("out.partial").glob("shards/*.scores.parquet")))


def _prepare(folder: Path, images: int) -> tuple[Path, Path]:
    import torch

    torch.set_num_threads(1)  # a fork would lack the other threads
    return small_study.make(folder, images=images)


def _dies_at(count: int, arguments: list, total: Path) -> bool:
    """Fork a run that ends, as by a kill, before its ``count``-th step on the disk; one that ends well names them."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), code
        return code == 9
    steps: list[str] = []

    def watched(step: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            steps.append(step.__name__)
            if len(steps) == count:
                os._exit(9)
            return step(*args, **options)

        return run

    for module, name in ((os, "rename"), (os, "replace"), (os, "mkdir"), (os, "rmdir"), (os, "fsync"), (os, "unlink")):
        setattr(module, name, watched(getattr(module, name)))
    code = _run_here(*arguments)
    total.write_text(" ".join(steps))
    os._exit(code)


def _kill_everywhere(folder: Path) -> None:
    """A run that begins anew over a finished one, killed at many of its steps on the disk, goes on every time."""
    models, data = _prepare(folder, images=2)
    whole, out = folder / "whole", folder / "out"
    few = ("--max-batch", 1)
    assert _run_here(*arguments(models, data, whole, *few, names=("small",))) == 0
    again = arguments(models, data, out, *few, names=("small",))
    begun = folder / "begun"
    assert _run_here(*again, "--seed", 1) == 0  # an earlier evaluation, to be replaced
    shutil.copytree(out, begun)
    total = folder / "total"
    assert not _dies_at(0, [*again, "--overwrite"], total)
    steps = ["", *total.read_text().split()]  # the first is 1
    renamed = [count for count, step in enumerate(steps) if step == "rename"]
    assert len(renamed) >= 4  # OUT.partial comes, OUT goes, the new one comes, the old one's name says so
    for count in sorted({1, len(steps) - 1, *range(3, 16, 4), *range(16, len(steps), 30), *renamed, renamed[-1] + 1}):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(begun, out)
        assert _dies_at(count, [*again, "--overwrite"], total), count
        if out.exists():  # else it is put back when the next run begins
            assert small_study.content(out) in (small_study.content(begun), small_study.content(whole)), count
        how = "--resume" if out.with_name("out.partial").exists() else "--overwrite"
        assert _run_here(*again, how) == 0, f"step {count}: {how} failed"
        assert small_study.content(out) == small_study.content(whole), f"step {count}"
        assert sorted(p.name for p in folder.glob(".*out*")) == [], count
        assert not list(out.rglob("*.tmp"))
    print("steps", len(steps))


def _in_a_process(function: str, folder: Path) -> str:
    script = f"import sys, pathlib; from tests import test_evaluate_kill as t; t.{function}(pathlib.Path(sys.argv[1]))"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


FORKED = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_killed_at_any_step_on_the_disk_it_goes_on(tmp_path):
    told = _in_a_process("_kill_everywhere", tmp_path)
    assert int(told.rsplit("steps", 1)[1]) > 40


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, Path, Path]:
    """(restorers, images, the evaluation that one process makes of them)."""
    folder = tmp_path_factory.mktemp("alone")
    models, data = small_study.make(folder, images=7)
    command = [sys.executable, "-m", "fastattack", *map(str, arguments(models, data, folder / "out"))]
    ran = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return models, data, folder / "out"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_the_numbers_do_not_depend_on_the_processes(alone, tmp_path):
    models, data, one = alone
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3"]  # as in the documentation
    command += ["--master-port", str(_free_port()), "-m", "fastattack"]
    command += map(str, arguments(models, data, out))
    ran = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("report:") == 1
    assert small_study.content(out) == small_study.content(one)


DIES = """

class Dies(Blur):
    def forward(self, y):
        if os.environ.get("RANK") == "1" and os.environ.get("DIE"):
            os.kill(os.getpid(), 9)
        return super().forward(y)


def dies():
    return Dies(5)
"""


PRELOADED = ["fastattack.cli", "fastattack.commands.evaluate", "fastattack.evaluate.run"]


def _rank(arguments: list, environment: dict[str, str], words: Path) -> None:
    os.environ.update(environment)
    with words.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.exit(_run_here(*arguments))


def _two_ranks(folder: Path, each: list[list], **more: str) -> list[tuple[int, str]]:
    """(exit code, stderr) of two processes without a launcher, forked where torch is imported already."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2", **more}
    words = [folder / f"stderr{rank}" for rank in range(2)]
    FORKED.set_forkserver_preload(PRELOADED)
    ranks = [
        FORKED.Process(target=_rank, args=(mine, {**where, "RANK": str(rank)}, words[rank]))
        for rank, mine in enumerate(each)
    ]
    with mock.patch.dict(os.environ, ONE_THREAD):
        for rank in ranks:
            rank.start()
    for rank in ranks:
        rank.join(300)
        assert rank.exitcode is not None, "still running"
    return [(rank.exitcode, told.read_text()) for rank, told in zip(ranks, words, strict=True)]


@needs_fork
def test_machines_without_a_common_disk(alone, tmp_path):
    """Each process has a place of its own; all shards come to that of rank 0, also one made again on the other."""
    models, data, one = alone
    here, there = tmp_path / "here" / "out", tmp_path / "there" / "out"
    each = [
        arguments(models, data, out, "--max-batch", 1, "--resume", names=("small", "breaks")) for out in (here, there)
    ]
    assert [code for code, _ in _two_ranks(tmp_path, each)] == [1, 1]
    assert not list(there.parent.iterdir())
    assert [code for code, _ in _two_ranks(tmp_path, each, TOO_BRIGHT="9")] == [0, 0]  # the bright image is rank 1's
    found, wanted = (json.loads((out / "results.json").read_text()) for out in (here, one))
    assert found["summary"]["complete"] is True
    for matrix, other in zip(found["matrices"], wanted["matrices"], strict=True):
        assert matrix["drop"]["mean"][0][0] == pytest.approx(other["drop"]["mean"][0][0], abs=1e-5)


@needs_fork
def test_a_process_that_dies_is_named_and_resuming_finishes(alone, tmp_path):
    """Without a launcher that would notice: rank 0 does itself."""
    models, data, one = alone
    (tmp_path / "restorers.py").write_text(models.read_text() + DIES)
    out = tmp_path / "out"
    both = arguments(tmp_path / "restorers.py", data, out, names=("small", "dies"))
    (code, told), (died, _) = _two_ranks(tmp_path, [[*both, "--patience", 2]] * 2, DIE="1")
    assert died == -signal.SIGKILL
    assert code == 2
    assert "rank 1 of 2 died" in told
    assert "--resume" in told
    assert not out.exists()
    assert 0 < _shards(out) < 4
    assert [code for code, _ in _two_ranks(tmp_path, [[*both, "--resume"]] * 2)] == [0, 0]
    mine, wanted = small_study.content(out), small_study.content(one)
    for matrix, other in zip(mine["results"]["matrices"], wanted["results"]["matrices"], strict=True):
        assert matrix["drop"] == other["drop"]  # "dies" is "large" but for that


@needs_fork
def test_an_error_in_one_process_ends_all_with_its_words(alone, tmp_path):
    models, data, _ = alone
    broken = tmp_path / "restorers.py"
    broken.write_text(
        models.read_text() + "\n\nif os.environ.get('RANK') == '1':\n    raise RuntimeError('no licence here')\n"
    )
    out = tmp_path / "out"
    ended = _two_ranks(tmp_path, [arguments(broken, data, out)] * 2)
    assert [code for code, _ in ended] == [2, 2]
    assert "rank 1 of 2 failed" in ended[0][1]
    assert "no licence here" in ended[0][1]
    assert not out.exists()
