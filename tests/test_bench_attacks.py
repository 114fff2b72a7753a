"""The attacks suite: every way makes the same attack, the judge refuses what is none, and the rest goes on."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import fastattack as fa
from fastattack.bench import attacks, cases, loops, meaning, peers
from fastattack.bench.attacks import KINDS, attack_trials, trial_of
from fastattack.bench.cases import case_of
from fastattack.bench.judge import EXACT, Run
from fastattack.bench.result import Row
from fastattack.bench.timing import Pace, measure
from fastattack.bench.trial import Wrong
from tests.small_attack import by_hand, small, ways

SHORT = Pace(rounds=1, least=1e-5)
TINY = cases.Size(2, 16, 2, 8)


@pytest.mark.parametrize("name", ["plain", "plain channels_last", "ours", *peers.PGD])
def test_every_way_makes_the_same_attack(name: str) -> None:
    case = small()
    trial = trial_of("PGD small", KINDS["PGD"], case)
    try:
        run = ways(trial)[name].make()
    except ImportError as error:
        pytest.skip(str(error))
    torch.testing.assert_close(run().double(), by_hand(case), atol=1e-6, rtol=0)
    assert trial.judge(run) <= EXACT
    assert all(p.requires_grad and p.grad is None for p in case.model.parameters()), "the user's model is left alone"


# -- a row -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Row:
    """torchattacks is not installed, foolbox raises, ART stays where it is."""
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    broken = {
        "torchattacks": peers.torchattacks,
        "foolbox": lambda case: 1 / 0,
        "art": lambda case: Run(lambda: case.x),
    }
    return measure(trial_of("PGD small", replace(KINDS["PGD"], peers=broken), small()), SHORT)


def test_what_is_refused_is_named_and_the_rest_goes_on(row: Row) -> None:
    assert {way.name for way in row.timed()} >= {"plain", "plain channels_last", "ours"}
    assert row.timed("peer") == []
    refused = {way.name: way.refused for way in row.ways if way.side == "peer"}
    assert refused["torchattacks"].startswith("not installed: ")
    assert refused["foolbox"] == "raised ZeroDivisionError: division by zero"
    assert refused["art"].startswith("wrong: reached a loss of ")
    assert "at the start" in refused["art"]


def test_the_floor_is_the_passes(row: Row) -> None:
    """Operations of two linear layers: forward, and the gradient of the input back through both; 2 a product."""
    assert row.floor_name == "passes of the model"
    assert row.operations == 2 * 2 * 4 * 2 * (48 * 8 + 8 * 3)
    assert row.bytes is None
    assert len(row.floor) == 1
    case, counted = small(5), []
    case.model.register_forward_hook(lambda *_: counted.append(1))
    loops.passes(case)()
    assert len(counted) == 5


def test_denoisers_have_no_peers_of_classifiers() -> None:
    case = replace(small(), bounds=None)
    assert attacks.theirs(KINDS["PGD"], case) == {}
    assert set(attacks.theirs(KINDS["PGD"], small())) == {"torchattacks", "foolbox", "art", "adversarial-library"}
    assert set(attacks.theirs(KINDS["CosPGD"], case)) == {"cospgd"}


# -- APGD and CosPGD ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "plain channels_last", "ours", *peers.APGD])
def test_apgd_beats_a_single_step(name: str) -> None:
    """Gradients are counted: the budget is the same for all. Labels: what the model says, so every sample counts."""
    case, counted = cases.predicted(small(10)), []
    trial = trial_of("APGD small", KINDS["APGD"], case)
    case.model.register_full_backward_hook(lambda *_: counted.append(1))
    try:
        run = ways(trial)[name].make()
    except ImportError as error:
        pytest.skip(str(error))
    assert trial.judge(run) <= attacks.BEHIND
    counted.clear()
    run()
    assert len(counted) == case.steps
    assert case.loss(run()) > case.loss(by_hand(replace(case, steps=1, step=case.eps)).float())


def test_the_authors_checkpoints() -> None:
    """Algorithm 1 for 100 steps: p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 (arXiv 2003.01690)."""
    assert list(loops.periods(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(loops.periods(1)) == [1]


@pytest.mark.parametrize("name", ["plain", "plain channels_last", "ours", "cospgd"])
def test_cospgd(name: str) -> None:
    case = cases.dense(case_of("n2n", shared=None, steps=2, size=TINY))
    trial = trial_of("CosPGD n2n", KINDS["CosPGD"], case)
    try:
        run = ways(trial)[name].make()
    except ImportError as error:
        pytest.skip(str(error))
    assert trial.judge(run) <= EXACT


def test_the_weighted_loss_is_not_the_plain_one() -> None:
    """In float64 NumPy-like sums, written out: the cosine of softmax and softmax weighs each position's error."""
    draw = torch.Generator().manual_seed(0)
    out, target = torch.rand(2, 2, 3, 3, 5, generator=draw).double().unbind(0)
    a, b = (t.exp() / t.exp().sum(1, keepdim=True) for t in (out, target))
    cosine = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    want = torch.stack([(c * (o - t).square()).mean() for c, o, t in zip(cosine, out, target, strict=True)])
    torch.testing.assert_close(cases.weighted(out, target), want)
    torch.testing.assert_close(fa.objectives.cospgd()(out, target), want)


