"""The judge of attacks refuses what is none: out of the ball or the bounds, no step, half of the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fastattack.bench import cases, loops
from fastattack.bench.cases import Case
from fastattack.bench.judge import EXACT, REDUCED, Fooled, Judge, Run
from fastattack.bench.trial import Wrong
from tests.small_attack import small


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


def fooled() -> tuple[Case, Tensor]:
    """A case whose labels are the model's, and images of which all four are fooled."""
    case = cases.predicted(replace(small(12), eps=0.6, step=0.1))
    adv = loops.pgd(case)()
    assert bool((case.model(adv).argmax(1) != case.target).all())
    return case, adv


def test_as_many_fooled_as_by_the_original() -> None:
    case, adv = fooled()
    judge = Fooled(case, lambda: adv)
    assert judge(lambda: adv.clone()) == 0
    fewer = torch.cat([adv[:3], case.x[3:]])
    with pytest.raises(Wrong, match="fooled 3 of 4 samples, the original 4"):
        judge(lambda: fewer)
    assert Fooled(case, lambda: fewer)(lambda: adv) == 0
    with pytest.raises(Wrong, match=r"is 0\.7 from the input, eps is 0\.6"):
        judge(lambda: (case.x - 0.7).abs())


def test_perturbations_as_small_as_the_original_s() -> None:
    case, adv = fooled()
    small_enough = case.x + 0.98 * (adv - case.x)
    judge = Fooled(case, lambda: small_enough, smallest=True)
    assert judge(lambda: adv) == pytest.approx(1 / 0.98 - 1, rel=1e-3)
    assert judge(lambda: small_enough.clone()) == 0
    nearer = case.x + 0.85 * (adv - case.x)
    assert bool((case.model(nearer).argmax(1) != case.target).any())
    with pytest.raises(Wrong, match="larger than the original's, wanted 10% at most"):
        Fooled(case, lambda: nearer, smallest=True)(lambda: adv)
