"""A restorer for a camera under a display, attacked and defended, measured: `python scripts/udc_results.py --help`.

`run` attacks each defence on central crops, blind and through its purifier, and writes one JSON file for each cell, so
that it can be interrupted and goes on; `table` makes the Markdown of docs/results/udc.md of them. It wants the folder
that scripts/train_udc.py filled.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from train_udc import SHARED, T_STAR, camera, purifier

import fastattack as fa
from fastattack import models
from fastattack.defenses.adaptive import adaptive_check
from fastattack.files import write_atomic
from fastattack.images import central, find_images, read_image
from fastattack.metrics import psnr, ssim
from fastattack.models.weights import sha256_of
from fastattack.objectives import features, mse

STEP = 1 / 256
DRAWS = 4  # of fresh noise, by which images behind a purifier are judged
BELOW = 15.16  # dB: the paper's DISCNet under C&W; here C&W looks for the smallest perturbation that goes below
EOT = 6
#: defence -> the stage of scripts/train_udc.py whose weights it has, and whether a purifier stands before it
DEFENCES = {
    "none": ("restorer", False),
    "purified": ("restorer", True),
    "fine-tuned": ("purified", True),
    "adversarial": ("adversarial", True),
    "fine-tuned alone": ("purified", False),
    "adversarial alone": ("adversarial", False),
}
ALONE = [name for name, (_, stands) in DEFENCES.items() if not stands]
Make = Callable[[nn.Module], Any]


def seen_by_embedded() -> features:
    """What stands in for LPIPS, whose weights are not here: two layers of the small gray denoiser."""
    return features(models.load("embedded").get_submodule("model")[:12], layers=("5", "11"))  # type: ignore[index]


def cw(model: nn.Module) -> fa.CW:
    threshold = 10 ** (-BELOW / 10)
    return fa.CW(model, threshold=threshold, objective=mse, steps=15, restarts=9, step=2e-3, bounds=(0, 1), seed=0)


def pgd(eps: int, **options: Any) -> Make:
    return lambda m: fa.PGD(m, eps=eps * STEP, steps=20, bounds=(0, 1), seed=0, **options)


ATTACKS: dict[str, Make] = {
    **{f"PGD {eps}/256": pgd(eps) for eps in (1, 2, 4, 8)},
    "features 4/256": pgd(4, objective=seen_by_embedded()),
    "C&W l2": cw,
    "SimBA 4/256": lambda m: fa.SimBA(m, eps=4 * STEP, queries=1000, step=4 * STEP, norm="linf", bounds=(0, 1), seed=0),
}


class Bench:
    """The crops, the camera and the models; judges what an attack has made of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        paths = find_images(args.data)[: args.count]
        self.args, self.names = args, [p.name for p in paths]
        self.clean = torch.stack([central(read_image(p, 1), args.crop) for p in paths])
        with torch.no_grad():
            self.seen = camera()(self.clean)
        stages = {DEFENCES[name][0] for name in args.defences}
        self.files = {stage: args.models / stage / "model.safetensors" for stage in stages}
        self.models = {stage: models.load("udc_unet", weights=path) for stage, path in self.files.items()}
        self.purifier = purifier(args.diffusion, args.t_star)

    def defended(self, name: str, gradient: str = "full") -> nn.Module:
        stage, stands = DEFENCES[name]
        return self.purifier.replaced(gradient=gradient)(self.models[stage]) if stands else self.models[stage]

    @torch.no_grad()
    def judge(self, name: str, x: Tensor) -> dict[str, float]:
        """Means of PSNR and SSIM: behind a purifier in fresh noise, and PSNR in the noise that attacks know, too."""
        model, ids = self.defended(name), torch.arange(len(x))
        outputs = [model(x, ids, draw) for draw in range(DRAWS + 1)] if DEFENCES[name][1] else [model(x)] * 2
        known = psnr(outputs.pop(0).clamp(0, 1), self.clean).mean().item()
        moved = (x - self.seen).flatten(1)
        return {
            "known": known,
            "psnr": sum(psnr(o.clamp(0, 1), self.clean).mean().item() for o in outputs) / len(outputs),
            "ssim": sum(ssim(o.clamp(0, 1), self.clean).mean().item() for o in outputs) / len(outputs),
            "rms": 255 * moved.square().mean(1).sqrt().mean().item(), "linf": 255 * moved.abs().max().item(),
        }  # fmt: skip

    def cell(self, defence: str, attack: str, way: str) -> dict[str, Any]:
        """One attack on one defence: on the model alone ("blind"), or through the purifier by a backward pass."""
        stage, _ = DEFENCES[defence]
        attacked = self.models[stage] if way == "blind" else self.defended(defence, way)
        began = time.perf_counter()
        result = ATTACKS[attack](attacked).run(self.seen, self.clean)
        row = {"defence": defence, "attack": attack, "way": way, "seconds": time.perf_counter() - began}
        success = {} if result.success is None else {"success": result.success.double().mean().item()}
        return row | success | self.judge(defence, result.adversarial)


