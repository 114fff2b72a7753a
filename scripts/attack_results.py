"""What each attack costs each denoiser, measured: `python scripts/attack_results.py --help`.

`run` attacks the networks on central crops of Set12 and writes one JSON file for each (network, attack, radius), so
that it can be interrupted and goes on; `table` makes the Markdown of docs/results/attacks.md of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastattack as fa
from fastattack.files import write_atomic
from fastattack.images import find_images, read_image
from fastattack.metrics import psnr

SIGMA = 25 / 255
SHARED = Path(__file__).resolve().parents[2] / "shared"
MODELS: dict[str, tuple[str, str]] = {
    "DnCNN": ("dncnn", "kair_dncnn_25.pth"),
    "FFDNet": ("ffdnet", "ffdnet_gray.safetensors"),
    "ECNDNet": ("ecndnet", "ecndnet_gray_sigma25.pth"),
}
Make = Callable[[Any, float, int, float], fa.attacks.Attack]
#: (network, eps, steps, root of the number of pixels): all have the same number of gradients, but Square its queries
ATTACKS: dict[str, Make] = {
    "FGSM": lambda m, eps, steps, d: fa.FGSM(m, eps=eps),
    "BIM": lambda m, eps, steps, d: fa.BIM(m, eps=eps, steps=steps),
    "PGD": lambda m, eps, steps, d: fa.PGD(m, eps=eps, steps=steps, step=2 * eps / steps),
    "PGD, step eps/4": lambda m, eps, steps, d: fa.PGD(m, eps=eps, steps=steps, step=eps / 4),
    "APGD": lambda m, eps, steps, d: fa.APGD(m, eps=eps, steps=steps),
    "MI-FGSM": lambda m, eps, steps, d: fa.MIFGSM(m, eps=eps, steps=steps, keep="best"),
    "NI-FGSM": lambda m, eps, steps, d: fa.NIFGSM(m, eps=eps, steps=steps, keep="best"),
    "DIM": lambda m, eps, steps, d: fa.DIM(m, eps=eps, steps=steps, keep="best"),
    "TIM": lambda m, eps, steps, d: fa.TIM(m, eps=eps, steps=steps, kernel=5, keep="best"),
    "denoising-PGD (noise kept)": lambda m, eps, steps, d: fa.DenoisingPGD(
        m, eps=eps, steps=steps, step=2 * eps / steps, sigma=SIGMA
    ),
    "PGD l2, radius eps sqrt(d)": lambda m, eps, steps, d: fa.PGD(
        m, eps=eps * d, norm="l2", steps=steps, step=2 * eps * d / steps
    ),
    "APGD l2, radius eps sqrt(d)": lambda m, eps, steps, d: fa.APGD(m, eps=eps * d, norm="l2", steps=steps),
    "ObsAtk, radius eps sqrt(d)": lambda m, eps, steps, d: fa.ObsAtk(
        m, eps=eps * d, steps=steps, step=2 * eps * d / steps, sigma=SIGMA
    ),
    "Square": lambda m, eps, steps, d: fa.Square(m, eps=eps, queries=25 * steps),
}


def crops(size: int) -> Tensor:
    found = []
    for path in find_images(SHARED / "data" / "set12"):
        x = read_image(path, 1)
        top, left = (x.shape[1] - size) // 2, (x.shape[2] - size) // 2
        found.append(x[:, top : top + size, left : left + size])
    return torch.stack(found)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    x = crops(args.crop)
    y = fa.ops.typical_noise(x, sigma=SIGMA, typicality=None, seed=0, clean=x)
    root = x[0].numel() ** 0.5
    for network in args.models:
        kind, file = MODELS[network]
        model = fa.models.load(kind, weights=SHARED / "weights" / file, sigma=25)
        with torch.no_grad():
            clean = psnr(model(y), x).mean().item()
        for name, make in ATTACKS.items():
            for eps in args.eps if name != "Square" else args.square_eps:
                target = args.out / f"{network}-{name.replace('/', ' over ')}-{eps}.json"
                if target.exists():
                    continue
                curve: list[float] = []
                attack = make(model, eps / 255, args.steps, root)
                began = time.perf_counter()
                result = attack.run(y, x, progress=lambda p, c=curve: c.append(p.loss.mean().item()))
                seconds = time.perf_counter() - began
                with torch.no_grad():
                    attacked = psnr(model(result.adversarial), x).mean().item()
                row = {
                    "model": network, "attack": name, "eps": eps, "clean": clean, "attacked": attacked,
                    "drop": clean - attacked, "gradients": attack.schedule.steps, "seconds": seconds, "curve": curve,
                    "linf": (result.adversarial - y).abs().max().item() * 255,
                    "crop": args.crop, "threads": args.threads,
                }  # fmt: skip
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, json.dumps(row).encode())
                print(f"{network} {name} {eps}: {clean:.2f} -> {attacked:.2f} dB, {seconds:.0f} s", flush=True)


def table(args: argparse.Namespace) -> None:
    rows = [json.loads(p.read_text()) for p in sorted(args.out.rglob("*.json"))]
    found = {(r["model"], r["attack"], r["eps"]): r for r in rows}
    networks = [m for m in MODELS if any(r["model"] == m for r in rows)]
    radii = sorted({r["eps"] for r in rows})
    heads = [f"{m} {e}" for m in networks for e in radii]
    print("| attack | " + " | ".join(heads) + " |\n|" + " --- |" * (len(heads) + 1))
    for name in ATTACKS:
        cells = [found.get((m, name, e)) for m in networks for e in radii]
        if any(cells):
            print(f"| {name} | " + " | ".join(f"{c['drop']:.2f}" if c else "" for c in cells) + " |")
    longest = max((len(r["curve"]) for r in rows if r["attack"] != "Square"), default=0)
    marks = [n for n in (1, 2, 5, 10, 20, 50, 100) if n <= longest]
    print("\n| loss x 1e4 at gradient | " + " | ".join(map(str, marks)) + " |\n|" + " --- |" * (len(marks) + 1))
    for (network, name, eps), row in found.items():
        if network == networks[0] and eps == 5 and name != "Square" and len(row["curve"]) > 1:
            curve = row["curve"]
            cells = [f"{1e4 * curve[n - 1]:.2f}" if n <= len(curve) else "" for n in marks]
            print(f"| {name} | " + " | ".join(cells) + " |")
    if args.json:
        write_atomic(args.json, (json.dumps(rows, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("run", help="attack, one JSON file for each network, attack and radius")
    p.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    p.add_argument("--eps", type=int, nargs="+", default=[3, 5, 8], help="radii on the 0-255 scale")
    p.add_argument("--square-eps", type=int, nargs="*", default=[5])
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--crop", type=int, default=64)
    p.add_argument("--threads", type=int, default=2)
    p.set_defaults(run=run)
    t = commands.add_parser("table", help="Markdown of what run has written")
    t.add_argument("--json", type=Path, help="also write all rows to this file")
    t.set_defaults(run=table)
    for q in (p, t):
        q.add_argument("--out", type=Path, default=Path("out/attacks"))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
