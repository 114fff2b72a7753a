"""fa.distill: losses against NumPy, targets that a student can match, budgets, interruptions, what is left alone."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

import fastattack as fa
from fastattack.distillation import Cached, QueryError, kind_of
from fastattack.distillation.answers import check_output, fidelity, loss_for
from fastattack.engine import NonFiniteError

SHAPE = (1, 3, 3)
CLASSES = 4


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def linear(seed: int = 1, out: int = CLASSES) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, out))


class Counting:
    """A black box that writes down what it was asked, and fails where it is told to."""

    def __init__(self, model: Callable[[Tensor], Any], fails: Callable[[int], bool] = lambda call: False) -> None:
        self.model, self.fails, self.asked, self.calls = model, fails, list[Tensor](), 0

    def __call__(self, x: Tensor) -> Any:
        self.calls += 1
        self.asked += list(x)
        if self.fails(self.calls):
            raise ConnectionError("the line is dead")
        return self.model(x)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_losses_are_those_of_numpy() -> None:
    random = np.random.default_rng(0)
    t, a = random.normal(size=(2, 5, CLASSES))
    p = softmax(a, axis=1)
    both = torch.tensor(t), torch.tensor(a)
    np.testing.assert_allclose(loss_for("l1", "logits")(*both), np.abs(t - a).sum(1), rtol=1e-12)
    np.testing.assert_allclose(
        loss_for("kl", "logits")(*both), (p * (np.log(p) - log_softmax(t, axis=1))).sum(1), rtol=1e-12
    )
    says = a.argmax(1)
    ce = -log_softmax(t, axis=1)[np.arange(5), says]
    np.testing.assert_allclose(loss_for("ce", "logits")(*both), ce, rtol=1e-12)
    np.testing.assert_allclose(loss_for("ce", "labels")(both[0], torch.tensor(says)), ce, rtol=1e-12)
    with_p = both[0], torch.tensor(p)
    np.testing.assert_allclose(loss_for("kl", "probabilities")(*with_p), loss_for("kl", "logits")(*both), rtol=1e-9)
    apart = (t - t.mean(1, keepdims=True)) - (np.log(p) - np.log(p).mean(1, keepdims=True))
    np.testing.assert_allclose(loss_for("l1", "probabilities")(*with_p), np.abs(apart).sum(1), rtol=1e-12)


def test_probabilities_of_zero_count_as_the_floor() -> None:
    answers = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = loss_for("l1", "probabilities")(torch.tensor([[3.0, 1.0]], dtype=torch.float64), answers)
    assert float(loss) == pytest.approx(2 * (math.log(1e6) / 2 - 1), rel=1e-12)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (torch.tensor([1, 0]), "labels"),
        (torch.tensor([[0.25, 0.75], [1.0, 0.0]]), "probabilities"),
        (torch.tensor([[0.25, 0.75], [1.0, 0.1]]), "logits"),
        (torch.tensor([[-0.25, 1.25], [1.0, 0.0]]), "logits"),
        (torch.zeros(2, *SHAPE), "images"),
        (torch.full((2, *SHAPE), 1 / 3), "images"),
        (torch.zeros(2, 1, 6, 6), "images"),
        (torch.full((2, 2, 3, 3), 0.5), "probabilities"),
    ],
)
def test_what_answers_are(answers: Tensor, kind: str) -> None:
    assert kind_of(answers, images(2)) == kind


def test_answers_of_another_kind_than_told() -> None:
    with pytest.raises(ValueError, match=r"answers: wanted probabilities .* of sum 1, got \(2, 2\) float32"):
        kind_of(torch.tensor([[0.2, 0.7], [0.5, 0.5]]), images(2), "probabilities")
    with pytest.raises(ValueError, match="answers: wanted one of 'logits'"):
        kind_of(torch.zeros(2, 2), images(2), "scores")


def test_fidelity_counts_agreement() -> None:
    output = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 2.0]])
    assert fidelity(output, torch.tensor([0, 0, 0]), "labels").tolist() == [1, 0, 1]
    assert fidelity(output, -output, "logits").tolist() == [0, 0, 0]
    x = images(2).double()
    assert fidelity(x + 0.1, x, "images").tolist() == pytest.approx([20, 20])


# -- students ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logits", "probabilities", "labels"])
def test_a_student_becomes_its_target(kind: str) -> None:
    target = linear()
    query = {
        "logits": target, "probabilities": lambda x: target(x).softmax(1), "labels": lambda x: target(x).argmax(1)
    }[kind]  # fmt: skip
    x, student = images(400), linear(seed=2)
    labels = target(x).argmax(1)
    found = fa.distill(
        query, student, x, labels=labels, budget=400, steps=200, lr=0.05, loss="ce" if kind == "labels" else "l1"
    )
    assert (found.kind, found.held_out, found.learnt_from, found.queries, found.cached) == (kind, 40, 360, 400, 0)
    assert found.student is student
    assert found.target_accuracy == 1
    assert found.fidelity == found.accuracy >= (0.85 if kind == "labels" else 0.97)
    fresh = images(300, seed=5)
    ours, theirs = student(fresh), target(fresh)
    assert (ours.argmax(1) == theirs.argmax(1)).double().mean() > 0.88
    if kind == "logits":
        torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)
    if kind == "probabilities":
        torch.testing.assert_close(ours.softmax(1), theirs.softmax(1), atol=0.02, rtol=0)
    assert [row["step"] for row in found.rows] == list(range(10, 201, 10))
    assert found.rows[-1]["fidelity"] == found.fidelity
    assert found.rows[-1]["loss"] < found.rows[0]["loss"] / 3
    assert f"fidelity {found.fidelity:.1%} on 40 held-out images" in str(found)


def test_a_denoiser_is_distilled_too() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x + 0.1

    def fresh() -> nn.Conv2d:
        student = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            student.weight.zero_(), student.bias.zero_()  # type: ignore[union-attr]
        return student

    student = fresh()
    found = fa.distill(Half(), student, images(60), budget=60, steps=100, lr=0.05)
    assert (found.kind, found.accuracy) == ("images", None)
    assert student.weight.item() == pytest.approx(0.5, abs=0.01)
    assert found.fidelity > 40
    assert "dB on 6 held-out images" in str(found)
    again = fa.distill(Half(), fresh(), images(60), budget=60, steps=60, lr=0.05, loss=fa.objectives.mse)
    assert again.fidelity > 20
    with pytest.raises(ValueError, match="the query answers with images; use loss='l1'"):
        fa.distill(Half(), nn.Conv2d(1, 1, 1), images(60), budget=60, loss="kl")


def test_noise_on_the_inputs_costs_no_query_and_smooths_the_student() -> None:
    """A linear student of a linear target in l2: noise on its inputs shrinks its weights as ridge regression does."""
    query = Counting(linear())
    plain, noisy = (
        fa.distill(query, linear(seed=2), images(200), budget=200, steps=80, lr=0.1, noise=sigma, batch=200,
                   loss=fa.objectives.mse, held_out=0.0)
        for sigma in (0.0, 0.5)
    )  # fmt: skip
    assert len(query.asked) == 400
    assert all(torch.equal(a, b) for a, b in zip(query.asked[:200], query.asked[200:], strict=True))
    sizes = [float(found.student[1].weight.norm()) for found in (plain, noisy)]  # type: ignore[index]
    assert sizes[1] < 0.6 * sizes[0]
    assert math.isnan(plain.fidelity)
    assert "no images held out" in str(plain)


def test_noise_is_fresh_in_every_step() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.flatten(1))
            return super().forward(x.flatten(1))

    x = torch.zeros(50, 1, 8, 8) + torch.linspace(0, 1, 50)[:, None, None, None]
    target = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    fa.distill(target, Watching(64, CLASSES), x, budget=50, steps=4, held_out=0.0, noise=0.2, batch=50)
    noise = torch.cat([batch - batch.mean(1, keepdim=True) for batch in seen])
    assert len(noise) == 200
    assert float(noise.std()) == pytest.approx(0.2, rel=0.05)
    alike = torch.corrcoef(noise) - torch.eye(200)
    assert float(alike.abs().max()) < 0.7  # 1 where two steps have the same noise


# -- the budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [2, 7, 64, 65, 100, 130, 500])
def test_the_budget_is_never_exceeded(budget: int) -> None:
    query = Counting(linear())
    made = fa.distillation.Augment(shift=1, noise=0.1)
    found = fa.distill(query, linear(seed=2), images(100), budget=budget, steps=1, augment=made)
    assert len(query.asked) == found.queries == budget
    assert found.held_out + found.learnt_from == budget
    without = Counting(linear())
    found = fa.distill(without, linear(seed=2), images(100), budget=budget, steps=1)
    assert len(without.asked) == found.queries == min(budget, 100)


def test_retries_are_paid_from_the_budget() -> None:
    query = Counting(linear(), fails=lambda call: call == 2)
    found = fa.distill(query, linear(seed=2), images(100), budget=100, steps=1, query_batch=10)
    assert len(query.asked) == found.queries == 100
    assert found.learnt_from + found.held_out == 90  # ten were asked twice


@pytest.mark.parametrize("budget", [0, -3, 2.0, True, None])
def test_a_budget_that_is_none(budget: Any) -> None:
    query = Counting(linear())
    with pytest.raises(ValueError, match="budget: wanted a whole number >= 1"):
        fa.distill(query, linear(), images(10), budget=budget)
    assert not query.calls


def test_a_budget_that_holds_out_all() -> None:
    with pytest.raises(ValueError, match="budget: wanted more than the 10 images that are held out, got 10"):
        fa.distill(linear(), linear(), images(10), budget=10, held_out=images(10, seed=3))


def test_held_out_images_are_not_learnt_from() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear(seed=2)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.extend(x)
            return self.inner(x)  # type: ignore[no-any-return]

    query = Counting(linear())
    found = fa.distill(query, Watching(), images(50), budget=50, steps=30, batch=8, held_out=0.2)
    held = {x.numpy().tobytes() for x in query.asked[:10]}
    assert found.held_out == 10
    assert not held & {x.numpy().tobytes() for x in seen}
    assert len({x.numpy().tobytes() for x in seen}) == 40


def test_labels_go_with_their_images() -> None:
    """Labels that are the target's own give it accuracy 1 whatever the order; other images bring their own labels."""
    target, x = linear(), images(80)
    told = (images(30, seed=4), 3 - target(images(30, seed=4)).argmax(1))
    found = fa.distill(target, linear(seed=2), x, budget=80, steps=1, held_out=told)
    assert (found.held_out, found.learnt_from) == (30, 50)
    assert found.target_accuracy == pytest.approx(float((told[1] == 3 - told[1]).double().mean()))


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_no_query_is_paid_twice_and_more_budget_pays_the_rest(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 5, "cache": tmp_path, "held_out": images(10, seed=3)}
    first, second, third = (Counting(linear()) for _ in range(3))
    x = images(100)
    made = fa.distillation.Generate(mixup=True)
    assert fa.distill(first, linear(seed=2), x, budget=60, **options).queries == 60
    larger = fa.distill(second, linear(seed=2), x, budget=150, generated=made, **options)
    assert (len(second.asked), larger.queries, larger.cached) == (90, 90, 60)
    again = fa.distill(third, linear(seed=2), x, budget=150, generated=made, **options)
    assert (third.calls, again.queries, again.cached) == (0, 0, 150)
    assert again.rows == larger.rows


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    def dying(x: Tensor) -> Tensor:
        if len(query.asked) > 35:
            os.kill(os.getpid(), signal.SIGKILL)
        return linear()(x)  # type: ignore[no-any-return]

    query = Counting(dying)
    options: dict[str, Any] = {"budget": 100, "steps": 3, "query_batch": 10}
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        fa.distill(query, linear(seed=2), images(100), cache=tmp_path, **options)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    rest = Counting(linear())
    found = fa.distill(rest, linear(seed=2), images(100), cache=tmp_path, **options)
    assert (len(rest.asked), found.cached) == (70, 30)
    whole = Counting(linear())
    straight = fa.distill(whole, linear(seed=2), images(100), **options)
    assert found.rows == straight.rows
    assert {x.numpy().tobytes() for x in rest.asked} == {x.numpy().tobytes() for x in whole.asked[30:]}


