"""The configuration of the main job: what an attack has no place for is named, never dropped."""

from __future__ import annotations

import pytest

from fastattack.job import ATTACKS, JobConfig, build_attack


def model(x: object) -> object:
    return x


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_defaults_suit_every_attack(attack):
    config = JobConfig(attack=attack)
    assert config.steps == (1 if attack == "fgsm" else 10)
    assert config.norm == ("l2" if attack == "obsatk" else "linf")
    built = build_attack(model, config)
    assert built.threat.norm == config.norm
    assert built.schedule.steps in (config.steps, config.steps - 1)  # queries: that of the input is one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "fgsm", "steps": 5}, "steps: wanted none for fgsm"),
        ({"attack": "fgsm", "step": 0.1}, "step: wanted none for fgsm"),
        ({"attack": "square", "step": 0.1}, "step: wanted none for square"),
        ({"attack": "obsatk", "norm": "linf"}, "norm: wanted l2 for obsatk"),
        ({"attack": "obsatk", "norm": "l1"}, "norm: wanted l2 for obsatk"),
    ],
)
def test_what_has_no_place_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_attack(model, JobConfig(**options))


def test_what_has_a_place_passes():
    build_attack(model, JobConfig(attack="obsatk", norm="l2", step=0.1, steps=3))
    build_attack(model, JobConfig(attack="fgsm", norm="l1"))
    build_attack(model, JobConfig(attack="square", norm="l2", steps=30))
