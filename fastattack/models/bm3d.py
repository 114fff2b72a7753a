"""BM3D by its authors' package (optional): a target of attacks, not a source, for it has no gradient."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SMALLEST = 9  # at 8 x 8 the package's library ends the process


class BM3D:
    """BM3D (Dabov et al., IEEE TIP 2007; Makinen et al., IEEE TIP 2020) of gray and RGB images, one after another.

    In one thread, for the package's sums in several differ from run to run (by 3e-7): a result depends on its image
    alone.

    Args:
        sigma: noise level on the 0-255 scale.

    Raises:
        ValueError: no sigma, or a negative one.
        RuntimeError: the package bm3d is not there or does not import.
    """

    differentiable = False

    def __init__(self, sigma: float | None) -> None:
        if sigma is None or not 0 <= sigma <= 255:
            raise ValueError(f"sigma: wanted a noise level in [0, 255] (0-255 scale) for bm3d, got {sigma}")
        try:
            self._package: Any = import_module("bm3d")
        except (ImportError, OSError, RuntimeError) as error:
            raise RuntimeError(
                f"bm3d: needs the package bm3d, which does not import here ({error}); pip install 'fastattack[bm3d]'"
            ) from error
        self.sigma = sigma
        self._profile = self._package.BM3DProfile()
        self._profile.num_threads = 1

    def __call__(self, y: Tensor) -> Tensor:
        """Denoise ``y`` (B, 1 or 3, H, W), nominal range [0, 1], H and W at least 9. Same shape, dtype and device.

        Raises:
            ValueError: another shape, NaN or infinity, or a color image without contrast, of which the package makes
                NaN.
            RuntimeError: y wants a gradient.
        """
        if y.dim() != 4 or y.shape[1] not in (1, 3) or min(y.shape[2:]) < SMALLEST:
            raise ValueError(f"bm3d: wanted images (B, 1 or 3, H, W), H and W >= {SMALLEST}, got {tuple(y.shape)}")
        if y.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("bm3d: has no gradient; use it as a target of transfer, not as the attacked model")
        images = y.detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(images).all():
            raise ValueError("bm3d: wanted finite images, got NaN or infinity")
        restored = [torch.from_numpy(self._one(image)) for image in images]
        return torch.stack(restored).to(y) if restored else torch.empty_like(y)

    def _one(self, image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(C, H, W) -> (C, H, W)."""
        level = self.sigma / 255
        if image.shape[0] == 1:
            out = self._package.bm3d(image[0], level, self._profile)[None]
        else:
            with np.errstate(all="ignore"):  # checked below
                out = self._package.bm3d_rgb(image.transpose(1, 2, 0), level, self._profile).transpose(2, 0, 1)
        if not np.isfinite(out).all():
            raise ValueError("bm3d: wanted images with contrast in every color, the package made NaN of one")
        found: npt.NDArray[np.float64] = out
        return found