def student(seed: int = 2) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(9, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, CLASSES)
        )


def test_lessons_resume_to_the_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget": 100, "steps": 40, "batch": 16, "noise": 0.05, "log_every": 5}
    whole, broken = student(), student()
    straight = fa.distill(linear(), whole, images(100), **options)

    def stop(row: dict[str, Any]) -> None:
        if row.get("step") == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fa.distill(linear(), broken, images(100), checkpoint=tmp_path, progress=stop, **options)
    other = student(seed=9)
    torch.manual_seed(123)  # of no account
    with pytest.raises(FileExistsError, match=r"checkpoint: .* holds a run; resume it"):
        fa.distill(linear(), other, images(100), checkpoint=tmp_path, **options)
    resumed = fa.distill(linear(), other, images(100), checkpoint=tmp_path, resume=True, **options)
    assert resumed.rows == straight.rows
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match=r"another run: learning\.lr: wanted 0\.1, got 0\.003"):
        fa.distill(linear(), student(), images(100), checkpoint=tmp_path, resume=True, lr=0.1, **options)
    with pytest.raises(ValueError, match="another run: answers: wanted"):
        fa.distill(
            linear(seed=8),
            student(),
            images(100),
            checkpoint=tmp_path,
            resume=True,
            cache=tmp_path / "other",
            **options,
        )


