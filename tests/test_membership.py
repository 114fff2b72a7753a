"""Membership inference: ROC figures against scikit-learn, scores against NumPy, and models with known leaks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import norm
from torch import Tensor, nn

import fastattack as fa
from fastattack.distillation.membership import confidence
from fastattack.evaluate.bootstrap import Bootstrap

QUICK = Bootstrap(draws=200)


def normals(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def classes(count: int, kinds: int = 3) -> Tensor:
    return torch.arange(count) % kinds


def told(count: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(logits, labels): an identity model's images, where the label's logit is ``shift`` above the others' mean."""
    labels = classes(count)
    logits = normals(count, 3, seed=seed)
    logits[torch.arange(count), labels] += shift
    return logits, labels


def as_is(x: Tensor) -> Tensor:
    return x


def test_the_figures_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    inside, outside = told(150, shift=1.0), told(90, seed=1)
    inside[0][:40] = inside[0][:40].round()  # equal scores
    outside[0][:30] = outside[0][:30].round()
    report = fa.membership_inference(as_is, inside, outside, fpr=(0.0, 0.01, 0.1, 1.0), bootstrap=QUICK)
    for score in (report.loss, report.likelihood):
        assert score is not None
        truth = np.repeat([1, 0], [150, 90])
        guess = torch.cat([score.members, score.non_members]).numpy()
        assert float(score.auc.value) == pytest.approx(metrics.roc_auc_score(truth, guess), abs=1e-12)
        false, true, _ = metrics.roc_curve(truth, guess, drop_intermediate=False)
        assert float(score.advantage.value) == pytest.approx((true - false).max(), abs=1e-12)
        for rate, found in score.tpr.items():
            assert float(found.value) == pytest.approx(true[false <= rate + 1e-9].max(), abs=1e-12)


def test_the_scores_are_numpys() -> None:
    """The loss is the cross-entropy; z comes from a plain fit for each image, made anew without each non-member."""
    inside, outside = told(40, shift=0.7), told(50, seed=1)
    report = fa.membership_inference(as_is, inside, outside, bootstrap=QUICK)

    def losses(pairs: tuple[Tensor, Tensor]) -> Any:
        return -log_softmax(pairs[0].double().numpy(), axis=1)[np.arange(len(pairs[1])), pairs[1]]

    np.testing.assert_allclose(report.loss.members, -losses(inside), rtol=1e-12)
    np.testing.assert_allclose(report.loss.non_members, -losses(outside), rtol=1e-12)

    def phi(pairs: tuple[Tensor, Tensor]) -> Any:
        p = np.exp(-losses(pairs))
        return np.log(p / (1 - p))

    def z(value: float, label: int, reference: Any, labels: Any) -> float:
        groups = [reference[labels == k] for k in range(3)]
        squares = sum(((g - g.mean()) ** 2).sum() for g in groups)
        return (value - groups[label].mean()) / math.sqrt(squares / (len(reference) - 3))

    assert report.likelihood is not None
    others, labels = phi(outside), outside[1].numpy()
    wanted = [z(v, k, others, labels) for v, k in zip(phi(inside), inside[1].tolist(), strict=True)]
    np.testing.assert_allclose(report.likelihood.members, wanted, rtol=1e-9)
    keep = ~np.eye(50, dtype=bool)
    wanted = [z(others[k], labels[k], others[keep[k]], labels[keep[k]]) for k in range(50)]
    np.testing.assert_allclose(report.likelihood.non_members, wanted, rtol=1e-9)


def test_confidence_does_not_round_to_infinity() -> None:
    logits = torch.tensor([[900.0, 0.0, 0.0], [-900.0, 0.0, -math.inf]])
    found = confidence(logits, torch.tensor([0, 0]))
    np.testing.assert_allclose(found, [900 - math.log(2), -900], rtol=1e-15)


def test_probabilities_tell_the_same() -> None:
    inside, outside = told(60, shift=0.7), told(60, seed=1)
    a = fa.membership_inference(as_is, inside, outside, bootstrap=QUICK)
    b = fa.membership_inference(lambda x: x.softmax(1), inside, outside, bootstrap=QUICK)
    np.testing.assert_allclose(b.loss.members, a.loss.members, atol=1e-5)
    assert float(b.likelihood.auc.value) == pytest.approx(float(a.likelihood.auc.value), abs=1e-3)  # type: ignore[union-attr]


def test_gaussian_confidences_have_the_closed_form() -> None:
    """phi ~ N(d, 1) for members, N(0, 1) for the others: AUC = Phi(d / sqrt 2), advantage = 2 Phi(d / 2) - 1."""
    count, d = 4000, 1.0

    def pairs(shift: float, seed: int) -> tuple[Tensor, Tensor]:  # two classes: phi is the difference of the logits
        phi = normals(count, seed=seed) + shift
        labels = classes(count, 2)
        signed = torch.where(labels == 0, phi, -phi)
        return torch.stack([signed / 2, -signed / 2], 1), labels

    report = fa.membership_inference(as_is, pairs(d, 0), pairs(0.0, 1), bootstrap=QUICK)
    for score in (report.loss, report.likelihood):
        assert score is not None
        assert float(score.auc.value) == pytest.approx(norm.cdf(d / math.sqrt(2)), abs=0.015)
        assert float(score.advantage.value) == pytest.approx(2 * norm.cdf(d / 2) - 1, abs=0.03)
        assert float(score.tpr[0.1].value) == pytest.approx(norm.sf(norm.isf(0.1) - d), abs=0.04)
        assert score.auc.low < score.auc.value < score.auc.high
        error = math.sqrt(2 * 0.18 / count)  # of the order of Hanley and McNeil's
        assert 0.2 * error < float(score.auc.high - score.auc.low) < 4 * error


