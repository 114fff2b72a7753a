"""Each way of a trial in a process of its own."""

from __future__ import annotations

import pytest

from fastattack.bench.apart import Answer, Failure, Recipe, apart, judged_apart
from fastattack.bench.attacks import KINDS, trial_of
from fastattack.bench.judge import EXACT
from tests.small_attack import small, ways


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


def test_unknown_trials_are_named() -> None:
    with pytest.raises(ValueError, match=r"name: wanted one of PGD embedded, .*, got 'PGD vgg'"):
        apart(Recipe("PGD vgg"))
