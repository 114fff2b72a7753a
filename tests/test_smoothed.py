"""Smoothed classifiers: certificates of models whose probabilities are known, ART's, and attacks inside the radius."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import fastattack as fa
from fastattack.certify import ABSTAIN, Gaussian, Laplace, Noise, Uniform, certified_accuracy
from fastattack.certify.certificate import certificate_of
from fastattack.certify.copies import ANSWER, ESTIMATE, SELECT, Copies, seed_of_stage
from fastattack.defenses import Defended
from fastattack.diffusion import Diffusion, Schedule
from tests.digits import digits


class HalfSpace(nn.Module):
    """Class 1 where <w, x> + b > 0: under Gaussian noise its probability is ndtr((<w, x> + b) / sigma |w|)."""

    def __init__(self, dim: int = 12, offset: float = 0.1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w, self.b = torch.randn(dim, generator=generator), offset
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        score = x.flatten(1) @ self.w.to(x) + self.b
        return torch.stack([-score, score], 1)

    def distance(self, x: Tensor) -> Tensor:
        """Signed, float64."""
        return (x.flatten(1).double() @ self.w.double() + self.b) / self.w.double().norm()


def points(count: int = 6, dim: int = 12) -> Tensor:
    return torch.randn(count, 1, 3, dim // 3, generator=torch.Generator().manual_seed(1)) * 0.3


# -- what is known -----------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_known_probabilities():
    model, x, sigma, n = HalfSpace(), points(), 0.25, 20_000
    p = stats.norm.cdf(model.distance(x).numpy() / sigma)
    counts = fa.Smoothed(model, noise=Gaussian(sigma), n=n).counts(x)
    assert counts.shape == (6, 2)
    assert counts.sum(1).tolist() == [n] * 6
    spread = np.sqrt(p * (1 - p) / n)
    assert (np.abs(counts[:, 1].numpy() / n - p) <= 4.5 * spread + 1 / n).all()


def test_the_bound_fails_at_most_as_often_as_stated_over_ten_thousand_trials():
    """Certificates of 10,000 draws of an image's counts: the radius is beyond the true one as often as alpha says."""
    model, x, sigma, n, alpha, trials = HalfSpace(), points(1), 0.5, 500, 0.01, 10_000
    distance = abs(float(model.distance(x)))  # which is the true radius
    counts = torch.from_numpy(np.random.default_rng(0).binomial(n, stats.norm.cdf(distance / sigma), trials))
    found = certificate_of(torch.ones(trials), counts, n, alpha, 1, Gaussian(sigma), 12)
    wrong = int((found.radius() > distance).sum())
    assert trials * alpha / 3 <= wrong <= trials * alpha + 4 * math.sqrt(trials * alpha)


def test_the_radius_of_real_draws_fails_as_seldom():
    """The same with our own numbers: 400 images that are one image, alpha = 0.05."""
    model, sigma, alpha, count = HalfSpace(), 0.5, 0.05, 400
    x = points(1).expand(count, -1, -1, -1)
    found = fa.Smoothed(model, noise=Gaussian(sigma), n=200, n0=20, alpha=alpha).certify(x)
    wrong = int((found.radius() > float(model.distance(x[:1]).abs())).sum())
    assert count * alpha / 5 <= wrong <= count * alpha + 4 * math.sqrt(count * alpha)


def test_a_radius_is_that_of_the_counts():
    model, x = HalfSpace(), points()
    smoothed = fa.Smoothed(model, noise=Gaussian(0.4), n=300, n0=30, alpha=0.01, seed=4)
    found = smoothed.certify(x)
    wanted = stats.beta.ppf(0.01, found.count.numpy(), 301 - found.count.numpy())
    np.testing.assert_allclose(found.p.numpy(), wanted, rtol=1e-12)
    radius = np.where(wanted > 0.5, 0.4 * stats.norm.ppf(wanted), 0)
    np.testing.assert_allclose(found.radius().numpy(), radius, rtol=1e-9)
    assert torch.equal(found.label, torch.where(torch.from_numpy(wanted > 0.5), found.selected, ABSTAIN))
    assert torch.equal(found.count, smoothed.counts(x).gather(1, found.selected[:, None])[:, 0])
    assert found.alpha == found.failure == 0.01


