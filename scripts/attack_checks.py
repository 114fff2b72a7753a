"""Questions about strength, answered on central crops of Set12: `python scripts/attack_checks.py --help`.

`precision`: what the attacked PSNR loses where gradients are made in bfloat16. `steps`: which length of PGD's steps is
best, in units of eps / steps. `ensemble`: one perturbation against three networks beside each network's own.
Each prints Markdown for docs/results/attacks.md and, with --json, writes its rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from attack_results import MODELS, SHARED, SIGMA, crops
from torch import Tensor, nn

import fastattack as fa
from fastattack.files import write_atomic
from fastattack.metrics import psnr

Rows = list[dict[str, Any]]


def networks(names: list[str]) -> dict[str, nn.Module]:
    found = {}
    for name in names:
        kind, file = MODELS[name]
        found[name] = fa.models.load(kind, weights=SHARED / "weights" / file, sigma=25)
    return found


@torch.no_grad()
def told(model: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    """(B,) PSNR in dB of the model as it is, in float32."""
    return psnr(model(y), x).double()


def precision(args: argparse.Namespace, x: Tensor, y: Tensor) -> Rows:
    rows: Rows = []
    print("| network | clean | attacked, fp32 | attacked, bf16 | difference | largest of one image |")
    print("|" + " --- |" * 6, flush=True)
    for name, model in networks(args.models).items():
        found, seconds, how = {}, {}, {}
        for kind in ("fp32", "bf16"):
            attack = fa.DenoisingPGD(model, eps=args.eps / 255, steps=args.steps, sigma=SIGMA, precision=kind)
            began = time.perf_counter()
            result = attack.run(y, x)
            seconds[kind], how[kind] = time.perf_counter() - began, result.how
            found[kind] = told(model, result.adversarial, x)
        apart = found["bf16"] - found["fp32"]
        clean = told(model, y, x)
        row = {
            "model": name, "eps": args.eps, "steps": args.steps, "clean": clean.mean().item(),
            **{k: v.tolist() for k, v in found.items()}, "seconds": seconds, "how": how,
        }  # fmt: skip
        rows.append(row)
        means = [clean.mean(), found["fp32"].mean(), found["bf16"].mean()]
        cells = [f"{float(v):.3f}" for v in means] + [f"{float(apart.mean()):+.4f}", f"{float(apart.abs().max()):.4f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return rows


def steps(args: argparse.Namespace, x: Tensor, y: Tensor) -> Rows:
    rows: Rows = []
    print("| network | norm | eps | steps | " + " | ".join(f"{f:g}" for f in args.factors) + " |")
    print("|" + " --- |" * (4 + len(args.factors)), flush=True)
    root = x[0].numel() ** 0.5
    for name, model in networks(args.models).items():
        clean = told(model, y, x).mean()
        for norm in args.norms:
            for eps in args.radii:
                for count in args.counts:
                    drops = []
                    for factor in args.factors:
                        radius = eps / 255 * (1 if norm == "linf" else root)
                        attack = fa.PGD(model, eps=radius, norm=norm, steps=count, step=factor * radius / count)
                        drops.append(float(clean - told(model, attack.run(y, x).adversarial, x).mean()))
                    rows.append({"model": name, "norm": norm, "eps": eps, "steps": count, "drops": drops})
                    cells = " | ".join(f"{d:.3f}" for d in drops)
                    print(f"| {name} | {norm} | {eps:g} | {count} | {cells} |", flush=True)
    return rows


def ensemble(args: argparse.Namespace, x: Tensor, y: Tensor) -> Rows:
    rows: Rows = []
    models = networks(args.models)
    clean = {n: told(m, y, x) for n, m in models.items()}
    ways: dict[str, tuple[Any, str]] = {f"{n} alone": (m, "mean") for n, m in models.items()}
    ways |= {f"all, {how}": (list(models.values()), how) for how in ("mean", "max", "softmax", "logits")}
    print("| attacked | " + " | ".join([*models, "mean", "least of a sample's three"]) + " |")
    print("|" + " --- |" * (len(models) + 3), flush=True)
    for label, (model, how) in ways.items():
        extra = {} if label.endswith("alone") else {"ensemble": how}
        adversarial = fa.APGD(model, eps=args.eps / 255, steps=args.steps, **extra)(y, x)
        drops = torch.stack([clean[n] - told(m, adversarial, x) for n, m in models.items()])
        rows.append({"attacked": label, "eps": args.eps, "steps": args.steps, "drops": drops.tolist()})
        means = [*drops.mean(1), drops.mean(), drops.amin(0).mean()]
        print(f"| {label} | " + " | ".join(f"{float(v):.3f}" for v in means) + " |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for check in (precision, steps, ensemble):
        p = commands.add_parser(check.__name__)
        p.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
        p.add_argument("--crop", type=int, default=48)
        p.add_argument("--threads", type=int, default=2)
        p.add_argument("--json", type=Path, help="where the rows go")
        p.set_defaults(check=check)
        if check is steps:
            p.add_argument("--factors", type=float, nargs="+", default=[1.5, 2, 2.5, 3, 4, 5])
            p.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 40])
            p.add_argument("--radii", type=float, nargs="+", default=[5], help="on the 0-255 scale")
            p.add_argument("--norms", nargs="+", choices=["linf", "l2"], default=["linf", "l2"])
        else:
            p.add_argument("--eps", type=float, default=5, help="radius on the 0-255 scale")
            p.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = crops(args.crop)
    y = fa.ops.typical_noise(x, sigma=SIGMA, typicality=None, seed=0, clean=x)
    rows = args.check(args, x, y)
    if args.json:
        write_atomic(args.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
