"""A diffusion model: what predicts the noise, its schedule, and the scale and sizes of images that it wants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..fast.precision import precision_of
from .schedule import Schedule
from .tiles import blended

Predictor = Callable[[Tensor, Tensor], Any]
"""eps(x_t, t): images (B, C, H, W) on the model's scale and step numbers (B,), 0 .. N - 1; the noise as x_t."""

PREDICTS = ("epsilon", "sample", "v_prediction")
AT_ONCE = 64  # tiles in a call


class Diffusion(nn.Module):
    """A model eps(x_t, t) with the schedule that it was trained with, called as diffusion(x_t, level).

    Whatever the model predicts, the call gives the standard normal noise in x_t, for images of any size: larger ones by
    overlapping tiles whose predictions are blended at every step, so that the noise is one field and no seam can grow.

    Args:
        model: nn.Module or any callable eps(x_t, t). An output of twice the channels is cut to the first half (models
            that learn their variance).
        schedule: levels 1 .. N; level n is the model's step n - 1.
        channels: of the model, and of the images.
        predicts: "epsilon", "sample" (the clean image) or "v_prediction" (arXiv 2202.00512).
        low, high: the model's scale, to which images in [0, 1] are put.
        tile: edge of the tiles in pixels, a multiple of ``multiple``; None: never tiled.
        overlap: pixels that neighbouring tiles share at least, below half of a tile.
        multiple: heights and widths that the model takes are multiples of this; images are filled up by repetition.
        each_channel: a model of one channel sees each channel of the images alone.

    Raises:
        ValueError: an argument out of range; it is named.
    """

    def __init__(
        self,
        model: Predictor,
        schedule: Schedule,
        *,
        channels: int,
        predicts: str = "epsilon",
        low: float = -1.0,
        high: float = 1.0,
        tile: int | None = None,
        overlap: int = 16,
        multiple: int = 1,
        each_channel: bool = False,
    ) -> None:
        super().__init__()
        if predicts not in PREDICTS:
            raise ValueError(f"predicts: wanted one of {', '.join(map(repr, PREDICTS))}, got {predicts!r}")
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule: wanted a fastattack.diffusion.Schedule, got {type(schedule).__name__}")
        if not low < high:
            raise ValueError(f"low: wanted a number below high = {high:g}, got {low:g}")
        if each_channel and channels != 1:
            raise ValueError(f"each_channel: wanted a model of 1 channel, got one of {channels}")
        if tile is not None and (tile < multiple or tile % multiple or not 0 <= 2 * overlap < tile):
            raise ValueError(
                f"tile: wanted a multiple of {multiple} with 0 <= overlap < tile / 2, got {tile} and {overlap}"
            )
        self.model = model
        self.schedule, self.channels, self.predicts = schedule, channels, predicts
        self.low, self.high = low, high
        self.tile, self.overlap, self.multiple, self.each_channel = tile, overlap, multiple, each_channel
        self.eval()

    # -- scales --------------------------------------------------------------------------------------------------------

    def sigma(self, level: int) -> float:
        """Of the noise at a level, beside an image in [0, 1]."""
        return self.schedule.sigma(level) / (self.high - self.low)

    def level_of(self, sigma: float) -> int:
        """The first level with at least this much noise, on the scale of images in [0, 1].

        Raises:
            ValueError: below 0, or more than the schedule has.
        """
        try:
            return self.schedule.level_of(sigma * (self.high - self.low))
        except ValueError:
            last = self.sigma(self.schedule.steps)
            raise ValueError(
                f"sigma: wanted a noise level from 0 to {last:g} (images in [0, 1]), the schedule's last, got {sigma:g}"
            ) from None

    # -- prediction ----------------------------------------------------------------------------------------------------

    def require_images(self, x: Any) -> Tensor:
        """Float images (B, C, H, W) of the model's channels.

        Raises:
            TypeError, ValueError: anything else.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x: wanted a float tensor (B, C, H, W), got {getattr(x, 'dtype', type(x).__name__)}")
        if x.dim() != 4 or not (self.each_channel or x.shape[1] == self.channels):
            hint = "; each_channel=True shows it each channel alone" if self.channels == 1 and x.dim() == 4 else ""
            raise ValueError(
                f"x: wanted images (B, {self.channels}, H, W) as the diffusion model has, got {tuple(x.shape)}{hint}"
            )
        return x

    def forward(self, x: Tensor, level: int, precision: str = "fp32") -> Tensor:
        """The noise in x_t (B, C, H, W) on the model's scale, in its type; level 1 .. N.

        ``precision``: "fp32" (the model's own), "bf16", "fp16", "tf32" or "auto", by autocast.
        """
        seen = x.flatten(0, 1)[:, None] if self.each_channel else x
        share = self.schedule.alpha_bar(level)
        chosen = precision_of(precision, x)

        def predict(part: Tensor) -> Tensor:
            with chosen.region(), chosen.forward(part.device):
                return self._predict(part, level)

        def again(part: Tensor) -> Any:  # the graphs of all tiles at once would be that of a large image
            return checkpoint(predict, part, use_reentrant=False, preserve_rng_state=False)

        tiled = self.tile is not None and max(x.shape[-2:]) > self.tile
        function = again if tiled and torch.is_grad_enabled() and x.requires_grad else predict
        out = blended(
            function, seen, tile=self.tile, overlap=self.overlap, multiple=self.multiple, at_once=AT_ONCE
        ).to(x.dtype)  # fmt: skip
        if self.each_channel:
            out = out.reshape(x.shape)
        if self.predicts == "sample":
            return (x - math.sqrt(share) * out) / math.sqrt(1 - share)
        if self.predicts == "v_prediction":
            return math.sqrt(share) * out + math.sqrt(1 - share) * x
        return out

    def _predict(self, x: Tensor, level: int) -> Tensor:
        dtype = self._dtype() or x.dtype
        steps = torch.full((x.shape[0],), level - 1, device=x.device, dtype=torch.long)
        out = self.model(x.to(dtype), steps)
        if not isinstance(out, Tensor):
            raise TypeError(f"diffusion: wanted a tensor from the model, got {type(out).__name__}")
        if out.shape[1:2] == (2 * x.shape[1],) and out.dim() == 4:
            out = out[:, : x.shape[1]]
        if out.shape != x.shape:
            raise ValueError(
                f"diffusion: wanted {tuple(x.shape)} from the model as its input has, got {tuple(out.shape)}"
            )
        return out

    def _dtype(self) -> torch.dtype | None:
        """The type of the model's parameters."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
