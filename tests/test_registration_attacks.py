"""Attacks on registration models: sides, balls, noise, ensembles, transfer and universal perturbations.

The oracle is a model whose field is two numbers for each pair, each linear in one image: the worst perturbation in a
ball and the error that it makes are known in closed form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.guard import rows_of
from fastattack.objectives import registration as objectives
from fastattack.registration import (
    Truth,
    attack_registration,
    fields_of,
    harm_of,
    measure,
    one_side,
    transfer,
    universal,
)

EPS, SIZE, BATCH = 0.02, 8, 5


class Linear(nn.Module):
    """u = (<w, moving>, <v, fixed>) at every voxel, in 3D (.., .., 0)."""

    def __init__(self, seed: int, spatial: tuple[int, ...] = (SIZE, SIZE)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn((2, *spatial), generator=generator))

    def forward(self, pair: Tensor) -> Tensor:
        numbers = (pair * self.weight).flatten(2).sum(2)
        if pair.dim() == 5:
            numbers = torch.cat([numbers, torch.zeros_like(numbers[:, :1])], 1)
        return numbers.reshape(*numbers.shape, *[1] * (pair.dim() - 2)).expand(-1, -1, *pair.shape[2:])


class Small(nn.Module):
    """A network that is not linear, and different in every voxel."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.body = nn.Sequential(kind(2, 6, 3, padding=1), nn.Tanh(), kind(6, dims, 3, padding=1))

    def forward(self, pair: Tensor) -> Tensor:
        out: Tensor = self.body(pair)
        return out


def pairs(count: int = BATCH, spatial: tuple[int, ...] = (SIZE, SIZE), seed: int = 0) -> Tensor:
    return 0.2 + 0.6 * torch.rand((count, 2, *spatial), generator=torch.Generator().manual_seed(seed))


def truth_of(pair: Tensor, seed: int = 1) -> Truth:
    shape = (len(pair), pair.dim() - 2, *[1] * (pair.dim() - 2))
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Truth(field=numbers.expand(-1, -1, *pair.shape[2:]).contiguous())


def worst(model: Linear, pair: Tensor, truth: Truth, side: str, dual: Any) -> np.ndarray:
    """The largest error in the ball, in float64 NumPy: each attacked number moves away from its true one by eps |w|."""
    assert truth.field is not None
    weight, x = model.weight.detach().double().numpy(), pair.double().numpy()
    true = truth.field.double().flatten(2)[:, :, 0].numpy()
    apart = np.abs((x * weight).reshape(len(x), 2, -1).sum(2) - true[:, :2])
    for channel, name in enumerate(("moving", "fixed")):
        if side in (name, "both"):
            apart[:, channel] += EPS * dual(weight[channel].ravel())
    return np.sqrt((apart**2).sum(1) + (true[:, 2:] ** 2).sum(1))  # in 3D the third number is 0


def run(model: Any, pair: Tensor, truth: Truth | None, **options: Any) -> Any:
    return attack_registration(model, pair, truth, **{"eps": EPS, "steps": 8, **options})


# -- the optimum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["moving", "fixed", "both"])
@pytest.mark.parametrize("spatial", [(SIZE, SIZE), (4, 5, 4)])
def test_the_worst_perturbation_of_a_linear_model_is_found(side: str, spatial: tuple[int, ...]) -> None:
    pair, model = pairs(spatial=spatial), Linear(2, spatial)
    truth = truth_of(pair)
    found = run(model, pair, truth, side=side)
    want = worst(model, pair, truth, side, lambda w: np.abs(w).sum())
    assert np.allclose(found.harm.after.field_error.numpy(), want, rtol=1e-5)
    moved = (found.adversarial - pair).abs()
    assert moved.max() <= EPS
    for channel, name in enumerate(("moving", "fixed")):
        if side not in (name, "both"):
            assert torch.equal(found.adversarial[:, channel], pair[:, channel])


@pytest.mark.parametrize(("norm", "dual"), [("l2", lambda w: np.sqrt((w**2).sum())), ("l1", lambda w: np.abs(w).max())])
def test_of_other_balls_too(norm: str, dual: Any) -> None:
    pair, model = pairs(), Linear(2)
    truth = truth_of(pair)
    options = {"sparsity": 1e-6} if norm == "l1" else {}
    found = run(model, pair, truth, side="moving", norm=norm, steps=20, step=EPS, **options)
    assert np.allclose(found.harm.after.field_error.numpy(), worst(model, pair, truth, "moving", dual), rtol=1e-4)


