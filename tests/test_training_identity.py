"""What a checkpoint says of its run: it loads without running code, and tells runs apart in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastattack import training as t
from fastattack.ops.spectrum import PRESETS, Spectrum
from fastattack.sampler import TypicalSetSampler
from fastattack.training import checkpoint
from fastattack.training.identity import plain_data
from tests.test_training import SIGMA, patches, same, strategy, tiny
from tests.test_training_resume import finish, interrupt


class Described(t.Patches):
    """Batches of a user's own, with a description of their own."""

    more: object = None

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "more": self.more}


def described(more: object) -> Described:
    made = Described(patches().images, size=8, batch=4, steps_per_epoch=5)
    made.more = more
    return made


FIVE = np.float64(5) / 255
NUMPYS = {
    "plain": lambda: t.plain(sigma=np.float64(SIGMA)),
    "interval": lambda: t.plain(sigma=(np.float32(0.1), np.float64(0.2))),
    "pgd": lambda: t.pgd(sigma=SIGMA, eps=FIVE, steps=1),
    "hat": lambda: t.hat(sigma=np.float64(SIGMA), eps=FIVE, steps=1),
    "ts": lambda: t.ts(
        TypicalSetSampler(
            sigma=np.float64(SIGMA), typicality=np.float64(0.1), mean=np.float64(0.0), plain_share=np.float64(0.3),
            spectrum=Spectrum(np.array([3.0, 1.0]), np.float64(0.4)),  # type: ignore[arg-type]
        )
    ),
}  # fmt: skip


def resumes(out: Path, make: Any, batches: t.Batches, config: t.TrainConfig) -> dict[str, Any]:
    """Train to the end, then again: the checkpoint that both leave."""
    for resume in (False, True):
        result = t.train(tiny(), batches, make(), config, out=out, resume=resume)
    assert {type(value) for row in result.rows for value in row.values()} <= {int, float}
    content: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return content["identity"]


@pytest.mark.parametrize("name", NUMPYS)
def test_numpys_numbers_in_a_strategy_make_a_checkpoint_that_loads(name, tmp_path):
    found = resumes(tmp_path, NUMPYS[name], patches(), t.TrainConfig(steps=2))
    assert found["strategy"]["sigma"] == pytest.approx([0.1, 0.2] if name == "interval" else SIGMA)


def test_numpys_numbers_in_a_configuration_make_a_checkpoint_that_loads(tmp_path):
    config = t.TrainConfig(
        steps=2, lr=np.float64(1e-3), lr_end=np.float64(0.1), weight_decay=np.float32(0.5), clip=np.float64(1),
        ema=np.float64(0.9), optimiser=np.str_("adamw"),
    )  # fmt: skip
    assert resumes(tmp_path, lambda: strategy("plain"), patches(), config)["config"]["lr"] == 1e-3


def test_a_users_description_makes_a_checkpoint_that_loads_and_tells_runs_apart(tmp_path):
    more = {
        "numbers": (np.float64(1.5), np.int64(3), np.bool_(True), float("nan"), None), "word": np.str_("kodak"),
        "files": [f"{k}.png" for k in range(400)], "tensor": torch.arange(5000), "array": np.arange(5000), 7: "seven",
    }  # fmt: skip
    batches = described(more)
    batches.steps_per_epoch = np.int64(5)  # type: ignore[assignment]
    found = resumes(tmp_path, lambda: strategy("plain"), batches, t.TrainConfig(steps=2))["data"]["more"]
    assert found["numbers"] == [1.5, 3, True, "nan", None]
    assert found["tensor"].startswith("(5000,) torch.int64 ")
    assert found["files"].startswith("400 entries ")
    assert max(len(str(value)) for value in found.values()) < 60
    array = np.arange(5000)
    array[2500] = 0  # numpy's own text leaves it out
    other = described({**more, "array": array})
    with pytest.raises(ValueError, match=r"another run: data\.more\.array: wanted \(5000,\) int64"):
        t.train(tiny(), other, strategy("plain"), t.TrainConfig(steps=2), out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (len, "data.more"),
        ({"a": [1, {2, 3}]}, r"data.more.a[1]"),
        ({"path": Path("x")}, "data.more.path"),
        (np.array([print]), "data.more"),
        ({(1, 2): 3}, "data.more"),
        (1j, "data.more"),
    ],
)
def test_what_cannot_be_compared_is_named_before_anything_is_written(more, name, tmp_path):
    with pytest.raises(TypeError) as caught:
        t.train(tiny(), described(more), strategy("plain"), t.TrainConfig(steps=2), out=tmp_path / "out")
    assert str(caught.value).startswith(f"{name}: wanted ")
    assert not (tmp_path / "out").exists()


