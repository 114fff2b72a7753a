"""Transfer matrices, their intervals, and the statistics of attacks, against loops in NumPy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.evaluate.bootstrap import Bootstrap
from fastattack.evaluate.matrix import build_matrix
from fastattack.evaluate.table import joined, rows_where, table_of

SIGMA = 25 / 255


class Gain(nn.Module):
    """D(y) = gain * y."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.gain * y


def images(count: int = 3, channels: int = 1, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    clean = torch.rand(count, channels, size, size, generator=generator)
    return clean + SIGMA * torch.randn(clean.shape, generator=generator), clean


def pgd(model):
    return fa.PGD(model, eps=5 / 255, steps=2, seed=3)


def psnr(a, b) -> float:
    return -10 * math.log10(np.mean((a.double().numpy() - b.double().numpy()) ** 2))


def test_every_attack_is_made_once_and_scored_on_every_model():
    noisy, clean = images()
    models = {"a": Gain(0.9), "b": Gain(0.5)}
    calls = []

    def attack(model):
        calls.append(model)
        return pgd(model)

    found = fa.transfer_matrix(models, (noisy, clean), attack, targets={"same": lambda y: y}, sigma=SIGMA)
    assert calls == [models["a"], models["b"]]
    assert (found.sources, found.targets, found.images) == (("a", "b"), ("a", "b", "same"), 3)
    restorers = [*models.values(), lambda y: y]
    for i, source in enumerate(models.values()):
        adversarial = pgd(source)(noisy, clean, sample_ids=torch.arange(3))
        for j, target in enumerate(restorers):
            for s in range(3):
                with torch.no_grad():
                    before, after = psnr(target(noisy[s]), clean[s]), psnr(target(adversarial[s]), clean[s])
                assert found.before[s, j] == pytest.approx(before, abs=1e-4)
                assert found.after[s, i, j] == pytest.approx(after, abs=1e-4)
    drop = (found.before[:, None] - found.after).mean(0)
    np.testing.assert_allclose(found.drop.value, drop, atol=1e-12)
    assert math.isnan(found.normalised.value[0, 2])  # nobody attacked it
    assert found.normalised.value[0, 1] == pytest.approx(drop[0, 1] / drop[1, 1])
    assert found.eps == pytest.approx(5 / 255)


def scores_of(before: np.ndarray, after: np.ndarray, sources: str, targets: str) -> dict:
    """Rows in a shuffled order; before (S, N), after (S, M, N)."""
    rows = [
        (s, a, t, before[s, j], after[s, i, j])
        for s in range(len(before)) for i, a in enumerate(sources) for j, t in enumerate(targets)
    ]  # fmt: skip
    np.random.default_rng(1).shuffle(rows)
    names = ("sample", "source", "target", "psnr_before", "psnr_after")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    columns["sample"] = [int(s) * 7 for s in columns["sample"]]
    columns |= {name: [float(v) for v in columns[name]] for name in ("psnr_before", "psnr_after")}
    return table_of(columns)


@pytest.fixture
def drops() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    before = random.uniform(28, 32, (20, 3))
    return before, before[:, None] - random.uniform(0.2, 2.5, (20, 2, 3))


def test_formulas(drops):
    before, after = drops
    found = build_matrix(scores_of(before, after, "ab", "abc"), {}, eps=0.1, sources="ab", targets="abc", shared_db=1.2)
    cost = before[:, None] - after
    for i in range(2):
        for j in range(3):
            drop = np.mean([cost[s, i, j] for s in range(20)])
            assert found.drop.value[i, j] == pytest.approx(drop)
            shared = np.mean([cost[s, i, i] >= 1.2 and cost[s, i, j] >= 1.2 for s in range(20)])
            assert found.shared.value[i, j] == pytest.approx(shared)
            if j < 2:
                ratio = {(p, q): cost[:, p, q].mean() / cost[:, q, q].mean() for p, q in ((i, j), (j, i))}
                assert found.normalised.value[i, j] == pytest.approx(ratio[i, j])
                assert found.similitude.value[i, j] == pytest.approx((ratio[i, j] + ratio[j, i]) / 2)
    np.testing.assert_array_equal(np.diag(found.similitude.value), 1.0)
    np.testing.assert_array_equal(np.diag(found.similitude.low), 1.0)
    assert np.isnan(found.normalised.value[:, 2]).all()
    plain = found.as_dict()
    assert plain["normalised"]["mean"][0][2] is None
    assert plain["drop"]["mean"][0][1] == pytest.approx(found.drop.value[0, 1])


def test_a_model_that_failed_on_one_image_has_no_row_and_no_column(drops):
    before, after = drops
    scores = scores_of(before, after, "ab", "abc")
    keep = ~((scores["sample"] == 35) & ((scores["source"] == "b") | (scores["target"] == "b")))
    found = build_matrix(
        {name: column[keep] for name, column in scores.items()}, {}, eps=0.1, sources="ab", targets="abc"
    )
    assert np.isnan(found.drop.value[1]).all()
    assert np.isnan(found.drop.value[:, 1]).all()
    np.testing.assert_allclose(found.drop.value[0, [0, 2]], (before[:, None] - after).mean(0)[0, [0, 2]])
    assert np.isfinite(found.drop.low[0, 0])


def test_an_attack_that_costs_nothing_normalises_nothing():
    before = np.full((4, 2), 30.0)
    after = np.stack([[[29.0, 29.0], [29.0, 30.0]]] * 4)  # b's own attack costs b nothing
    found = build_matrix(scores_of(before, after, "ab", "ab"), {}, eps=0.1, sources="ab", targets="ab")
    assert found.normalised.value[1, 0] == 1.0
    assert np.isnan(found.normalised.value[:, 1]).all()


def test_intervals_of_two_images_are_the_two_images():
    """Of two images a resample's mean is a, (a + b) / 2 or b with 1/4, 1/2, 1/4: the 95 % ends are a and b."""
    x = np.array([1.0, 5.0])
    found = Bootstrap(draws=4000, seed=2).means({"x": x})["x"]
    assert (float(found.value), float(found.low), float(found.high)) == (3.0, 1.0, 5.0)
    narrow = Bootstrap(confidence=0.4, draws=4000, seed=2).means({"x": x})["x"]
    assert float(narrow.low) == float(narrow.high) == 3.0


def test_intervals_of_many_images_are_those_of_the_normal_distribution():
    x = np.random.default_rng(3).normal(10, 2, 400)
    found = Bootstrap(draws=4000, seed=1).means({"x": x})["x"]
    half = 1.96 * x.std() / 20
    assert float(found.low) == pytest.approx(x.mean() - half, abs=0.02)
    assert float(found.high) == pytest.approx(x.mean() + half, abs=0.02)


def test_intervals_depend_on_the_seed_alone(drops):
    scores = scores_of(*drops, "ab", "abc")
    make = lambda seed: build_matrix(  # noqa: E731
        scores, {}, eps=0.1, sources="ab", targets="abc", bootstrap=Bootstrap(seed=seed, draws=100)
    )  # fmt: skip
    first = make(4)
    np.testing.assert_array_equal(first.drop.low, make(4).drop.low)
    assert not np.array_equal(first.drop.low, make(5).drop.low)


def test_batches_number_the_samples_and_change_nothing():
    noisy, clean = images(5)
    whole = fa.transfer_matrix([Gain(0.9)], (noisy, clean), pgd)
    parts = fa.transfer_matrix([Gain(0.9)], zip(noisy.split(2), clean.split(2), strict=True), pgd)
    np.testing.assert_array_equal(whole.scores["sample"], parts.scores["sample"])
    np.testing.assert_allclose(whole.after, parts.after, atol=1e-5)
    assert len(joined([whole.scores, parts.scores])["sample"]) == 10


def test_a_failing_model_raises_with_its_name_or_is_written_down():
    noisy, clean = images()

    def broken(y: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of order")

    models = {"good": Gain(0.9), "bad": broken}
    with pytest.raises(RuntimeError, match="bad: out of order"):
        fa.transfer_matrix(models, (noisy, clean), pgd)
    found = fa.transfer_matrix(models, (noisy, clean), pgd, go_on=True)
    assert found.failed == {"bad": "RuntimeError: out of order"}
    assert np.isfinite(found.drop.value[0, 0])
    assert np.isnan(found.drop.value[0, 1])
    assert np.isnan(found.drop.value[1]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output": lambda y: y[..., 1:]}, "bad: output: wanted shape"),
        ({"output": lambda y: (y, y)}, "bad: output: wanted a tensor"),
        ({"output": lambda y: y * math.nan}, "bad: output: wanted finite"),
        ({"targets": {"bad": lambda y: y, "a": lambda y: y}}, "'a' in both"),
        ({"data": [torch.zeros(2, 1, 8, 8)]}, "data: wanted"),
        ({"data": []}, "data: wanted at least one batch"),
        ({"data": (torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8))}, "of one shape"),
        ({"shared_db": 0.0}, "shared_db"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    targets = change.get("targets", {"bad": change.get("output", lambda y: y)})
    with pytest.raises((TypeError, ValueError, ArithmeticError), match=words):
        fa.transfer_matrix(
            {"a": Gain(0.9)}, change.get("data", images()), pgd, targets=targets, shared_db=change.get("shared_db", 1.0)
        )


def test_robustness_curve():
    noisy, clean = images()
    models = {"a": Gain(0.9), "b": Gain(0.5)}
    found = fa.robustness_curve(
        models, (noisy, clean), lambda m, eps: fa.PGD(m, eps=eps, steps=3), eps=[1 / 255, 4 / 255]
    )
    assert found.models == ("a", "b")
    assert found.eps == (0.0, 1 / 255, 4 / 255)
    for i, model in enumerate(models.values()):
        with torch.no_grad():
            means = [np.mean([psnr(model(noisy[s]), clean[s]) for s in range(3)])]
            for eps in found.eps[1:]:
                adv = fa.PGD(model, eps=eps, steps=3)(noisy, clean)
                means.append(np.mean([psnr(model(adv[s]), clean[s]) for s in range(3)]))
        np.testing.assert_allclose(found.psnr.value[i], means, atol=1e-4)
    for bad in ([], [0.0], [0.2, 0.1]):
        with pytest.raises(ValueError, match="eps: wanted radii"):
            fa.robustness_curve(models, (noisy, clean), lambda m, eps: fa.PGD(m, eps=eps), eps=bad)


def test_models_are_left_as_found():
    noisy, clean = images()
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    fa.transfer_matrix([model], (noisy, clean), pgd, targets=[model])
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_attack_statistics_are_numpys(channels):
    noisy, clean = images(2, channels)
    generator = torch.Generator().manual_seed(9)
    adversarial = noisy + 0.01 * torch.randn(noisy.shape, generator=generator)
    out, out_adv = 0.7 * noisy, 0.7 * adversarial
    found = fa.evaluate.attack_statistics(clean, noisy, adversarial, out, out_adv, sigma=SIGMA)
    for s in range(2):
        x, y, adv, restored = (t[s].double().numpy().ravel() for t in (clean, noisy, adversarial, out))
        noise, delta = y - x, adv - y
        wanted = {
            "linf": np.abs(delta).max(),
            "l2": np.linalg.norm(delta),
            "mean_shift": delta.mean(),
            "norm_ratio": np.linalg.norm(adv - x) / np.linalg.norm(noise),
            "typicality_before": 0.5 * (np.mean(noise**2) / SIGMA**2 - 1),
            "typicality_after": 0.5 * (np.mean((adv - x) ** 2) / SIGMA**2 - 1),
            "spread": 1 / math.sqrt(2 * len(x)),
            "correlation_noise": np.corrcoef(delta, noise)[0, 1],
            "correlation_error": np.corrcoef(delta, restored - x)[0, 1],
            "gain": 0.7,
        }
        for name, value in wanted.items():
            assert found[name][s].item() == pytest.approx(value, rel=1e-5, abs=1e-7), name
        power = np.abs(np.fft.fft2(delta.reshape(channels, 32, 32))) ** 2
        f = np.fft.fftfreq(32)
        radius = np.hypot(f[:, None], f[None])
        power, radius = power.reshape(channels, -1)[:, 1:], radius.ravel()[1:]
        lowest = radius < math.sqrt(0.5) / 16
        assert found["spectrum_00"][s].item() == pytest.approx(power[:, lowest].mean() / power.mean(), rel=1e-6)


def test_statistics_that_are_not_defined_are_nan():
    noisy, clean = images(1, size=4)
    found = fa.evaluate.attack_statistics(clean, noisy, noisy, noisy, noisy)
    assert all(math.isnan(found[name].item()) for name in ("typicality_before", "gain", "correlation_noise"))
    assert math.isnan(found["spectrum_00"].item())
    assert found["linf"].item() == 0
    with pytest.raises(ValueError, match="restored: wanted shape"):
        fa.evaluate.attack_statistics(clean, noisy, noisy, noisy[..., 1:], noisy)
    with pytest.raises(ValueError, match=r"clean: wanted images \(B, C, H, W\)"):
        fa.evaluate.attack_statistics(clean[0], noisy, noisy, noisy, noisy)


def test_rows():
    table = table_of({"a": [1, 2, 1], "b": ["x", "y", "z"]})
    assert rows_where(table, a=1)["b"].tolist() == ["x", "z"]
    more = joined([table, {}, table_of({"a": [5], "c": [0.5]})])
    assert more["a"].tolist() == [1, 2, 1, 5]
    assert np.isnan(more["c"][:3]).all()