def test_zero_mean_takes_what_is_left_of_the_weights() -> None:
    pair, model = pairs(), Linear(2)
    truth = truth_of(pair)
    found = run(model, pair, truth, side="fixed", norm="l2", zero_mean=True, steps=20, step=EPS)
    want = worst(model, pair, truth, "fixed", lambda w: np.sqrt(((w - w.mean()) ** 2).sum()))
    assert np.allclose(found.harm.after.field_error.numpy(), want, rtol=1e-4)
    assert (found.adversarial - pair)[:, 1].flatten(1).double().mean(1).abs().max() < 1e-7


@pytest.mark.parametrize("side", ["moving", "both"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_noise_of_what_is_attacked_keeps_mean_and_norm(side: str, norm: str) -> None:
    clean, model = pairs(), Linear(2)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
    eps = EPS if norm == "linf" else 0.3
    found = run(model, noisy, truth_of(noisy), side=side, norm=norm, eps=eps, preserve_noise=True, clean=clean)
    part = slice(0, 1) if side == "moving" else slice(0, 2)
    before, after = ((y - clean)[:, part].flatten(1).double() for y in (noisy, found.adversarial))
    assert torch.allclose(before.mean(1), after.mean(1), atol=1e-6)
    assert torch.allclose(before.norm(dim=1), after.norm(dim=1), rtol=1e-5)
    assert found.result.noise_after is not None
    assert bool((found.harm.after.field_error > found.harm.before.field_error).all())
    assert side == "both" or torch.equal(found.adversarial[:, 1], noisy[:, 1])


def test_a_wanted_field_is_approached() -> None:
    pair, model = pairs(), Linear(2)
    goal = fields_of(model, pair) + 100.0
    found = run(model, pair, Truth(field=goal), targeted=True)
    assert bool((found.harm.after.field_error < found.harm.before.field_error).all())


# -- names of samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 2},
        {"stop": "success", "threshold": 1.2, "patience": 1, "steps": 6},
        {"stop": "converged", "patience": 2, "max_batch": 3},
        {"view": fa.views.Noise(std=0.05), "eot": 2, "max_batch": 2, "steps": 3},
        {"restarts": 2, "max_batch": 1},
    ],
)
def test_batch_splits_and_finished_samples_change_nothing(options: dict[str, Any]) -> None:
    pair, ids = pairs(), torch.tensor([40, 7, 1, 99, 12])
    truth = replace(truth_of(pair), field=torch.randn(pair.shape, generator=torch.Generator().manual_seed(9)))
    options = {"side": "fixed", "eps": 0.1, **options}
    found = run(Small(), pair, truth, sample_ids=ids, **options)
    for k in (3, 0):  # alone, in another order
        row = torch.tensor([k])
        alone = run(
            Small(), pair[row], rows_of(truth, row, BATCH), sample_ids=ids[row], **{**options, "max_batch": None}
        )
        assert torch.allclose(found.adversarial[row], alone.adversarial, atol=2e-6)
    if options.get("stop") == "success":
        assert len(set(found.result.steps_used.tolist())) > 1, "else nobody left early"


def test_out_of_memory_halves_a_batch_of_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pair = Small(), pairs()

    def limited(x: Tensor) -> Tensor:
        if len(x) > 2 and x.requires_grad:
            raise torch.OutOfMemoryError("no room")
        out: Tensor = model(x)
        return out

    with pytest.warns(UserWarning, match="do not fit in memory"):
        found = run(limited, pair, truth_of(pair), side="moving")
    whole = run(model, pair, truth_of(pair), side="moving")
    assert torch.allclose(found.adversarial, whole.adversarial, atol=2e-6)


