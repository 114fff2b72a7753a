"""What may stand between a denoiser and whoever looks at its output. A second denoiser is one more, named SECOND."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional


def blur(images: Tensor, width: float = 1.0) -> Tensor:
    """A Gaussian blur of ``width`` pixels, reflected at the rim; differentiable."""
    reach = math.ceil(3 * width)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=images.dtype) / width) ** 2)
    line = line / line.sum()
    channels = images.shape[1]
    for kernel, pad in ((line.view(1, 1, 1, -1), (reach, reach, 0, 0)), (line.view(1, 1, -1, 1), (0, 0, reach, reach))):
        padded = functional.pad(images, pad, mode="reflect")
        images = functional.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)
    return images


def jpeg(images: Tensor, quality: int = 50) -> Tensor:
    """Gray images (N, 1, H, W), written as JPEG by Pillow and read again: cut to [0, 1], 8 bits; no gradient."""
    found = []
    for image in images.detach():
        levels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, format="JPEG", quality=quality)
        found.append(torch.from_numpy(np.asarray(Image.open(buffer), dtype=np.float32) / 255)[None])
    return torch.stack(found)


SECOND = "second"
DEFENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": blur,
    "jpeg-75": lambda images: jpeg(images, 75),
    "jpeg-30": lambda images: jpeg(images, 30),
}
