"""What typical-set (TS) training does and does not give, measured: `python scripts/ts_experiment.py --help`.

`train` trains one network with one recipe and seed (resumes by itself), `evaluate` attacks weight files on the test
images, white-box and transferred, and `table` turns the JSON files into the table of docs/results/ts-training.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack import training
from fastattack.files import write_atomic
from fastattack.images import find_images, read_image
from fastattack.metrics import psnr
from fastattack.models import DnCNN, initialise
from fastattack.ops.spectrum import Spectrum
from fastattack.training import Patches, TrainConfig

SIGMA = 25 / 255


def ts(seed: int, **options: Any) -> training.Strategy:
    return training.ts(fa.TypicalSetSampler(sigma=SIGMA, seed=seed, **options))


FITTED = Spectrum("adversarial")  # with the gap and the mean shift that were measured beside it
STRONG = Spectrum("adversarial", 0.4)  # about three times the energy of the attack
RECIPES: dict[str, Callable[[int], training.Strategy]] = {
    "plain": lambda seed: training.plain(sigma=SIGMA, seed=seed),
    "ts-radial": lambda seed: ts(seed, typicality=(-0.05, 0.15)),
    "ts-mean": lambda seed: ts(seed, mean=(-5 / 255, 5 / 255)),
    "ts-fit": lambda seed: ts(seed, spectrum=FITTED, typicality=(0.055, 0.1), mean=(-1.2 / 255, 1.2 / 255)),
    "ts-strong": lambda seed: ts(seed, spectrum=STRONG, typicality=(0.0, 0.3)),
    "ts-strong-all": lambda seed: ts(seed, spectrum=STRONG, typicality=(0.0, 0.3), plain_share=0.0),
    "pgd": lambda seed: training.pgd(sigma=SIGMA, eps=5 / 255, steps=3, preserve_noise=False, seed=seed),
    "pgd-small": lambda seed: training.pgd(sigma=SIGMA, eps=2 / 255, steps=3, preserve_noise=False, seed=seed),
    "pgd-kept": lambda seed: training.pgd(sigma=SIGMA, eps=5 / 255, steps=3, preserve_noise=True, seed=seed),
    "hat": lambda seed: training.hat(sigma=SIGMA, eps=5 / 255, steps=3, seed=seed),
}


def build(args: argparse.Namespace) -> nn.Module:
    """A published network to fine-tune, or a DnCNN of the given size from scratch."""
    if args.weights:
        return fa.models.load("dncnn", weights=args.weights, sigma=25)
    model = DnCNN(1, depth=args.depth, features=args.features, sigma=25)
    initialise(model, args.seed)
    return model


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    images = [read_image(p, 1) for p in find_images(args.data)]
    out = args.out / args.recipe / f"seed{args.seed}"
    config = TrainConfig(
        steps=args.steps, lr=args.lr, warmup=min(100, args.steps // 10), channels_last=True,
        autocast="bf16" if args.bf16 else None, log_every=100,
    )  # fmt: skip
    patches = Patches(images, size=48, batch=16, seed=args.seed, steps_per_epoch=200)
    training.train(build(args), patches, RECIPES[args.recipe](args.seed), config, out=out, resume=True)


def cost(args: argparse.Namespace) -> None:
    """Seconds of a training step of every recipe, A B A B, medians; and how many times that of plain training."""
    torch.set_num_threads(args.threads)
    clean = torch.stack([read_image(p, 1)[:, :48, :48] for p in find_images(args.data)[:16]])
    times: dict[str, list[float]] = {name: [] for name in RECIPES}
    model = build(args).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(args.rounds + 1):
        for name, recipe in RECIPES.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                inputs, targets = recipe(0)(model, clean)
                output = model(inputs.contiguous(memory_format=torch.channels_last))
            optimiser.zero_grad()
            (output.float() - targets).square().mean().backward()
            optimiser.step()
            times[name].append(time.perf_counter() - began)
    plain = statistics.median(times["plain"][1:])
    for name, seconds in times.items():
        found = statistics.median(seconds[1:])
        print(f"{name:<16} {1e3 * found:8.1f} ms  {found / plain:5.2f} x plain")


def crops(folders: list[str], size: int) -> Tensor:
    """Central crops (N, 1, size, size); "DIR:20" takes the first 20 images of a folder."""
    found = []
    for folder in folders:
        path, _, count = folder.partition(":")
        for image in find_images(path)[: int(count) if count else None]:
            x = read_image(image, 1)
            top, left = (x.shape[1] - size) // 2, (x.shape[2] - size) // 2
            found.append(x[:, top : top + size, left : left + size])
    return torch.stack(found)


class Fast(nn.Module):
    """The network in channels_last, in bfloat16 where asked; its attack is crafted so, and measured in float32."""

    def __init__(self, model: nn.Module, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model.to(memory_format=torch.channels_last), bf16  # type: ignore[call-overload]

    def forward(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.bf16):
            out: Tensor = self.model(y.contiguous(memory_format=torch.channels_last))
        return out.float()


@torch.no_grad()
def quality(model: nn.Module, y: Tensor, x: Tensor) -> list[float]:
    return [psnr(model(a[None]), b[None]).item() for a, b in zip(y, x, strict=True)]


def craft(model: nn.Module, y: Tensor, x: Tensor, eps: int, kept: bool, args: argparse.Namespace) -> Tensor:
    attack = fa.DenoisingPGD(
        Fast(model, args.bf16), eps=eps / 255, steps=args.attack_steps, step=5 * eps / 255 / args.attack_steps,
        restarts=args.restarts, preserve_noise=kept, max_batch=8,
    )  # fmt: skip
    return attack(y, x)


def blocks(model: nn.Module, y: Tensor, x: Tensor, eps: int, size: int) -> dict[str, float]:
    """What a pattern of blocks of +-eps, aligned with the mean error of each block, costs: by itself, at gain 1, and
    on this network. The pattern looks like image content, so a network that removed it would remove content too."""
    with torch.no_grad():
        error = model(y) - x
    mean = nn.functional.avg_pool2d(error, size)
    delta = nn.functional.interpolate(torch.where(mean >= 0, eps / 255, -eps / 255), scale_factor=size, mode="nearest")
    return {
        "clean": statistics.fmean(quality(model, y, x)),
        "gain 1": statistics.fmean(psnr(x + error + delta, x).tolist()),
        "measured": statistics.fmean(quality(model, y + delta, x)),
    }


def evaluate(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    x = crops(args.images, args.crop)
    y = fa.ops.typical_noise(x, sigma=SIGMA, typicality=None, seed=args.noise_seed, clean=x)
    source = fa.models.load("dncnn", weights=args.source) if args.source else None
    transferred: dict[tuple[int, bool], Tensor] = {}
    for weights in args.weights_files:
        target = Path(weights).with_suffix(".json")
        checksum = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        settings = {k: str(v) for k, v in vars(args).items() if k not in ("run", "weights_files")}
        old = json.loads(target.read_text()) if target.exists() else {}
        if (old.get("sha256"), old.get("settings")) == (checksum, settings):
            continue  # done by an earlier call
        model = fa.models.load("dncnn", weights=weights)
        row: dict[str, object] = {
            "weights": str(weights),
            "sha256": checksum,
            "clean": statistics.fmean(quality(model, y, x)),
        }
        for eps in args.eps:
            for kept in (False, True):
                name = f"{eps} {'kept' if kept else 'free'}"
                row[name] = statistics.fmean(quality(model, craft(model, y, x, eps, kept, args), x))
                if source is not None:
                    if (eps, kept) not in transferred:
                        transferred[eps, kept] = craft(source, y, x, eps, kept, args)
                    row[f"{name} transferred"] = statistics.fmean(quality(model, transferred[eps, kept], x))
            row[f"{eps} blocks"] = {size: blocks(model, y, x, eps, size) for size in (args.crop, 32, 16, 8)}
        row["settings"] = settings
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, json.dumps(row, indent=1).encode())
        print(json.dumps({k: v for k, v in row.items() if isinstance(v, float)}), flush=True)


def table(args: argparse.Namespace) -> None:
    """Means over the seeds (and their standard deviation) as a Markdown table; then the floors of plain training."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(args.out.glob("*/seed*/model.json")):
        rows.setdefault(path.parent.parent.name, []).append(json.loads(path.read_text()))
    if "plain" not in rows:
        raise SystemExit(f"out: {args.out} holds no plain/seed*/model.json; run train and evaluate first")
    columns = ["clean", *(f"{eps} {kind}" for eps in args.eps for kind in ("free", "kept"))]
    for suffix in ("", " transferred"):
        names = [c if c == "clean" else c + suffix for c in columns]
        print("\n| recipe | seeds | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 2))
        for recipe in sorted(rows, key=list(RECIPES).index):
            cells = [_cell([row[n] for row in rows[recipe] if n in row]) for n in names]
            print(f"| {recipe} | {len(rows[recipe])} | " + " | ".join(cells) + " |")
    print("\n| eps | blocks | at gain 1 | measured |\n| --- | --- | --- | --- |")
    for eps in args.eps:
        for size in rows["plain"][0][f"{eps} blocks"]:
            found = [row[f"{eps} blocks"][size] for row in rows["plain"]]
            drops = [_cell([f["clean"] - f[kind] for f in found]) for kind in ("gain 1", "measured")]
            print(f"| {eps} | {size} | " + " | ".join(drops) + " |")
    if args.json:
        write_atomic(args.json, (json.dumps(rows, indent=1) + "\n").encode())


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train", help="one network, one recipe, one seed")
    one.add_argument("recipe", choices=RECIPES)
    one.add_argument("--steps", type=int, default=2000)
    one.add_argument("--lr", type=float, default=1e-3)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--out", type=Path, default=Path("out/ts"))
    one.set_defaults(run=train)
    price = commands.add_parser("cost", help="what a step of each recipe takes")
    price.add_argument("--rounds", type=int, default=15)
    price.set_defaults(run=cost, seed=0)
    for p in (one, price):
        p.add_argument("--weights", help="fine-tune this DnCNN; without: from scratch")
        p.add_argument("--depth", type=int, default=8)
        p.add_argument("--features", type=int, default=32)
        p.add_argument("--data", default="../shared/data/train400")
    p = commands.add_parser("evaluate", help="clean and attacked PSNR of weight files; JSON beside each")
    p.add_argument("weights_files", nargs="+")
    p.add_argument("--source", help="weights on which the transferred attacks are crafted")
    p.add_argument("--images", nargs="+", default=["../shared/data/set12", "../shared/data/bsd68:20"])
    p.add_argument("--crop", type=int, default=128)
    p.add_argument("--attack-steps", type=int, default=20)
    p.add_argument("--restarts", type=int, default=1)
    p.add_argument("--noise-seed", type=int, default=0)
    p.set_defaults(run=evaluate)
    for q in (one, price, p):
        q.add_argument("--bf16", action="store_true", help="pays where the CPU has AMX or AVX512-BF16")
        q.add_argument("--threads", type=int, default=2)
    t = commands.add_parser("table", help="Markdown of all JSON files under --out")
    t.add_argument("--out", type=Path, default=Path("out/ts"))
    t.add_argument("--json", type=Path, help="also write all rows to this file")
    t.set_defaults(run=table)
    for q in (p, t):
        q.add_argument("--eps", type=int, nargs="+", default=[3, 5, 8], help="radii on the 0-255 scale")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