def test_a_model_of_one_side() -> None:
    pair, model = pairs(), Small()
    moving = one_side(model, pair, "moving")
    assert torch.equal(moving(pair[:, :1]), model(pair))
    fixed = one_side(model, pair, "fixed", ids=torch.tensor([8, 6, 4, 2, 0]))
    ids = torch.tensor([2, 8])
    assert torch.equal(fixed.for_samples(ids, 0)(pair[[3, 0], 1:]), model(pair[[3, 0]]))
    with pytest.raises(ValueError, match=r"input: wanted .5, 1, 8, 8., the attacked part of 5 samples"):
        moving(pair[:2, :1])
    with pytest.raises(ValueError, match="sample_ids: wanted names of the 5 samples"):
        fixed.for_samples(torch.tensor([3]), 0)(pair[:1, 1:])
    with pytest.raises(ValueError, match="sample_ids: wanted 5 different whole numbers"):
        one_side(model, pair, "fixed", ids=torch.tensor([1, 1, 2, 3, 4]))
    with pytest.raises(ValueError, match="side: wanted 'moving' or 'fixed'"):
        one_side(model, pair, "both")


def test_gradients_of_one_side_are_made_as_fast_as_those_of_pairs() -> None:
    """The engine prepares the model itself, so that precision and copies are there; the model stays as it was."""
    model, pair = Small().train(), pairs()
    found = run(model, pair, truth_of(pair), side="moving", precision="bf16", chunk=2)
    assert found.result.how.startswith("bf16"), found.result.how
    assert "2 samples at a time" in found.result.how
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_random_defence_before_the_model_is_told_the_names() -> None:
    """Its noise belongs to samples, inside a model of one side too."""
    pair = pairs()
    seen: list[Tensor] = []

    class Noisy(nn.Module):
        def for_samples(self, ids: Tensor, draw: int) -> Any:
            seen.append(ids.clone())
            return lambda x: Small()(x + 0.01 * torch.sin(ids.float()).reshape(-1, 1, 1, 1))

    options = {"side": "moving", "sample_ids": torch.tensor([5, 6, 7, 8, 9])}
    whole, parts = (run(Noisy(), pair, truth_of(pair), max_batch=size, **options) for size in (None, 2))
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=2e-6)
    assert {tuple(ids.tolist()) for ids in seen} == {(5, 6, 7, 8, 9), (5, 6), (7, 8), (9,)}


# -- several models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ensemble", ["mean", "max", "min", "softmax", "logits", {"a": 3.0, "b": 1.0}])
@pytest.mark.parametrize("side", ["fixed", "both"])
def test_several_models_at_once(ensemble: Any, side: str) -> None:
    pair = pairs()
    models = {"a": Small(), "b": Linear(5)}
    truth = truth_of(pair)
    found = run(models, pair, truth, side=side, ensemble=ensemble, max_batch=2)
    whole = run(models, pair, truth, side=side, ensemble=ensemble)
    assert torch.allclose(found.adversarial, whole.adversarial, atol=2e-6)
    assert set(found.harms) == {"a", "b"}
    errors = torch.stack([h.after.field_error for h in found.harms.values()])
    if ensemble in ("mean", "max", "min"):
        wanted = {"mean": errors.mean(0), "max": errors.amax(0), "min": errors.amin(0)}[ensemble]
        assert torch.allclose(found.result.loss, wanted, atol=2e-3), "but for the softness of the objective"
    with pytest.raises(ValueError, match="harm: wanted one model, got a, b"):
        _ = found.harm


def test_transfer_is_what_the_other_weights_make_of_it() -> None:
    pair = pairs()
    truth = truth_of(pair)
    models = {"a": Linear(2), "b": Linear(5)}
    found = transfer(models, pair, truth, targets={"c": Linear(6)}, side="moving", eps=EPS, steps=8)
    assert found.sources == ("a", "b")
    assert found.targets == ("a", "b", "c")
    everyone = [*models.values(), Linear(6)]
    x = pair.double().numpy().reshape(BATCH, 2, -1)
    true = truth.field.double().flatten(2)[:, :, 0].numpy()  # type: ignore[union-attr]
    weights = [m.weight.detach().double().numpy().reshape(2, -1) for m in everyone]
    for i in range(2):
        away = np.sign((x[:, 0] * weights[i][0]).sum(1) - true[:, 0])
        delta = EPS * away[:, None] * np.sign(weights[i][0])
        for j in range(3):
            first = ((x[:, 0] + delta) * weights[j][0]).sum(1) - true[:, 0]
            second = (x[:, 1] * weights[j][1]).sum(1) - true[:, 1]
            assert np.allclose(found.after["field_error"][:, i, j], np.hypot(first, second), rtol=1e-5)
    rise = found.after["field_error"] - found.before["field_error"][:, None]
    assert np.allclose(found.rise["field_error"].value, rise.mean(0))
    told = found.as_dict()
    assert told["field_error"]["rise"]["mean"][0][0] == pytest.approx(rise[:, 0, 0].mean())
    assert "tre" not in told


