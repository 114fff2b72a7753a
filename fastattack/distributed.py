"""Several processes, on one machine or many, at one job: who am I, tell the others, and notice when one dies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

_TICK = 0.5  # seconds between signs of life


class RankError(RuntimeError):
    """Another process failed or died; the message names its rank."""


class Team(AbstractContextManager["Team"]):
    """The processes of this job, as `torchrun` (or RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) says; alone without.

    ``with Team() as team: ...``. Work is handed out by ``team.rank`` and ``team.size``; small Python objects go through
    `gather` and `tell` (gloo on the CPU; nccl stands ready for tensors on GPUs). Each process ticks in the job's store:
    one that stops without a word is noticed after ``patience`` seconds, whatever launched it.

    Attributes:
        rank, size: 0 <= rank < size.
        local_rank: number of the process on its machine: which GPU it takes.

    Raises:
        ValueError: the environment contradicts itself.
        RankError: from `gather`, `tell` and `check`, where another process failed or died.
    """

    def __init__(self, *, patience: float = 60.0) -> None:
        rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        if (rank is None) != (size is None):
            raise ValueError(f"RANK, WORLD_SIZE: wanted both in the environment or none, got {rank!r} and {size!r}")
        self.rank, self.size = _whole("RANK", rank or "0"), _whole("WORLD_SIZE", size or "1")
        self.local_rank = _whole("LOCAL_RANK", os.environ.get("LOCAL_RANK", "0"))
        if self.rank >= self.size:
            raise ValueError(f"RANK: wanted less than WORLD_SIZE = {self.size}, got {self.rank}")
        self.patience = patience
        self._meetings = 0
        self._over = threading.Event()
        self._seen: dict[int, tuple[bytes, float]] = {}

    def __enter__(self) -> Team:
        if self.size > 1:
            self._store: Any = next(iter(rendezvous("env://")))[0]
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(
                backend, store=PrefixStore("group", self._store), rank=self.rank, world_size=self.size,
                timeout=timedelta(seconds=max(self.patience, 30.0)),
            )  # fmt: skip
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 1:
            return
        try:
            if error is not None and not self._store.check(["failed"]):
                told = " ".join(str(error).split())
                if not isinstance(error, RankError):
                    told = f"{self._name(self.rank)} failed: {type(error).__name__}: {told}"
                self._store.set("failed", told)
            self._leave(error is None)
        except dist.DistError:  # the store went with its holder: nobody is left to be told
            if error is None:
                raise
        finally:
            self._over.set()
            dist.destroy_process_group()

    @classmethod
    def alone(cls) -> Team:
        """One process, whatever the environment says."""
        team = cls.__new__(cls)
        team.rank, team.size, team.local_rank = 0, 1, 0
        return team

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in every one of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._together(lambda: dist.all_gather_object(values, value))
        return values

    def tell(self, value: Any = None) -> Any:
        """The value of rank 0, in every process."""
        if self.size == 1:
            return value
        values = [value]
        self._together(lambda: dist.broadcast_object_list(values, src=0))
        return values[0]

    def first(self, work: Callable[[], Any]) -> Any:
        """What ``work`` gives in rank 0, which alone does it, in every process; the others wait."""
        return self.tell(work() if self.rank == 0 else None)

    def check(self) -> None:
        """Raises RankError where another process has failed, or has given no sign of life for ``patience`` seconds."""
        if self.size == 1:
            return
        try:
            self._look()
        except dist.DistError as error:
            raise RankError(f"{self._name(0)}, or what holds its store, died: {error}") from error

    def _look(self) -> None:
        if self._store.check(["failed"]):
            raise RankError(self._store.get("failed").decode())
        for rank in range(self.size):
            if rank == self.rank or self._store.check([f"left/{rank}"]):
                continue
            tick = self._store.get(f"tick/{rank}") if self._store.check([f"tick/{rank}"]) else b""
            before, since = self._seen.get(rank, (b"none", 0.0))
            if tick != before:
                self._seen[rank] = (tick, time.monotonic())
            elif time.monotonic() - since > self.patience:
                raise RankError(f"{self._name(rank)} died: no sign of life for {self.patience:g} s")

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {self.size}"

    def _together(self, collective: Callable[[], None]) -> None:
        """When all are here: a collective that waits for the dead would hang without saying whose fault it is."""
        self._meetings += 1
        keys = [f"here/{self._meetings}/{rank}" for rank in range(self.size)]
        try:
            self._store.set(keys[self.rank], "")
            while not self._store.check(keys):
                self._look()
                time.sleep(0.02)
            collective()
        except (dist.DistError, ConnectionError) as error:
            self.check()  # says who, where that is known
            raise RankError(f"a process of {self.size} was lost: {error}") from error

    def _leave(self, well: bool) -> None:
        """Rank 0, which may hold the store, leaves last, so that the others can read why."""
        self._store.set(f"left/{self.rank}", "")
        limit = time.monotonic() + self.patience
        while self.rank == 0 and not self._store.check([f"left/{rank}" for rank in range(self.size)]):
            if well:
                self._look()
            elif time.monotonic() > limit:
                return
            time.sleep(0.02)

    def _tick(self) -> None:
        count = 0
        while not self._over.wait(_TICK):
            count += 1
            try:
                self._store.set(f"tick/{self.rank}", str(count))
            except RuntimeError:  # the store is gone; whoever waits for it will say so
                return


def _whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name}: wanted a whole number >= 0 in the environment, got {text!r}")
    return int(text)