def test_selection_and_estimation_share_no_copy():
    model, x = HalfSpace(), points()
    smoothed = fa.Smoothed(model, noise=Gaussian(2.0), n=50, n0=50, alpha=0.5)
    first, second = (smoothed.counts(x, 50, stage=stage) for stage in (SELECT, ESTIMATE))
    assert not torch.equal(first, second)


def test_no_batch_split_and_no_company_changes_a_certificate():
    model, x, _ = digits()
    options = {"noise": Gaussian(0.25), "n": 200, "n0": 30, "seed": 5}
    whole = fa.Smoothed(model, **options).certify(x[:6])
    parts = fa.Smoothed(model, **options, max_batch=37).certify(x[:6])
    alone = fa.Smoothed(model, **options).certify(x[4:5], sample_ids=torch.tensor([4]))
    assert torch.equal(whole.count, parts.count)
    assert torch.equal(whole.selected, parts.selected)
    assert whole.count[4] == alone.count[0]
    assert not torch.equal(whole.count, fa.Smoothed(model, **options | {"seed": 6}).certify(x[:6]).count)


def test_a_batch_that_does_not_fit_is_halved():
    class Small(HalfSpace):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 40:
                raise torch.OutOfMemoryError("too much")
            return super().forward(x)

    model, x = Small(), points()
    found = fa.Smoothed(model, noise=Gaussian(0.4), n=100, max_batch=128).counts(x)
    assert torch.equal(found, fa.Smoothed(HalfSpace(), noise=Gaussian(0.4), n=100).counts(x))
    assert model.seen == [32] * 18 + [24]


# -- answers and abstention --------------------------------------------------------------------------------------------


def test_it_answers_where_the_test_is_sure_and_abstains_elsewhere():
    model, sigma = HalfSpace(offset=0.0), 0.5
    along = (model.w / model.w.norm()).reshape(1, 1, 3, 4)
    x = torch.cat([along * -1.0, along * 0.001, along * 1.0])
    smoothed = fa.Smoothed(model, noise=Gaussian(sigma), n=400, alpha=0.001)
    assert smoothed.predict(x).tolist() == [0, ABSTAIN, 1]
    counts = smoothed.counts(x)
    p = [stats.binomtest(int(row.max()), int(row.sum()), 0.5).pvalue for row in counts]
    assert [v <= 0.001 for v in p] == [True, False, True]
    found = smoothed.certify(x)
    assert found.label.tolist() == [0, ABSTAIN, 1]
    assert found.abstained.tolist() == [False, True, False]
    assert float(found.radius()[1]) == 0


def test_curves_and_mean_radius():
    radius = torch.tensor([0.5, 0.0, 1.0, 2.0], dtype=torch.float64)
    right = torch.tensor([True, False, True, False])
    assert certified_accuracy(radius, right, [0, 0.5, 0.6, 1.0, 1.5]).tolist() == [0.5, 0.5, 0.25, 0.25, 0]
    model, x = HalfSpace(), points()
    found = fa.Smoothed(model, noise=Gaussian(0.4), n=100).certify(x)
    y = (model.distance(x) > 0).long()
    y[0] = 1 - y[0]
    keep = found.label == y
    assert found.average_radius(y) == pytest.approx(float((found.radius() * keep).sum() / 6))
    assert found.accuracy(y, [0.0])[0] == keep.double().mean()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.full((6,), -1), r"labels: wanted class numbers in 0 \.\. 1, got -1 to -1"),
        (torch.full((6,), 2), r"labels: wanted class numbers in 0 \.\. 1, got 2 to 2"),
        (torch.zeros(6, 1, dtype=torch.int64), r"labels: wanted \(6,\) class numbers, got shape \(6, 1\) int64"),
        (torch.zeros(1, dtype=torch.int64), r"labels: wanted \(6,\) class numbers, got shape \(1,\) int64"),
        (torch.zeros(6), r"labels: wanted \(6,\) class numbers, got shape \(6,\) float32"),
        ([0] * 6, "labels: wanted a tensor of 6 class numbers, got list"),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, words: str):
    found = fa.Smoothed(HalfSpace(), noise=Gaussian(0.4), n=20).certify(points())
    for asked in (lambda: found.accuracy(labels, [0.0]), lambda: found.average_radius(labels)):
        with pytest.raises((TypeError, ValueError), match=words):
            asked()