def test_without_a_leak_the_tests_guess() -> None:
    """Intervals of 95 % hold one half in at least 17 of 20 draws (fewer by chance: 1.6 %; seeds are fixed)."""
    held = {"loss": 0, "likelihood": 0}
    for seed in range(20):
        report = fa.membership_inference(as_is, told(90, seed=seed), told(90, seed=100 + seed), bootstrap=QUICK)
        for name in held:
            score = getattr(report, name)
            held[name] += bool(score.auc.low <= 0.5 <= score.auc.high)
    assert min(held.values()) >= 17


def test_classes_of_unequal_difficulty_hide_from_the_loss_alone() -> None:
    """Members are a little surer than non-members of their class, but one class is far surer than the other."""

    def pairs(shift: float, seed: int) -> tuple[Tensor, Tensor]:
        labels = classes(600, 2)
        phi = normals(600, seed=seed) + shift + 8.0 * labels
        signed = torch.where(labels == 0, phi, -phi)
        return torch.stack([signed / 2, -signed / 2], 1), labels

    report = fa.membership_inference(as_is, pairs(1.0, 0), pairs(0.0, 1), bootstrap=QUICK)
    assert float(report.likelihood.auc.value) > float(report.loss.auc.value) + 0.1  # type: ignore[union-attr]


def test_a_model_that_learnt_by_heart_gives_itself_away() -> None:
    x, labels = normals(120, 20), torch.randint(0, 3, (120,), generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(80):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[:60]), labels[:60]).backward()
        optimiser.step()
    model.train()
    state = torch.get_rng_state()
    report = fa.membership_inference(model, (x[:60], labels[:60]), (x[60:], labels[60:]), bootstrap=QUICK, max_batch=7)
    assert float(report.loss.auc.value) > 0.9
    assert report.member_accuracy == 1
    assert report.non_member_accuracy < 0.6  # type: ignore[operator]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    text = str(report)
    assert f"{report.loss.auc.value:.3f} ({report.loss.auc.low:.3f} to {report.loss.auc.high:.3f})" in text
    assert "60 members, 60 non-members, 95% intervals" in text


def test_a_denoiser_by_its_own_loss() -> None:
    clean, other = (normals(30, 1, 4, 4, seed=seed) for seed in (0, 1))
    known = {x.numpy().tobytes() for x in clean}

    def remembers(x: Tensor) -> Tensor:
        return torch.stack([y if y.numpy().tobytes() in known else y + 0.1 for y in x])

    report = fa.membership_inference(
        remembers, (clean, clean), (other, other), objective=fa.objectives.mse, bootstrap=QUICK
    )
    assert report.likelihood is None
    assert float(report.loss.auc.value) == 1
    assert float(report.loss.tpr[0.01].value) == 1
    np.testing.assert_allclose(report.loss.non_members, -0.01, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "members", "others", "options", "message"),
    [
        (
            lambda x: x.argmax(1),
            told(9),
            told(9),
            {},
            r"model: wanted logits or probabilities \(B, classes\), got labels",
        ),
        (as_is, told(9), (told(9)[0], classes(9) + 1), {}, "non_members: wanted labels .* from 0 to 2, got .* 1 to 3"),
        (
            as_is,
            told(9),
            (told(9)[0], classes(8)),
            {},
            "non_members: wanted at least two images and as many labels, got 9",
        ),
        (as_is, told(9)[0], told(9), {}, r"members: wanted \(images, labels\) as two tensors, got Tensor"),
        (as_is, told(9), told(5), {}, "non_members: wanted two of each class at least, got 1 of class 2"),
        (as_is, told(9), told(9), {"fpr": 0.1}, r"fpr: wanted false positive rates such as \(0.01, 0.1\), got 0.1"),
        (as_is, told(9), told(9), {"fpr": ("x",)}, "fpr: wanted a number, got 'x'"),
        (as_is, (told(9)[0], [0] * 9), told(9), {}, r"members: wanted \(images, labels\).* got \(Tensor, list\)"),
        (as_is, (told(9)[0], torch.tensor(1)), told(9), {}, r"members: wanted .* got \(Tensor, a number\)"),
        (as_is, told(9), told(9), {"fpr": (1.5,)}, "fpr: wanted rates from 0 to 1, got 1.5"),
        (as_is, told(9), told(9), {"max_batch": 0}, "max_batch: wanted"),
        (
            as_is,
            told(9),
            told(9),
            {"objective": lambda a, b: a.mean()},
            "objective: wanted a loss for each of 9 images",
        ),
        (lambda x: x * math.nan, told(9), told(9), {}, "wanted finite numbers"),
        (torch.ones_like, told(9), told(9), {}, "non_members: wanted confidences that differ within the classes"),
    ],
)
def test_what_does_not_fit(model: Any, members: Any, others: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fa.membership_inference(model, members, others, bootstrap=QUICK, **options)