def test_transfer_of_a_black_box_and_without_a_truth() -> None:
    pair = pairs(3)
    models = {"net": Small(), "box": detached(Linear(5))}
    own = {"box": {"attack": fa.Square, "queries": 30, "steps": None}}
    own["box"].pop("steps")
    found = transfer(models, pair, eps=EPS, own=own)
    assert (found.before["field_error"] == 0).all(), "each model's own field stands for the true one"
    assert (np.diagonal(found.after["field_error"], axis1=1, axis2=2) > 0).all()
    with pytest.raises(ValueError, match="own: wanted names of the models, got nobody"):
        transfer(models, pair, eps=EPS, own={"nobody": {}})
    with pytest.raises(ValueError, match="targets: wanted other names than those of the models, got net"):
        transfer(models, pair, eps=EPS, targets={"net": Small()})


class Dropping(Small):
    """In training mode it gives half of its field."""

    def forward(self, pair: Tensor) -> Tensor:
        self.seen = max(len(pair), getattr(self, "seen", 0))
        return super().forward(pair) * (0.5 if self.training else 1.0)


@pytest.mark.parametrize("eval_mode", [True, False])
def test_transfer_runs_each_model_as_its_attack_does(eval_mode: bool) -> None:
    """Two models that are the same: four numbers that are the same; batches are those of each model's options."""
    pair, ids = pairs(), torch.tensor([4, 8, 1, 0, 2])
    models = {"a": Dropping().train(), "b": Dropping().train()}
    further = Dropping().train()
    options: dict[str, Any] = {"eval_mode": eval_mode, "eps": EPS, "steps": 3, "max_batch": 3, "sample_ids": ids}
    found = transfer(models, pair, truth_of(pair), targets={"c": further}, own={"b": {"max_batch": 1}}, **options)
    rise = found.rise["field_error"].value
    assert np.allclose(rise, rise[0, 0], rtol=1e-5)
    assert (models["a"].seen, models["b"].seen, further.seen) == (3, 1, 3)
    assert torch.equal(found.attacks["b"].how["ids"], ids)


def test_transfer_of_universal_perturbations_keeps_their_batches() -> None:
    pair = pairs()
    models = {"a": Dropping(), "b": Dropping()}
    transfer(models, pair, truth_of(pair), targets={"c": (c := Dropping())}, attack=fa.Universal, eps=EPS, batch=2)
    assert (models["a"].seen, models["b"].seen, c.seen) == (2, 2, 2)


# -- universal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["moving", "both"])
@pytest.mark.parametrize("spatial", [(SIZE, SIZE), (4, 4, 4)])
def test_one_perturbation_for_all_pairs(side: str, spatial: tuple[int, ...]) -> None:
    """All true numbers lie far below, so that one sign is the worst for every pair: eps sign(w)."""
    pair, model = pairs(spatial=spatial), Linear(2, spatial)
    truth = truth_of(pair)
    truth = replace(truth, field=truth.field - 50)  # type: ignore[operator]
    found = universal(model, pair, truth, side=side, eps=EPS, steps=6, batch=2)
    want = EPS * model.weight.detach().sign()[None]
    if side == "moving":
        want[:, 1] = 0
    assert torch.allclose(found.perturbation, want, atol=1e-7)
    other = pairs(2, spatial, seed=8)
    harm = harm_of(model, other, found.apply(other), Truth(field=truth.field[:2]))  # type: ignore[index]
    expected = worst(model, other, Truth(field=truth.field[:2]), side, lambda w: np.abs(w).sum())  # type: ignore[index]
    assert np.allclose(harm.after.field_error.numpy(), expected, rtol=1e-4)
    same = attack_registration(model, pair, truth, side=side, attack=fa.Universal, eps=EPS, steps=6, batch=2)
    assert torch.equal(same.adversarial, found.apply(pair))


