"""Train the small gray DnCNN that ships with fastattack (fastattack/assets/dncnn_small_gray_25.safetensors).

    python scripts/train_embedded.py --minutes 60 --out fastattack/assets/dncnn_small_gray_25.safetensors

One thread, bfloat16 autocast with channels_last, float32 master weights, Adam, MSE, a cosine learning rate over wall
clock. The seed fixes initial weights, patches and noise; how many iterations fit into the minutes depends on the
machine, so the number done is stored in the file. ``--iterations N`` puts the schedule on iterations instead: the same
file then comes out on the same machine and torch version, and nearly the same elsewhere.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from fastattack.files import write_atomic
from fastattack.images import find_images, read_image
from fastattack.metrics import psnr
from fastattack.models import DnCNN, initialise

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    p.add_argument("--train", type=Path, default=SHARED / "train400", help="folder of training images, all of one size")
    p.add_argument("--valid", type=Path, default=SHARED / "set12", help="folder of validation images")
    p.add_argument("--out", type=Path, required=True, help="the finished .safetensors file")
    p.add_argument("--checkpoint", type=Path, default=Path("/tmp/train/last.safetensors"))
    p.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget; sets the cosine schedule")
    p.add_argument("--iterations", type=int, default=0, help="if > 0: the schedule counts these instead of minutes")
    p.add_argument("--sigma", type=float, default=25.0, help="noise level, 0-255 scale")
    p.add_argument("--features", type=int, default=32)
    p.add_argument("--depth", type=int, default=14)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--patch", type=int, default=64)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--valid-every", type=float, default=300.0, help="seconds between validations")
    p.add_argument("--save-every", type=float, default=60.0, help="seconds between checkpoints")
    return p.parse_args()


def read_gray(folder: Path) -> list[Tensor]:
    """All images of a folder, sorted, as [1, H, W] in [0, 1]."""
    return [read_image(path, 1) for path in find_images(folder)]


def draw_batch(images: Tensor, batch: int, patch: int, g: torch.Generator) -> Tensor:
    """Random patches with random flips and rotations: images [N, 1, H, W] -> [batch, 1, patch, patch]."""
    n, _, h, w = images.shape
    draws = torch.randint(0, 2**31 - 1, (batch, 4), generator=g).tolist()
    out = []
    for a, b, c, d in draws:
        top, left = b % (h - patch + 1), c % (w - patch + 1)
        x = images[a % n, :, top : top + patch, left : left + patch]
        x = torch.rot90(x, d % 4, (1, 2))
        out.append(x.flip(2) if d // 4 % 2 else x)
    return torch.stack(out)


@torch.no_grad()
def validate(model: DnCNN, images: list[Tensor], sigma: float) -> float:
    """Mean PSNR (dB) in float32, noise of image i from a generator seeded with i, nothing clipped."""
    values = []
    for i, x in enumerate(images):
        y = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(i)) * (sigma / 255)
        values.append(psnr(model(y[None]), x[None]).item())
    return sum(values) / len(values)


def save(model: DnCNN, path: Path, **metadata: str) -> None:
    """Write weights and metadata to a temporary file beside `path`, then rename it."""
    tensors = {k: v.detach().float().contiguous().clone() for k, v in model.state_dict().items()}
    write_atomic(path, serialise(tensors, metadata=metadata))


def train_step(model: DnCNN, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, sigma: float) -> float:
    """One step of Adam on clean and noisy patches [B, 1, P, P]; returns the loss, the MSE divided by sigma²."""
    with torch.autocast("cpu", torch.bfloat16):
        out = model(y.contiguous(memory_format=torch.channels_last))
    loss = (out.float() - x).div(sigma).square().mean()
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimiser.step()
    return float(loss.item())


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed)
    images, valid = torch.stack(read_gray(args.train)), read_gray(args.valid)
    model = DnCNN(1, depth=args.depth, features=args.features)
    initialise(model, args.seed)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), lr=args.lr)
    sigma = args.sigma / 255
    info = {"architecture": "dncnn", "channels": "1", "depth": str(args.depth), "features": str(args.features)}
    info |= {"sigma": f"{args.sigma:g}", "seed": str(args.seed), "batch": str(args.batch), "patch": str(args.patch)}
    start = last_save = last_valid = time.monotonic()
    step, smooth = 0, math.nan
    while True:
        now = time.monotonic()
        progress = step / args.iterations if args.iterations else (now - start) / (60 * args.minutes)
        if progress >= 1:
            break
        rate = args.lr * min(1.0, (step + 1) / 500) * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * progress)))
        optimiser.param_groups[0]["lr"] = rate
        x = draw_batch(images, args.batch, args.patch, g)
        loss = train_step(model, optimiser, x, x + sigma * torch.randn(x.shape, generator=g), sigma)
        step, smooth = step + 1, loss if math.isnan(smooth) else smooth + 0.001 * (loss - smooth)
        if now - last_save > args.save_every:
            last_save = now
            save(model, args.checkpoint, **info, iterations=str(step))
            print(f"{now - start:7.1f} s  step {step}  lr {rate:.2e}  loss/sigma^2 {smooth:.4f}", flush=True)
        if now - last_valid > args.valid_every:
            print(f"{now - start:7.1f} s  step {step}  set12 {validate(model, valid, args.sigma):.3f} dB", flush=True)
            last_valid = time.monotonic()
    seconds = time.monotonic() - start
    quality = validate(model, valid, args.sigma)
    info |= {"iterations": str(step), "seconds_trained": f"{seconds:.0f}", "set12_psnr": f"{quality:.3f}"}
    save(model, args.out, **info)
    print(f"done: {step} steps in {seconds:.0f} s, set12 {quality:.3f} dB -> {args.out}", flush=True)


if __name__ == "__main__":
    train(parse_args())
