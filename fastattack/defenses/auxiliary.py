"""The network whose latents guide a purifier, from and to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_atomic
from ..guard import random_state, seed_torch
from ..models.weights import read_weights

GRID = 4  # places an axis that the features are averaged to
ARCHITECTURE = "auxiliary"


class Auxiliary(nn.Module):
    """A small convolutional encoder h for `LatentGuide`: images (B, C, H, W) in [0, 1], any size, to (B, latent).

    Convolutions of 3 x 3 with SiLU (gradients of the second order exist everywhere), each but the first halves height
    and width; the features are averaged to 4 x 4 places, and one linear layer makes the latents. No normalisation: a
    sample sees no other.

    Args:
        channels: of the images.
        widths: features of each convolution.
        latent: numbers in a latent.
        classes: of a linear layer upon the latents (``head``), for training with labels; None: no such layer.
        seed: of the first weights; torch's random state is not touched.

    Raises:
        ValueError: an argument out of range; it is named.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        widths: tuple[int, ...] = (16, 32, 64),
        latent: int = 64,
        classes: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "latent": latent, "classes": 2 if classes is None else classes}
        for name, value in (*sizes.items(), *(("widths", width) for width in widths)):
            least = 2 if name == "classes" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: wanted whole numbers >= {least}, got {value!r}")
        if not widths:
            raise ValueError("widths: wanted at least one layer, got none")
        self.channels, self.widths, self.latent, self.classes = channels, tuple(widths), latent, classes
        with random_state(torch.device("cpu")):
            seed_torch(seed, torch.device("cpu"))
            layers: list[nn.Module] = []
            for k, (before, after) in enumerate(zip((channels, *widths), widths, strict=False)):
                layers += [nn.Conv2d(before, after, 3, stride=1 if k == 0 else 2, padding=1), nn.SiLU()]
            layers += [nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Linear(widths[-1] * GRID * GRID, latent)]
            self.layers = nn.Sequential(*layers)
            self.head = None if classes is None else nn.Linear(latent, classes)

    def forward(self, x: Tensor) -> Tensor:
        latents: Tensor = self.layers(x - 0.5)
        return latents

    def classifier(self) -> nn.Module:
        """The logits (B, classes) of images, by the same weights: a classifier of its own.

        Raises:
            ValueError: it was made without classes.
        """
        if self.head is None:
            raise ValueError("classes: wanted an Auxiliary with classes=, got one without")
        return nn.Sequential(self, self.head)

    def save(self, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> None:
        """A .safetensors file, whole or not at all; ``metadata``: how it was trained, say, kept as strings.

        Raises:
            ValueError: another ending. OSError: it cannot be written; an old file is still there.
        """
        from safetensors.torch import save as serialise

        if Path(path).suffix != ".safetensors":
            raise ValueError(f"path: wanted a name that ends in .safetensors, got {str(path)!r}")
        built = {
            "architecture": ARCHITECTURE, "channels": self.channels, "widths": " ".join(map(str, self.widths)),
            "latent": self.latent, "classes": self.classes or 0,
        }  # fmt: skip
        told = {name: str(value) for name, value in (dict(metadata or {}) | built).items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_atomic(path, serialise(tensors, metadata=told))

    @classmethod
    def load(cls, path: str | Path) -> Auxiliary:
        """What `save` wrote, in eval mode, in the type of the file.

        Raises:
            FileNotFoundError: nothing there. ValueError: not such a file, or not a whole one; it is named.
        """
        state, metadata = read_weights(path)
        if metadata.get("architecture") != ARCHITECTURE:
            raise ValueError(
                f"{path}: wanted a file of Auxiliary.save, architecture {ARCHITECTURE!r}, got "
                f"{metadata.get('architecture')!r}"
            )
        try:
            found = cls(
                int(metadata["channels"]), widths=tuple(map(int, metadata["widths"].split())),
                latent=int(metadata["latent"]), classes=int(metadata["classes"]) or None,
            )  # fmt: skip
            found.to(next(iter(state.values())).dtype).load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: not a whole auxiliary network: {' '.join(str(error).split())[:300]}") from error
        return found.eval()


def logits_by(auxiliary: nn.Module, head: Callable[[Tensor], Any] | None) -> nn.Module:
    """Images to logits, by a head upon the latents: the network's own, or another."""
    if head is None:
        if not isinstance(auxiliary, Auxiliary):
            raise ValueError(
                f"head: wanted an nn.Module from latents to logits for {type(auxiliary).__name__}, got None"
            )
        return auxiliary.classifier()
    if not isinstance(head, nn.Module):
        raise TypeError(f"head: wanted an nn.Module from latents to logits, got {type(head).__name__}")
    return nn.Sequential(auxiliary, nn.Flatten(), head)
