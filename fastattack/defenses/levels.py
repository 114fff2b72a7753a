"""Which noise level a purifier should use: the one whose images look most like clean ones to the task model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .features import Features, all_features, check_features
from .frechet import Shape, between, jackknife_error, require_enough, require_shrinkage, shape_of
from .purifier import Purifier

COMBINE = ("mean", "worst")
GROUPS = 10  # of the jackknife
LEAST = 4  # images, so that there is a covariance also without a group of them

Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class NoiseLevels:
    """What `select_noise_level` found; ``print(found)`` shows it.

    Attributes:
        t_star: the chosen level: ``purifier.replaced(t_star=found.t_star)``.
        levels, sigmas: that were tried, (L,): t*, and the noise beside images in [0, 1].
        attacks: names, (A,).
        distances, errors: (A, L) float64: Fréchet distance (squared) between the features of the purified and of the
            clean images, and its standard error over images.
        unpurified: (A,) the same distance without a purifier.
        combined, combined_errors: (L,) over the attacks; the chosen level has the least.
        gap_errors: (L,) standard error of the difference to the chosen level, whose noise is mostly shared.
        combine: "mean" or "worst".
        images: as many clean ones.
        features: as many of each image.
        shrinkage: of the covariances.
    """

    t_star: int
    levels: tuple[int, ...]
    sigmas: tuple[float, ...]
    attacks: tuple[str, ...]
    distances: Tensor
    errors: Tensor
    unpurified: Tensor
    combined: Tensor
    combined_errors: Tensor
    gap_errors: Tensor
    combine: str
    images: int
    features: int
    shrinkage: float

    @property
    def sigma(self) -> float:
        """The chosen level as the noise beside images in [0, 1]."""
        return self.sigmas[self.levels.index(self.t_star)]

    @property
    def alike(self) -> tuple[int, ...]:
        """The levels that these images cannot tell from the chosen one (two standard errors), itself included."""
        gaps = self.combined - self.combined[self.levels.index(self.t_star)]
        return tuple(n for n, near in zip(self.levels, (gaps <= 2 * self.gap_errors).tolist(), strict=True) if near)

    def __str__(self) -> str:
        wide = [max(15, len(name)) for name in self.attacks]
        heads = "".join(f"  {name:>{w}}" for name, w in zip(self.attacks, wide, strict=True))
        shrunk = f", shrinkage {self.shrinkage:g}" if self.shrinkage else ""
        lines = [
            f"Fréchet distance to {self.images} clean images, {self.features} features{shrunk}",
            "",
            f"{'t*':>5}  {'sigma*255':>9}{heads}  {self.combine:>15}",
            f"{'none':>5}  {'':>9}" + "".join(f"  {v:{w}.4g}" for v, w in zip(self.unpurified, wide, strict=True)),
        ]
        for k, (level, sigma) in enumerate(zip(self.levels, self.sigmas, strict=True)):
            cells = [*zip(self.distances[:, k], self.errors[:, k], wide, strict=True)]
            cells.append((self.combined[k], self.combined_errors[k], 15))
            row = "".join(f"  {f'{d:.4g} ± {e:.2g}':>{w}}" for d, e, w in cells)
            lines.append(f"{level:5}  {255 * sigma:9.4g}{row}{'  <- chosen' if level == self.t_star else ''}")
        if others := [str(n) for n in self.alike if n != self.t_star]:
            lines += ["", f"Not told apart from the chosen level by these images: {', '.join(others)}."]
        return "\n".join(lines)


def select_noise_level(
    purifier: Purifier,
    task_model: Callable[[Tensor], Any],
    clean: Tensor,
    attacked: Tensor | Mapping[str, Tensor],
    levels: Sequence[float],
    *,
    by: str = "t_star",
    features: Features = None,
    combine: str = "mean",
    shrinkage: float = 0.0,
    max_batch: int | None = None,
) -> NoiseLevels:
    """One noise level for attacks known and unknown: UAD-RS's adaptive selection (arXiv 2307.16865, section III).

    For each level the attacked images are purified, and their features compared with those of the clean images by the
    Fréchet distance: too little noise leaves the perturbation, too much takes the image away, and the distance is least
    between. No labels are needed. Every level sees the same noise (samples are named by their place), so that levels
    compare better than the errors of their distances suggest; the errors are of a jackknife over images, in which clean
    and attacked image of one place are left out together.

    Args:
        purifier: its own level does not matter; where it has fewer levels than ``steps``, it takes one step for each.
        task_model: a classifier, a segmentation network, a denoiser; eval mode, left as found.
        clean, attacked: images (N, C, H, W) in [0, 1]; a mapping names several attacks.
        levels: to try: t*, or noise levels with by="sigma".
        by: "t_star" or "sigma".
        features: name of a layer of the task model whose output is taken, or a function of images; None: what comes
            into the last linear layer or convolution that runs. (B, d), or maps (B, d, H, W), averaged over pixels.
        combine: the choice is by the "mean" over the attacks, or by the "worst" of them.
        shrinkage: see `fastattack.defenses.frechet_distance`; 0 needs more images than features.
        max_batch: images at a time; None: all.

    Raises:
        TypeError, ValueError: too few images (how many are wanted is told), channels that differ, a level out of range,
            an option that is unknown. NonFiniteError: NaN or infinity in images, a reverse step or features.
    """
    _check_options(purifier, task_model, by, combine, max_batch)
    require_shrinkage(shrinkage)
    check_features(task_model, features)
    attacks = _attacks(purifier, clean, attacked)
    tried = _purifiers(purifier, levels, by)

    groups = min(GROUPS, len(clean), *map(len, attacks.values()))

    def look(x: Tensor, what: str, change: Change | None = None) -> list[Shape]:
        found = all_features(task_model, x, features, what, max_batch=max_batch, change=change)
        require_enough(found, what, shrinkage, least=LEAST)
        return _shapes(found, groups, shrinkage)

    right = look(clean, "clean")
    changes = [None, *map(_purifying, tried)]
    table = torch.tensor([
        [list(map(between, look(images, name, change), right)) for change in changes]
        for name, images in attacks.items()
    ], dtype=torch.float64)  # fmt: skip
    return _chosen(tried, tuple(attacks), table, combine, (len(clean), len(right[0].mean)), shrinkage)


def _check_options(purifier: Any, task_model: Any, by: str, combine: str, max_batch: Any) -> None:
    if not isinstance(purifier, Purifier):
        raise TypeError(f"purifier: wanted a fastattack.Purifier, got {type(purifier).__name__}")
    if not callable(task_model):
        raise TypeError(f"task_model: wanted something callable as model(x), got {type(task_model).__name__}")
    for name, value, known in (("by", by, ("t_star", "sigma")), ("combine", combine, COMBINE)):
        if value not in known:
            raise ValueError(f"{name}: wanted one of {', '.join(map(repr, known))}, got {value!r}")
    if max_batch is not None and (isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1):
        raise ValueError(f"max_batch: wanted a whole number >= 1, got {max_batch!r}")


def _attacks(purifier: Purifier, clean: Tensor, attacked: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The attacked images by name, all of them images that the purifier takes and like the clean ones."""
    attacks = dict(attacked) if isinstance(attacked, Mapping) else {"attacked": attacked}
    if not attacks:
        raise ValueError("attacked: wanted the images of one attack at least, got none")
    for name, images in {"clean": clean, **attacks}.items():
        try:
            purifier.diffusion.require_images(images)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        if images.shape[1:] != clean.shape[1:]:
            raise ValueError(f"{name}: wanted images {tuple(clean.shape[1:])} as the clean ones, got "
                             f"{tuple(images.shape[1:])}")  # fmt: skip
        if len(images) < LEAST:
            raise ValueError(f"{name}: wanted at least {LEAST} images, got {len(images)}")
        if not bool(images.isfinite().all()):
            raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
    return attacks


