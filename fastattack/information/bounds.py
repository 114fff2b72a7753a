"""Lower bounds of the mutual information I(X; Z), in nats, from a critic's scores.

A critic T scores pairs. ``joint`` (B,) are the scores T(x_i, z_i) of pairs that belong together, ``marginal`` (B, K)
the scores T(x_j, z_i) of each z_i beside K samples x_j drawn without regard to it: others of the batch, or of a memory
bank. Each bound has a batch form, for training and reporting, and a form for each sample (`..._each`), which an attack
climbs down: the entry of sample i reads row i of the scores alone, so with a constant bank no sample moves another's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..objectives.base import widened

_MOST = math.log(10)


@dataclass(frozen=True)
class MovingAverage:
    """The moving average of E exp T over batches, which MINE's gradient is divided by. A value: `after` makes the next.

    It is cut to 10 times the mean of the newest batch. In MINE it is not; but then one batch with a wild score
    leaves an average that falls by ``rate`` a step, beside which nothing holds the other scores down: they diverge.

    Attributes:
        rate: weight of the newest batch, 0 < rate <= 1; 1 is the uncorrected gradient.
        log_mean: () logarithm of the average, for exp T may not fit; None before the first batch, which starts it.
    """

    rate: float = 0.01
    log_mean: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 < self.rate <= 1:
            raise ValueError(f"rate: wanted a number above 0 and at most 1, got {self.rate!r}")

    def after(self, log_mean: Tensor) -> MovingAverage:
        """The average after a batch with the logarithm ``log_mean`` () of its own mean."""
        new = log_mean.detach()
        if self.log_mean is None or self.rate == 1:
            return MovingAverage(self.rate, new)
        old = self.log_mean.to(new)
        mixed = torch.logaddexp(old + math.log1p(-self.rate), new + math.log(self.rate))
        return MovingAverage(self.rate, torch.minimum(mixed, new + _MOST))


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    """mean_i T(x_i, z_i) - log mean_ij exp T(x_j, z_i): Donsker and Varadhan's bound (arXiv 1801.04062, theorem 1), ().

    Its logarithm is of a mean over the batch, so the gradient of a small batch is biased: `donsker_varadhan_moving`.

    Raises:
        TypeError, ValueError: scores that are not (B,) and (B, K); so for every bound here.
    """
    joint, marginal = _scores(joint, marginal)
    return joint.mean() - _log_mean_exp(marginal.flatten())


def donsker_varadhan_moving(
    joint: Tensor, marginal: Tensor, average: MovingAverage
) -> tuple[Tensor, MovingAverage]:  # fmt: skip
    """The number of `donsker_varadhan` with the corrected gradient of MINE (arXiv 1801.04062, eq. 12 and below), (),
    and the moving average after this batch.

    The gradient is mean grad T(x_i, z_i) - mean(grad T(x_j, z_i) exp T(x_j, z_i)) / m, m the moving average of
    mean exp T, this batch included.
    """
    joint, marginal = _scores(joint, marginal)
    log_mean = _log_mean_exp(marginal.flatten().detach())
    average = average.after(log_mean)
    assert average.log_mean is not None
    slope = joint.mean() - (marginal - average.log_mean).exp().mean()  # exp(...) <= B K / rate
    value = joint.detach().mean() - log_mean
    return value + (slope - slope.detach()), average


def donsker_varadhan_each(joint: Tensor, marginal: Tensor) -> Tensor:
    """T(x_i, z_i) - log mean_j exp T(x_j, z_i) of each sample, (B,).

    The conditional form: its mean bounds the information, and is at least the batch form's on the same scores, since
    the logarithm is concave. With few x_j it overestimates: log mean exp of K samples is too low on average.
    """
    joint, marginal = _scores(joint, marginal)
    return joint - torch.logsumexp(marginal, 1) + math.log(marginal.shape[1])


def infonce(joint: Tensor, marginal: Tensor) -> Tensor:
    """The mean of `infonce_each`, (): InfoNCE (arXiv 1807.03748). It cannot exceed log(K + 1)."""
    return infonce_each(joint, marginal).mean()


def infonce_each(joint: Tensor, marginal: Tensor) -> Tensor:
    """log(K + 1) plus the log-probability by which x_i is told from the K others beside z_i, of each sample, (B,).

    No more than log(K + 1), whatever the information is; its gradient is small near it.
    """
    joint, marginal = _scores(joint, marginal)
    candidates = torch.cat([joint[:, None], marginal], 1)
    return joint - torch.logsumexp(candidates, 1) + math.log(candidates.shape[1])


def nwj(joint: Tensor, marginal: Tensor) -> Tensor:
    """The mean of `nwj_each`, (): the bound of Nguyen, Wainwright and Jordan (in arXiv 1905.06922), also the
    f-divergence bound of the Kullback-Leibler divergence (arXiv 1606.00709). Unbiased, but of large variance.
    """
    return nwj_each(joint, marginal).mean()


def nwj_each(joint: Tensor, marginal: Tensor) -> Tensor:
    """T(x_i, z_i) - mean_j exp(T(x_j, z_i) - 1) of each sample, (B,); -inf where the mean is too large to be held.

    Its gradient stays finite there: of a mean beyond e^20 it has the direction, with the length of e^20.
    """
    joint, marginal = _scores(joint, marginal)
    log_mean = torch.logsumexp(marginal, 1) - (math.log(marginal.shape[1]) + 1)
    slope = log_mean.detach().clamp(max=20).exp() * log_mean
    return joint - (log_mean.detach().exp() + (slope - slope.detach()))


Bound = Callable[[Tensor, Tensor], Tensor]

BATCH: dict[str, Bound] = {"dv": donsker_varadhan, "infonce": infonce, "nwj": nwj}
EACH: dict[str, Bound] = {"dv": donsker_varadhan_each, "infonce": infonce_each, "nwj": nwj_each}


def require_estimator(name: str) -> str:
    if not isinstance(name, str) or name not in BATCH:
        raise ValueError(f"estimator: wanted one of {', '.join(map(repr, BATCH))}, got {name!r}")
    return name


def influence(estimator: str, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The batch form on all pairs of M samples, (), and how much each sample adds to it, (M,).

    To first order the standard error of the bound, for a critic that has not seen the samples, is the deviation of
    these over sqrt(M) (Hajek's projection: a sample counts in its row of the scores and in its column).

    Args:
        scores: (M, M), T(x_j, z_i) in row i and column j; M >= 2.
    """
    size = len(scores)
    joint, off = (
        scores.diagonal(),
        scores.masked_fill(torch.eye(size, dtype=torch.bool, device=scores.device), -torch.inf),
    )
    value = BATCH[estimator](joint, others(scores))
    if estimator == "infonce":
        each, weight = infonce_each(joint, others(scores)), (off - torch.logsumexp(scores, 1, keepdim=True)).exp()
        return value, each - weight.sum(0)
    level = joint.mean() - value if estimator == "dv" else 1.0
    weight = (off - level).exp() / (size - 1)
    return value, joint - weight.sum(0) - weight.sum(1)


