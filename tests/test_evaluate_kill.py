"""An evaluation that is killed at random moments, or shared by processes that may die, ends in the same files."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import small_study

pytest.importorskip("pyarrow")
ROOT = Path(__file__).resolve().parents[1]
KILLS = 12
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


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


def _killed(arguments: list, out: Path, chance: random.Random) -> bool:
    """Fork a run and kill it at some moment; False where it ended before that."""
    child = os.fork()
    if child == 0:
        os._exit(_run_here(*arguments))
    begun = _shards(out)
    limit = time.monotonic() + 60
    until = begun + chance.randrange(3)  # at the beginning, or after a shard or two of its own
    while _shards(out) < until and os.waitpid(child, os.WNOHANG)[0] == 0:
        assert time.monotonic() < limit, "no new shard"
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1))
    try:
        os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    except (ProcessLookupError, ChildProcessError):
        return False


def _kill_many_times(folder: Path) -> None:
    """One process imports everything once and forks the runs; then it goes on itself to the end."""
    import torch

    torch.set_num_threads(1)
    models, data = small_study.make(folder, images=24)
    whole, out = folder / "whole", folder / "out"
    assert _run_here(*small_study.arguments(models, data, whole, "--max-batch", 1)) == 0
    arguments = small_study.arguments(models, data, out, "--max-batch", 1, "--resume")
    chance, seen = random.Random(1), []
    for _ in range(KILLS):
        if not _killed(arguments, out, chance):
            break
        seen.append(_shards(out))
    assert _run_here(*arguments) == 0
    print("went on from", *seen)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_it_ends_in_the_same_files(tmp_path):
    script = (
        "import sys, pathlib; from tests import test_evaluate_kill as t; t._kill_many_times(pathlib.Path(sys.argv[1]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = [int(n) for n in ran.stdout.rsplit("went on from", 1)[1].split()]
    assert len({n for n in seen if 0 < n < 24}) >= 3, seen
    assert small_study.content(tmp_path / "out") == small_study.content(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out.partial").exists()


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, Path, Path]:
    """(restorers, images, the evaluation that one process makes of them)."""
    folder = tmp_path_factory.mktemp("alone")
    models, data = small_study.make(folder, images=7)
    command = [sys.executable, "-m", "fastattack", *map(str, small_study.arguments(models, data, folder / "out"))]
    ran = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return models, data, folder / "out"


def _torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """With the command of the documentation."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", str(_free_port()), "-m", "fastattack", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("processes", [2, 4])
def test_the_numbers_do_not_depend_on_the_processes(alone, tmp_path, processes):
    models, data, one = alone
    out = tmp_path / "out"
    ran = _torchrun(processes, *small_study.arguments(models, data, out))
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


def _two_ranks(arguments: list[list], **more: str) -> list[tuple[int, str]]:
    """(exit code, stderr) of two processes without a launcher."""
    where = {**ONE_THREAD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2", **more}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "fastattack", *map(str, each)],
            cwd=ROOT, env={**where, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank, each in enumerate(arguments)
    ]  # fmt: skip
    told = [rank.communicate(timeout=300)[1] for rank in ranks]
    return [(rank.returncode, words) for rank, words in zip(ranks, told, strict=True)]


def test_machines_without_a_common_disk(alone, tmp_path):
    """Each process has a place of its own; all shards come to that of rank 0."""
    models, data, one = alone
    here, there = tmp_path / "here" / "out", tmp_path / "there" / "out"
    ended = _two_ranks([small_study.arguments(models, data, out) for out in (here, there)])
    assert [code for code, _ in ended] == [0, 0], ended
    assert small_study.content(here) == small_study.content(one)
    assert not list(there.parent.iterdir())


def test_a_process_that_dies_is_named_and_resuming_finishes(alone, tmp_path):
    """Without a launcher that would notice: rank 0 does itself."""
    models, data, one = alone
    (tmp_path / "restorers.py").write_text(models.read_text() + DIES)
    out = tmp_path / "out"
    arguments = small_study.arguments(tmp_path / "restorers.py", data, out, names=("small", "dies"))
    (code, told), (died, _) = _two_ranks([[*arguments, "--patience", 2]] * 2, DIE="1")
    assert died == -signal.SIGKILL
    assert code == 2
    assert "rank 1 of 2 died" in told
    assert "--resume" in told
    assert not out.exists()
    assert 0 < _shards(out) < 4
    ran = _torchrun(2, *arguments, "--resume")
    assert ran.returncode == 0, ran.stderr
    mine, wanted = small_study.content(out), small_study.content(one)
    for matrix, other in zip(mine["results"]["matrices"], wanted["results"]["matrices"], strict=True):
        assert matrix["drop"] == other["drop"]  # "dies" is "large" but for that


def test_an_error_in_one_process_ends_all_with_its_words(alone, tmp_path):
    models, data, _ = alone
    broken = tmp_path / "restorers.py"
    broken.write_text(
        models.read_text() + "\n\nif os.environ.get('RANK') == '1':\n    raise RuntimeError('no licence here')\n"
    )
    out = tmp_path / "out"
    ended = _two_ranks([small_study.arguments(broken, data, out)] * 2)
    assert [code for code, _ in ended] == [2, 2]
    assert "rank 1 of 2 failed" in ended[0][1]
    assert "no licence here" in ended[0][1]
    assert not out.exists()
