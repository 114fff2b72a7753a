"""The attacks suite: every way makes the same attack, the judge refuses what is none, and the rest goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.bench import attacks, cases, loops, peers
from fastattack.bench.apart import Answer, Failure, Recipe, apart, judged_apart
from fastattack.bench.attacks import KINDS, attack_trials, trial_of
from fastattack.bench.cases import Case, case_of
from fastattack.bench.judge import EXACT, REDUCED, Judge, Run
from fastattack.bench.result import Row
from fastattack.bench.timing import Pace, measure
from fastattack.bench.trial import Trial, Way, Wrong

SHORT = Pace(rounds=1, least=1e-5)
TINY = cases.Size(2, 16, 2, 8)


def small(steps: int = 2) -> Case:
    """A classifier of three classes near the edge of the box, so that the bounds matter."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    x = torch.rand(4, 3, 4, 4, generator=draw).round()
    with torch.no_grad():
        labels = (model(x).argmax(1) + 1) % 3  # none of the model's own, as in `cases.classified`
    return Case(model, x, labels, fa.objectives.cross_entropy, cases.entropy, steps, 0.1, 0.04, (0.0, 1.0))


def by_hand(case: Case) -> Tensor:
    """In float64, with the gradient of the log-softmax written out."""
    first, last = case.model[1], case.model[3]
    weights = [t.detach().double() for t in (first.weight, first.bias, last.weight, last.bias)]
    origin = case.x.double().flatten(1)
    adv = origin.clone()
    for _ in range(case.steps):
        hidden = torch.tanh(adv @ weights[0].T + weights[1])
        chances = torch.softmax(hidden @ weights[2].T + weights[3], 1)
        back = (chances - nn.functional.one_hot(case.target, 3)) @ weights[2]
        adv = adv + case.step * ((back * (1 - hidden**2)) @ weights[0]).sign()
        adv = torch.minimum(torch.maximum(adv, origin - case.eps), origin + case.eps).clamp(0, 1)
    return adv.reshape(case.x.shape)


def ways(trial: Trial) -> dict[str, Way]:
    return {way.name: way for way in trial.ways}


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


# -- the judge ---------------------------------------------------------------------------------------------------------


