"""The launches of zero_mean_step on cuda and cupy."""

from __future__ import annotations

from torch import Tensor

from .backend import Scalar
from .launch import Launcher, doubles, per_sample, samples, scale_of, scale_words

_SUMS, _PIVOTS = 6, 2  # doubles in ZeroMeanSums and in Pivots


def zero_mean_step(
    launcher: Launcher, adv: Tensor, grad: Tensor | None, origin: Tensor, eps: Scalar, step: Scalar
) -> None:
    if grad is None:  # a step of length 0 along anything
        grad, step = origin, 0.0
    with samples(adv, grad, origin, summed=True) as at:
        grad_scale, delta_scale = scale_of(grad), scale_of(adv, origin)
        partials, pivots = doubles(adv, at.batch * at.tiles * _SUMS), doubles(adv, at.batch * _PIVOTS)
        words = [*per_sample(eps), *per_sample(step), *scale_words(grad_scale), *scale_words(delta_scale)]
        words += [partials.data_ptr(), pivots.data_ptr()]
        launcher.run(adv, at, words, "zero_mean_step", "sums", "")