@pytest.mark.parametrize("other", [{"lr": 0.1}, {"seed": 5}, {"wide": True}])
def test_a_checkpoint_of_another_run_is_refused_before_a_query_is_paid(tmp_path: Path, other: dict[str, Any]) -> None:
    options: dict[str, Any] = {"budget": 100, "steps": 4, "checkpoint": tmp_path}
    first, again = Counting(linear()), Counting(linear())
    fa.distill(first, linear(seed=2), images(100), **options)
    assert len(first.asked) == 100
    fa.distill(again, linear(seed=2), images(100), resume=True, **options)  # answers are kept beside the checkpoint
    assert not again.calls
    changed = student() if other.pop("wide", False) else linear(seed=2)
    options |= {"cache": tmp_path / "empty", **other}
    with pytest.raises(ValueError, match="the checkpoint of another run"):
        fa.distill(again, changed, images(100), resume=True, **options)
    with pytest.raises(ValueError, match="the checkpoint of another run: planned"):
        fa.distill(again, linear(seed=2), images(100, seed=1), resume=True, **{**options, "lr": 3e-3, "seed": 0})
    with pytest.raises(ValueError, match="resume: wanted the folder of the checkpoint"):
        fa.distill(again, linear(seed=2), images(100), budget=100, resume=True)
    assert not again.calls


