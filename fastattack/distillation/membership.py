"""Does a model tell which images it was trained on? The loss threshold, and a likelihood test without shadow models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..evaluate.bootstrap import Array, Bootstrap, Estimate
from ..guard import left_as_found
from ..objectives import Objective
from ..ops import check
from ..training.config import require_number, require_whole
from .answers import as_answers, kind_of, logarithms

Pairs = tuple[Tensor, Tensor]
Counts = npt.NDArray[Any]
_DRAWS = 64  # resamples at a time


@dataclass(frozen=True)
class AttackScore:
    """How well one attack tells members from non-members; higher scores say member.

    Attributes:
        members, non_members: float64 scores of each image.
        auc: area under the ROC curve: the chance that a member scores above a non-member; 0.5 is a guess.
        advantage: the largest true less false positive rate over all thresholds (Yeom et al. 2018, arXiv 1709.01604,
            definition 4, with the best threshold). Chosen on these very images, it is above 0 for a guess too.
        tpr: by false positive rate: the largest true positive rate with at most that many false positives.
    """

    members: Tensor
    non_members: Tensor
    auc: Estimate
    advantage: Estimate
    tpr: dict[float, Estimate]


@dataclass(frozen=True)
class MembershipReport:
    """What `membership_inference` found; ``print(report)`` shows it.

    Attributes:
        loss: the loss-threshold attack.
        likelihood: the likelihood test; None where the model is no classifier.
        member_accuracy, non_member_accuracy: their gap is what the simplest attack uses; None without classes.
        confidence: of the intervals.
    """

    loss: AttackScore
    likelihood: AttackScore | None
    member_accuracy: float | None
    non_member_accuracy: float | None
    confidence: float

    def __str__(self) -> str:
        counts = f"{len(self.loss.members)} members, {len(self.loss.non_members)} non-members"
        lines = [f"Membership inference, {counts}, {self.confidence:.0%} intervals over images"]
        if self.member_accuracy is not None:
            lines.append(f"accuracy {self.member_accuracy:.1%} on members, {self.non_member_accuracy:.1%} on others")
        rates = "".join(f"{f'TPR at FPR {rate:g}':>24}" for rate in self.loss.tpr)
        lines.append(f"{'attack':12}{'AUC':>24}{'advantage':>24}{rates}")
        for name, score in (("loss", self.loss), ("likelihood", self.likelihood)):
            if score is not None:
                cells = (score.auc, score.advantage, *score.tpr.values())
                lines.append(f"{name:12}" + "".join(f"{_words(cell):>24}" for cell in cells))
        return "\n".join(lines)


def membership_inference(
    model: Callable[[Tensor], Any],
    members: Pairs,
    non_members: Pairs,
    *,
    objective: Objective | None = None,
    fpr: Sequence[float] = (0.01, 0.1),
    bootstrap: Bootstrap | None = None,
    max_batch: int = 256,
) -> MembershipReport:
    """Two attacks that know the images, their labels and the model's answers, and guess which it was trained on.

    **Loss threshold** (Yeom et al. 2018, arXiv 1709.01604): the lower the loss, the likelier a member.

    **Likelihood test**: Carlini et al. 2022 (arXiv 2112.03570), the offline variant, adapted to do without shadow
    models (this project's formulation). The logit-scaled confidence phi = log(p_y / (1 - p_y)) of an image that was not
    trained on is taken as Gaussian; where they fit mean and deviation to the same image in shadow models, here the mean
    is that of the non-members of its class and the deviation one for all (pooled within classes). The score is
    z = (phi - mean_y) / deviation; its normal distribution function is the paper's 1 - p-value. A non-member is scored
    by a fit without itself, so that the test gains nothing from having seen it. It is weaker than with shadow models,
    which know how hard an image is: what it finds is a lower bound of what leaks.

    Args:
        model: classifier, called as model(x) in eval mode, left as found: logits or probabilities (B, classes). Any
            callable; with ``objective`` also a denoiser.
        members, non_members: (images, labels (N,)), or (inputs, targets) for an objective. Both from one distribution,
            or the attack finds that difference. At least two of each, and two non-members of each class.
        objective: a loss (output, target) -> (B,) for a model that is no classifier; then there is no likelihood test.
        fpr: false positive rates at which the true ones are told. With n non-members none below 1/n but 0 is seen.
        bootstrap: options of the intervals; members and non-members are resampled apart.
        max_batch: images at a time.

    Raises:
        TypeError, ValueError: images and labels that do not fit; answers that are labels alone, which have no loss.
    """
    require_whole(max_batch, "max_batch", 1)
    bootstrap = Bootstrap() if bootstrap is None else bootstrap
    if not isinstance(fpr, Iterable) or isinstance(fpr, str):
        raise TypeError(f"fpr: wanted false positive rates such as (0.01, 0.1), got {fpr!r}")
    fpr = [require_number(rate, "fpr") for rate in fpr]
    for rate in fpr:
        if not 0 <= rate <= 1:
            raise ValueError(f"fpr: wanted rates from 0 to 1, got {rate!r}")
    for name, pairs in (("members", members), ("non_members", non_members)):
        _check(pairs, name)
    if objective is not None:
        inside, outside = (_losses(model, pairs, objective, max_batch) for pairs in (members, non_members))
        return MembershipReport(_score(-inside, -outside, fpr, bootstrap), None, None, None, bootstrap.confidence)
    logits = [_logits(model, members, "members", max_batch), _logits(model, non_members, "non_members", max_batch)]
    labels = [pairs[1].detach().cpu().long() for pairs in (members, non_members)]
    phi = [confidence(a, y) for a, y in zip(logits, labels, strict=True)]
    right = [float((a.argmax(1) == y).double().mean()) for a, y in zip(logits, labels, strict=True)]
    losses = [torch.nn.functional.softplus(-each) for each in phi]  # -log p_y
    loss = _score(-losses[0], -losses[1], fpr, bootstrap)
    likelihood = _score(*_standardised(phi[0], labels[0], phi[1], labels[1]), fpr, bootstrap)
    return MembershipReport(loss, likelihood, right[0], right[1], bootstrap.confidence)


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) float64: log(p_y / (1 - p_y)), from logits without a detour over probabilities that round to 0 or 1."""
    wide = logits.double()
    own = torch.zeros_like(wide, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return wide.gather(1, labels[:, None])[:, 0] - wide.masked_fill(own, float("-inf")).logsumexp(1)


def _check(pairs: Any, name: str) -> None:
    if not isinstance(pairs, tuple) or len(pairs) != 2:
        raise TypeError(f"{name}: wanted (images, labels) as two tensors, got {type(pairs).__name__}")
    if not all(isinstance(part, Tensor) and part.dim() for part in pairs):
        came = ", ".join(
            "a number" if isinstance(part, Tensor) and not part.dim() else type(part).__name__ for part in pairs
        )
        raise TypeError(f"{name}: wanted (images, labels) as two tensors, got ({came})")
    check.require_images(pairs[0], name)
    if len(pairs[0]) < 2 or len(pairs[0]) != len(pairs[1]):
        raise ValueError(
            f"{name}: wanted at least two images and as many labels, got {len(pairs[0])} and {len(pairs[1])}"
        )


def _outputs(model: Callable[[Tensor], Any], images: Tensor, max_batch: int) -> list[Any]:
    with torch.no_grad(), left_as_found(model, images.device, eval_mode=True):
        return [model(part) for part in torch.split(images.detach(), max_batch)]


def _losses(model: Callable[[Tensor], Any], pairs: Pairs, objective: Objective, max_batch: int) -> Tensor:
    found = []
    for output, target in zip(_outputs(model, pairs[0], max_batch), torch.split(pairs[1], max_batch), strict=True):
        loss = objective(output, target)
        if not isinstance(loss, Tensor) or loss.shape != (len(target),):
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"objective: wanted a loss for each of {len(target)} images, got {got}")
        found.append(as_answers(loss, len(target)).double())
    return torch.cat(found)


def _logits(model: Callable[[Tensor], Any], pairs: Pairs, name: str, max_batch: int) -> Tensor:
    """(N, classes), and labels that are among the classes."""
    images, labels = pairs
    outputs = zip(_outputs(model, images, max_batch), torch.split(images, max_batch), strict=True)
    answers = torch.cat([as_answers(output, len(part)) for output, part in outputs])
    kind = kind_of(answers, images)
    if kind not in ("logits", "probabilities") or answers.dim() != 2:
        raise ValueError(
            f"model: wanted logits or probabilities (B, classes), got {kind} {tuple(answers.shape)}; pass an objective "
            "for a model that is no classifier"
        )
    if labels.is_floating_point() or labels.dim() != 1 or not bool(((labels >= 0) & (labels < answers.shape[1])).all()):
        raise ValueError(f"{name}: wanted labels (N,) from 0 to {answers.shape[1] - 1}, got {tuple(labels.shape)} "
                         f"{labels.dtype}, {labels.min().item():g} to {labels.max().item():g}")  # fmt: skip
    return logarithms(answers) if kind == "probabilities" else answers


def _standardised(inside: Tensor, inside_labels: Tensor, outside: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """z of members and of non-members, each of the latter by the fit without itself."""
    classes = int(torch.cat([inside_labels, labels]).max()) + 1
    counts = torch.bincount(labels, minlength=classes).double()
    needed = torch.bincount(inside_labels, minlength=classes) + counts > 0
    if bool((needed & (counts < 2)).any()):
        few = int((needed & (counts < 2)).nonzero()[0])
        raise ValueError(f"non_members: wanted two of each class at least, got {int(counts[few])} of class {few}")
    means = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, outside) / counts.clamp(min=1)
    apart = outside - means[labels]
    squares, freedom = apart.square().sum(), len(outside) - int((counts > 0).sum())
    n = counts[labels]
    without_mean = means[labels] - apart / (n - 1)
    without_squares = squares - apart.square() * n / (n - 1)
    spread = (squares / max(freedom, 1)).sqrt()
    without_spread = (without_squares.clamp(min=0) / max(freedom - 1, 1)).sqrt()
    if not bool(spread > 0) or not bool((without_spread > 0).all()):
        raise ValueError("non_members: wanted confidences that differ within the classes, got none that do")
    return (inside - means[inside_labels]) / spread, (outside - without_mean) / without_spread


def _score(inside: Tensor, outside: Tensor, fpr: Sequence[float], bootstrap: Bootstrap) -> AttackScore:
    curve = _Curve(inside.numpy(), outside.numpy(), fpr)
    m, n = len(inside), len(outside)
    whole = curve(np.ones((1, m)), np.ones((1, n)))[0]
    random, parts = np.random.default_rng(bootstrap.seed), []
    for first in range(0, bootstrap.draws, _DRAWS):
        rows = min(_DRAWS, bootstrap.draws - first)
        counts = [random.multinomial(count, [1 / count] * count, size=rows) for count in (m, n)]
        parts.append(curve(*counts))
    ends = [(1 - bootstrap.confidence) / 2, (1 + bootstrap.confidence) / 2]
    low, high = np.quantile(np.concatenate(parts), ends, axis=0)
    auc, advantage, *rates = (Estimate(whole[k], low[k], high[k]) for k in range(len(whole)))
    return AttackScore(inside, outside, auc, advantage, dict(zip(map(float, fpr), rates, strict=True)))


class _Curve:
    """The ROC curve's figures for images with repeats: AUC, advantage, and the TPR at each rate."""

    def __init__(self, inside: Array, outside: Array, fpr: Sequence[float]) -> None:
        self.fpr = fpr
        scores = np.concatenate([inside, outside])
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores fall together
        self.member = self.order < len(inside)

    def __call__(self, inside: Counts, outside: Counts) -> Array:
        """(D, 2 + rates) of counts (D, m) and (D, n): how often each image was drawn."""
        ranked = np.concatenate([inside, outside], axis=1)[:, self.order]
        start = np.zeros((len(ranked), 1))
        true, false = (
            np.hstack([start, np.cumsum(ranked * chosen, axis=1)[:, self.ends]])
            / ranked[:, chosen].sum(1, keepdims=True)
            for chosen in (self.member, ~self.member)
        )
        auc = (np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1]) / 2).sum(1)
        at = [np.where(false <= rate + 1e-9, true, 0).max(1) for rate in self.fpr]
        return np.stack([auc, (true - false).max(1), *at], axis=1)


def _words(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