def test_an_abstention_is_never_right_and_radii_are_lengths():
    answers = torch.tensor([ABSTAIN, 1])
    found = certificate_of(torch.tensor([1, 1]), torch.tensor([5, 100]), 100, 0.001, 1, Gaussian(0.4), 12)
    assert found.label.tolist() == answers.tolist()
    assert found.accuracy(torch.tensor([1, 1]), [0.0]).tolist() == [0.5]
    with pytest.raises(ValueError, match="labels: wanted class numbers >= 0, got -1 to 1"):
        found.accuracy(answers, [0.0])
    for radii in ([-0.1], [math.nan], 0.5, ["a"]):
        with pytest.raises(ValueError, match="radii: wanted a list of numbers >= 0"):
            found.accuracy(torch.tensor([1, 1]), radii)
    with pytest.raises(ValueError, match=r"right: wanted bool of shape \(2,\), got bool \(2, 1\)"):
        certified_accuracy(found.radius(), torch.ones(2, 1, dtype=torch.bool), [0.0])


def test_the_whole_report_fails_with_alpha_together():
    model, x = HalfSpace(), points()
    smoothed = fa.Smoothed(model, noise=Gaussian(0.4), n=100, alpha=0.01)
    found = smoothed.certify(x, family=50)
    np.testing.assert_allclose(found.p.numpy(), stats.beta.ppf(0.01 / 50, found.count, 101 - found.count), rtol=1e-12)
    assert found.failure == pytest.approx(0.01)
    with pytest.raises(ValueError, match=r"n: wanted at least 20 .* \(0.01 over 10000 images\), got 19"):
        fa.Smoothed(model, noise=Gaussian(0.4), n=19, alpha=0.01).certify(x, family=10_000)


# -- ART ---------------------------------------------------------------------------------------------------------------


def test_art_certifies_the_same_from_the_same_counts():
    """Where statsmodels is not installed, which ART asks for its bound, the formula that it has there stands in."""
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    sigma, n, alpha = 0.4, 500, 0.001
    model, x = HalfSpace(), points(12)
    theirs = PyTorchRandomizedSmoothing(
        model, nn.CrossEntropyLoss(), (1, 3, 4), 2, sample_size=50, scale=sigma, alpha=alpha, device_type="cpu"
    )
    ours = fa.Smoothed(model, noise=Gaussian(sigma), n=n, n0=50, alpha=alpha)
    first, second = ours.counts(x, 50, stage=SELECT), ours.counts(x)
    given = iter([row.double().numpy() for pair in zip(first, second, strict=True) for row in pair])
    if find_spec("statsmodels") is None:
        theirs._lower_confidence_bound = lambda k, m: np.nan_to_num(stats.beta.ppf(alpha, k, m - k + 1))
    theirs._prediction_counts = lambda *_, **__: next(given)
    label, radius = theirs.certify(x.numpy(), n=n)
    found = ours.certify(x)
    assert found.label.tolist() == label.tolist()
    np.testing.assert_allclose(found.radius().numpy(), radius, rtol=1e-9)
    given = iter([row.double().numpy() for row in second])
    answers = theirs.predict(x.numpy())
    wanted = np.where(answers.any(1), answers.argmax(1), ABSTAIN)
    assert ours.predict(x).tolist() == wanted.tolist()