def test_a_universal_perturbation_sees_the_truth_of_each_batch() -> None:
    """Of the pairs that a batch holds: alone in their batches they give the same."""
    pair = pairs()
    truth = replace(truth_of(pair), landmarks=torch.rand(BATCH, 3, 2) * 7, landmarks_moved=torch.rand(BATCH, 3, 2) * 7)
    for objective in (objectives.field_error(), objectives.target_registration_error()):
        options: dict[str, Any] = {"side": "fixed", "eps": EPS, "steps": 4, "objective": objective}
        found = [universal(Small(), pair, truth, batch=size, **options) for size in (1, 2, BATCH)]
        assert all(torch.allclose(f.perturbation, found[0].perturbation, atol=1e-6) for f in found)
        assert all(f.loss == pytest.approx(found[0].loss, rel=1e-5) for f in found)


# -- without gradients -------------------------------------------------------------------------------------------------


def detached(model: nn.Module) -> Any:
    def box(pair: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = model(pair)
        return out

    return box


@pytest.mark.parametrize("side", ["moving", "both"])
@pytest.mark.parametrize(
    ("attack", "spatial"), [(fa.Square, (SIZE, SIZE)), (fa.SimBA, (SIZE, SIZE)), (fa.SimBA, (4, 4, 4))]
)
def test_a_model_without_gradients_is_attacked_by_queries(attack: Any, side: str, spatial: tuple[int, ...]) -> None:
    pair, model = pairs(spatial=spatial), Linear(2, spatial)
    truth = truth_of(pair)
    options: dict[str, Any] = {"attack": attack, "queries": 40, "side": side, "eps": EPS, "max_batch": 2}
    options |= {"step": EPS} if attack is fa.SimBA else {}
    found = attack_registration(detached(model), pair, truth, **options)
    assert bool((found.harm.after.field_error > found.harm.before.field_error).all())
    best = worst(model, pair, truth, side, lambda w: np.abs(w).sum())
    assert (found.harm.after.field_error.numpy() <= best * (1 + 1e-6)).all()
    assert found.result.steps_used.tolist() == [40] * BATCH
    with pytest.raises(ValueError, match=r"a black-box attack .*needs none"):
        run(detached(model), pair, truth, side=side)


# -- objectives, truth, views ------------------------------------------------------------------------------------------


def test_without_a_truth_the_field_leaves_the_model_s_own() -> None:
    pair, model = pairs(), Linear(2)
    found = run(model, pair, None, side="moving")
    assert torch.equal(found.harm.field_before, fields_of(model, pair))
    assert bool((found.harm.before.field_error == 0).all())
    want = EPS * model.weight[0].detach().abs().sum().item()
    assert torch.allclose(found.harm.after.field_error, torch.full((BATCH,), want, dtype=torch.float64), rtol=1e-5)
    with pytest.raises(ValueError, match="truth: wanted what is known of the pairs for FGSM, which begins at the pair"):
        attack_registration(model, pair, attack=fa.FGSM, eps=EPS)
    with pytest.raises(ValueError, match="truth: wanted what is known of the pairs for 2 models"):
        run([model, Small()], pair, None)


@pytest.mark.parametrize(
    ("known", "name"),
    [
        (("landmarks", "labels"), "target_registration_error"),
        (("labels",), "overlap"),
        (("field", "landmarks", "labels"), "field_error"),
    ],
)
def test_what_is_climbed_where_nothing_is_said_is_what_the_truth_knows(known: tuple[str, ...], name: str) -> None:
    pair, generator = pairs(), torch.Generator().manual_seed(6)
    places, labels = torch.rand(2, BATCH, 4, 2, generator=generator) * 7, (pairs() > 0.5).int()
    parts = {
        "landmarks": {"landmarks": places[0], "landmarks_moved": places[1]},
        "labels": {"labels_moving": labels[:, :1], "labels_fixed": labels[:, 1:]},
        "field": {"field": truth_of(pair).field},
    }
    truth = Truth(**{k: v for part in known for k, v in parts[part].items()})
    objective = getattr(objectives, name)()
    options: dict[str, Any] = {"eps": 0.1, "steps": 2}
    found = [attack_registration(Small(), pair, truth, objective=o, **options) for o in (None, objective)]
    assert torch.equal(found[0].adversarial, found[1].adversarial)
    both = [universal(Small(), pair, truth, objective=o, **options) for o in (None, objective)]
    assert torch.equal(both[0].perturbation, both[1].perturbation)
    moved = transfer({"a": Small()}, pair, truth, **options).attacks["a"].adversarial
    assert torch.equal(moved, found[0].adversarial)


def test_an_attack_s_name_is_no_attack() -> None:
    with pytest.raises(TypeError, match=r"attack: wanted a class such as fa\.PGD or a function .*, got 'pgd'"):
        run(Small(), pairs(), truth_of(pairs()), attack="pgd")


@pytest.mark.parametrize("name", ["target_registration_error", "overlap", "folding"])
def test_other_objectives_are_climbed(name: str) -> None:
    pair, model = pairs(), Small()
    generator = torch.Generator().manual_seed(6)
    labels = torch.randint(0, 3, (2, BATCH, 1, SIZE, SIZE), generator=generator)
    truth = Truth(
        landmarks=torch.rand(BATCH, 4, 2, generator=generator) * 7,
        landmarks_moved=torch.rand(BATCH, 4, 2, generator=generator) * 7,
        labels_moving=labels[0], labels_fixed=labels[1],
    )  # fmt: skip
    objective = getattr(objectives, name)()
    found = run(model, pair, truth, objective=objective, eps=0.2, side="moving", max_batch=2)
    before = objective(fields_of(model, pair), truth)
    assert bool((found.result.loss > before).all())
    assert torch.allclose(objective(found.harm.field_after, truth), found.result.loss.float(), rtol=1e-4)
    assert found.harm.rises.keys() == {"tre", "dice", "folded", "least_determinant"}


def test_a_view_that_moves_pixels_does_not_resample_a_field() -> None:
    """A 2D field has a pair's shape, and was once taken for an image that the view moves."""
    pair, model = pairs(), Small()
    geometric = fa.views.Diversity(probability=1.0)
    for truth in (truth_of(pair), None):
        with pytest.raises(ValueError, match=r"view: wanted one that leaves every voxel .* has field"):
            run(model, pair, truth, view=geometric)
    with pytest.raises(ValueError, match=r"view: wanted one that leaves every voxel .*side='moving'"):
        run(model, pair, truth_of(pair), view=geometric, side="moving")
    found = run(model, pair, truth_of(pair), view=fa.views.Noise(std=0.02), eot=2)
    assert bool((found.harm.after.field_error > found.harm.before.field_error).all())


def test_the_pair_of_a_truth_is_seen_as_the_input_is() -> None:
    """An objective that compares images compares those that the model was shown."""
    pair = pairs()
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x * 1.0

    def objective(field: Tensor, target: Truth) -> Tensor:
        assert target.pair is not None
        if field.requires_grad:
            assert torch.equal(target.pair, twice(pair))
        return field.flatten(1).sum(1)

    def twice(x: Tensor, generator: Any = None) -> Tensor:
        return 2 * x

    fa.PGD(model, eps=EPS, steps=2, objective=objective, view=twice)(pair, Truth(pair=pair))
    assert len(seen) >= 2


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"side": "left"}, "side: wanted one of 'moving', 'fixed', 'both', got 'left'"),
        ({"pair": pairs()[:, :1]}, "pair: wanted floating images .B, 2, H, W."),
        ({"truth": {"field": 1}}, "truth: wanted a fa.registration.Truth or None, got dict"),
        ({"truth": Truth(field=torch.zeros(2, 2, SIZE, SIZE))}, "truth: wanted field with a row for each of 5 pairs"),
        ({"truth": Truth(field=torch.full((5, 2, SIZE, SIZE), torch.nan))}, "truth: field: wanted finite numbers"),
        (
            {"truth": Truth(labels_fixed=torch.zeros(5, 1, SIZE, SIZE, dtype=torch.int64))},
            "truth.labels_moving: wanted",
        ),
        ({"preserve_noise": True}, "clean: wanted the pair without noise with preserve_noise=True, got None"),
        ({"clean": torch.zeros(5, 1, SIZE, SIZE)}, "clean: wanted a pair .5, 2, 8, 8. as the attacked one is"),
        ({"mask": torch.ones(3, 3)}, "mask: wanted one that broadcasts to the pair"),
        ({"pair": pairs() + 1}, "input: wanted values inside bounds .0.0, 1.0."),
        ({"model": lambda x: x[:, :1]}, "model: wanted a floating tensor"),
        ({"model": lambda x: x[..., :4]}, "wanted .*shape"),
        ({"sample_ids": [1, 2], "side": "fixed"}, "sample_ids: wanted 5 integers"),
        ({"epss": 3}, "unknown option 'epss'; did you mean 'eps'"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], told: str) -> None:
    pair = pairs()
    given: dict[str, Any] = {"model": Small(), "pair": pair, "truth": truth_of(pair), **changed}
    with pytest.raises((TypeError, ValueError), match=told):
        run(given.pop("model"), given.pop("pair"), given.pop("truth"), **given)


