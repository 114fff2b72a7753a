"""A run that stops anywhere goes on to the same numbers, and nothing that was good is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastattack import models
from fastattack import training as t
from fastattack.training import checkpoint
from tests.test_training import Moody, Poisoned, images, patches, same, strategy, tiny

SIZES = ((20, 24), (17, 19))


def finish(out: Path, model: nn.Module, name: str, config: t.TrainConfig, **options: object) -> dict[str, Tensor]:
    """Train to the end; the weights then."""
    t.train(model, patches(), strategy(name), config, out=out, **options)  # type: ignore[arg-type]
    return model.state_dict()


def interrupt(
    out: Path, model: nn.Module, name: str, config: t.TrainConfig, at: tuple[int, int], **options: object
) -> None:
    """Ctrl-C before a step of an epoch."""
    stopping = Poisoned(images(*SIZES), size=8, batch=4, steps_per_epoch=5, at=at, error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        t.train(model, stopping, strategy(name), config, out=out, resume=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("autocast", [None, "bf16"])
@pytest.mark.parametrize(("name", "make"), [("ts", tiny), ("pgd", Moody), ("hat", tiny)])
def test_a_resumed_run_gives_the_same_bits(name, make, autocast, ema, tmp_path):
    config = t.TrainConfig(
        steps=13, ema=ema, autocast=autocast, channels_last=autocast is not None, warmup=4, log_every=4, save_every=3
    )
    check = t.Validation(images=images((9, 9)), sigma=0.1, steps=1)
    whole = finish(tmp_path / "whole", make(), name, config, validation=check)
    for at in ((0, 0), (0, 4), (1, 1), (2, 2)):
        interrupt(tmp_path / "parts", make(), name, config, at, validation=check)
    torch.manual_seed(99)  # the process that goes on has another random state
    parts = finish(tmp_path / "parts", make(seed=5), name, config, validation=check, resume=True)
    assert same(whole, parts)
    files = [torch.load(tmp_path / k / "checkpoint.pt", weights_only=True) for k in ("whole", "parts")]
    assert same(files[0], files[1])
    assert (files[0]["ema"] is None) == (ema is None)


def test_the_log_has_every_row_once(tmp_path):
    config = t.TrainConfig(steps=13, log_every=2)
    finish(tmp_path / "whole", tiny(), "plain", config)
    interrupt(tmp_path / "parts", tiny(), "plain", config, (1, 4))
    log = tmp_path / "parts" / "log.csv"
    assert [line.split(",")[1] for line in log.read_text().split()[1:]] == ["2", "4", "5", "6", "8"]
    with log.open("a") as file:
        file.write("1,9,0.33")  # killed in the middle of a row
    finish(tmp_path / "parts", tiny(), "plain", config, resume=True)
    assert log.read_text() == (tmp_path / "whole" / "log.csv").read_text()


def test_resuming_without_a_checkpoint_begins(tmp_path):
    config = t.TrainConfig(steps=3)
    whole = finish(tmp_path / "a", tiny(), "plain", config)
    assert same(whole, finish(tmp_path / "b", tiny(), "plain", config, resume=True))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    config = t.TrainConfig(steps=3, ema=0.5)
    whole = finish(tmp_path, tiny(), "plain", config)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".safetensors"}
    kept = models.load("dncnn", weights=tmp_path / "model.safetensors").state_dict()
    assert same(whole, finish(tmp_path, tiny(seed=3), "plain", config, resume=True))
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".safetensors"}
    assert same(kept, models.load("dncnn", weights=tmp_path / "model.safetensors").state_dict())


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    for share in (0.0, 0.3, 0.9):
        yield f"cut at {share}", data[: int(share * len(data))]
    yield "last byte lost", data[:-1]
    for place in (0.1, 0.5, 0.95):
        k = int(place * len(data))
        yield f"bit flipped at {place}", data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :]
    yield "text", b"not a checkpoint\n" * 9


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(tmp_path):
    config = t.TrainConfig(steps=13)
    whole = finish(tmp_path / "whole", tiny(), "plain", config)
    out = tmp_path / "out"
    interrupt(out, tiny(), "plain", config, (2, 1))
    good = (out / "checkpoint.pt").read_bytes()
    for label, data in damaged(good):
        (out / "checkpoint.pt").write_bytes(data)
        before = {p.name: p.read_bytes() for p in out.iterdir()}
        model = tiny(seed=7)
        with pytest.raises(ValueError, match=r"checkpoint\.pt: .*remove it to go on from .*checkpoint\.previous\.pt"):
            finish(out, model, "plain", config, resume=True)
        assert before == {p.name: p.read_bytes() for p in out.iterdir()}, label
        assert same(model.state_dict(), tiny(seed=7).state_dict()), label
    (out / "checkpoint.pt").unlink()
    assert same(whole, finish(out, tiny(), "plain", config, resume=True))


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint of fastattack's training"):
        finish(tmp_path, tiny(), "plain", t.TrainConfig(steps=3), resume=True)


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"config": t.TrainConfig(steps=13, lr=1.0)}, r"config\.lr: wanted 1\.0, got 0\.001"),
        ({"config": t.TrainConfig(steps=13, ema=0.9)}, r"config\.ema: wanted 0\.9, got None"),
        ({"name": "ts"}, r"strategy\.strategy: wanted TypicalSet, got Plain"),
        ({"seed": 4}, r"strategy\.seed: wanted 4, got 0"),
        ({"model": models.DnCNN(1, depth=4, features=8)}, r"model\.model\.4\.weight: wanted"),
        ({"model": models.DnCNN(1, depth=3, features=4)}, r"model\.model\.0\.weight: wanted \(4, 1, 3, 3\) float32"),
        ({"patches": {"seed": 2}}, r"data\.seed: wanted 2, got 0"),
        ({"patches": {"batch": 2}}, r"data\.batch: wanted 2, got 4"),
    ],
)
def test_another_runs_checkpoint_is_refused(difference, message, tmp_path):
    interrupt(tmp_path, tiny(), "plain", t.TrainConfig(steps=13), (2, 1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    model = difference.get("model", tiny())
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"checkpoint\.pt: the checkpoint of another run: .*" + message):
        t.train(
            model, patches(**difference.get("patches", {})),
            strategy(difference.get("name", "plain"), difference.get("seed", 0)),
            difference.get("config", t.TrainConfig(steps=13)), out=tmp_path, resume=True,
        )  # fmt: skip
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert same(kept, model.state_dict())


def test_what_changes_no_weight_may_change(tmp_path):
    whole = finish(tmp_path / "a", tiny(), "plain", t.TrainConfig(steps=13))
    interrupt(tmp_path / "b", tiny(), "plain", t.TrainConfig(steps=13), (2, 1))
    other = t.TrainConfig(steps=13, save_every=2, log_every=3, valid_every=2)
    assert same(whole, finish(tmp_path / "b", tiny(), "plain", other, resume=True))


class Killed(BaseException):
    """Stands for a kill at a call of the file system."""


def test_killed_at_every_touch_of_the_disk_it_goes_on(tmp_path, monkeypatch):
    config = t.TrainConfig(steps=7, save_every=3)
    whole = finish(tmp_path / "whole", tiny(), "plain", config)
    calls = {"replace": os.replace, "fsync": os.fsync}
    left = [0]

    def counted(name: str):
        def call(*arguments: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return calls[name](*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in calls:
            patch.setattr(os, name, counted(name))
        for number in range(1, 1000):
            out = tmp_path / str(number)
            left[0] = number
            try:
                finish(out, tiny(), "plain", config)
            except Killed:
                if found := checkpoint.latest(out):
                    checkpoint.load(found, torch.load(found, weights_only=True)["identity"])
                left[0] = 0
                assert same(whole, finish(out, tiny(), "plain", config, resume=True)), number
            else:
                break
    assert number > 20


def test_a_disk_that_is_full_is_named_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    config = t.TrainConfig(steps=13)
    whole = finish(tmp_path / "whole", tiny(), "plain", config)
    out, sync, left = tmp_path / "out", os.fsync, [6]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"checkpoint\.pt: cannot be written: .*No space left"):
            finish(out, tiny(), "plain", config)
    assert not list(out.glob("*.tmp"))
    assert same(whole, finish(out, tiny(), "plain", config, resume=True))


def test_leftovers_of_a_killed_write_go_when_a_run_starts_and_nothing_else_does(tmp_path):
    config = t.TrainConfig(steps=13)
    interrupt(tmp_path, tiny(), "plain", config, (1, 1))
    theirs = [f".{name}.{'0a' * 6}.tmp" for name in ("checkpoint.pt", "log.csv", "model.safetensors")]
    others = ["mine.tmp", ".other.pt.0a0a0a0a0a0a.tmp", ".checkpoint.pt.tmp", "checkpoint.pt.0a0a0a0a0a0a.tmp"]
    others += [".log.csv.draft.tmp", ".xlog.csv.0a0a0a0a0a0a.tmp"]
    for name in (*theirs, *others):
        (tmp_path / name).touch()
    (tmp_path / ".log.csv.0a.tmp").mkdir()
    with pytest.raises(ValueError, match="another run"):
        finish(tmp_path, tiny(), "ts", config, resume=True)
    assert all((tmp_path / name).exists() for name in (*theirs, *others))  # another run's folder is left alone
    finish(tmp_path, tiny(), "plain", config, resume=True)
    left = {p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")}
    assert left == {*others, ".log.csv.0a.tmp"}
    (tmp_path / theirs[0]).touch()
    finish(tmp_path, tiny(), "plain", config, overwrite=True)
    assert not (tmp_path / theirs[0]).exists()
