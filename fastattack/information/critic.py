"""A statistics network together with its training: one step at a time, alone or beside an attack."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..guard import fresh, frozen
from ..objectives.base import require_positive
from . import bounds
from .adam import Adam
from .bounds import MovingAverage
from .memory import MemoryBank
from .network import StatisticsNetwork

_CLIP = 1.0  # norm of a gradient


class Critic:
    """Learns to tell pairs that belong together from others, and says how much the pairs have in common.

    `learn` takes one step up the bound; `each` is what an attack climbs down. x and z are samples as the network was
    made for; they get no gradient from `learn`. Everything runs in float32, also under autocast.

    Args:
        network: whose weights are trained in place.
        estimator: "dv" (Donsker-Varadhan with MINE's moving average), "infonce" or "nwj"; see `bounds`.
        lr: of Adam.
        rate: of the moving average, for "dv".
        bank: samples of X for the marginal pairs; without one, `learn` takes the others of the batch.
        limit: `learn` sees a score T as limit tanh(T / limit). Few pairs can be told apart with certainty, and without
            a limit "dv" and "nwj" then raise the scores for ever. None: no limit. `each` reads T itself, also a bound.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
    """

    def __init__(
        self,
        network: StatisticsNetwork,
        *,
        estimator: str = "dv",
        lr: float = 1e-3,
        rate: float = 0.01,
        bank: MemoryBank | Tensor | None = None,
        limit: float | None = None,
    ) -> None:
        self.estimator = bounds.require_estimator(estimator)
        require_positive(lr, "lr")
        if limit is not None:
            require_positive(limit, "limit")
        self.limit = limit
        self.average = MovingAverage(rate)
        self.network = network
        self.bank = MemoryBank(bank) if isinstance(bank, Tensor) else bank
        self._weights = list(network.parameters())
        self._adam = Adam(self._weights, lr=lr, clip=_CLIP)

    def learn(self, x: Tensor, z: Tensor, *, own: Tensor | None = None, lr: float | None = None) -> Tensor:
        """One step of Adam up the bound of the pairs (x_i, z_i).

        Args:
            x, z: (B, ...) each. B = 1 needs a bank.
            own: (B,) the place of each x_i in the bank, which is then left out for it.
            lr: for this step alone.

        Returns:
            () float32, the batch's estimate in nats before the step, without a gradient and without waiting for the
            device. It is of pairs that the critic learns from: report `held_out`.

        Raises:
            TypeError, ValueError: an argument that does not fit; the message names it.
        """
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            joint, marginal = map(self._limited, self._scores(fresh(x), fresh(z), own))
            if self.estimator == "dv":
                value, self.average = bounds.donsker_varadhan_moving(joint, marginal, self.average)
            else:
                value = bounds.BATCH[self.estimator](joint, marginal)
            grads = torch.autograd.grad(-value, self._weights)
            self._adam.step(grads, lr=lr)
        return value.detach()

    def each(
        self, x: Tensor, z: Tensor, *, bank: MemoryBank | Tensor | None = None, own: Tensor | None = None
    ) -> Tensor:
        """The bound of each sample, (B,) float32, differentiable in x and z; the weights get no gradient.

        Entry i reads x_i, z_i and the bank alone: it is the same in any batch, to rounding, as long as the weights are.

        Call backward before the next `learn`, which moves the weights.

        Args:
            x, z: (B, ...) each.
            bank: in place of the critic's own; one of them must be there.
            own: as in `learn`.
        """
        held = self.bank if bank is None else MemoryBank(bank) if isinstance(bank, Tensor) else bank
        if held is None:
            raise ValueError(
                "bank: wanted samples of x (a tensor or a MemoryBank), beside which each z is scored; got None"
            )
        with frozen(self.network), torch.autocast(z.device.type, enabled=False):
            return bounds.EACH[self.estimator](*self._beside(x, z, held, own))

    def _limited(self, scores: Tensor) -> Tensor:
        return scores if self.limit is None else self.limit * torch.tanh(scores / self.limit)

    def _scores(self, x: Tensor, z: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        require_paired(x, z)
        if self.bank is not None:
            return self._beside(x, z, self.bank, own)
        if own is not None:
            raise ValueError("own: wanted None without a bank (each sample is beside the others of the batch)")
        if len(z) < 2:
            raise ValueError(
                "x, z: wanted two pairs or more, since the others of the batch are the marginal samples, got a "
                "batch of one; pass bank=MemoryBank(samples of x)"
            )
        table = self.network.table(self.network.embed_x(x), self.network.embed_z(z))
        return table.diagonal(), bounds.others(table)

    def _beside(self, x: Tensor, z: Tensor, bank: MemoryBank, own: Tensor | None) -> tuple[Tensor, Tensor]:
        require_paired(x, z)
        net = self.network
        embedded = net.embed_z(z)
        table = net.table(net.embed_x(bank.samples.to(z.device)), embedded)
        if own is not None:
            table = bounds.others(table, _own(own, len(z), len(bank)).to(z.device))
        return net.pairs(net.embed_x(x), embedded), table


def _own(own: Tensor, batch: int, size: int) -> Tensor:
    if not isinstance(own, Tensor) or own.dtype != torch.int64 or own.shape != (batch,):
        got = f"{tuple(own.shape)} {own.dtype}" if isinstance(own, Tensor) else type(own).__name__
        raise ValueError(f"own: wanted {batch} places in the bank as int64 ({batch},), got {got}")
    if size < 2:
        raise ValueError("own: wanted a bank of two samples or more, one of which may be left out, got one")
    return own


def require_paired(x: Tensor, z: Tensor) -> None:
    """Float tensors of as many samples on one device."""
    for name, t in (("x", x), ("z", z)):
        if not isinstance(t, Tensor) or not t.is_floating_point():
            got = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"{name}: wanted a float tensor of samples (N, ...), got {got}")
        if t.dim() < 2 or math.prod(t.shape[1:]) == 0:
            raise ValueError(f"{name}: wanted samples (N, ...) of one number or more, got shape {tuple(t.shape)}")
    if len(x) != len(z) or len(x) == 0:
        raise ValueError(f"z: wanted as many samples as x ({len(x)}, one at least), got {len(z)}")
    if x.device != z.device:
        raise ValueError(f"z: wanted a tensor on {x.device} as x is, got one on {z.device}")