def test_a_mask_of_pairs_keeps_its_voxels() -> None:
    pair, mask = pairs(), torch.ones(1, 2, SIZE, SIZE)
    mask[:, 0, :4] = 0
    for side in ("moving", "both"):
        found = run(Small(), pair, truth_of(pair), side=side, mask=mask)
        moved = found.adversarial != pair
        assert not moved[:, 0, :4].any()
        assert moved[:, 0, 4:].any()


def test_measures_are_those_of_the_fields() -> None:
    pair, model = pairs(), Small()
    truth = truth_of(pair)
    found = run(model, pair, truth, side="moving").harm
    assert torch.equal(found.before.field_error, measure(model(pair), truth).field_error)
    assert torch.equal(found.rises["folded"], found.after.folded - found.before.folded)


def test_models_in_a_stack_share_the_truth() -> None:
    """`attack_each` gives each model's copy of a pair its own row of the truth."""
    pair = pairs()
    truth = replace(truth_of(pair), field=torch.randn(pair.shape, generator=torch.Generator().manual_seed(9)))
    other = Small()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    options: dict[str, Any] = {"objective": objectives.field_error(), "eps": EPS, "steps": 4}
    ways = [
        fa.attack_each([Small(), other], pair, truth, attack=lambda m: fa.PGD(m, **options), how=how)
        for how in ("stacked", "turns")
    ]
    for k in (0, 1):
        assert torch.allclose(ways[0].results[k].adversarial, ways[1].results[k].adversarial, atol=2e-6)