def test_a_cache_tells_targets_apart_by_their_names(tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget": 40, "steps": 1, "cache": tmp_path}
    other = Counting(linear(seed=8))
    fa.distill(linear(), linear(seed=2), images(40), source="one", **options)
    with pytest.raises(ValueError, match="holds the answers of one, wanted those of two"):
        fa.distill(other, linear(seed=2), images(40), source="two", **options)
    with pytest.raises(TypeError, match="source: wanted a text"):
        fa.distill(other, linear(seed=2), images(40), source=3, **options)
    with pytest.raises(ValueError, match="cache: wanted none beside a query that is a Cached"):
        fa.distill(Cached(other), linear(seed=2), images(40), budget=40, source="one")
    assert not other.calls
    three = Counting(linear(out=3))
    with pytest.raises(QueryError, match=r"after 1 try: .*are those there another target's\?"):
        fa.distill(three, linear(out=3), images(40, seed=1), retries=5, source="one", **options)
    assert three.calls == 1


# -- what is left alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_everything_but_the_student_is_left_as_found(fails: bool) -> None:
    target = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, CLASSES)).train()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    learner, x = student().eval(), images(40)
    kept, state = x.clone(), torch.get_rng_state()

    def query(batch: Tensor) -> Tensor:
        batch.mul_(3)  # its own business
        return target(batch)  # type: ignore[no-any-return]

    def stop(row: dict[str, Any]) -> None:
        if fails and "step" in row:
            raise OSError("full")

    run = lambda: fa.distill(target, learner, x, budget=40, steps=4, progress=stop)  # noqa: E731
    if fails:
        with pytest.raises(OSError, match="full"):
            run()
    else:
        run()
        fa.distill(query, student(), x, budget=40, steps=1)
        before = {name: value.clone() for name, value in target.state_dict().items()}  # the function trained it on
        run()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert target.training
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert not learner.training
    assert not any(module.training for module in learner.modules())
    assert all(p.grad is None for p in learner.parameters())


