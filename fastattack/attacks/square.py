"""Square Attack: random search over squares, without gradients."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ..engine import Job, Models
from .base import Attack, Options, Unpack
from .queries import Proposing, below, check_queries, query_words, spread

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After how many of 10000 queries the share p is halved once more (section 5 and appendix B of the paper)."""


class Square(Attack):
    """Square Attack (Andriushchenko et al., arXiv 1912.00049), on restorers and classifiers alike.

    "linf": from vertical stripes of +-eps; each query repaints a random square with +-eps, one sign a channel. "l2":
    from a grid of bumps; each query moves the perturbation of a second window into a bump in the first, at full radius.
    "l1" (arXiv 2103.01208, section 4): as "l2", with steeper bumps, and the nearest point of ball and bounds.
    The square covers the share p of the image, halved along the budget. A proposal stays where the objective is better.

    Every sample draws its own squares, Philox of (seed, sample id, query); the authors share their side, the start's
    bumps and, in l2, the squares too. The last row and column, which the authors' code never repaints, are reached.

    Args:
        model: called as model(x); nothing is differentiated.
        eps: radius on the scale of the images; a float or (B,).
        queries: forward passes of each restart, the start included; ``steps_used`` of the result tells how many each
            sample took. With ``eot`` each query is as many passes.
        p: share of the image that the first squares cover, in (0, 1]. The authors' choice for ImageNet: 0.05 (linf),
            0.1 (l2); AutoAttack's: 0.8.
        options: see `Options`. For classifiers ``objective=fa.objectives.cw_margin(), threshold=0, stop="success"``
            ends a sample with the query that fools it.

    Raises:
        ValueError, TypeError: an option that cannot be, or inputs that are not (B, C, H, W); the message names it.
    """

    def __init__(
        self, model: Models, *, eps: float | Tensor, queries: int = 5000, p: float = 0.8, **options: Unpack[Options]
    ) -> None:
        check_queries("Square", queries, options, ("step",), norms=("linf", "l2", "l1"))
        if not 0 < p <= 1:
            raise ValueError(f"p: wanted a share in (0, 1], got {p!r}")
        walk = {"l2": SquaresL2, "l1": SquaresL1}.get(options.get("norm", "linf"), Squares)
        self.compose(model, options, rule=partial(walk, p=p), eps=eps, steps=queries)


def share_at(p: float, query: int, queries: int) -> float:
    """The share of the image that the square of this query covers; query 0 is the first after the start."""
    scaled = int(query / queries * 10000)
    return float(p / 2 ** sum(scaled > limit for limit in HALVINGS))