def test_stochastic_steps_of_one_side_keep_images_with_their_partners() -> None:
    """Beside a plain loop over the batches; the samples of a later batch were once named as those of the first."""
    pair, model = pairs(), Small()
    truth = replace(truth_of(pair), field=torch.randn(pair.shape, generator=torch.Generator().manual_seed(9)))
    found = universal(model, pair, truth, side="moving", eps=EPS, steps=4, batch=2, per_step=1, keep="last")
    delta = torch.zeros(1, 1, SIZE, SIZE)
    for rows in (slice(0, 2), slice(2, 4), slice(4, 5), slice(0, 2)):
        leaf = delta.clone().requires_grad_(True)
        seen = torch.cat([(pair[rows, :1] + leaf).clamp(0, 1), pair[rows, 1:]], 1)
        loss = objectives.field_error()(model(seen), rows_of(truth, rows, BATCH)).sum()
        (grad,) = torch.autograd.grad(loss, leaf)
        delta = (delta + 2.5 * EPS / 4 * grad.sign()).clamp(-EPS, EPS)
    assert torch.allclose(found.perturbation[:, :1], delta, atol=1e-7)


@pytest.mark.parametrize("side", ["both", "moving"])
def test_pairs_of_other_dimensions_than_the_models(side: str) -> None:
    model = fa.models.LLMMorph(dims=3, width=4, levels=2, blocks=1)
    with pytest.raises(
        ValueError, match=r"pair: wanted images of 3 dimensions, which LLMMorph takes, got \(1, 2, 8, 8\)"
    ):
        attack_registration(model, torch.rand(1, 2, 8, 8), side=side, eps=0.01, steps=1)