# -- attacks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Gaussian(0.3), Laplace(0.3), Uniform(0.6)])
def test_no_attack_changes_a_half_space_inside_its_radius_and_one_does_beyond(noise: Noise):
    """The strongest move, straight to the plane: the answer by many copies stays inside, and changes behind it."""
    model = HalfSpace()
    x = points(5)
    smoothed = fa.Smoothed(model, noise=noise, n=2_000, alpha=0.001)
    found = smoothed.certify(x)
    sure = ~found.abstained
    assert sure.sum() >= 3
    norm = noise.home
    if norm == "l2":
        straight = model.w / model.w.norm()
    else:  # all of it on the entry that counts most
        straight = torch.zeros(12).index_fill_(0, model.w.abs().argmax(), 1.0) * model.w.sign()
    side = -model.distance(x).sign()[:, None] * straight
    move = (found.radius()[:, None] * side).reshape(x.shape)
    across = model.distance(x).abs()[:, None] * model.w.norm() / (straight @ model.w).abs()
    inside, beyond = x + 0.999 * move.float(), x + (2 * across * side).reshape(x.shape).float()
    top = fa.Smoothed(model, noise=noise, n=20_000, seed=9).counts(inside).argmax(1)
    assert torch.equal(top[sure], found.label[sure])
    top = fa.Smoothed(model, noise=noise, n=2_000, seed=9).counts(beyond).argmax(1)
    assert (top != found.label)[sure].all()


def test_no_attack_of_ours_changes_a_digit_inside_its_radius():
    model, x, y = digits()
    x, y = x[:8], y[:8]
    smoothed = fa.Smoothed(model, noise=Gaussian(0.25), n=1_000, alpha=0.001, copies=4)
    found = smoothed.certify(x)
    sure = found.radius() > 0
    assert sure.sum() >= 6
    for attack in (fa.PGD, fa.APGD):
        eps = torch.where(sure, found.radius() * 0.999, 0.01)
        options = {"norm": "l2", "steps": 8, "eot": 2, "objective": fa.objectives.cross_entropy, "bounds": None}
        attacked = attack(smoothed, eps=eps, **options)(x, found.label.clamp_min(0))
        assert ((attacked - x).flatten(1).norm(dim=1)[sure] > 0.5 * eps[sure]).all()
        top = fa.Smoothed(model, noise=Gaussian(0.25), n=2_000, seed=9).counts(attacked).argmax(1)
        assert torch.equal(top[sure], found.label[sure])
    far = fa.PGD(smoothed, eps=2.0, **options)(x, y)
    assert (smoothed.predict(far, n=200) == y).sum() <= 2  # far outside it does


def test_gradients_are_those_of_the_mean_probability():
    model, x = digits()[0], digits()[1][:3]
    smoothed = fa.Smoothed(model, noise=Gaussian(0.25), copies=3, seed=2)
    out = smoothed(x.clone().requires_grad_(True))
    np.testing.assert_allclose(out.exp().sum(1).detach(), 1, rtol=1e-5)
    drawn = Copies(smoothed.noise, x, torch.arange(3), 3, seed_of_stage(2, ANSWER))
    noisy = drawn.write(torch.empty(9, 1, 8, 8), 0)
    leaf = x.clone().requires_grad_(True)
    again = leaf[:, None] + (noisy.reshape(3, 3, 1, 8, 8) - x[:, None])
    mean = model(again.reshape(9, 1, 8, 8)).softmax(1).reshape(3, 3, 10).mean(1)
    torch.testing.assert_close(out, mean.log())
    wanted = torch.autograd.grad(mean.log()[:, 0].sum(), leaf)[0]
    mine = x.clone().requires_grad_(True)
    torch.testing.assert_close(torch.autograd.grad(smoothed(mine)[:, 0].sum(), mine)[0], wanted)