def cells(attacks: list[str], defences: list[str], ways: list[str]) -> list[tuple[str, str, str]]:
    """What is cheap first; black-box search through a purifier last."""
    found = [(d, a, w) for a in attacks for d in defences for w in (ways if DEFENCES[d][1] else ["blind"])]
    return sorted(found, key=lambda c: (c[1].startswith("SimBA"), c[1].startswith("C&W"), c[2] != "blind"))


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    bench = Bench(args)
    args.out.mkdir(parents=True, exist_ok=True)
    save(args.out / "about.json", about(bench))
    for name in args.defences:
        save(args.out / f"{name} clean.json", {"defence": name, "attack": "", **bench.judge(name, bench.seen)})
    for defence, attack, way in cells(args.attacks, args.defences, args.ways):
        target = args.out / f"{defence} {attack} {way}.json".replace("/", "-")
        if target.exists():
            continue
        row = bench.cell(defence, attack, "blind" if way == "blind" else "bpda")
        row["way"] = way
        save(target, row)
        print(f"{defence:12} {attack:15} {way:8} {row['psnr']:.2f} dB, {row['seconds']:.0f} s", flush=True)
    if args.check:
        checks(bench)


def checks(bench: Bench) -> None:
    """Which adaptive attack is the strongest, by fa.defenses.adaptive_check at 4/256."""
    for name in bench.args.defences:
        target = bench.args.out / f"{name} check.json"
        if not DEFENCES[name][1] or target.exists():
            continue
        report = adaptive_check(
            bench.defended(name), bench.seen, bench.clean, eps=4 * STEP, bounds=(0, 1), steps=20, eot=EOT, draws=DRAWS,
            ways=("blind", "bpda", "full", "bpda+eot"), seed=0,
        )  # fmt: skip
        rows = [{"way": row.name, "seconds": row.seconds, **bench.judge(name, row.adversarial)} for row in report.rows]
        save(target, {"defence": name, "strongest": report.strongest.name, "check": rows})
        print(report, flush=True)


def about(bench: Bench) -> dict[str, Any]:
    runs = {}
    for stage in {stage: None for stage, _ in DEFENCES.values()}:
        if not (path := bench.args.models / stage / "model.safetensors").exists():
            continue
        with safe_open(path, framework="pt") as file:
            runs[stage] = {"sha256": sha256_of(path), **(file.metadata() or {})}
    diffusion = bench.args.diffusion
    unrestored = {k: make(nn.Identity())(bench.seen, bench.clean) for k, make in ATTACKS.items() if k[:3] == "PGD"}
    return {
        "images": bench.names, "crop": bench.args.crop, "degraded": psnr(bench.seen, bench.clean).mean().item(),
        "degraded_ssim": ssim(bench.seen, bench.clean).mean().item(), "camera": repr(camera()),
        "degraded_attacked": {k: psnr(x, bench.clean).mean().item() for k, x in unrestored.items()},
        "purifier": repr(bench.purifier), "draws": DRAWS, "models": runs,
        "diffusion": "embedded" if diffusion == "embedded" else sha256_of(Path(diffusion)),
    }  # fmt: skip