def test_the_seed_decides() -> None:
    def weights(seed: int) -> Tensor:
        learner = student()
        fa.distill(linear(), learner, images(60), budget=60, steps=5, seed=seed, noise=0.1)
        return learner[4].weight.detach().clone()  # type: ignore[operator,no-any-return]

    torch.manual_seed(1)
    first = weights(3)
    torch.manual_seed(2)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [{"answers": "labels"}, {}])
def test_labels_alone_have_no_l1_loss(told: dict[str, Any]) -> None:
    query = Counting(lambda x: linear()(x).argmax(1))
    with pytest.raises(ValueError, match="query answers with labels alone; use loss='ce'"):
        fa.distill(query, linear(), images(200), budget=200, query_batch=10, **told)
    assert len(query.asked) == (0 if told else 10)  # known before all are paid


def test_a_query_that_fails_names_its_images(tmp_path: Path) -> None:
    query = Counting(linear(), fails=lambda call: call > 3)
    message = r"query: input \d+, input \d+.* and 5 more: no answer after 3 tries: ConnectionError: the line is dead; "
    with pytest.raises(QueryError, match=message + "what was answered is kept in"):
        fa.distill(query, linear(), images(100), budget=100, query_batch=10, cache=tmp_path)
    assert query.calls == 6
    assert len(Cached(linear(), tmp_path, limit=0).ask(torch.stack(query.asked[:30]))) == 30


