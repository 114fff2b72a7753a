"""The attacks suite: whole attacks beside the loops that one writes by hand, and the peers' own.

Every way takes the same number of gradients. PGD and CosPGD start at the input and return the last iterate, so all
must reach the plain loop's loss; APGD starts at random points and returns the best, so none may stay behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import attacks as fa
from ..fast.precision import bf16_units
from . import cases, loops, meaning, peers
from .cases import Case
from .judge import EXACT, REDUCED, Judge, Run
from .machine import check_device
from .trial import Trial, Way

BEHIND = 0.05
"""Share of the plain APGD's climb by which a way may be below: random starts and the details of the steps differ."""


@dataclass(frozen=True)
class Kind:
    """An attack, and who has it.

    Args:
        prepare: what becomes of the case.
        ours: our attack, keywords being options of how gradients are made.
        plain: ways of plain PyTorch in float32 by name; the first is what all are judged by.
        compiled: one through torch.compile.
        low: those under autocast to bfloat16, by name.
        peers: by name.
        floor: see `Judge`.
    """

    prepare: Callable[[Case], Case]
    ours: Callable[..., Run]
    plain: Mapping[str, Callable[[Case], Run]]
    compiled: Callable[[Case], Run] | None = None
    low: Mapping[str, Callable[[Case], Run]] | None = None
    peers: Mapping[str, peers.Maker] | None = None
    floor: float | None = None


def ours(attack: type[Any], case: Case, *, options: Mapping[str, Any], **speed: Any) -> Run:
    """One of our attacks on the case."""
    made = attack(case.model, eps=case.eps, steps=case.steps, bounds=case.bounds, **options, **speed)
    tolerance = REDUCED.get(speed.get("precision", "fp32"), EXACT)
    return Run(lambda: made(case.x, case.target), tolerance)


def pgd(case: Case, **speed: Any) -> Run:
    """``keep="last"``, because the plain loops and the peers keep the last iterate too."""
    own = {"objective": case.objective, "step": case.step, "random_start": False, "keep": "last"}
    return ours(fa.PGD, case, options=own, **speed)


def cospgd(case: Case, **speed: Any) -> Run:
    return ours(fa.CosPGD, case, options={"step": case.step, "random_start": False}, **speed)


def apgd(case: Case, **speed: Any) -> Run:
    return ours(fa.APGD, case, options={"objective": case.objective, "random_start": True}, **speed)


LOOPS: dict[str, Callable[[Case], Run]] = {
    "plain": loops.pgd,
    "plain channels_last": partial(loops.pgd, form=loops.CHANNELS_LAST),
}
LOW: dict[str, Callable[[Case], Run]] = {
    "plain bf16": partial(loops.pgd, bf16=True),
    "plain channels_last bf16": partial(loops.pgd, form=loops.CHANNELS_LAST, bf16=True),
}
KINDS: dict[str, Kind] = {
    "PGD": Kind(lambda case: case, pgd, LOOPS, loops.pgd_compiled, LOW, peers.PGD),
    "APGD": Kind(
        cases.predicted, apgd,
        {"plain": loops.apgd, "plain channels_last": partial(loops.apgd, form=loops.CHANNELS_LAST)},
        peers=peers.APGD, floor=BEHIND,
    ),
    "CosPGD": Kind(cases.dense, cospgd, LOOPS, loops.pgd_compiled, LOW, peers.COSPGD),
}  # fmt: skip
QUICK = ("PGD embedded", "PGD resnet18")
FULL = (
    "PGD dncnn",
    "PGD ffdnet",
    "PGD n2n",
    "PGD ecndnet",
    "PGD resnet18",
    "APGD resnet18",
    "CosPGD n2n",
    *meaning.NAMES,
)
NAMES = ("PGD embedded", *FULL)