def test_draws_are_named_by_attacks_and_no_split_changes_them():
    model, x, y = digits()
    smoothed = fa.Smoothed(model, noise=Gaussian(0.25), copies=2)
    assert not torch.equal(smoothed(x[:2]), smoothed(x[:2], None, 1))
    assert torch.equal(smoothed(x[:2]), smoothed(x[:2], None, 0))
    torch.testing.assert_close(smoothed(x[:4], torch.arange(4), 7)[2:], smoothed(x[2:4], torch.tensor([2, 3]), 7))
    attack = fa.PGD(smoothed, norm="l2", eps=0.5, steps=3, eot=2, objective=fa.objectives.cross_entropy)
    whole, first = attack(x[:4], y[:4]), attack(x[:2], y[:2])
    torch.testing.assert_close(whole[:2], first)


# -- models that draw noise of their own -------------------------------------------------------------------------------


class Jitter:
    """A defence whose noise drowns the image, one number for each name, and which remembers the names."""

    how = "jitter"

    def __init__(self) -> None:
        self.names: list[tuple[int, int]] = []

    def purify(self, x: Tensor, *, sample_ids: Tensor | None = None, draw: int = 0) -> Tensor:
        ids = torch.arange(len(x)) if sample_ids is None else sample_ids
        self.names += [(int(name), draw) for name in ids]
        moved = [np.random.default_rng([int(name), draw]).normal(0, 100) for name in ids]
        return x + torch.tensor(moved, dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))


def purified() -> fa.Purified:
    """A linear classifier behind the reverse process of a network that rounds the same in every batch."""
    diffusion = Diffusion(lambda x, t: 0.1 * x, Schedule.linear(200, 1e-3, 0.05), channels=1, low=0.0, high=1.0)
    return fa.Purifier(diffusion, t_star=40, steps=2)(HalfSpace(16))


