"""Models of other calling conventions, as model(y)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class WithSigma(nn.Module):
    """model(y) for a module that is called as model(y, sigma)."""

    def __init__(self, model: nn.Module, sigma: float | Tensor) -> None:
        super().__init__()
        self.model = model
        self.sigma = sigma
        self.training = model.training  # the wrapper's flag follows; the model's own are not touched

    def forward(self, y: Tensor) -> Any:
        return self.model(y, self.sigma)


def with_sigma(model: Callable[..., Any], sigma: float | Tensor) -> Callable[[Tensor], Any]:
    """The denoiser called as model(y, sigma), deepinv's convention among others, as model(y).

    Args:
        model: nn.Module or any callable.
        sigma: standard deviation of the noise, on the scale that the model wants (deepinv: that of the images). A (B,)
            tensor belongs to one batch: with ``max_batch`` the model would meet parts of it.
    """
    if isinstance(model, nn.Module):
        return WithSigma(model, sigma)
    return lambda y: model(y, sigma)
