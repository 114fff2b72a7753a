"""What distillation and smoothing of a black box come to on digits: the figures of docs/results/ducd.md.

python scripts/ducd_results.py run fidelity membership certified attacks --out out/ducd
python scripts/ducd_results.py table --out out/ducd --json docs/results/ducd.json

The 1797 digits of examples/digits_task.py (32 x 32 pixels, pale) are dealt at random in three: 100 members that the
target learns by heart, 1337 that it may be asked about (the pool), 360 that nobody learns from (the test digits). The
target is asked through its answers alone. A part that is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.distillation import Augment, Generate, SmallCNN
from fastattack.files import write_atomic

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits_task import SIZE, Digits, digits

MEMBERS, TEST = 100, 360
BUDGETS = (100, 300, 1000, 3000)
SEEDS = (0, 1)
NOISE = 0.25  # on the inputs of the students that are to be smoothed, and of the target that is retrained
ANSWERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "logits": (lambda z: z, "l1"),
    "probabilities": (lambda z: z.softmax(1), "l1"),
    "labels": (lambda z: z.argmax(1), "ce"),
}
MADE: dict[str, Any] = {"augment": Augment(shift=2, noise=0.05), "generated": Generate(mixup=True)}
Data = tuple[Tensor, Tensor]


def parts() -> tuple[Data, Data, Data]:
    """(members, pool, test): images and labels of each."""
    images, labels = digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))  # their own is by who wrote them
    member, test, pool = order[:MEMBERS], order[MEMBERS : MEMBERS + TEST], order[MEMBERS + TEST :]
    return (images[member], labels[member]), (images[pool], labels[pool]), (images[test], labels[test])


def trained(data: Data, noise: float, epochs: int = 400) -> nn.Module:
    """A target: the example's network on the members, long enough to know them by heart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Digits()
    images, labels = data
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), 64):
            x = images[rows] + noise * torch.randn(images[rows].shape, generator=generator)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), labels[rows]).backward()
            optimiser.step()
    return model.eval()


def new_student(seed: int = 0, kind: str = "mlp") -> nn.Module:
    """A layer of another width than the target's, or a convolutional network."""
    if kind == "cnn":
        return SmallCNN(1, 10, features=8, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 96), nn.ReLU(), nn.Linear(96, 10))


def learnt(target: nn.Module, inputs: Tensor, answers: str, budget: int, seed: int, **options: Any) -> Any:
    """(student in eval mode, result)."""
    shown, loss = ANSWERS[answers]
    student = new_student(seed, options.pop("kind", "mlp"))
    made = MADE if budget > len(inputs) else {}
    chosen = {"loss": loss, "steps": 1000, "held_out": 0.0, "bounds": (0.0, 1.0), **made, **options}
    result = fa.distill(lambda x: shown(target(x)), student, inputs, budget=budget, seed=seed, **chosen)
    return student.eval(), result


@torch.no_grad()
def agreement(model: Any, target: Any, test: Data) -> tuple[float, float]:
    """(fidelity, accuracy) on the test digits."""
    said = model(test[0]).argmax(1)
    return float((said == target(test[0]).argmax(1)).double().mean()), float((said == test[1]).double().mean())


def fidelity() -> list[dict[str, Any]]:
    """Against queries, kinds of answers, losses, students and sources of queries."""
    members, pool, test = parts()
    target = trained(members, 0.0)
    cases: list[tuple[str, int, dict[str, Any]]] = [(a, b, {}) for a in ANSWERS for b in BUDGETS]
    cases += [("logits", 1000, {"loss": loss}) for loss in ("kl", "ce")]
    cases += [("logits", 1000, {"kind": "cnn"})]
    cases += [("logits", 3000, {"inputs": 100}), ("logits", 3000, {"inputs": 100, "typical": True})]
    rows = []
    for answers, budget, options in cases:
        for seed in SEEDS:
            more = {k: v for k, v in options.items() if k in ("loss", "kind")}
            if options.get("typical"):
                more |= {"augment": None, "generated": Generate(typical=True)}
            inputs = pool[0][: options.get("inputs")]
            student, result = learnt(target, inputs, answers, budget, seed, **more)
            found = agreement(student, target, test)
            rows.append({
                "answers": answers, "budget": budget, **options, "seed": seed, "fidelity": found[0],
                "accuracy": found[1], "queries": result.queries, "seconds": result.seconds,
            })  # fmt: skip
            print(rows[-1], flush=True)
    own = agreement(target, target, test)[1]
    return [{"target_accuracy": own, "member_accuracy": agreement(target, target, members)[1]}, *rows]


