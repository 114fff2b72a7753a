"""What counts say of probabilities: exact binomial bounds, tests and order statistics, and how many are needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..extras import require

if TYPE_CHECKING:
    import numpy as np

ABSTAIN = -1
"""The label of a smoothed classifier that does not answer."""


def statistics() -> Any:
    """scipy.stats, imported when it is first needed."""
    require("scipy", what="certify", extra="certify")
    import scipy.stats

    return scipy.stats


def share(value: Any, name: str) -> float:
    """A number inside (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError(f"{name}: wanted a number in (0, 1), got {value!r}")
    return float(value)


def count(value: Any, name: str, least: int = 1) -> int:
    """A whole number, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
    return value


def lower_bound(successes: Tensor, n: int, alpha: float) -> Tensor:
    """One-sided Clopper-Pearson bound, float64: P(bound > p) <= alpha for successes ~ Binomial(n, p), whatever p.

    Args:
        successes: whole numbers of any shape, 0 .. n.
    """
    k = _counts(successes)
    found = statistics().beta.ppf(alpha, k, n - k + 1)
    return _back(found, successes, k == 0, 0.0)


def upper_bound(successes: Tensor, n: int, alpha: float) -> Tensor:
    """P(bound < p) <= alpha; see `lower_bound`."""
    k = _counts(successes)
    found = statistics().beta.ppf(1 - alpha, k + 1, n - k)
    return _back(found, successes, k == n, 1.0)


def even_odds(first: Tensor, second: Tensor) -> Tensor:
    """The p-value, float64, of two counts under even odds: the exact two-sided binomial test."""
    a, b = _counts(first), _counts(second)
    tail = statistics().binom.sf(a.clip(b) - 1, a + b, 0.5)
    return _back((2 * tail).clip(0, 1), first, a == b, 1.0)


def least_n(alpha: float) -> int:
    """The fewest copies of which all agreeing prove a probability above 1/2: alpha^(1/n) > 1/2."""
    n = max(1, math.floor(math.log2(1 / alpha)))
    while not alpha ** (1 / n) > 0.5:
        n += 1
    return n


def least_n_of_test(alpha: float) -> int:
    """The fewest copies of which all agreeing pass `even_odds`: 2^(1 - n) <= alpha."""
    n = max(1, math.floor(math.log2(1 / alpha)))
    while 2.0 ** (1 - n) > alpha:
        n += 1
    return n


def require_n(n: int, alpha: float, least: int, name: str = "n", *, why: str = "") -> None:
    """Raises ValueError where no count of n can reach the asked confidence."""
    if n < least:
        raise ValueError(f"{name}: wanted at least {least} copies for a failure probability of {alpha:g}{why}, got {n}")


def order_below(n: int, level: float, alpha: float) -> int:
    """The largest k whose k-th smallest of n values is at most the ``level`` quantile, but for alpha; 0: none.

    P(X_(k) <= quantile) >= P(Binomial(n, level) >= k), whatever the distribution.
    """
    if level <= 0:
        return 0
    binom = statistics().binom
    k = int(binom.ppf(alpha, n, level))  # P(Binomial <= k) >= alpha, so near the place
    while k > 0 and binom.cdf(k - 1, n, level) > alpha:
        k -= 1
    while k < n and binom.cdf(k, n, level) <= alpha:
        k += 1
    return k


def order_above(n: int, level: float, alpha: float) -> int:
    """The smallest k whose k-th smallest of n values is at least the ``level`` quantile, but for alpha; n + 1: none.

    P(X_(k) >= quantile) >= P(Binomial(n, level) < k).
    """
    return n + 1 - order_below(n, 1 - level, alpha)


def _counts(values: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return values.detach().to("cpu", torch.int64).numpy()


def _back(found: Any, like: Tensor, where: Any, value: float) -> Tensor:
    """The numbers of scipy with ``value`` at the end of the range, where it gives NaN."""
    import numpy as np

    return torch.as_tensor(np.where(where, value, found), dtype=torch.float64, device=like.device)