class Squares(Proposing):
    """The linf search. Every proposal is made of the two faces of the ball, so it is inside without a projection."""

    def __init__(self, job: Job, *, p: float) -> None:
        super().__init__(job)
        if self.adv.dim() != 4:
            raise ValueError(f"input: wanted images (B, C, H, W) for Square, got shape {tuple(self.adv.shape)}")
        self.p = p
        self.channels, self.height, self.width = self.adv.shape[1:]
        self.draws = 3 + self.channels
        self.prepare()

    def prepare(self) -> None:
        self.upper, self.lower = self._face(2.0), self._face(-2.0)

    def _face(self, way: float) -> Tensor:
        """The points of ball, bounds and mask (and grid) that are furthest up or down."""
        job, face = self.job, self.job.origin.clone(memory_format=torch.preserve_format)
        face.add_(torch.as_tensor(spread(job.eps, face), dtype=face.dtype, device=face.device) * way)
        job.project(face)
        return face if job.threat.grid is None else job.on_grid(face).clone(memory_format=torch.preserve_format)

    def point(self, step: int) -> Tensor:
        if step == 0:
            self.begin()
        else:
            self.propose(self._side(step), self.words(step))
        return self.job.on_grid(self.candidate)

    def _side(self, step: int) -> int:
        return min(max(self._root_area(step), 1), self.height, self.width)

    def _root_area(self, step: int) -> int:
        return round(math.sqrt(share_at(self.p, step - 1, self.job.schedule.steps) * self.height * self.width))

    def window(self, side: int, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) and (B, W): the place of each row and column in the sample's square, whose corner the words give."""
        rows, columns = (torch.arange(n, device=row.device)[None] for n in (self.height, self.width))
        return rows - below(row, self.height - side + 1)[:, None], columns - below(column, self.width - side + 1)[
            :, None
        ]

    def begin(self) -> None:
        """Vertical stripes."""
        words = query_words(self.channels * self.width, self.job.ids, self.seed, 0, 1)
        up = ((words >> 31) == 1).reshape(-1, self.channels, 1, self.width)
        torch.where(up, self.upper, self.lower, out=self.candidate)

    def propose(self, side: int, words: Tensor) -> None:
        inside = _covered(*self.window(side, words[:, 0], words[:, 1]), side)
        up = (words[:, 3:] >> 31) == 1
        changes_up, changes_down = (
            ((self.adv != face) & inside).flatten(2).any(2) for face in (self.upper, self.lower)
        )  # fmt: skip
        changes = torch.where(up, changes_up, changes_down).any(1, keepdim=True)
        # Signs that change nothing: others instead, each equally likely, as drawing again until something changes.
        up = torch.where(changes, up, up ^ _some_channels(words[:, 2], self.channels))
        wide = up[:, :, None, None]
        torch.where(inside & wide, self.upper, self.adv, out=self.candidate)
        torch.where(inside & ~wide, self.lower, self.candidate, out=self.candidate)


