"""What is measured: nets and classical methods as they are, under attack, and what attacks carry over."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from purification.store import Store
from torch import Tensor, nn

import fastattack as fa
from fastattack.evaluate.bootstrap import Bootstrap
from fastattack.objectives import registration as objectives
from fastattack.registration.attacking import attack_registration
from fastattack.registration.harm import Harm, harm_of
from fastattack.registration.measures import Measures, measure
from fastattack.registration.transferring import transfer
from fastattack.registration.universals import universal

from .data import Pairs
from .nets import Silent

Model = Callable[[Tensor], Tensor]
MEASURES = tuple(f.name for f in fields(Measures))
EPS = (2, 4, 8)
SIDES = ("moving", "fixed", "both")
STEPS = 20
OBJECTIVES: dict[str, Callable[[], Any]] = {
    "field error": objectives.field_error, "TRE": objectives.target_registration_error, "folding": objectives.folding,
}  # fmt: skip


def means(measures: Measures | Mapping[str, Tensor]) -> dict[str, Any]:
    """Of each measure its mean over the pairs and the ends of the interval."""
    known = vars(measures) if isinstance(measures, Measures) else measures
    columns = {name: known[name].numpy() for name in MEASURES if known.get(name) is not None}
    return {
        name: [round(float(v), 5) for v in (found.value, found.low, found.high)]
        for name, found in Bootstrap().means(columns).items()
    }


def identity(model: Any) -> str:
    """Of a net the first digits of the SHA-256 of its weights; of anything else its name."""
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    if not state:
        return repr(model)
    total = hashlib.sha256()
    for name, value in sorted(state.items()):
        total.update(name.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()[:12]


# -- as they are ------------------------------------------------------------------------------------------------


def clean(model: Model, sets: Mapping[str, Pairs], took: dict[str, Any]) -> dict[str, Any]:
    """Measures on each set of pairs; milliseconds of CPU time a pair, and what is left of a net without its tokens."""
    found: dict[str, Any] = {"took": took}
    for name, some in sets.items():
        with torch.no_grad():
            model(some.pair[:1])
            began = time.process_time()
            field = model(some.pair)
            spent = time.process_time() - began
        measures = measure(field, some.truth)
        found[name] = {"pairs": len(some.pair), "ms": 1e3 * spent / len(some.pair), **means(measures)}
        found[name]["each_tre"] = [round(float(v), 4) for v in measures.tre]
    if hasattr(model, "blocks"):
        held, blocks = sets["held out"], model.blocks
        model.blocks = Silent(blocks.out_width)
        try:
            with torch.no_grad():
                found["without tokens"] = means(measure(model(held.pair), held.truth))
        finally:
            model.blocks = blocks
    return found


# -- under attack ------------------------------------------------------------------------------------------------


def attacks() -> dict[str, dict[str, Any]]:
    """By a name: side, eps (of 255), and what kind."""
    found: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        for eps in EPS:
            found[f"{side}, {eps}, PGD"] = {"side": side, "eps": eps, "objective": "field error"}
            found[f"{side}, {eps}, random signs"] = {"side": side, "eps": eps, "objective": None}
    found["both, 4, PGD on TRE"] = {"side": "both", "eps": 4, "objective": "TRE"}
    found["both, 8, PGD on folding"] = {"side": "both", "eps": 8, "objective": "folding"}
    found["moving, 4, PGD, noise kept"] = {"side": "moving", "eps": 4, "objective": "field error", "kept": True}
    return found


def attacked(
    model: Any, some: Pairs, *, side: str, eps: int, objective: str | None, kept: bool = False
) -> dict[str, Any]:
    """One attack on all pairs, or as much noise that knows of nothing."""
    began = time.process_time()
    if objective is None:
        harm = harm_of(model, some.pair, scattered(some.pair, side, eps / 255), some.truth)
    else:
        more = {"preserve_noise": True, "clean": some.clean} if kept else {}
        harm = attack_registration(
            model, some.pair, some.truth, side=side, attack=fa.PGD, objective=OBJECTIVES[objective](), eps=eps / 255,
            steps=STEPS, **more,
        ).harm  # fmt: skip
    return {**told(harm), "pairs": len(some.pair), "cpu_seconds": round(time.process_time() - began, 1)}


def told(harm: Harm) -> dict[str, Any]:
    return {"after": means(harm.after), "rise": means(harm.rises)}


def scattered(pair: Tensor, side: str, eps: float) -> Tensor:
    """Each pixel of the side moved by +-eps at random, inside [0, 1]: the noise that is as large as the attack."""
    signs = torch.randint(0, 2, pair.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1.0
    for other, channel in (("moving", 1), ("fixed", 0)):
        if side == other:
            signs[:, channel] = 0
    return (pair + eps * signs).clamp(0, 1)


def queried(model: Model, some: Pairs, *, eps: int, queries: int) -> dict[str, Any]:
    """Square attack on both images: for what has no gradient."""
    began = time.process_time()
    found = attack_registration(model, some.pair, some.truth, attack=fa.Square, eps=eps / 255, queries=queries)
    spent = round(time.process_time() - began, 1)
    return {**told(found.harm), "pairs": len(some.pair), "queries": queries, "cpu_seconds": spent}


# -- carried over ------------------------------------------------------------------------------------------------


def carried(nets: Mapping[str, Model], others: Mapping[str, Model], some: Pairs, eps: int) -> dict[str, Any]:
    """Attacks on both images, crafted on each net, and what they do to all."""
    began = time.process_time()
    found = transfer(
        nets, some.pair, some.truth, targets=others, side="both", eps=eps / 255, steps=STEPS,
        objective=objectives.field_error(),
    )  # fmt: skip
    spent = round(time.process_time() - began, 1)
    return {**found.as_dict(), "pairs": len(some.pair), "eps": eps, "cpu_seconds": spent}


def for_all(model: Any, train: Pairs, held: Pairs, *, eps: int, steps: int) -> dict[str, Any]:
    """One perturbation of both images, found on pairs of the learnt slices, on held-out pairs; noise beside it."""
    began = time.process_time()
    found = universal(model, train.pair, train.truth, side="both", eps=eps / 255, steps=steps)
    harms = {
        "universal": harm_of(model, held.pair, found.apply(held.pair), held.truth),
        "random signs": harm_of(model, held.pair, scattered(held.pair, "both", eps / 255), held.truth),
    }
    spent = round(time.process_time() - began, 1)
    return {n: told(h) for n, h in harms.items()} | {"pairs": len(held.pair), "eps": eps, "cpu_seconds": spent}


def keep(store: Store, name: str, make: Callable[[], dict[str, Any]], **settings: Any) -> None:
    """A row that is made again where its settings differ."""
    plain = {k: str(v) for k, v in settings.items()}
    store.settings = plain
    fresh = store.rows.get(name, {}).get("settings") != plain
    store(name, make)
    if fresh:
        print(f"{store.section}, {name}: {store.rows[name].get('cpu_seconds', '')}", flush=True)