def squares(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def test_a_purified_model_has_the_same_counts_in_every_batch_split():
    counts = [
        fa.Smoothed(purified(), noise=Gaussian(0.2), n=60, max_batch=size).counts(squares()) for size in (1, 8, None)
    ]
    assert torch.equal(counts[0], counts[1])
    assert torch.equal(counts[0], counts[2])
    alone = fa.Smoothed(purified(), noise=Gaussian(0.2), n=60).counts(squares()[2:], sample_ids=torch.tensor([2]))
    assert torch.equal(counts[0][2:], alone)
    assert int(counts[0].min()) > 0


@pytest.mark.parametrize("size", [1, 16, None])
def test_copies_of_a_model_with_noise_of_its_own_are_independent(size: int | None):
    jitter, n = Jitter(), 400
    smoothed = fa.Smoothed(Defended(jitter, HalfSpace(16)), noise=Gaussian(0.2), n=n, n0=50, max_batch=size)
    found = smoothed.certify(squares())
    assert len(set(jitter.names)) == len(jitter.names) == 3 * (n + 50)  # no copy, image or stage draws another's
    assert ((found.count - n / 2).abs() < 4.5 * math.sqrt(n) / 2).all()  # an even chance, whatever the image
    assert found.abstained.all()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_purified_model_is_attacked_through_its_copies(wrapped: bool):
    inner = nn.Sequential(purified()) if wrapped else purified()
    smoothed = fa.Smoothed(inner, noise=Gaussian(0.2), copies=8)
    x, y = squares(), torch.tensor([0, 1, 1])
    options = {"norm": "l2", "eps": 0.5, "steps": 2, "eot": 2, "objective": fa.objectives.cross_entropy}
    attack = fa.PGD(smoothed, **options)
    whole = attack(x, y)
    assert (whole - x).flatten(1).norm(dim=1).min() > 0.1
    torch.testing.assert_close(whole[:2], attack(x[:2], y[:2]))
    names, jitter = torch.tensor([4, 7]), Jitter()
    fa.Smoothed(Defended(jitter, HalfSpace(16)), noise=Gaussian(0.2), copies=3)(x[:2], names, 5)
    assert [name for name, _ in jitter.names] == [i * 2**32 + k for i in (4, 7) for k in range(3)]


# -- what is left as found, and bad input ------------------------------------------------------------------------------


def test_the_model_and_the_random_state_are_left_as_found():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    fa.Smoothed(model, noise=Gaussian(0.3), n=50).certify(points())
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert model[3].weight.requires_grad
    assert model[3].weight.grad is None


def test_class_numbers_and_probabilities():
    model, x = HalfSpace(), points()
    plain = fa.Smoothed(model, noise=Gaussian(0.4), n=100)
    numbers = fa.Smoothed(lambda v: model(v).argmax(1), noise=Gaussian(0.4), n=100, classes=2)
    assert torch.equal(plain.counts(x), numbers.counts(x))
    shares = fa.Smoothed(lambda v: model(v).softmax(1), noise=Gaussian(0.4), n=100, scores="probabilities")
    assert torch.equal(plain.counts(x), shares.counts(x))
    torch.testing.assert_close(plain(x), shares(x))
    with pytest.raises(ValueError, match="classes: wanted their number"):
        fa.Smoothed(lambda v: model(v).argmax(1), noise=Gaussian(0.4)).counts(x)
    with pytest.raises(ValueError, match=r"model: wanted class numbers in 0 \.\. 1, got 2 to 3"):
        fa.Smoothed(lambda v: model(v).argmax(1) % 2 + 2, noise=Gaussian(0.4), classes=2).counts(x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 9}, "n: wanted at least 10 copies for a failure probability of 0.001, got 9"),
        ({"n": 5, "alpha": 0.2, "n0": 0}, "n0: wanted a whole number >= 1, got 0"),
        ({"alpha": 0}, r"alpha: wanted a number in \(0, 1\), got 0"),
        ({"scores": "logit"}, "scores: wanted 'logits' or 'probabilities', got 'logit'"),
        ({"classes": 1}, "classes: wanted a whole number >= 2, got 1"),
        ({"backend": "xx"}, "backend: wanted one of .* or 'auto', got 'xx'"),
        ({"max_batch": 0}, "max_batch: wanted a whole number >= 1, got 0"),
    ],
)
def test_options_that_do_not_fit(options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        fa.Smoothed(HalfSpace(), noise=Gaussian(0.4), **options)


def test_inputs_and_outputs_that_do_not_fit():
    x = points()
    smoothed = fa.Smoothed(HalfSpace(), noise=Gaussian(0.4), n=20, n0=5)
    with pytest.raises(ValueError, match=r"n: wanted at least 11 copies .* of the test, got 10"):
        smoothed.predict(x, n=10)
    for n in (0, -5):
        with pytest.raises(ValueError, match=f"n: wanted a whole number >= 1, got {n}"):
            smoothed.counts(x, n)
    with pytest.raises(ValueError, match="input: wanted finite numbers"):
        smoothed.certify(x * math.nan)
    with pytest.raises(
        ValueError, match="precision: wanted 'fp32' for a model behind a defence, or another that draws by name"
    ):
        fa.PGD(smoothed, eps=0.1, precision="bf16")(x, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"sample_ids: wanted numbers in 0 \.\. 2\*\*31 - 1, got -1 to 4"):
        smoothed.certify(x, sample_ids=torch.arange(6) - 1)
    with pytest.raises(TypeError, match=r"noise: wanted fa\.certify\.Gaussian.*got float 0.25"):
        fa.Smoothed(HalfSpace(), noise=0.25)  # type: ignore[arg-type]

    def smooth(model, **options):
        return fa.Smoothed(model, noise=Gaussian(0.4), n=20, **options)

    with pytest.raises(fa.NonFiniteError, match="model: wanted finite outputs on noisy copies"):
        smooth(lambda v: HalfSpace()(v) / 0).counts(x)
    with pytest.raises(ValueError, match="model: wanted a row for each of 120 images"):
        smooth(lambda v: HalfSpace()(v)[:1]).counts(x)
    with pytest.raises(ValueError, match=r"model: wanted scores \(B, classes\)"):
        smooth(lambda v: v).counts(x)
    with pytest.raises(ValueError, match="classes: wanted 2, as many as the model has scores, got 3"):
        smooth(HalfSpace(), classes=3).counts(x)