def attack_trials(
    *,
    device: str,
    quick: bool,
    shared: Path | None,
    only: Sequence[str] = (),
    steps: int = 10,
    compile: bool = True,
) -> Iterator[Callable[[], Trial]]:
    """One maker a row, called when it is its turn: it loads the model, and raises what is wrong with its files.

    Args:
        device: "cpu" or "cuda".
        quick: small crops, two steps, two cases, nothing compiled.
        shared: folder with the published ``weights`` and ``data``; None: random ones, which cost the same.
        only: parts of NAMES, capitals or not; () means QUICK or FULL.
        steps: gradients of each attack.
        compile: with the ways of torch.compile, which cost a minute and more each on a CPU.

    Raises:
        ValueError: a device that is not there, steps < 2.
    """
    check_device(device)
    if steps < 2:
        raise ValueError(f"steps: wanted 2 at least, got {steps}")
    usual = QUICK if quick else FULL
    chosen = [name for name in NAMES if any(part.lower() in name.lower() for part in only)] if only else usual
    size = cases.QUICK if quick else cases.FULL
    case_of = partial(cases.case_of, shared=shared, steps=2 if quick else steps, device=device, size=size)
    return (partial(trial_called, name, case_of, compile=compile and not quick) for name in chosen)


def trial_called(name: str, case_of: Callable[[str], Case], *, compile: bool) -> Trial:
    kind_name, _, model = name.partition(" ")
    if name in meaning.NAMES:
        return meaning.trial_of(name, case_of(model))
    kind = KINDS[kind_name]
    return trial_of(name, kind, kind.prepare(case_of(model)), compile=compile)


def trial_of(name: str, kind: Kind, case: Case, *, compile: bool = False) -> Trial:
    """The trial of an attack on a case."""
    reference = next(iter(kind.plain.values()))
    return Trial(
        suite="attacks",
        case=name,
        dtype=str(case.x.dtype).removeprefix("torch."),
        shape=tuple(case.x.shape),
        ways=ways_of(kind, case, compile=compile),
        judge=Judge(case, lambda: reference(case)(), floor=kind.floor),
        floor=loops.passes(case),
        floor_name="passes of the model",
        operations=operations(case),
    )


def ways_of(kind: Kind, case: Case, *, compile: bool) -> list[Way]:
    """Every way, none of them made yet."""

    def way(name: str, side: Any, make: Callable[..., Run], compiles: bool = False, **speed: Any) -> Way:
        return Way(name, side, partial(make, case, **speed), compiles)

    found = [way(name, "plain", make) for name, make in kind.plain.items()]
    if "bf16" in precisions(case):
        found += [way(name, "plain", make) for name, make in (kind.low or {}).items()]
    if compile and kind.compiled is not None:
        torch.compiler.reset()  # what other trials compiled counts towards the limit of recompilations
        found.append(way("plain compiled", "plain", kind.compiled, compiles=True))
    for precision in precisions(case):
        name = "ours" if precision == "fp32" else f"ours {precision}"
        found.append(way(name, "ours", kind.ours, precision=precision))
        if case.x.is_cuda:
            found.append(way(f"{name} graph", "ours", kind.ours, precision=precision, graph="always"))
    if compile:
        found.append(way("ours compiled", "ours", kind.ours, compiles=True, compile=True))
    return found + [way(name, "peer", make) for name, make in theirs(kind, case).items()]


def precisions(case: Case) -> list[str]:
    """Those that differ here; "auto" is always one of the others. A CPU without units for bfloat16 emulates it, 16
    times slower than float32 where that was tried: left out."""
    if case.x.is_cuda:
        return ["fp32", "tf32", "bf16", "fp16"]
    return ["fp32", "bf16"] if bf16_units() else ["fp32"]


def theirs(kind: Kind, case: Case) -> dict[str, peers.Maker]:
    """The peers that can take the case: but for CosPGD's their losses are for labels, in the box [0, 1]."""
    labels = case.bounds == (0.0, 1.0) and not case.target.is_floating_point()
    return dict(kind.peers or {}) if labels or kind.peers is peers.COSPGD else {}


def operations(case: Case) -> float | None:
    """Floating-point operations of the passes, counted on tensors without data; None where the model needs data."""
    try:
        model, x = loops.frozen(case.model).to("meta"), case.x.to("meta").requires_grad_()
        with FlopCounterMode(display=False) as counter:
            model(x).sum().backward()
    except (NotImplementedError, RuntimeError):
        return None
    return float(counter.get_total_flops() * case.steps)
