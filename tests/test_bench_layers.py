"""The layers suite: the same lines drive the original and ours, and both pass the gate."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest

from fastattack.bench.cases import Size, case_of
from fastattack.bench.judge import Judge
from fastattack.bench.layers import LAYERS, OURS, Layer, layer_trials, title, trial_of, ways_of
from fastattack.bench.timing import Pace, measure
from tests.small_attack import small

SMALL = Size(labelled=2, labelled_side=16)
TINY = Size(2, 16, 2, 8, 2, 32)
NAMED = {title(layer): layer for layer in LAYERS}


def installed(layer: Layer) -> None:
    for package in (layer.library, OURS + layer.library.partition(".")[0]):
        try:
            import_module(package)
        except (ImportError, RuntimeError) as error:
            pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMED)
def test_both_pass_the_gate(name: str) -> None:
    layer = NAMED[name]
    installed(layer)
    # ART has no squares for images of 4 x 4, and pixels of 0 and 1 do not move in Carlini & Wagner's space.
    large = "Square" in name or "Carlini" in name
    case = layer.prepared(case_of("resnet18", shared=None, steps=4, size=SMALL) if large else small(8, classes=10))
    judge = layer.judge(case)
    for way in ways_of(layer, case):
        judge(way.make())


def test_the_gate_sees_an_attack_of_another_radius() -> None:
    layer = NAMED["torchattacks PGD"]
    installed(layer)
    case = small(4)
    judge = Judge(case, lambda: layer.run(case, original=True)())
    weak = layer.run(replace(case, eps=case.eps / 2), original=False)
    with pytest.raises(Exception, match="reached a loss of"):
        judge(weak)
    strong = layer.run(replace(case, eps=case.eps * 2, step=0.1), original=False)
    with pytest.raises(Exception, match="from the input, eps is"):
        judge(strong)


def test_a_row() -> None:
    layer = NAMED["torchattacks FGSM"]
    installed(layer)
    row = measure(trial_of("row", layer, "resnet18", device="cpu", steps=2, size=TINY), Pace(rounds=1, least=1e-5))
    assert {way.side for way in row.timed()} == {"peer", "ours"}
    assert row.suite == "layers"


def test_every_class_once_and_one_of_each_library_on_large_images() -> None:
    names = [maker.args[0] for maker in layer_trials(device="cpu", quick=False)]
    assert sorted(n for n in names if n.endswith(" resnet18")) == sorted(f"{title(one)} resnet18" for one in LAYERS)
    assert {n.split()[0] for n in names if n.endswith("-224")} == {n.split()[0] for n in NAMED}
    assert all("art" in maker.args[0] for maker in layer_trials(device="cpu", quick=True, only=["art "]))