# -- the suite ---------------------------------------------------------------------------------------------------------


def test_quick_trials_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "QUICK", TINY)
    made = (make() for make in attack_trials(device="cpu", quick=True, shared=None, steps=2))
    trials = {trial.case: trial for trial in made}
    assert list(trials) == ["PGD embedded", "PGD resnet18"]
    for trial in trials.values():
        assert trial.suite == "attacks"
        assert trial.judge(ways(trial)["ours"].make()) <= EXACT
        assert trial.operations > 0


@pytest.mark.parametrize("name", meaning.NAMES)
def test_miga_s_trials_are_judged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("embedded", shared=None, steps=2, size=TINY)
    trial = meaning.trial_of(name, case)
    for way in trial.ways:
        assert trial.judge(way.make()) <= EXACT
    trial.floor()
    still = Run(lambda: case.x.clone())
    with pytest.raises(Wrong, match="reached"):
        trial.judge(still)


def test_ssim_by_hand_is_ours() -> None:
    a, b = torch.rand(2, 2, 3, 16, 20, generator=torch.Generator().manual_seed(0)).unbind(0)
    torch.testing.assert_close(meaning.dissimilarity(a, b), fa.objectives.ssim()(a, b), rtol=1e-4, atol=1e-5)


def test_operations_of_every_model_are_counted() -> None:
    """DnCNN: 17 convolutions of 3 x 3 there and back."""
    found = {n: attacks.operations(case_of(n, shared=None, steps=1, size=TINY)) for n in cases.NAMES}
    assert all(count is not None and count > 0 for count in found.values())
    assert found["dncnn"] == 2 * 2 * 2 * 16 * 16 * 9 * (64 + 15 * 64 * 64 + 64)


def test_models_are_made_in_turn_and_a_bad_one_does_not_end_it(tmp_path: Path) -> None:
    good, bad = attack_trials(device="cpu", quick=True, shared=tmp_path, only=["FFDNet", "PGD embedded"])
    with pytest.raises(OSError, match="ffdnet_gray"):
        bad()
    assert good().case == "PGD embedded"


@pytest.mark.parametrize(
    ("only", "count"), [(["resnet"], 2), (["cospgd"], 1), (["apgd", "pgd dncnn"], 2), (["miga"], 2), (["vgg"], 0)]
)
def test_cases_are_chosen_by_parts_of_their_names(only: list[str], count: int) -> None:
    assert len(list(attack_trials(device="cpu", quick=True, shared=None, only=only))) == count


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "tpu"}, "device: wanted cpu or cuda, got 'tpu'"),
        ({"steps": 1}, "steps: wanted 2 at least, got 1"),
    ],
)
def test_bad_input_is_named(given: dict[str, object], message: str) -> None:
    options = {"device": "cpu", "quick": True, "shared": None} | given
    with pytest.raises(ValueError, match=message):
        attack_trials(**options)  # type: ignore[arg-type]


def test_unknown_cases_are_named() -> None:
    with pytest.raises(ValueError, match=r"name: wanted one of embedded, .*, resnet18-224, got 'vgg'"):
        case_of("vgg", shared=None)


def test_untrained_cases_are_the_same_each_time() -> None:
    one, other = (case_of("ffdnet", shared=None, steps=1, size=TINY) for _ in range(2))
    assert torch.equal(one.x, other.x)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_ways_with_compile_are_asked_for() -> None:
    make = partial(trial_of, "PGD small", KINDS["PGD"], small())
    compiled = {way.name for way in make(compile=True).ways if way.compiles}
    assert compiled == {"plain compiled", "ours compiled"}
    assert not any(way.compiles for way in make().ways)
