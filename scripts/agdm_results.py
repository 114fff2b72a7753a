"""The tables of docs/results/agdm.md: `python scripts/agdm_results.py --out out/agdm`.

Does guidance by an adversarially trained network (AGDM) keep the clean accuracy of purification and raise the robust
one? On scikit-learn's digits, blind and adaptive. What is in the folder already (the network, a defence's row) is not
made again, so that a run can be cut off and called anew. `--tune` tries levels and scales, blind alone, on other digits
than those of the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.bench.machine import describe
from fastattack.defenses import Auxiliary, LatentGuide, Purified, adaptive_check, train_auxiliary
from fastattack.files import write_atomic
from fastattack.models.tweedie import sha256_of_diffusion
from fastattack.models.weights import read_weights, sha256_of

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits_task import HELD_OUT, classifier, digits

EPS = 8 / 255
TUNED_ON = slice(HELD_OUT - 48, HELD_OUT)  # digits that neither network learnt from, and no table is of
MARGIN = fa.objectives.cw_margin()
TRAINING: dict[str, Any] = {"eps": EPS, "epochs": 6, "attack_steps": 3, "batch": 32, "noise": 0.1}


def network(folder: Path) -> Auxiliary:
    """The guide's network: trained once, against attacks on the digits that the task model learnt from as well."""
    path = folder / "auxiliary.safetensors"
    if not path.exists():
        images, labels = (part[HELD_OUT:] for part in digits())
        aux, began = Auxiliary(1, classes=10), time.process_time()
        print(train_auxiliary(aux, images, labels, **TRAINING, progress=lambda k, loss: print(k, f"{loss:.3f}")))
        aux.save(path, metadata={**TRAINING, "cpu_seconds": f"{time.process_time() - began:.0f}"})
    return Auxiliary.load(path)