def test_a_description_that_is_no_dict_is_named(tmp_path):
    class Wordy(t.Patches):
        def describe(self) -> Any:
            return "patches"

    with pytest.raises(TypeError, match=r"^data: wanted a dict"):
        t.train(
            tiny(), Wordy(patches().images, size=8), strategy("plain"), t.TrainConfig(steps=2), out=tmp_path / "out"
        )


def test_tensors_of_every_type_have_checksums():
    for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.int8, torch.complex64):
        a, b = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)
        assert plain_data(a, "a") == plain_data(a.t().contiguous().t(), "a") != plain_data(b, "b")
    assert plain_data(torch.tensor(1.0), "a") != plain_data(torch.empty(0), "a")


def falling(frequency: Tensor) -> Tensor:
    return 1 / (1 + frequency)


def coloured(power: Any) -> t.TypicalSet:
    return t.ts(TypicalSetSampler(sigma=SIGMA, spectrum=Spectrum(power, 0.5)))


def test_spectra_are_told_apart_by_their_values():
    maps = [np.ones((48, 25)) for _ in range(2)]
    maps[1][24, 12] = 2.0  # numpy's own text leaves it out
    powers: list[Any] = [
        falling, lambda f: 1 / (2 + f), maps[0], maps[1], torch.ones(48, 25).index_fill(0, torch.tensor([3]), 2.0),
        [1.0, 2.0], [1.0, 3.0], "adversarial",
    ]  # fmt: skip
    found = [str(coloured(power).describe()["spectrum"]) for power in powers]
    assert len(set(found)) == len(powers)
    for one, other in (
        ([1, 2], np.array([1.0, 2.0])),
        ((1.0, 2.0), torch.tensor([1.0, 2.0])),
        (falling, lambda f: 1 / (1 + f)),
    ):
        assert coloured(one).describe() == coloured(other).describe()
    preset = coloured("adversarial").describe()["spectrum"]
    numbers = coloured(PRESETS["adversarial"].power).describe()["spectrum"]
    assert preset == {"power": "adversarial " + numbers["power"], "share": 0.5}  # a new version's numbers are others


@pytest.mark.parametrize("power", [lambda f: 1.0, ["a", "b"], [[1.0], [1.0, 2.0]]])
def test_a_spectrum_that_cannot_be_is_named(power):
    with pytest.raises(TypeError, match=r"^spectrum: wanted"):
        coloured(power).describe()


def test_a_run_with_a_function_as_spectrum_goes_on_in_another_process(tmp_path):
    config = t.TrainConfig(steps=4, save_every=1)
    whole = tiny()
    t.train(whole, patches(), coloured(falling), config, out=tmp_path / "whole")
    script = """if True:
        import sys, torch
        from fastattack import training as t
        torch.set_num_threads(int(sys.argv[2]))  # convolutions add up in another order on more threads
        from tests import test_training as a, test_training_identity as b
        options = {"size": 8, "batch": 4, "steps_per_epoch": 5, "at": (0, 2), "error": KeyboardInterrupt}
        data, config = a.Poisoned(a.patches().images, **options), t.TrainConfig(steps=4, save_every=1)
        try:
            t.train(a.tiny(), data, b.coloured(b.falling), config, out=sys.argv[1])
        except KeyboardInterrupt:
            print("stopped")
    """
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "parts"), str(torch.get_num_threads())],
        cwd=Path(__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout == "stopped\n", ran.stderr
    parts = tiny()
    t.train(parts, patches(), coloured(falling), config, out=tmp_path / "parts", resume=True)
    assert same(whole.state_dict(), parts.state_dict())


def test_the_checkpoints_of_before_go_on(tmp_path):
    """The identity of the options that were plain already, and a checkpoint without the size of the batches."""
    config = t.TrainConfig(steps=13)
    whole = finish(tmp_path / "whole", tiny(), "ts", config)
    interrupt(tmp_path / "parts", tiny(), "ts", config, (2, 1))
    content = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    del content["batch"]
    content["identity"]["strategy"] = {
        "strategy": "TypicalSet", "sigma": SIGMA, "typicality": 0.1, "mean": 0.05, "spectrum": None, "plain_share": 0.5,
        "seed": 0,
    }  # fmt: skip
    checkpoint.save(tmp_path / "parts", {k: v for k, v in content.items() if k not in ("format", "torch")})
    assert same(whole, finish(tmp_path / "parts", tiny(), "ts", config, resume=True))
