"""Typical-set training with PyTorch Lightning: python examples/lightning_ts.py [--resume]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import fastattack as fa
from fastattack.images import find_images, read_image

PACKAGED = Path(fa.__file__).parent / "assets" / "images"
SIGMA = 25 / 255


class RobustDenoiser(pl.LightningModule):
    def __init__(self, strategy: fa.training.Strategy) -> None:
        super().__init__()
        self.net = fa.models.DnCNN(depth=6, features=24)
        self.strategy = strategy
        self.test_noise = fa.training.plain(sigma=SIGMA, seed=1)

    def on_train_epoch_start(self) -> None:
        self.strategy.set_epoch(self.current_epoch)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        # The dataset's own ids: neither workers, devices nor a restart change a sample's noise.
        ids, clean = batch
        inputs, targets = self.strategy(self.net, clean, sample_ids=ids)
        loss = mse_loss(self.net(inputs), targets) / SIGMA**2
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        ids, clean = batch
        noisy, _ = self.test_noise(self.net, clean, sample_ids=ids)
        attacked = fa.DenoisingPGD(self.net, eps=5 / 255, steps=10)(noisy, clean, sample_ids=ids)
        for name, inputs in (("noisy", noisy), ("attacked", attacked)):
            self.log(name, fa.metrics.psnr(self.net(inputs), clean).mean().float(), batch_size=len(clean))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), lr=1e-3)

    # Lightning does not call on_train_epoch_start where it goes on inside an epoch; the state knows which.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["strategy"] = self.strategy.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.strategy.load_state_dict(checkpoint["strategy"])


def loaders(data: Path, size: int = 32) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Tiles of all images but the last, and the last; each with its number."""
    *images, held_out = [read_image(path, channels=1) for path in find_images(data)]
    tiles = [tile for x in images for tile in x.unfold(1, size, size).unfold(2, size, size).flatten(1, 2).unbind(1)]
    train = DataLoader(list(enumerate(tiles)), batch_size=8, shuffle=True)
    return train, DataLoader([(0, held_out)])


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--data", type=Path, default=PACKAGED, help="two or more images; the last is held out")
    parser.add_argument("--out", type=Path, default=Path("out/lightning"))
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.ckpt")
    options = parser.parse_args(argv)
    pl.seed_everything(0, verbose=False)
    strategy = fa.training.ts(fa.TypicalSetSampler(sigma=SIGMA, spectrum="adversarial", seed=0))
    saver = pl.callbacks.ModelCheckpoint(options.out, save_last=True, save_top_k=0, enable_version_counter=False)
    trainer = pl.Trainer(
        max_epochs=options.epochs, callbacks=[saver], default_root_dir=options.out, logger=False,
        num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    last = options.out / "last.ckpt" if options.resume else None
    trainer.fit(RobustDenoiser(strategy), *loaders(options.data), ckpt_path=last)
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    print(", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


if __name__ == "__main__":
    main()