def membership() -> list[dict[str, Any]]:
    """What the target gives away of its members, and what is left of that in students."""
    members, pool, test = parts()
    target = trained(members, 0.0)
    subjects = {
        "target": target,
        "student, 3000 answers of logits": learnt(target, pool[0], "logits", 3000, 0)[0],
        "student, 3000 answers of labels": learnt(target, pool[0], "labels", 3000, 0)[0],
        "student with noise, 3000 answers of logits": learnt(target, pool[0], "logits", 3000, 0, noise=NOISE)[0],
        "student asked about the members, logits": learnt(target, members[0], "logits", MEMBERS, 0)[0],
    }
    rows = []
    for name, model in subjects.items():
        found = fa.membership_inference(model, members, test)
        for attack, score in (("loss", found.loss), ("likelihood", found.likelihood)):
            assert score is not None
            figures = {"auc": score.auc, "advantage": score.advantage, "tpr at fpr 0.01": score.tpr[0.01]}
            rows.append({
                "model": name, "attack": attack, "members": found.member_accuracy, "others": found.non_member_accuracy,
                **{key: [float(v) for v in (e.value, e.low, e.high)] for key, e in figures.items()},
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def defended() -> dict[str, nn.Module]:
    """What is smoothed: the target as it is, one retrained on its own data with noise, and students of both kinds."""
    members, pool, _ = parts()
    target = trained(members, 0.0)
    return {
        "target": target,
        "target retrained with noise": trained(members, NOISE),
        "student": learnt(target, pool[0], "logits", 3000, 0)[0],
        "student with noise": learnt(target, pool[0], "logits", 3000, 0, noise=NOISE)[0],
        "student with noise, of labels": learnt(target, pool[0], "labels", 3000, 0, noise=NOISE)[0],
    }


KINDS = {"l2": fa.certify.Gaussian, "l1": fa.certify.Laplace}
RADII = {
    "l2": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
    "l1": (0.0, 0.1, 0.25, 0.5, 1.0),
    "linf": (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255),
}
SCALES = (0.2, 0.4, 0.8)
COPIES, ALPHA, SHOWN, CHOSEN = 1000, 0.001, 100, 30


def certified() -> list[dict[str, Any]]:
    """Certified accuracy of each, under the noise whose mean radius is largest on digits of the pool, not the test's.

    A student has no true labels of the pool: what the target answers there stands for them.
    """
    _, pool, test = parts()
    models = defended()
    images, told = pool[0][:CHOSEN], models["target"](pool[0][:CHOSEN]).argmax(1)
    rows = []
    for name, model in models.items():
        for norm, kind in KINDS.items():
            began = time.perf_counter()
            choice = fa.certify.optimise_noise(model, images, told, noise=kind(0.25), scales=SCALES, rounds=0, n=300)
            found = fa.Smoothed(model, noise=choice.noise, n=COPIES, alpha=ALPHA).certify(test[0][:SHOWN])
            labels = test[1][:SHOWN]
            row = {
                "model": name, "noise": f"{choice.noise}", "scale": choice.noise.scale,
                "abstained": float(found.abstained.double().mean()), "seconds": time.perf_counter() - began,
                "mean_radius": found.average_radius(labels),
            }  # fmt: skip
            for at in (norm, "linf") if norm == "l2" else (norm,):
                row[at] = found.accuracy(labels, RADII[at], at).tolist()
            rows.append(row)
            print(row, flush=True)
    return rows


BALLS = (("linf", 8 / 255), ("linf", 16 / 255), ("l2", 0.5), ("l2", 1.0))
ATTACKED, ASKED, EOT = 60, 200, 4


def attacks() -> list[dict[str, Any]]:
    """Accuracy under PGD of 20 steps: on each model bare, through its smoothing, and carried over.

    Each gradient through the smoothing is the mean of `EOT` draws of 16 copies, fresh in every step.

    A smoothed model answers by `predict` with 200 copies; an answer that it does not give counts as wrong.
    """
    _, _, test = parts()
    models, rows = defended(), []
    x, labels = test[0][:ATTACKED], test[1][:ATTACKED]
    target = models["target"]
    scales = {row["model"]: row["scale"] for row in certified_rows() if "l2" in row}
    for name, model in models.items():
        smooth = fa.Smoothed(model, noise=fa.certify.Gaussian(scales[name]), n=ASKED, alpha=ALPHA, copies=16)
        clean = answered(smooth, x, labels)
        for norm, eps in BALLS:
            options: dict[str, Any] = {
                "eps": eps, "norm": norm, "steps": 20, "bounds": (0, 1), "objective": fa.objectives.cw_margin()
            }  # fmt: skip
            bare = fa.PGD(model, **options)(x, labels)
            through = fa.PGD(smooth, eot=EOT, **options)(x, labels)
            row = {
                "model": name, "norm": norm, "eps": eps, "clean": right(model, x, labels),
                "attacked": right(model, bare, labels), "clean smoothed": clean,
                "attacked smoothed": answered(smooth, through, labels), "on the target": right(target, bare, labels),
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    return rows


def certified_rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((OUT[0] / "certified.json").read_text())["rows"]
    return found


@torch.no_grad()
def right(model: Any, x: Tensor, labels: Tensor) -> float:
    return float((model(x).argmax(1) == labels).double().mean())


def answered(model: Any, x: Tensor, labels: Tensor) -> float:
    return float((model.predict(x) == labels).double().mean())


PARTS = {"fidelity": fidelity, "membership": membership, "certified": certified, "attacks": attacks}
OUT = [Path("out/ducd")]


def run(names: list[str]) -> None:
    for name in names:
        target = OUT[0] / f"{name}.json"
        if target.exists():
            continue
        began, cpu = time.perf_counter(), time.process_time()
        rows = PARTS[name]()
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, (json.dumps({"rows": rows, **spent}, indent=1) + "\n").encode())
        print(f"{name}: {spent['seconds']:.0f} s, {spent['cpu_seconds']:.0f} s of CPU", flush=True)


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def spread(found: list[float]) -> str:
    return f"{percent(sum(found) / len(found))} ({percent(min(found))} to {percent(max(found))})"


def interval(found: list[float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})"


def table(json_file: Path | None) -> None:
    done = {
        name: json.loads((OUT[0] / f"{name}.json").read_text()) for name in PARTS if (OUT[0] / f"{name}.json").exists()
    }
    if "fidelity" in done:
        first, *rows = done["fidelity"]["rows"]
        print(f"target: {percent(first['target_accuracy'])} % on the test digits, "
              f"{percent(first['member_accuracy'])} % on its members\n")  # fmt: skip
        known = ("answers", "budget", "loss", "kind", "inputs", "typical")
        cases = list(dict.fromkeys(tuple(row.get(key, "") for key in known) for row in rows))
        cells = []
        for case in cases:
            of = [row for row in rows if tuple(row.get(key, "") for key in known) == case]
            queries = sum(row["queries"] for row in of) / len(of)
            seconds = sum(row["seconds"] for row in of) / len(of)
            cells.append(
                [
                    *map(str, case),
                    f"{queries:.0f}",
                    *(spread([r[k] for r in of]) for k in ("fidelity", "accuracy")),
                    f"{seconds:.1f}",
                ]
            )
        print(grid([*known, "queries", "fidelity %", "accuracy %", "seconds"], cells))
    if "membership" in done:
        keys = ("auc", "advantage", "tpr at fpr 0.01")
        cells = [
            [
                row["model"],
                row["attack"],
                percent(row["members"]),
                percent(row["others"]),
                *(interval(row[k]) for k in keys),
            ]
            for row in done["membership"]["rows"]
        ]
        print(grid(["model", "attack", "right on members %", "on others %", *keys], cells))
    for norm in RADII:
        rows = [row for row in done.get("certified", {"rows": []})["rows"] if norm in row]
        if rows:
            radii = [f"{255 * r:.0f}/255" if norm == "linf" else f"{r:g}" for r in RADII[norm]]
            cells = [
                [
                    row["model"],
                    f"{row['scale']:.3f}",
                    f"{row['mean_radius']:.3f}",
                    percent(row["abstained"]),
                    *map(percent, row[norm]),
                ]
                for row in rows
            ]
            print(grid([f"certified in {norm}", "noise", "mean radius", "abstained %", *radii], cells))
    if "attacks" in done:
        keys = ("clean", "attacked", "clean smoothed", "attacked smoothed", "on the target")
        cells = [
            [
                row["model"],
                row["norm"],
                f"{255 * row['eps']:.0f}/255" if row["norm"] == "linf" else f"{row['eps']:g}",
                *(percent(row[k]) for k in keys),
            ]
            for row in done["attacks"]["rows"]
        ]
        print(grid(["model", "norm", "eps", *keys], cells))
    print({name: (round(part["seconds"]), round(part["cpu_seconds"])) for name, part in done.items()})
    if json_file is not None:
        write_atomic(json_file, (json.dumps(done, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--out", type=Path, default=OUT[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    OUT[0] = options.out
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"parts: wanted some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if options.do == "run":
        run(options.parts)
    else:
        table(options.json)


if __name__ == "__main__":
    main()