def save(path: Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


HEADS = (
    "no defence",
    "purified, blind",
    "adaptive",
    "fine-tuned, blind",
    "adaptive",
    "adversarially, blind",
    "adaptive",
)


def tables(args: argparse.Namespace) -> None:
    """One set of tables for each folder."""
    found = []
    for folder in args.out:
        about = json.loads((folder / "about.json").read_text())
        rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.stem != "about"]
        found.append({"about": about, "rows": rows})
        print(f"\n{about['purifier']}, degraded {about['degraded']:.2f} dB, {about['degraded_ssim']:.3f}")
        print("attacked itself: " + ", ".join(f"{k} {v:.2f}" for k, v in about["degraded_attacked"].items()))
        table(rows)
    if args.json:
        save(args.json, found)


def table(rows: list[dict[str, Any]]) -> None:
    found = {(r["defence"], r["attack"], r.get("way", "")): r for r in rows if "attack" in r}
    columns = [("none", "blind")] + [(d, w) for d in DEFENCES if DEFENCES[d][1] for w in ("blind", "adaptive")]
    for what in ("psnr", "ssim", "rms"):
        print(f"\n| {what} | " + " | ".join(HEADS) + " |\n" + "|" + " --- |" * (len(HEADS) + 1))
        for attack in ("", *ATTACKS):
            cells = [found.get((d, attack, w if attack else "")) for d, w in columns]
            if any(cells):
                print(f"| {attack or 'none'} | " + " | ".join(map(entry, cells, [what] * len(cells))) + " |")
    print("\n| psnr | " + " | ".join(ALONE) + " |\n" + "|" + " --- |" * (len(ALONE) + 1))
    for attack in ("", *ATTACKS):
        cells = [found.get((d, attack, "blind" if attack else "")) for d in ALONE]
        if any(cells[1:]):
            print(f"| {attack or 'none'} | " + " | ".join(entry(c, "psnr") for c in cells) + " |")
    print("\n| defence | attack | known noise | fresh noise |\n| --- | --- | --- | --- |")
    for row in rows:
        for c in row.get("check", ()):
            print(f"| {row['defence']} | {c['way']} | {c['known']:.2f} | {c['psnr']:.2f} |")


def entry(cell: dict[str, Any] | None, what: str) -> str:
    """A number of a cell; behind a purifier that of an adaptive attack in the noise that it knew in brackets."""
    if cell is None:
        return ""
    known = f" ({cell['known']:.2f})" if what == "psnr" and cell.get("way") == "adaptive" else ""
    return f"{cell[what]:.{3 if what == 'ssim' else 2}f}{known}"


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = p.add_subparsers(dest="command", required=True)
    r = commands.add_parser("run")
    r.add_argument("--models", type=Path, required=True, help="the folder of scripts/train_udc.py")
    r.add_argument("--diffusion", default="embedded", help="what fa.diffusion.load takes")
    r.add_argument("--t-star", type=int, default=T_STAR, help="level of the purifier")
    r.add_argument("--data", type=Path, default=SHARED / "bsd68")
    r.add_argument("--count", type=int, default=4, help="images, from the first")
    r.add_argument("--crop", type=int, default=48, help="edge of the central crops")
    r.add_argument("--defences", nargs="+", choices=list(DEFENCES), default=list(DEFENCES))
    r.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    r.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True, help="also fa.defenses.adaptive_check"
    )
    r.add_argument("--ways", nargs="+", choices=("blind", "adaptive"), default=["blind", "adaptive"])
    t = commands.add_parser("table")
    t.add_argument("--json", type=Path, help="also write all numbers into this file")
    r.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    t.add_argument("--out", type=Path, nargs="+", required=True, help="folders of the JSON files, one for each level")
    return p.parse_args()


if __name__ == "__main__":
    arguments = parse_args()
    run(arguments) if arguments.command == "run" else tables(arguments)