def _purifiers(purifier: Purifier, levels: Sequence[float], by: str) -> list[Purifier]:
    """One for each level, in rising order; a purifier tells itself of a level out of range."""
    if isinstance(levels, (str, Tensor)) or not isinstance(levels, Sequence) or not levels:
        raise ValueError(f"levels: wanted a list of one level at least, got {levels!r}")
    found: dict[int, Purifier] = {}
    for value in levels:
        whole = purifier.replaced(**{by: value}, steps=None)
        if whole.level in found:
            raise ValueError(f"levels: wanted different levels, got t* = {whole.level} twice ({by} = {value:g})")
        steps, room = purifier.options.steps, whole.process.steps
        found[whole.level] = whole.replaced(steps=min(steps, room)) if steps is not None and room else whole
    return [found[level] for level in sorted(found)]


def _purifying(purifier: Purifier) -> Change:
    return lambda x, ids: purifier.purify(x, sample_ids=ids)


def _shapes(features: Tensor, groups: int, shrinkage: float) -> list[Shape]:
    """Of all samples, and without each group of them: sample k is in group k mod ``groups``."""
    group = torch.arange(len(features)) % groups
    return [shape_of(features, shrinkage), *(shape_of(features[group != g], shrinkage) for g in range(groups))]


def _chosen(
    tried: list[Purifier],
    attacks: tuple[str, ...],
    table: Tensor,
    combine: str,
    sizes: tuple[int, int],
    shrinkage: float,
) -> NoiseLevels:
    """``table`` (A, 1 + L, 1 + G): without a purifier and for each level, of all images and without each group."""
    purified = table[:, 1:]
    over = purified.mean(0) if combine == "mean" else purified.amax(0)
    best = int(over[:, 0].argmin())  # the first of several: the least noise
    return NoiseLevels(
        t_star=tried[best].level, levels=tuple(p.level for p in tried), sigmas=tuple(p.sigma for p in tried),
        attacks=attacks, distances=purified[..., 0], errors=jackknife_error(purified[..., 1:]),
        unpurified=table[:, 0, 0], combined=over[:, 0], combined_errors=jackknife_error(over[:, 1:]),
        gap_errors=jackknife_error((over - over[best])[:, 1:]), combine=combine, images=sizes[0], features=sizes[1],
        shrinkage=shrinkage,
    )  # fmt: skip
