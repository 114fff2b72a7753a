"""The whole run: ceilings, then every row in turn; what goes wrong in one is named, and the rest goes on."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import ceilings, machine
from .ops import DTYPES, SHAPES, op_trials
from .ops.inputs import LAYOUTS
from .result import Ceiling, Result, Row
from .timing import Pace, measure, reason_of
from .trial import Trial

SUITES = ("ops", "attacks", "layers", "growth", "all")
QUICK_SHAPES = ((1, 1, 64, 64), (2, 3, 128, 128))
LAYOUT_SHAPE = (32, 3, 256, 256)
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUPY_CACHE_DIR")
"""Where torch.compile and our kernels of Triton and CuPy keep what they have compiled."""
Maker = Callable[[], Trial]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        suite: "ops", "attacks", "layers" (the drop-in layers beside the originals), "growth" (how cost grows with
            pixels, batch, steps and models) or "all".
        device: "cpu" or "cuda".
        quick: small inputs and few rounds, to see that all works; its times say little.
        only: parts of the cases' names; all of them without.
        dtypes: storage types of the ops, of "float32", "bfloat16" and "float16".
        shapes: of the ops' images, each (B, C, H, W); by default from 1x1x64x64 to 64x3x512x512, and one of them in
            other memory formats.
        threads: of torch and the kernels; those that torch has taken without.
        rounds: of A B A B; 11, or 3 where quick (growth: 6, or 2).
        compile: with the ways of torch.compile.
        shared: folder with published weights and images; without, random ones that cost the same.

    Raises:
        ValueError: names the argument.
    """

    suite: str = "all"
    device: str = "cpu"
    quick: bool = False
    only: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = DTYPES
    shapes: tuple[tuple[int, ...], ...] = ()
    threads: int | None = None
    rounds: int | None = None
    compile: bool = True
    shared: Path | None = None

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"suite: wanted one of {', '.join(SUITES)}, got {self.suite!r}")
        machine.check_device(self.device)
        for name in ("threads", "rounds"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}: wanted 1 or more, got {number}")
        unknown = [name for name in self.dtypes if name not in DTYPES]
        if unknown or not self.dtypes:
            raise ValueError(f"dtypes: wanted some of {', '.join(DTYPES)}, got {', '.join(unknown) or 'none'}")
        for shape in self.shapes:
            if len(shape) != 4 or min(shape) < 1:
                raise ValueError(f"shapes: wanted (B, C, H, W) of positive numbers, got {shape}")
        if self.shared is not None and not self.shared.is_dir():
            raise ValueError(f"shared: {self.shared} is not a folder")

    @property
    def pace(self) -> Pace:
        """One thread on the CPU is timed by its own clock: what other jobs take away does not count."""
        rounds = self.rounds or (3 if self.quick else 11)
        alone = self.device == "cpu" and torch.get_num_threads() == 1
        return Pace(rounds, 0.001 if self.quick else 0.02, self.device, alone)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        pace = self.pace
        found = asdict(self) | {"rounds": pace.rounds, "clock": "of the thread" if pace.own_time else "of the wall"}
        return found | {"shared": None if self.shared is None else str(self.shared), "threads": torch.get_num_threads()}


def run(
    settings: Settings,
    *,
    on_ceilings: Callable[[tuple[Ceiling, ...]], None] = lambda found: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Result:
    """Measures everything that the settings say; see `Settings` for errors.

    Args:
        settings: what to measure.
        on_ceilings: is told the ceilings when they are known.
        on_row: is told each row when it is done.

    Returns:
        What was measured; also after Ctrl-C, with "interrupted" among the errors. torch's number of threads and its
        random state are as before.

    Raises:
        ValueError: no case has a name as ``only`` wants it.
    """
    began = time.monotonic()
    rows: list[Row] = []
    errors: list[str] = []
    found: tuple[Ceiling, ...] = ()
    extra: dict[str, Any] = {}
    todo = list(makers(settings))
    if not todo and settings.suite != "growth":
        raise ValueError(f"only: no case of the suite {settings.suite!r} has such a name: {', '.join(settings.only)}")
    with surroundings(settings):
        about, said = machine.describe(settings.device), settings.as_dict()
        try:
            found = ceilings.ceilings(settings.pace, quick=settings.quick)
            on_ceilings(found)
            for make in todo:
                try:
                    row = measure(make(), settings.pace)
                except Exception as error:
                    errors.append(": ".join(filter(None, (name_of(make), reason_of(error)))))
                    continue
                rows.append(row)
                on_row(row)
            try:
                extra = growth_of(settings)
            except Exception as error:  # what was measured is kept
                errors.append(f"growth: {reason_of(error)}")
        except (KeyboardInterrupt, SystemExit):  # the latter is what SIGTERM becomes
            errors.append("interrupted")
    return Result(about, said, found, tuple(rows), tuple(errors), round(time.monotonic() - began, 1), extra)


def name_of(make: Maker) -> str:
    """What a maker of a trial would have made: the words among its arguments."""
    words = [getattr(one, "label", one) for one in getattr(make, "args", ())]
    return " ".join(
        "x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in words if not callable(one)
    )


@contextmanager
def surroundings(settings: Settings) -> Iterator[None]:
    """The number of threads, torch's random state, and empty caches for all that compiles, whose times would else be
    those of an earlier run."""
    threads, old = torch.get_num_threads(), {name: os.environ.get(name) for name in CACHES}
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update({name: f"{folder}/{name}" for name in CACHES})
        try:
            if settings.compile:
                warm_up_compiler(settings.device)
            yield
        finally:
            for name, value in old.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            torch.set_num_threads(threads)


def warm_up_compiler(device: str) -> None:
    """What the first compilation of a process does for all (headers, worker processes) is not the first way's time."""
    try:
        torch.compile(lambda x: x.mul(2).add(1))(torch.zeros(64, device=device))
    except Exception:  # no compiler here: each way will say so
        return


def makers(settings: Settings) -> Iterator[Maker]:
    """What makes the rows, in order."""
    if settings.suite in ("ops", "all"):
        common: dict[str, Any] = {"device": settings.device, "only": settings.only}
        shapes = settings.shapes or (QUICK_SHAPES if settings.quick else SHAPES)
        yield from op_trials(shapes=shapes, dtypes=settings.dtypes, compile=settings.compile, **common)
        if not settings.shapes:
            large = QUICK_SHAPES[-1] if settings.quick else LAYOUT_SHAPE
            odd = [layout for layout in LAYOUTS if layout != "contiguous"]
            yield from op_trials(shapes=(large,), dtypes=("float32",), layouts=odd, compile=False, **common)
    if settings.suite in ("attacks", "all"):
        from .attacks import attack_trials

        yield from attack_trials(
            device=settings.device,
            quick=settings.quick,
            shared=settings.shared,
            only=settings.only,
            compile=settings.compile,
        )
    if settings.suite in ("layers", "all"):
        from .layers import layer_trials

        yield from layer_trials(device=settings.device, quick=settings.quick, only=settings.only)


def growth_of(settings: Settings) -> dict[str, Any]:
    """How cost grows, where that or everything is asked for."""
    if settings.suite != "growth" and (settings.only or settings.suite != "all"):
        return {}
    from .growth import growth

    found = growth(device=settings.device, quick=settings.quick, rounds=settings.rounds)
    return {"growth": [one.as_dict() for one in found]}