def judge_of(case: Case) -> Judge:
    return Judge(case, lambda: loops.pgd(case)())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda adv, x: x, r"reached a loss of [\d.]+, not above [\d.]+ at the start"),
        (
            lambda adv, x: x + (adv - x) / 2,
            r"reached a loss of .*, the plain loop .* of the climb, wanted 0.001 at most",
        ),
        (lambda adv, x: adv + torch.nan, "nan from the input, eps is 0.1"),
        (lambda adv, x: x + 2 * (adv - x), "reached 0.16 from the input, eps is 0.1"),
        (lambda adv, x: adv[:1], r"wanted torch.float32 \(4, 3, 4, 4\), got torch.float32 \(1, 3, 4, 4\)"),
        (lambda adv, x: adv.double(), r"wanted torch.float32 .*, got torch.float64"),
        (lambda adv, x: None, r"wanted torch.float32 .*, got NoneType"),
    ],
    ids=["no step", "half of it", "nan", "out of the ball", "one sample", "another type", "nothing"],
)
def test_what_is_no_attack_is_wrong(wrong: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    case = small()
    adv = loops.pgd(case)()
    with pytest.raises(Wrong, match=reason):
        judge_of(case)(lambda: wrong(adv, case.x))


def blind(case: Case) -> Case:
    """The model does not see the first pixel: the loss tells nothing of it."""
    with torch.no_grad():
        case.model[1].weight[:, 0] = 0
    return case


@pytest.mark.parametrize(
    ("inside", "value", "reason"),
    [(0.5, 0.7, "0.2 from the input, eps is 0.1"), (0.95, 1.02, r"values from .* to 1.02, bounds are 0 to 1")],
)
def test_a_pixel_that_the_model_does_not_see(inside: float, value: float, reason: str) -> None:
    case = blind(small())
    case.x[:, 0, 0, 0] = inside
    adv = loops.pgd(case)()
    assert judge_of(case)(lambda: adv.clone()) == 0
    adv[0, 0, 0, 0] = value
    with pytest.raises(Wrong, match=reason):
        judge_of(case)(lambda: adv)


def test_a_plain_loop_that_is_wrong_itself_refuses_all() -> None:
    case = small()
    for broken, reason in (
        (case.x, "the plain loop reached a loss"),
        (case.x + 0.2, "the plain loop reached 0.2 from"),
    ):
        judge = Judge(case, lambda broken=broken: broken)
        with pytest.raises(Wrong, match=reason):
            judge(loops.pgd(case))


def test_reduced_precision_is_given_more_room() -> None:
    """The same result is wrong in float32 and right in bfloat16, and no precision allows for half an attack."""
    case = small()
    adv = loops.pgd(case)()
    off = next(a for s in (0.999, 0.995, 0.99, 0.98) if gap(a := case.x + s * (adv - case.x), adv, case) > EXACT)
    judge = judge_of(case)
    with pytest.raises(Wrong, match=r"wanted 0\.001"):
        judge(Run(lambda: off))
    found = judge(Run(lambda: off, REDUCED["bf16"]))
    assert found == pytest.approx(gap(off, adv, case), rel=1e-3), "a share of the climb"
    assert EXACT < max(REDUCED.values()) < 0.1


def gap(adv: Tensor, best: Tensor, case: Case) -> float:
    start = case.loss(case.x)
    return (case.loss(best) - case.loss(adv)) / (case.loss(best) - start)


def test_one_sided_where_attacks_draw() -> None:
    case = small()
    weak = case.x + 0.5 * (loops.pgd(case)() - case.x)
    judge = Judge(case, lambda: weak, floor=0.05)
    assert judge(loops.pgd(case)) == 0, "better than the reference"
    with pytest.raises(Wrong, match=r"wanted 0\.05"):
        Judge(case, lambda: loops.pgd(case)(), floor=0.05)(lambda: weak)


def test_the_same_draws_whenever_it_is_judged() -> None:
    case = cases.predicted(small(6))
    judge = Judge(case, lambda: loops.pgd(case)(), floor=1.0)
    seen: list[Tensor] = []
    before = torch.get_rng_state()
    for _ in range(2):
        judge(lambda: seen.append(loops.apgd(case)()) or seen[-1])
    assert torch.equal(*seen)
    assert torch.equal(before, torch.get_rng_state())


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


@pytest.mark.parametrize(("only", "count"), [(["resnet"], 2), (["cospgd"], 1), (["apgd", "dncnn"], 2), (["vgg"], 0)])
def test_cases_are_chosen_by_parts_of_their_names(only: list[str], count: int) -> None:
    assert len(list(attack_trials(device="cpu", quick=True, shared=None, only=only))) == count


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "tpu"}, "device: wanted 'cpu' or 'cuda', got 'tpu'"),
        ({"steps": 1}, "steps: wanted 2 at least, got 1"),
    ],
)
def test_bad_input_is_named(given: dict[str, object], message: str) -> None:
    options = {"device": "cpu", "quick": True, "shared": None} | given
    with pytest.raises(ValueError, match=message):
        attack_trials(**options)  # type: ignore[arg-type]


def test_unknown_cases_are_named() -> None:
    with pytest.raises(ValueError, match=r"name: wanted one of PGD embedded, .*, got 'PGD vgg'"):
        apart(Recipe("PGD vgg"))
    with pytest.raises(ValueError, match=r"name: wanted one of embedded, .*, resnet18, got 'vgg'"):
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


def test_each_way_in_a_process_of_its_own() -> None:
    row, peaks = apart(Recipe("PGD embedded", quick=True, steps=2), rounds=2, ways=["plain", "ours"])
    assert [way.name for way in row.ways] == ["plain", "ours"] == list(peaks)
    assert all(way.off <= EXACT and len(way.seconds) == len(row.floor) == 2 for way in row.ways)
    assert all(peak > 50 for peak in peaks.values())


class Said:
    """The pipe to a process that always answers the same."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def send(self, wanted: bool) -> None:
        pass

    def recv(self) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (Failure("ModuleNotFoundError", "No module named 'x'", True), "not installed: No module named 'x'"),
        (Failure("ZeroDivisionError", "division by zero", False), "raised ZeroDivisionError: division by zero"),
        (Answer(1.0, small().x.numpy(), 99, EXACT), "wrong: reached a loss of "),
    ],
)
def test_what_a_process_could_not_do_is_named(answer: object, refused: str) -> None:
    trial = trial_of("PGD small", KINDS["PGD"], small())
    found = judged_apart(ways(trial)["ours"], Said(answer), trial)
    assert found.refused.startswith(refused)
    assert found.side == "ours"