def right(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """(B,) 1 where the model is right."""
    with torch.no_grad():
        return (model(x).argmax(1) == y).double()


def plain_row(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, Any]:
    """A classifier without a purifier: the attack knows all of it."""
    began = time.process_time()
    adv = fa.PGD(model, eps=EPS, steps=steps, objective=MARGIN, bounds=(0, 1))(x, y)
    return {
        "clean": right(model, x, y).tolist(), "ways": {"known": right(model, adv, y).tolist()},
        "cpu_seconds": time.process_time() - began,
    }  # fmt: skip


def purified_row(model: Purified, x: Tensor, y: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """Shares of fresh draws in which each digit is read right: clean, and after each way of attack."""
    began = time.process_time()
    report = adaptive_check(
        model, x, y, eps=EPS, objective=MARGIN, bounds=(0, 1), threshold=0.0, ways=args.ways, steps=args.steps,
        eot=args.eot, draws=args.draws,
    )  # fmt: skip
    print(report, flush=True)
    attacked = time.process_time()
    with torch.no_grad():
        model(x)
    share: Callable[[Any], list[float]] = lambda row: (1 - row.fooled).tolist()  # noqa: E731
    return {
        "clean": share(report.clean), "ways": {row.name: share(row) for row in report.rows},
        "cpu_seconds": attacked - began, "purify_ms": 1e3 * (time.process_time() - attacked) / len(x),
    }  # fmt: skip


def defences(args: argparse.Namespace, task: nn.Module, aux: Auxiliary) -> dict[str, Purified | nn.Module]:
    purifier = fa.Purifier(args.diffusion, sigma=args.sigma / 255, sampler=args.sampler, steps=args.reverse)
    found: dict[str, Purified | nn.Module] = {"nothing": task, "network as classifier": aux.classifier().eval()}
    for scale in (0.0, *args.scales):
        guide = LatentGuide(aux, scale=scale, schedule=args.schedule, at=args.at) if scale else None
        name = f"guided, scale {scale:g}" if scale else "purified"
        found[name] = purifier.replaced(guide=guide)(task)
    return found


def tune(args: argparse.Namespace, task: nn.Module, aux: Auxiliary) -> None:
    """Clean and blind accuracy at noise levels and scales, on digits of its own, in four draws."""
    x, y = (part[TUNED_ON] for part in digits())
    adv = fa.PGD(task, eps=EPS, steps=20, objective=MARGIN, bounds=(0, 1))(x, y)
    print(f"task model: clean {right(task, x, y).mean():.3f}, attacked {right(task, adv, y).mean():.3f}")
    both = torch.cat([x, adv]).repeat(args.draws, 1, 1, 1)
    for sigma in args.levels:
        purifier = fa.Purifier(args.diffusion, sigma=sigma / 255, sampler=args.sampler, steps=args.reverse)
        for scale in (0.0, *args.scales):
            guide = LatentGuide(aux, scale=scale, schedule=args.schedule, at=args.at)
            out = purifier.replaced(guide=guide).purify(both)
            clean, blind = right(task, out, y.repeat(2 * args.draws)).reshape(args.draws, 2, -1).mean((0, 2))
            print(f"sigma {sigma:3} scale {scale:8g} clean {clean:.3f} blind {blind:.3f}", flush=True)


def percent(values: Sequence[float]) -> str:
    """The mean and its standard error over digits."""
    t = torch.tensor(values, dtype=torch.float64)
    return f"{100 * float(t.mean()):.1f} ± {100 * float(t.std()) / len(t) ** 0.5:.1f}"


def worst(row: dict[str, Any]) -> list[float]:
    """For each digit what the best of the attacks on it leaves."""
    return torch.tensor(list(row["ways"].values())).amin(0).tolist()


def tables(found: dict[str, Any]) -> str:
    rows: dict[str, Any] = found["rows"]
    ways = found["config"]["ways"]
    head = ["defence", "clean", *ways, "all of them", "ms/image", "CPU s"]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        cells = [percent(row["ways"][way]) if way in row["ways"] else "" for way in ways]
        cost = f"{row['purify_ms']:.1f}" if "purify_ms" in row else ""
        lines.append([name, percent(row["clean"]), *cells, percent(worst(row)), cost, f"{row['cpu_seconds']:.0f}"])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    base = rows.get("purified")
    for name, row in rows.items():
        if base is None or not name.startswith("guided"):
            continue
        gains = [
            f"{title} {percent([a - b for a, b in zip(get(row), get(base), strict=True)])}"
            for title, get in (
                ("clean", lambda r: r["clean"]),
                *((w, lambda r, w=w: r["ways"][w]) for w in ways),
                ("all of them", worst),
            )
        ]
        text += f"\n\n{name}, less purified (points, paired): " + ", ".join(gains) + "."
    return text


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("out/agdm"))
    p.add_argument("--diffusion", default="embedded")
    p.add_argument("--digits", type=int, default=64)
    p.add_argument("--sigma", type=float, default=80, help="of t*, 0-255")
    p.add_argument("--sampler", default="ddim")
    p.add_argument("--reverse", type=int, default=2, help="reverse steps")
    p.add_argument("--schedule", default="sigma")
    p.add_argument("--at", default="x0")
    p.add_argument("--scales", type=float, nargs="*", default=[0.1, 0.4])
    p.add_argument("--ways", nargs="+", default=["blind", "bpda+eot", "full+eot"])
    p.add_argument("--steps", type=int, default=10, help="of PGD")
    p.add_argument("--eot", type=int, default=2)
    p.add_argument("--draws", type=int, default=4)
    p.add_argument("--tune", action="store_true")
    p.add_argument("--levels", type=float, nargs="+", default=[40, 60, 80], help="to try with --tune")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parsed(argv)
    torch.set_num_threads(1)
    task, aux = classifier(), network(args.out)
    if args.tune:
        tune(args, task, aux)
        return
    x, y = (part[: args.digits] for part in digits())
    config = {name: value for name, value in vars(args).items() if name not in ("out", "tune", "levels", "scales")}
    place = args.out / "agdm.json"
    found: dict[str, Any] = {"config": config, "machine": describe("cpu"), "rows": {}}
    file = args.out / "auxiliary.safetensors"
    found["auxiliary"] = {"sha256": sha256_of(file), **read_weights(file)[1]}
    found["diffusion_sha256"] = sha256_of_diffusion(None if args.diffusion == "embedded" else Path(args.diffusion))
    if place.exists():
        before = json.loads(place.read_text())
        networks = [each["auxiliary"]["sha256"] for each in (before, found)]
        model = found["diffusion_sha256"]  # older records have none, and are not made again for that
        if before["config"] == config and networks[0] == networks[1] and before.get("diffusion_sha256", model) == model:
            found["rows"] = before["rows"]
    for name, model in defences(args, task, aux).items():
        if name in found["rows"]:
            continue
        print(f"\n{name}", flush=True)
        row = purified_row(model, x, y, args) if isinstance(model, Purified) else plain_row(model, x, y, args.steps)
        found["rows"][name] = row
        write_atomic(place, (json.dumps(found, indent=1) + "\n").encode())
    print("\n" + tables(found))


if __name__ == "__main__":
    main()
