"""DnCNN: residual learning of deep CNN for image denoising (Zhang et al. 2017, arXiv 1608.03981)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DnCNN(nn.Module):
    """A plain stack of 3 x 3 convolutions that estimates the noise; the output is ``y - net(y)``.

    Published sizes: 17 layers for one noise level, 20 layers for the blind models, 64 features, gray or RGB.

    Args:
        channels: image channels, 1 or 3.
        depth: number of convolutions, at least 2.
        features: channels between the convolutions.
        batch_norm: put a batch norm after each inner convolution (the training form of the paper). The published
            checkpoints have it folded into the convolutions, hence False.
        sigma: noise level (0-255 scale) it is trained for; None when blind or unknown. Only a label.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        depth: int = 17,
        features: int = 64,
        batch_norm: bool = False,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"DnCNN: depth must be at least 2, got {depth}")
        self.channels = channels
        self.sigma = sigma
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(features, features, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(features))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(features, channels, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, y: Tensor) -> Tensor:
        """Denoise ``y`` [B, channels, H, W], nominal range [0, 1]; any H and W. Returns the same shape, not clipped."""
        residual: Tensor = self.model(y)
        return y - residual


def initialise(model: nn.Module, seed: int) -> None:
    """He initialisation (arXiv 1502.01852) of a stack of convolutions.

    The last layer is zero, so that an untrained residual network is the identity. torch's random state is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    nn.init.zeros_(convs[-1].weight)
