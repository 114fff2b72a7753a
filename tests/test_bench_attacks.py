"""The attack table: a wrong result gets no time, a peer that is missing or raises is listed, and the rest goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from bench import attack_table, peers
from bench.cases import Case, case_of


def small() -> Case:
    """A classifier of three classes near the edge of the box, so that the bounds matter."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    x = torch.rand(4, 3, 4, 4, generator=draw).round()
    return Case(model, x, torch.tensor([0, 1, 2, 0]), fa.objectives.cross_entropy, 2, 0.1, 0.04, (0.0, 1.0))


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


@pytest.mark.parametrize("name", ["plain", "plain channels_last", "ours", *peers.PEERS])
def test_every_way_makes_the_same_attack(name: str) -> None:
    case = small()
    try:
        run = attack_table.makers_of(case)[name]()
    except ImportError as error:
        pytest.skip(str(error))
    torch.testing.assert_close(run().double(), by_hand(case), atol=1e-6, rtol=0)
    assert all(p.requires_grad and p.grad is None for p in case.model.parameters()), "the user's model is left alone"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda x: x, "wrong: reached a loss of"),
        (lambda x: x + torch.nan, "wrong: reached a loss of nan"),
        (lambda x: x.new_zeros(2), "raised"),
    ],
)
def test_a_wrong_result_has_no_time(wrong: Callable[[Tensor], Tensor], reason: str) -> None:
    case = small()
    plain = attack_table.plain(case, torch.contiguous_format)
    losses, refused = attack_table.check(case, {"plain": plain, "peer": lambda: wrong(case.x), "ours": plain})
    assert set(losses) == {"plain", "ours"}
    assert refused["peer"].startswith(reason)


def test_a_result_outside_the_ball_has_no_time() -> None:
    """A linear loss that does not see the first pixel: only the distance tells."""
    case = small()
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        model[1].weight[:, 0] = 0
    case = replace(case, model=model.eval())
    plain = attack_table.plain(case, torch.contiguous_format)

    def outside() -> Tensor:
        adv = plain()
        adv[:, 0, 0, 0] = 0.5
        return adv

    losses, refused = attack_table.check(case, {"plain": plain, "peer": outside})
    assert set(losses) == {"plain"}
    assert "0.5 from the input, eps is 0.1" in refused["peer"]


def test_what_the_plain_loop_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        attack_table.check(small(), {"plain": lambda: 1 / 0})  # type: ignore[dict-item]


def options(**given: object) -> argparse.Namespace:
    usual = {"apart": False, "threads": 1, "device": "cpu", "rounds": 1, "steps": 2}
    return argparse.Namespace(**usual | given)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchattacks is not installed, foolbox raises, ART is somewhere else."""
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    monkeypatch.setitem(peers.PEERS, "foolbox", lambda case: 1 / 0)
    monkeypatch.setitem(peers.PEERS, "art", lambda case: lambda: case.x)


@pytest.mark.usefixtures("missing")
def test_missing_peers_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(attack_table, "case_from", lambda name, options: small())
    row = attack_table.measured("small", options())
    assert {"plain", "plain channels_last", "ours"} <= set(row["seconds"]) == set(row["loss"])
    assert not set(peers.PEERS) & set(row["seconds"])
    assert row["refused"]["torchattacks"].startswith("not installed: ")
    assert row["refused"]["foolbox"] == "raised ZeroDivisionError: division by zero"
    assert row["refused"]["art"].startswith("wrong: ")
    out = capsys.readouterr().out
    assert "torchattacks         no time: not installed: " in out
    assert "best peer" not in out


def test_denoisers_have_no_peers() -> None:
    assert peers.peers_of(replace(small(), bounds=None)) == {}
    assert list(peers.peers_of(small())) == ["torchattacks", "foolbox", "art"]


def test_unknown_cases_are_named() -> None:
    with pytest.raises(ValueError, match=r"name: wanted one of dncnn, .*, resnet18, got 'vgg'"):
        case_of("vgg", shared=None)


def test_untrained_cases_are_the_same_each_time() -> None:
    one, other = (case_of("ffdnet", shared=None, steps=1) for _ in range(2))
    assert torch.equal(one.x, other.x)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
