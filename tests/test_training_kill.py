"""A run whose process is killed at random moments, again and again, ends in the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from fastattack import training as t
from fastattack.training import checkpoint
from tests.test_training import same, tiny
from tests.test_training_resume import finish

STEPS, KILLS = 160, 14


def _train_for_the_kill(out: Path) -> None:
    finish(out, tiny(), "ts", t.TrainConfig(steps=STEPS, ema=0.9, log_every=2, save_every=2), resume=True)


def _steps_done(out: Path) -> int:
    """Of the checkpoint; while a run writes, its names may change between two looks."""
    for _ in range(100):
        if (path := checkpoint.latest(out)) is None:
            return 0
        with suppress(FileNotFoundError):
            return int(torch.load(path, weights_only=True)["step"])
    raise AssertionError(f"{out}: no checkpoint stays")


def _forked(out: Path) -> int:
    """The process id of a run of its own."""
    child = os.fork()
    if child == 0:
        try:
            _train_for_the_kill(out)
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return child


def _grown_and_killed(out: Path, pause: float) -> bool:
    """Kill a run some time after it has written a checkpoint of its own; False where it ended before."""
    begun, child, limit = _steps_done(out), _forked(out), time.monotonic() + 60
    while _steps_done(out) == begun:
        pid, status = os.waitpid(child, os.WNOHANG)
        assert pid == 0, f"ended with {os.waitstatus_to_exitcode(status)} and no new checkpoint"
        assert time.monotonic() < limit, "no new checkpoint"
        time.sleep(0.002)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def _kill_many_times(whole: Path, out: Path) -> None:
    """One process imports torch once and forks the runs, which are killed; then it goes on itself to the end."""
    torch.set_num_threads(1)  # so that there is no pool of threads that a fork would lack
    _train_for_the_kill(whole)  # first: the forks have what torch imports in its first step
    chance, resumed = random.Random(0), []
    while len(resumed) < KILLS and _grown_and_killed(out, chance.uniform(0.0, 0.02)):
        resumed.append(_steps_done(out))
        if resumed[-1] == STEPS:
            break
    _train_for_the_kill(out)
    print("resumed from", *resumed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_it_goes_on_to_the_same_bits(tmp_path):
    script = "import sys, pathlib; from tests import test_training_kill as r; "
    script += "r._kill_many_times(*map(pathlib.Path, sys.argv[1:]))"
    folders = [str(tmp_path / name) for name in ("whole", "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, "-c", script, *folders],
        cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    resumed = [int(step) for step in ran.stdout.rsplit("resumed from", 1)[1].split()]
    assert len({step for step in resumed if 0 < step < STEPS}) >= 5, resumed
    files = [torch.load(tmp_path / k / "checkpoint.pt", weights_only=True) for k in ("whole", "out")]
    assert files[0]["step"] == STEPS
    assert same(files[0], files[1])
    logs = [(tmp_path / k / "log.csv").read_text() for k in ("whole", "out")]
    assert logs[0] == logs[1]
    assert not [p.name for p in (tmp_path / "out").iterdir() if p.name.endswith(".tmp")]
