"""ECNDNet: enhanced CNN for image denoising (Tian et al. 2019, arXiv 1810.11834)."""

from __future__ import annotations

from torch import Tensor, nn

LAYERS = 15
DILATED = (2, 5, 9, 12)


class ECNDNet(nn.Module):
    """Fifteen conv-batch norm-ReLU layers, dilation 2 at layers 2, 5, 9 and 12; the output is ``y - net(y)``.

    The layer names are those of the published checkpoints (conv1_1 ... conv1_16, conv3).

    Args:
        channels: image channels.
        features: channels between the convolutions.
        sigma: noise level (0-255 scale) it is trained for; None when unknown. Only a label.
    """

    def __init__(self, channels: int = 1, *, features: int = 64, sigma: float | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.sigma = sigma
        width = channels
        for k in range(1, LAYERS + 1):
            dilation = 2 if k in DILATED else 1
            conv = nn.Conv2d(width, features, 3, padding=dilation, dilation=dilation, bias=False)
            self.add_module(f"conv1_{k}", nn.Sequential(conv, nn.BatchNorm2d(features), nn.ReLU(inplace=True)))
            width = features
        last = nn.Conv2d(features, channels, 3, padding=1, bias=False)
        self.add_module(f"conv1_{LAYERS + 1}", nn.Sequential(last, nn.ReLU(inplace=True)))
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        """Denoise ``y`` [B, channels, H, W], nominal range [0, 1]; any H and W. Returns the same shape, not clipped."""
        residual = y
        for k in range(1, LAYERS + 2):
            residual = self.get_submodule(f"conv1_{k}")(residual)
        noise: Tensor = self.conv3(residual)
        return y - noise
