"""Typical-set training with Hugging Face Accelerate: accelerate launch examples/accelerate_ts.py [--resume]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import fastattack as fa
from fastattack.images import find_images, read_image

PACKAGED = Path(fa.__file__).parent / "assets" / "images"
SIGMA = 25 / 255


def load(data: Path, size: int = 32) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Tiles of all images but the last, each with its number, and the last image."""
    *images, held_out = [read_image(path, channels=1) for path in find_images(data)]
    tiles = [tile for x in images for tile in x.unfold(1, size, size).unfold(2, size, size).flatten(1, 2).unbind(1)]
    return list(enumerate(tiles)), held_out[None]


def quality(model: nn.Module, clean: Tensor) -> tuple[float, float]:
    """PSNR in dB on an image with Gaussian noise, and on the same one attacked within its noise."""
    noisy, _ = fa.training.plain(sigma=SIGMA, seed=1)(model, clean)
    attacked = fa.DenoisingPGD(model, eps=5 / 255, steps=10)(noisy, clean)
    with torch.no_grad():
        return fa.metrics.psnr(model(noisy), clean).item(), fa.metrics.psnr(model(attacked), clean).item()


def main(argv: Sequence[str] | None = None) -> tuple[nn.Module, float, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--data", type=Path, default=PACKAGED, help="two or more images; the last is held out")
    parser.add_argument("--out", type=Path, default=Path("out/accelerate"))
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state")
    options = parser.parse_args(argv)
    set_seed(0)
    # This sampler's order depends on seed and epoch alone, so that a resumed run sees the same batches.
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=0))
    pairs, held_out = load(options.data)
    bare = fa.models.DnCNN(depth=6, features=24)
    strategy = fa.training.ts(fa.TypicalSetSampler(sigma=SIGMA, spectrum="adversarial", seed=0))
    model, optimiser, loader = accelerator.prepare(
        bare, torch.optim.Adam(bare.parameters(), lr=1e-3), DataLoader(pairs, batch_size=8, shuffle=True)
    )
    accelerator.register_for_checkpointing(strategy)
    if options.resume:
        accelerator.load_state(options.out / "state")
    for epoch in range(strategy.state_dict()["epoch"], options.epochs):
        loader.set_epoch(epoch)
        for ids, clean in loader:
            # The dataset's own ids, lest every process draw the same noise.
            inputs, targets = strategy(model, clean, sample_ids=ids)
            loss = mse_loss(model(inputs), targets) / SIGMA**2
            optimiser.zero_grad()
            accelerator.backward(loss)
            optimiser.step()
        strategy.set_epoch(epoch + 1)  # before saving: a resumed run begins there
        accelerator.save_state(options.out / "state")
    found = quality(accelerator.unwrap_model(model), held_out.to(accelerator.device))
    accelerator.print(f"noisy {found[0]:.2f} dB, attacked {found[1]:.2f} dB")
    return bare, *found


if __name__ == "__main__":
    main()
