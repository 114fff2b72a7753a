"""Train the small gray diffusion model that ships with fastattack (fastattack/assets/diffusion_small_gray.safetensors).

    python scripts/train_diffusion.py --minutes 75 --out fastattack/assets/diffusion_small_gray.safetensors

One thread, float32, channels_last, AdamW, cosine learning rate over wall clock, an average of the weights. Killed at
any time, it goes on from its checkpoint when called again. The seed fixes initial weights, patches, levels and noise;
how many steps fit into the minutes depends on the machine, so their number is stored in the file. ``--iterations N``
puts the schedule on steps instead. ``--picture FILE`` draws samples of a finished file and trains nothing.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from fastattack.diffusion import DiffusionUNet, Schedule
from fastattack.files import write_atomic
from fastattack.images import find_images, read_image, save_png
from fastattack.metrics import psnr
from fastattack.training import Patches, checkpoint

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LEVELS = (10, 40, 100, 200, 400, 700)  # where the loss on images that were not trained on is told


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    p.add_argument("--train", type=Path, default=SHARED / "train400", help="folder of training images")
    p.add_argument("--valid", type=Path, default=SHARED / "set12", help="folder of validation images")
    p.add_argument("--out", type=Path, required=True, help="the .safetensors file; with --picture the one to draw from")
    p.add_argument("--checkpoint", type=Path, default=Path("/tmp/train_diffusion"), help="folder")
    p.add_argument("--minutes", type=float, default=75.0, help="wall-clock budget; sets the learning rate")
    p.add_argument("--iterations", type=int, default=0, help="if > 0: the schedule counts these instead of minutes")
    p.add_argument("--channels", type=int, choices=(1, 3), default=1)
    p.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128])
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--patch", type=int, default=32)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--save-every", type=float, default=180.0, help="seconds between checkpoints")
    p.add_argument("--picture", type=Path, help="draw samples into this PNG file instead of training")
    return p.parse_args()


class Trainer:
    """Weights, their average, optimiser and clock of a run; a checkpoint holds them all."""

    def __init__(self, args: argparse.Namespace, patches: Patches, valid: Tensor) -> None:
        torch.manual_seed(args.seed)
        self.args, self.patches, self.valid = args, patches, valid
        self.net = DiffusionUNet(args.channels, tuple(args.widths))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).eval()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-3)
        self.schedule = Schedule.linear()
        self.shares = torch.tensor((1.0, *self.schedule.alphas_bar), dtype=torch.float64)
        self.step, self.seconds = 0, 0.0
        names = ("widths", "batch", "patch", "lr", "average", "seed")  # a longer budget may go on from a shorter one
        self.identity: dict[str, Any] = {k: getattr(args, k) for k in names} | {"patches": patches.describe()}

    def noised(self, x: Tensor, levels: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """(x_t, noise) of images in [0, 1]."""
        noise = torch.randn(x.shape, generator=g)
        share = self.shares[levels].view(-1, 1, 1, 1)
        return ((2 * x - 1) * share.sqrt() + noise * (1 - share).sqrt()).float(), noise

    def progress(self) -> float:
        return self.step / self.args.iterations if self.args.iterations else self.seconds / (60 * self.args.minutes)

    def train_step(self) -> float:
        """Mean squared error of the noise; half of the levels lie in the lowest quarter, evenly spread in a batch."""
        batch, steps = self.args.batch, self.schedule.steps
        g = torch.Generator().manual_seed(self.args.seed * 2**32 + self.step)
        per_epoch = self.patches.steps_per_epoch
        x = self.patches.batch_at(self.step // per_epoch, self.step % per_epoch)
        places = (torch.arange(batch) + torch.rand(batch, generator=g)) / batch
        levels = (places.square() * steps).long().clamp(max=steps - 1) + 1
        noisy, noise = self.noised(x, levels, g)
        rate = (
            self.args.lr * min(1.0, (self.step + 1) / 200) * (0.01 + 0.495 * (1 + math.cos(math.pi * self.progress())))
        )
        self.optimiser.param_groups[0]["lr"] = rate
        loss = (self.net(noisy.contiguous(memory_format=torch.channels_last), levels - 1) - noise).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.args.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 1 - decay)
        return float(loss.detach())

    @torch.no_grad()
    def losses(self) -> dict[int, float]:
        """Level -> the average's mean squared error of the noise on the validation images."""
        found = {}
        for level in LEVELS:
            levels = torch.full((len(self.valid),), level)
            noisy, noise = self.noised(self.valid, levels, torch.Generator().manual_seed(level))
            found[level] = float((self.average(noisy, levels - 1) - noise).square().mean())
        return found

    @torch.no_grad()
    def denoised(self, sigma: float) -> float:
        """PSNR in dB of the one-step estimate of validation images with Gaussian noise (scale of [0, 1])."""
        level = self.schedule.level_of(2 * sigma)
        levels = torch.full((len(self.valid),), level)
        noisy, _ = self.noised(self.valid, levels, torch.Generator().manual_seed(1))
        share = self.schedule.alpha_bar(level)
        clean = (noisy - math.sqrt(1 - share) * self.average(noisy, levels - 1)) / math.sqrt(share)
        return float(psnr((clean + 1) / 2, self.valid).mean())

    def save(self) -> None:
        content = {
            "identity": self.identity, "net": self.net.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        checkpoint.save(self.args.checkpoint, content)

    def resume(self) -> None:
        if (path := checkpoint.latest(self.args.checkpoint)) is None:
            return
        content = checkpoint.load(path, self.identity)
        self.net.load_state_dict(content["net"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step, self.seconds = content["step"], content["seconds"]
        print(f"resumed at step {self.step}, {self.seconds:.0f} s", flush=True)

    def write(self) -> None:
        """The averaged weights in half precision."""
        args, losses, quality = self.args, self.losses(), self.denoised(25 / 255)
        info = {
            "architecture": "diffusion_unet", "channels": str(args.channels),
            "widths": " ".join(map(str, args.widths)), "schedule": "linear 1000 0.0001 0.02", "predicts": "epsilon",
            "patch": str(args.patch), "batch": str(args.batch), "seed": str(args.seed), "iterations": str(self.step),
            "seconds_trained": f"{self.seconds:.0f}", "set12_psnr_25": f"{quality:.3f}",
            "set12_losses": " ".join(f"{k}:{v:.4f}" for k, v in losses.items()),
        }  # fmt: skip
        tensors = {k: v.detach().half().contiguous().clone() for k, v in self.average.state_dict().items()}
        write_atomic(args.out, serialise(tensors, metadata=info))
        print(
            f"{self.seconds:.0f} s, step {self.step}: losses {info['set12_losses']}, sigma 25: {quality:.2f} dB",
            flush=True,
        )


def train(args: argparse.Namespace) -> None:
    """Train until the budget is used; the file is written with every checkpoint."""
    images = [read_image(path, args.channels) for path in find_images(args.train)]
    middle = [read_image(path, args.channels) for path in find_images(args.valid)]
    valid = torch.stack([x[:, 60:124, 60:124] for x in middle])
    trainer = Trainer(args, Patches(images, size=args.patch, batch=args.batch, seed=args.seed), valid)
    trainer.resume()
    last = time.monotonic()
    start = last - trainer.seconds
    smooth = math.nan
    while trainer.progress() < 1:
        loss = trainer.train_step()
        smooth = loss if math.isnan(smooth) else smooth + 0.01 * (loss - smooth)
        now = time.monotonic()
        trainer.seconds = now - start
        if now - last > args.save_every:
            last = now
            print(f"{trainer.seconds:.0f} s, step {trainer.step}: loss {smooth:.4f}", flush=True)
            trainer.save()
            trainer.write()
    trainer.save()
    trainer.write()


def picture(args: argparse.Namespace) -> None:
    """Samples of the finished file, 4 x 8, from noise by a hundred steps of the reverse process."""
    from fastattack import diffusion

    model = diffusion.load(args.out)
    samples = diffusion.sample(model, 32, size=args.patch, steps=100, seed=args.seed)
    rows = [torch.cat(list(row), -1) for row in samples.clamp(0, 1).split(8)]
    sheet = torch.cat(rows, -2)
    save_png(args.picture, sheet.repeat_interleave(2, -1).repeat_interleave(2, -2))


if __name__ == "__main__":
    arguments = parse_args()
    torch.set_num_threads(1)
    picture(arguments) if arguments.picture else train(arguments)
