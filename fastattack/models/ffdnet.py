"""FFDNet: fast and flexible denoising with a noise-level map (Zhang et al. 2018, arXiv 1710.04026)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FFDNet(nn.Module):
    """Works on the four half-size phases of the image beside a constant noise-level map; the output is the image.

    Published sizes: gray 15 convolutions with 64 features, RGB 12 convolutions with 96 features.

    Args:
        channels: image channels, 1 or 3.
        depth: number of convolutions, at least 2; default 15 for gray, 12 for RGB.
        features: channels between the convolutions; default 64 for gray, 96 for RGB.
        sigma: noise level (0-255 scale) that `forward` assumes when it is given none.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        depth: int | None = None,
        features: int | None = None,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        depth = (15 if channels == 1 else 12) if depth is None else depth
        features = (64 if channels == 1 else 96) if features is None else features
        if depth < 2:
            raise ValueError(f"FFDNet: depth must be at least 2, got {depth}")
        self.channels = channels
        self.sigma = sigma
        layers: list[nn.Module] = [nn.Conv2d(4 * channels + 1, features, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(features, 4 * channels, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, y: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Denoise ``y`` [B, channels, H, W], nominal range [0, 1]; any H and W. Returns the same shape, not clipped.

        Odd sizes are padded by repeating the last row or column, and the result is cropped.

        Args:
            y: noisy images.
            sigma: noise level on the 0-1 scale (25/255), one number or one per sample [B]; default: the model's own.

        Raises:
            ValueError: no noise level given and none set, or not one per sample.
        """
        height, width = y.shape[-2:]
        if height % 2:
            y = torch.cat((y, y[..., -1:, :]), dim=-2)
        if width % 2:
            y = torch.cat((y, y[..., -1:]), dim=-1)
        phases = F.pixel_unshuffle(y, 2)
        level = self._levels(phases, sigma).view(-1, 1, 1, 1).expand(-1, 1, *phases.shape[-2:])
        out: Tensor = self.model(torch.cat((phases, level), dim=1))
        return F.pixel_shuffle(out, 2)[..., :height, :width]

    def _levels(self, like: Tensor, sigma: float | Tensor | None) -> Tensor:
        """Noise level of every sample [B], with the dtype and device of `like`."""
        if sigma is None:
            if self.sigma is None:
                raise ValueError("FFDNet: no noise level: pass sigma to forward (0-1 scale) or to load (0-255 scale)")
            sigma = self.sigma / 255
        batch = like.shape[0]
        if not isinstance(sigma, Tensor):
            return like.new_full((batch,), sigma)
        if sigma.numel() != 1 and sigma.shape != (batch,):
            raise ValueError(f"FFDNet: sigma must be one number or have shape ({batch},), got {tuple(sigma.shape)}")
        return sigma.to(like).reshape(-1).expand(batch)
