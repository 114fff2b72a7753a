"""Train the small gray restorer for a camera under a display, then fine-tune it behind a purifier.

    python scripts/train_udc.py restorer --out /tmp/udc
    python scripts/train_udc.py purified --out /tmp/udc       # on purified images, L2 + features
    python scripts/train_udc.py adversarial --out /tmp/udc    # on images attacked through the purifier

Each stage is a run of `fastattack.training` in OUT/STAGE: killed at any time, it goes on from its checkpoint when
called again. The two others begin with OUT/restorer/model.safetensors. There is no colour training data beside a
checkout of this project, so everything is gray; --channels 3 with another --train folder trains for colour.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

import fastattack as fa
from fastattack import models, training
from fastattack.images import find_images, read_image
from fastattack.metrics import psnr

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WAVES = (610e-9, 530e-9, 470e-9)
STAGES = ("restorer", "purified", "adversarial")
STEPS = {"restorer": 2000, "purified": 240, "adversarial": 240}
T_STAR, LEVELS = 60, [40, 60, 80]


def camera(channels: int = 1) -> fa.udc.Degradation:
    """The display and camera of docs/results/udc.md: stripes, a sensor of coarse pixels, a little noise."""
    waves = (WAVES,) if channels == 1 else tuple((w,) for w in WAVES)
    spread = fa.udc.psf("toled", size=33, wavelengths=waves, pixel=5.6e-6, oversample=4)  # as the tables were made
    return fa.udc.Degradation(spread, shot=1e-3, read=2e-3, seed=1)


def purifier(diffusion: str, t_star: int = T_STAR, gradient: str = "full") -> fa.Purifier:
    """The purifier of docs/results/udc.md."""
    return fa.Purifier(diffusion, t_star=t_star, sampler="ddim", steps=2, seed=2, gradient=gradient)


def strategy_of(args: argparse.Namespace) -> training.Strategy:
    plain = training.degraded(camera(args.channels), seed=args.seed)
    if args.stage == "restorer":
        return plain
    if args.stage == "purified":
        return training.purified(plain, purifier(args.diffusion, args.t_star), levels=args.levels, seed=args.seed)
    through = purifier(args.diffusion, args.t_star, "bpda")
    return training.attacked(
        plain, eps=args.eps / 255, steps=args.attack_steps, purifier=through, share=0.5, bounds=(0, 1), seed=args.seed
    )


def quality(model: nn.Module, folder: Path, channels: int) -> tuple[float, float]:
    """Mean PSNR (dB) of degraded and of restored 96 x 96 crops."""
    crops = torch.stack([read_image(p, channels)[:, 60:156, 60:156] for p in find_images(folder)])
    with torch.no_grad():
        seen = camera(channels)(crops)
        return float(psnr(seen, crops).mean()), float(psnr(model(seen).clamp(0, 1), crops).mean())


def train(args: argparse.Namespace) -> None:
    first = args.out / "restorer" / training.loop.WEIGHTS
    if args.stage == "restorer":
        model = models.new_udc_unet(args.channels, seed=args.seed)
    else:
        model = models.load("udc_unet", weights=first, channels=args.channels)
    images = [read_image(path, args.channels) for path in find_images(args.train)]
    patches = training.Patches(images, size=args.patch, batch=args.batch, seed=args.seed, steps_per_epoch=500)
    steps = args.steps or STEPS[args.stage]
    config = training.TrainConfig(
        steps=steps, lr=args.lr or (1e-3 if args.stage == "restorer" else 2e-4), warmup=min(100, steps // 5),
        ema=0.999 if args.stage == "restorer" else 0.98, seed=args.seed, log_every=50, save_every=100,
    )  # fmt: skip
    loss = None if args.stage == "restorer" else "mse+features"
    began = time.perf_counter()
    result = training.train(
        model, patches, strategy_of(args), config, out=args.out / args.stage, resume=True, loss=loss
    )
    best = models.load("udc_unet", weights=result.weights)
    before, after = quality(best, args.valid, args.channels)
    print(
        f"{args.stage}: {steps} steps, {time.perf_counter() - began:.0f} s of this call, degraded {before:.2f} dB, "
        f"restored (not purified) {after:.2f} dB, {sum(p.numel() for p in best.parameters())} parameters", flush=True,
    )  # fmt: skip


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    p.add_argument("stage", choices=STAGES)
    p.add_argument("--out", type=Path, required=True, help="folder of all stages")
    p.add_argument("--train", type=Path, default=SHARED / "train400", help="folder of training images")
    p.add_argument("--valid", type=Path, default=SHARED / "set12", help="folder of validation images")
    p.add_argument("--diffusion", default="embedded", help="what fa.diffusion.load takes")
    p.add_argument("--t-star", type=int, default=T_STAR, help="level of the purifier")
    p.add_argument(
        "--levels", type=int, nargs="+", default=LEVELS, help="purified: levels of which each sample has one"
    )
    p.add_argument("--channels", type=int, choices=(1, 3), default=1)
    p.add_argument("--steps", type=int, default=0, help="of the optimiser; 0: the stage's own")
    p.add_argument("--lr", type=float, default=0.0, help="highest learning rate; 0: the stage's own")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--patch", type=int, default=64)
    p.add_argument("--eps", type=float, default=4.0, help="adversarial: radius on the 0-255 scale")
    p.add_argument("--attack-steps", type=int, default=3, help="adversarial: steps of the attack")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(parse_args())
