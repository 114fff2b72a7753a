"""The small networks: two kinds of denoiser, two kinds of classifier, and their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fastattack.models import DnCNN, initialise

from .data import SIZE
from .encoder import ENCODERS

TRAININGS = ((25, "plain"), (50, "plain"), (25, "ts"))  # sigma on the 0-255 scale, and how


class UNet(nn.Module):
    """A U-Net of three levels; the output is the image itself. Sizes must be multiples of 4."""

    def __init__(self, channels: int = 1, *, width: int = 12) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 4 * width
        self.down1, self.down2, self.middle = _pair(channels, a), _pair(a, b), _pair(b, c)
        self.up2, self.up1 = _pair(c + b, b), _pair(b + a, a)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")
        self.last = nn.Conv2d(a, channels, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        """Denoise (B, channels, H, W), nominal range [0, 1]; not clipped."""
        fine = self.down1(y)
        middle = self.down2(self.pool(fine))
        coarse = self.middle(self.pool(middle))
        middle = self.up2(torch.cat((self.grow(coarse), middle), dim=1))
        out: Tensor = self.last(self.up1(torch.cat((self.grow(middle), fine), dim=1)))
        return out


def _pair(before: int, after: int) -> nn.Sequential:
    layers = [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def dncnn(seed: int) -> nn.Module:
    """A residual CNN, 7 layers of 24 channels: fastattack's DnCNN."""
    model = DnCNN(1, depth=7, features=24)
    initialise(model, seed)
    return model


def unet(seed: int) -> nn.Module:
    model = UNet()
    generator = torch.Generator().manual_seed(seed)
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return model


def cnn(seed: int) -> nn.Module:
    """Convolutions and pooling, then a linear layer."""
    return _seeded(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * (SIZE // 8) ** 2, 64), nn.ReLU(), nn.Linear(64, 10),
        ),
    )  # fmt: skip


def mlp(seed: int) -> nn.Module:
    """No convolution: the pixels, fully connected."""
    return _seeded(
        seed,
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(SIZE * SIZE, 256), nn.GELU(), nn.LayerNorm(256),
            nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 10),
        ),
    )  # fmt: skip


def _seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """torch's own initialisation from a seed; its random state is left as found."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return build()


DENOISERS: dict[str, Callable[[int], nn.Module]] = {"dncnn": dncnn, "unet": unet}
CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {"cnn": cnn, "mlp": mlp}


def denoisers() -> dict[str, tuple[str, int, str]]:
    """(kind, sigma, training) by the name of the file, "unet-25-ts"."""
    return {f"{kind}-{sigma}-{how}": (kind, sigma, how) for sigma, how in TRAININGS for kind in DENOISERS}


def load_network(folder: Path, name: str) -> nn.Module:
    """A network by the name of its file, "cnn" or "unet-25-ts", in eval mode; its parameters need no gradient.

    Raises:
        FileNotFoundError: it has not been trained; says how.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such network; python scripts/miga_networks.py --out {folder} trains it")
    model = {**DENOISERS, **CLASSIFIERS, **ENCODERS}[name.partition("-")[0]](0)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)