def others(scores: Tensor, own: Tensor | None = None) -> Tensor:
    """(B, K) without each row's column ``own`` (B,), to (B, K - 1); by default (B, B) without the diagonal."""
    rows, columns = scores.shape
    if own is None:  # behind the first entry each row of B + 1 ends with one of the diagonal
        return scores.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)
    kept = torch.arange(columns - 1, device=scores.device).expand(rows, -1)
    return scores.gather(1, kept + (kept >= own[:, None]))


def _log_mean_exp(t: Tensor) -> Tensor:
    return torch.logsumexp(t, 0) - math.log(len(t))


def _scores(joint: Tensor, marginal: Tensor) -> tuple[Tensor, Tensor]:
    for name, t, wanted in (("joint", joint, "(B,)"), ("marginal", marginal, "(B, K)")):
        if not isinstance(t, Tensor) or not t.is_floating_point():
            got = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"{name}: wanted a float tensor of scores {wanted}, got {got}")
    if joint.dim() != 1 or len(joint) == 0:
        raise ValueError(f"joint: wanted scores (B,) of one sample or more, got shape {tuple(joint.shape)}")
    if marginal.dim() != 2 or len(marginal) != len(joint) or marginal.shape[1] == 0:
        raise ValueError(f"marginal: wanted scores ({len(joint)}, K) with K >= 1, got shape {tuple(marginal.shape)}")
    return widened(joint), widened(marginal)
