"""Where the rows of a run go."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastattack import training as t
from tests.test_training import Poisoned, images, patches, strategy, tiny


def test_logs_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    for log, error, message in (("tensorboard", RuntimeError, "pip install"), ("xml", ValueError, "log: wanted")):
        with pytest.raises(error, match=message):
            t.train(tiny(), patches(), strategy("plain"), t.TrainConfig(steps=2), out=tmp_path / "out", log=log)
    assert not (tmp_path / "out").exists()


def test_tensorboard_gets_every_number_once(tmp_path, monkeypatch):
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append((Path(folder).name, purge_step, -1))

        def __enter__(self) -> Writer:
            return self

        def __exit__(self, *_: object) -> None: ...

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...

    fake = type("module", (), {"SummaryWriter": Writer})
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", fake)
    config = t.TrainConfig(steps=5, log_every=5)
    (row,) = t.train(tiny(), patches(), strategy("plain"), config, out=tmp_path, log="tensorboard").rows
    assert written[0] == ("tensorboard", 1, -1)
    assert written[1:] == [(k, row[k], 5) for k in ("loss", "psnr", "gradient", "rate")]


def test_tensorboard_itself_holds_every_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = t.TrainConfig(steps=13, log_every=2)
    stopping = Poisoned(
        images((20, 24), (17, 19)), size=8, batch=4, steps_per_epoch=5, at=(1, 4), error=KeyboardInterrupt
    )
    with pytest.raises(KeyboardInterrupt):  # after the row of step 8; the checkpoint is that of step 5
        t.train(tiny(), stopping, strategy("plain"), config, out=tmp_path, log="tensorboard")
    result = t.train(tiny(), patches(), strategy("plain"), config, out=tmp_path, log="tensorboard", resume=True)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "psnr", "gradient", "rate"}
    for name in board.Tags()["scalars"]:
        events = board.Scalars(name)
        assert [e.step for e in events] == [2, 4, 5, 6, 8, 10, 12, 13]
        assert [e.value for e in events] == pytest.approx([row[name] for row in result.rows], rel=1e-6)