class SquaresL2(Squares):
    """The l2 search.

    Attributes:
        order: of the norm.
    """

    order = 2

    def prepare(self) -> None:
        job = self.job
        self.wide = torch.promote_types(self.adv.dtype, torch.float32)
        self.draws = 5 + self.channels
        self.bumps: dict[int, Tensor] = {}
        self.free = torch.ones_like(self.adv, dtype=self.wide)
        if job.mask is not None:
            self.free = self.free * (job.mask != 0)

    def _side(self, step: int) -> int:
        """Odd, and 3 at least where the image has room."""
        return min(max(self._root_area(step), 3) | 1, self.height, self.width)

    def bump(self, side: int) -> Tensor:
        """(2, side, side): the update pattern, lying and standing."""
        if side not in self.bumps:
            flat = two_bumps(side, self.order)
            self.bumps = {side: torch.stack([flat, flat.t()]).to(self.adv.device, self.wide)}
        return self.bumps[side]

    def begin(self) -> None:
        """A grid of about 5 by 5 bumps."""
        side = max(min(self.height, self.width) // 5, 1)
        down, across = self.height // side, self.width // side
        words = query_words((self.channels + 1) * down * across, self.job.ids, self.seed, 0, 1)
        coins = (words >> 31).reshape(-1, self.channels + 1, down, across)
        tiles = self.bump(side)[coins[:, :1]] * (2 * coins[:, 1:] - 1)[..., None, None]  # (B, C, down, across, s, s)
        delta = torch.zeros_like(self.free)
        top, left = (self.height - down * side) // 2, (self.width - across * side) // 2
        delta[:, :, top : top + down * side, left : left + across * side] = (
            tiles.transpose(3, 4).flatten(4).flatten(2, 3)
        )
        self.arrive(delta * self.free)

    def propose(self, side: int, words: Tensor) -> None:
        rows, columns = self.window(side, words[:, 0], words[:, 1])
        first = _covered(rows, columns, side)
        second = _covered(*self.window(side, words[:, 2], words[:, 3]), side)
        delta = self.adv.to(self.wide) - self.job.origin.to(self.wide)
        pattern = (
            self.bump(side)[
                (words[:, 4] >> 31)[:, None, None],
                rows.clamp(0, side - 1)[:, :, None],
                columns.clamp(0, side - 1)[:, None, :],
            ][:, None]
            * (2 * (words[:, 5:] >> 31) - 1)[:, :, None, None]
        )
        old = delta * first
        new = (pattern * first + old / (1e-10 + self.length(old, (2, 3)))) * self.free
        new = new * (self.budget(delta, first | second) / self.length(new, (2, 3)).clamp(min=1e-30))
        self.arrive(torch.where(first, new, delta * ~second))

    def length(self, t: Tensor, dim: tuple[int, ...]) -> Tensor:
        """Norms, kept dimensions."""
        return _square(t, dim).sqrt()

    def budget(self, delta: Tensor, window: Tensor) -> Tensor:
        """(B, C, 1, 1), the norm of the new bump: what the windows have, and a share of what the ball has left."""
        unused = (spread(self.job.eps, delta) ** 2 - _square(delta, (1, 2, 3))).clamp(min=0) / self.channels
        return (unused + _square(delta * window, (2, 3))).sqrt()

    def arrive(self, delta: Tensor) -> None:
        """candidate <- P(origin + eps delta / |delta|)."""
        length = _square(delta, (1, 2, 3)).sqrt().clamp(min=1e-30)
        self.candidate.copy_(self.job.origin.to(self.wide) + delta * (spread(self.job.eps, delta) / length))
        self.job.project(self.candidate)


class SquaresL1(SquaresL2):
    """The l1 search. The new bump asks for more than the ball has left; the projection takes what there is."""

    order = 1

    def length(self, t: Tensor, dim: tuple[int, ...]) -> Tensor:
        return t.double().abs().sum(dim, keepdim=True).to(t.dtype)

    def budget(self, delta: Tensor, window: Tensor) -> Tensor:
        unused = (spread(self.job.eps, delta) - self.length(delta, (1, 2, 3))).clamp(min=0)
        return unused + self.channels * self.length(delta * window, (2, 3))

    def arrive(self, delta: Tensor) -> None:
        """candidate <- P(origin + delta)."""
        self.candidate.copy_(self.job.origin.to(self.wide) + delta)
        self.job.project(self.candidate)


def _covered(rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """(B, 1, H, W) bool, the square, from the places of rows and columns in it."""
    down, across = ((t >= 0) & (t < side) for t in (rows, columns))
    return down[:, None, :, None] & across[:, None, None, :]


def _some_channels(word: Tensor, channels: int) -> Tensor:
    """(B, C) bool: a set of channels that is not empty, each such set of the first 16 equally likely."""
    few = min(channels, 16)
    chosen = 1 + below(word, 2**few - 1)
    return ((chosen[:, None] >> torch.arange(channels, device=word.device).clamp(max=62)) & 1) == 1


def _square(t: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Sums of squares, kept dimensions, made in float64."""
    return t.double().square().sum(dim, keepdim=True).to(t.dtype)


def two_bumps(side: int, order: int = 2) -> Tensor:
    """(side, side) float64 of norm 1: a hill above, a valley below (section 4.2 of the paper)."""
    pattern = torch.zeros(side, side, dtype=torch.float64)
    half = side // 2
    if half:
        pattern[:half] = _hill(half, side, order)
    pattern[half:] = -_hill(side - half, side, order)
    bumps: Tensor = pattern / torch.linalg.vector_norm(pattern, order)
    return bumps


def _hill(height: int, width: int, order: int) -> Tensor:
    """Squares around the middle, one on the other, the k-th raised by 1 / k^2, 1 / k^4 in l1; norm 1."""
    hill = torch.zeros(height, width, dtype=torch.float64)
    top, left = height // 2, width // 2
    for k in range(max(top, left) + 1):
        rows, columns = slice(max(top - k, 0), top + k + 1), slice(max(left - k, 0), left + k + 1)
        hill[rows, columns] += 1.0 / (k + 1) ** (4 // order)
    found: Tensor = hill / torch.linalg.vector_norm(hill, order)
    return found
