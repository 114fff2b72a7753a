"""The smallest perturbation that succeeds: CW, FMN and DDN."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from ..engine import Models, Rule
from ..ops import check
from .base import Attack, Options, Unpack
from .smallest import AdamWalk, DecoupledWalk, FastWalk


class Smallest(Attack):
    """Looks for the smallest perturbation with which the loss passes ``threshold`` (falls below it, if targeted).

    What it finds for a sample is its smallest success; where nothing succeeded, the point with the best loss, and
    ``success`` False. A sample that succeeds as it is comes back unchanged.
    """

    def seek(self, model: Models, options: Options, *, rule: Rule, needs_starts: bool = True, **fixed: Any) -> None:
        """`compose` without a ball."""
        name = type(self).__name__
        for option in ("eps", "random_start", "keep", "sparsity", "preserve_noise", "zero_mean"):
            if option in options:
                raise TypeError(f"{name}: {option} has no place in a search for the smallest perturbation")
        if options.get("stop") == "success":
            raise ValueError(f"stop: wanted None or 'converged' for {name} (the first success is not the smallest)")
        threshold = options.get("threshold")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
            raise ValueError(f"threshold: wanted a finite number for {name}, got {threshold!r}")
        self.compose(
            model, options, rule=rule, ball=False, needs_starts=needs_starts, eps=None, random_start=False, **fixed
        )


class CW(Smallest):
    """The l2 attack of Carlini & Wagner (arXiv 1608.04644, section V.C) on classifiers and restorers alike.

    Minimises |x' - x|_2^2 + c max(threshold - loss, 0) with Adam, over w with x' = tanh(w) between the bounds, or over
    x' - x where there are none; c is searched by bisection for each sample, one value for each restart.

    What differs from the paper: any objective and threshold (the paper's f with confidence k is
    objective=fa.objectives.cw_margin(), threshold=k); ``initial_c=None`` starts at the c that a linear model would
    need, 2 (threshold - loss) / |gradient|^2, where the paper starts at 0.01; no early abort, but for
    stop="converged". Adam moves every pixel by about ``step`` at first: where the smallest perturbation is smaller
    than that by the pixel, as on denoisers, a smaller step or FMN finds less.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        threshold: must be given: success is a loss above it, below it with targeted=True.
        steps: gradients for each c; restarts: values of c (the paper: 10000 and 20).
        step: learning rate of Adam, a number or (B,).
        initial_c: the first c, > 0, or None.
        bounds: (low, high) of the pixels, finite, or None.
        options: see `fastattack.attacks.base.Options`; eps, random_start and keep have no place here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, initial_c: float | None = None, **options: Unpack[Options]) -> None:
        if options.get("norm", "l2") != "l2":
            raise ValueError(f"norm: wanted 'l2' for CW, got {options['norm']!r}")
        bounds = options.get("bounds")
        if bounds is not None:
            low, high = check.bounds_of(bounds, torch.float64)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"bounds: wanted finite (low, high) with low < high for CW, or None, got {bounds}")
        if initial_c is not None and not (isinstance(initial_c, (int, float)) and 0 < initial_c < math.inf):
            raise ValueError(f"initial_c: wanted a number > 0, or None, got {initial_c!r}")
        self.seek(
            model, options, rule=partial(AdamWalk, initial_c=initial_c), needs_starts=False,
            norm="l2", steps=100, restarts=9, step=0.01,
        )  # fmt: skip


class FMN(Smallest):
    """Fast minimum-norm (Pintor et al., arXiv 2102.12827), "linf", "l2" and "l1".

    Steps along the gradient / |gradient|_2, projected onto a ball whose radius follows, for each sample: down by a
    factor 1 - gamma_k after a success, up by 1 + gamma_k else; before the first success it is where a linear model
    would succeed. Lengths and gamma fall along a cosine, to 1/100 of the first step and to gamma / 50.

    What differs from the paper: before the first success the radius is 1 + gamma_k times the linear estimate, because
    projections end a hair inside the ball and a success is a loss strictly past the threshold; no warm start.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        threshold: must be given: success is a loss above it, below it with targeted=True. For classifiers
            objective=fa.objectives.cw_margin() with threshold=0.
        steps: gradients.
        step: l2 length of the first step, for every norm; a number or (B,).
        gamma: first relative change of the radius, in (0, 1).
        options: see `fastattack.attacks.base.Options`; eps, random_start, restarts and keep have no place here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, gamma: float = 0.05, **options: Unpack[Options]) -> None:
        check_gamma(gamma)
        self.seek(model, options, rule=partial(FastWalk, gamma=gamma), norm="linf", steps=100, step=1.0)


class DDN(Smallest):
    """Decoupled direction and norm (Rony et al., arXiv 1811.09600): l2.

    Steps along the gradient / |gradient|_2 whose lengths fall along a cosine, then onto a sphere whose radius follows,
    for each sample: down by a factor 1 - gamma after a success, up by 1 + gamma else.

    What differs from the paper: any objective and threshold; a gradient of zero moves nothing; results are not rounded.

    Args:
        model: called as model(x); nn.Module or any callable; several in a list or dict make one attack on all.
        threshold: must be given: success is a loss above it, below it with targeted=True.
        steps: gradients.
        step: l2 length of the first step, a number or (B,); the last is 1/100 of it.
        gamma: relative change of the radius, in (0, 1).
        radius: of the first sphere.
        options: see `fastattack.attacks.base.Options`; eps, random_start, restarts and keep have no place here.

    Raises:
        ValueError, TypeError: an option that cannot be; the message names it.
    """

    def __init__(self, model: Models, *, gamma: float = 0.05, radius: float = 1.0, **options: Unpack[Options]) -> None:
        check_gamma(gamma)
        if not (isinstance(radius, (int, float)) and 0 < radius < math.inf):
            raise ValueError(f"radius: wanted a number > 0, got {radius!r}")
        if options.get("norm", "l2") != "l2":
            raise ValueError(f"norm: wanted 'l2' for DDN, got {options['norm']!r}")
        rule = partial(DecoupledWalk, gamma=gamma, radius=radius)
        self.seek(model, options, rule=rule, norm="l2", steps=100, step=1.0)


def check_gamma(gamma: float) -> None:
    if not (isinstance(gamma, (int, float)) and 0 < gamma < 1):
        raise ValueError(f"gamma: wanted a number between 0 and 1, got {gamma!r}")
