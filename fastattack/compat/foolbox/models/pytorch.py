"""foolbox.models.pytorch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..types import BoundsInput, Preprocessing
from .base import ModelWithPreprocessing


class PyTorchModel(ModelWithPreprocessing):
    """A torch module with bounds and preprocessing, for images (B, C, H, W).

    Args:
        model: moved to ``device``; its mode stays, with a warning where that is training mode.
        bounds: (lower, upper) of the inputs, before the preprocessing.
        device: a device or its name; None: the first CUDA device, else the CPU.
        preprocessing: see `ModelWithPreprocessing`.

    Raises:
        ValueError: no nn.Module, or what `ModelWithPreprocessing` refuses.
    """

    def __init__(
        self, model: Any, bounds: BoundsInput, device: Any = None, preprocessing: Preprocessing = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: wanted a torch.nn.Module, got {type(model).__name__}")
        if model.training:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(
                    "model: it is in training mode and may answer at random; model.eval() before says otherwise",
                    stacklevel=2,
                )
        place = torch.device(device if device is not None else "cuda:0" if torch.cuda.is_available() else "cpu")
        model = model.to(place)

        def call(x: Tensor) -> Any:  # no graph where the input needs none, as parameters may
            with torch.set_grad_enabled(x.requires_grad):
                return model(x)

        super().__init__(call, bounds, torch.zeros(0, device=place), preprocessing)
        self.data_format = "channels_first"
        self.device = place