def test_a_query_that_never_answers_within_the_budget() -> None:
    query = Counting(linear(), fails=lambda call: True)
    with pytest.raises(ValueError, match=r"budget: 15 images were asked, .*the last with ConnectionError"):
        fa.distill(query, linear(), images(100), budget=15, query_batch=10, retries=5)
    assert len(query.asked) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l2"}, "loss: wanted one of l1, kl, ce or an objective, got 'l2'"),
        ({"loss": 3}, "loss: wanted one of"),
        ({"answers": "scores"}, "answers: wanted one of 'logits'"),
        ({"held_out": 1.0}, "held_out: wanted a share"),
        ({"held_out": torch.zeros(2, 1, 4, 4)}, r"held_out: wanted images \(1, 3, 3\)"),
        ({"labels": torch.zeros(3)}, "labels: wanted 20 whole numbers"),
        ({"labels": torch.tensor(3)}, "labels: wanted 20 whole numbers"),
        ({"labels": torch.zeros(20, 2, dtype=torch.int64)}, r"labels: wanted 20 whole numbers.*got \(20, 2\)"),
        ({"labels": torch.full((20,), -1)}, "labels: wanted class numbers >= 0, got -1"),
        ({"bounds": (1, 0)}, r"bounds: wanted finite \(low, high\) with low < high, or None, got \(1, 0\)"),
        ({"bounds": (0, math.inf)}, "bounds: wanted finite"),
        ({"bounds": (0, math.nan)}, "bounds: wanted finite"),
        ({"bounds": (0, 1, 2)}, "bounds: wanted finite"),
        ({"bounds": ("0", 1)}, "bounds: wanted finite"),
        ({"bounds": 1}, "bounds: wanted finite"),
        ({"noise": 25}, r"noise: wanted a noise level from 0 to 1.* got 25, did you mean 25 / 255\?"),
        ({"steps": 0}, "steps: wanted a whole number >= 1"),
        ({"lr": 0.0}, "lr: wanted a finite number above 0"),
        ({"noise": -1.0}, "noise: wanted a standard deviation >= 0"),
        ({"seed": -1}, "seed"),
        ({"batch": 0}, "batch: wanted"),
        ({"retries": -1}, "retries: wanted"),
        ({"query_batch": 0}, "batch: wanted"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    query = Counting(linear())
    with pytest.raises((ValueError, TypeError), match=message):
        fa.distill(query, linear(), images(20), **{"budget": 20, **options})
    assert not query.calls


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(0, 1, 3, 3), r"inputs: wanted images \(N, C, H, W\), one at least"),
        (torch.zeros(4, 9), "inputs: wanted images"),
        (torch.full((4, 1, 3, 3), math.nan), "inputs: wanted finite numbers"),
        ([1, 2], "inputs: wanted a tensor, got list"),
        (torch.zeros(4, 1, 3, 3, dtype=torch.int64), "inputs"),
    ],
)
def test_inputs_that_cannot_be(inputs: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fa.distill(linear(), linear(), inputs, budget=4)


def test_students_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"student: wanted an output \(2, 4\) as the query's answers, got \(2, 3\)"):
        fa.distill(linear(), linear(out=3), images(20), budget=20)
    with pytest.raises(ValueError, match=r"student: it does not take images \(1, 3, 3\)"):
        fa.distill(linear(), nn.Linear(4, 4), images(20), budget=20)
    with pytest.raises(ValueError, match="student: wanted parameters that require grad"):
        fa.distill(linear(), nn.Flatten(), images(20), budget=20)
    paid = Counting(linear())
    for unfit, asked in ((nn.Flatten(), 0), (nn.Linear(4, 4), 0), (linear(out=3), 10)):
        with pytest.raises(ValueError, match="student: "):
            fa.distill(paid, unfit, images(100), budget=100, query_batch=10)
        assert len(paid.asked) == asked
    with pytest.raises(TypeError, match=r"student: wanted a torch\.nn\.Module, got function"):
        fa.distill(linear(), lambda x: x, images(20), budget=20)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"wanted logits \(B, classes >= 4\) for the labels .* got \(2, 3\)"):
        check_output(torch.zeros(2, 3), torch.tensor([0, 1]), "labels", 4)


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("logits", torch.full((100,), 4), "labels: wanted classes from 0 to 3, got 4"),
        ("labels", torch.full((100,), 4), "labels: wanted classes from 0 to 3, got 4"),
        ("logits", torch.zeros(100, 2, 2, dtype=torch.int64), r"labels: wanted \(N\) for scores \(10, 4\), got"),
    ],
)
def test_labels_beyond_the_classes_are_told_after_one_batch(kind: str, labels: Tensor, message: str) -> None:
    query = Counting(linear() if kind == "logits" else lambda x: linear()(x).argmax(1))
    with pytest.raises(ValueError, match=message):
        fa.distill(query, linear(seed=2), images(100), labels=labels, budget=100, query_batch=10, loss="ce")
    assert len(query.asked) == 10


def test_a_loss_that_blows_up() -> None:
    with pytest.raises(
        NonFiniteError, match=r"distill: NaN or infinite loss in step \d+; take a smaller lr than 1e\+30"
    ):
        fa.distill(linear(), student(), images(40), budget=40, steps=20, lr=1e30, loss=fa.objectives.mse)
