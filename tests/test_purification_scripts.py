"""scripts/segmentation_task.py and scripts/purification_results.py in small: masks, rows, tables."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.defenses import Blur
from fastattack.diffusion import Diffusion, Schedule
from tests.shared import needs_shared

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    """The modules of scripts/, by name."""
    sys.path.insert(0, str(SCRIPTS))
    parts = ("bench", "digits", "segmentation", "denoising", "store", "tables")
    names = ("segmentation_task", "purification_results", *(f"purification.{part}" for part in parts))
    yield {name.rpartition(".")[2]: importlib.import_module(name) for name in names}
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def purifier() -> fa.Purifier:
    """For pixels N(0, 1/4) on the model's scale: it shrinks towards gray."""
    schedule = Schedule.linear()
    shares = torch.tensor([schedule.alpha_bar(k) for k in range(1001)])

    def best(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        share = shares[t + 1].view(-1, 1, 1, 1).to(x)
        return (1 - share).sqrt() / (share / 4 + 1 - share) * x

    return fa.Purifier(Diffusion(best, schedule, channels=1), t_star=40, steps=2, surrogate_steps=1)


class Slow(Blur):
    """Stands for BM3D."""


def few(scripts: dict[str, Any]) -> Any:
    return scripts["bench"].Effort(steps=2, through=2, averaged=1, slow=1, eot=2, draws=2)


def test_strokes_lie_where_the_mask_says(scripts: dict[str, Any]) -> None:
    task = scripts["segmentation_task"]
    photos, ink = [torch.full((1, 60, 70), 0.6)], task.strokes(train=False)
    assert len(ink) == task.HELD_OUT
    images, labels = task.draw(20, photos, ink, torch.Generator().manual_seed(0))
    again = task.draw(20, photos, ink, torch.Generator().manual_seed(0))
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    above, below = (images[:, 0] - 0.6).clamp(min=0), (0.6 - images[:, 0]).clamp(min=0)
    # all ink would move 0.6 to 0.8 or to 0.3; more than half of it is a stroke
    assert torch.equal(labels == 1, above > 0.1 + 1e-7)
    assert torch.equal(labels == 2, below > 0.15 + 1e-7)
    for label in labels:  # a light digit in one column, a dark one in the other
        left, right = label[:, : task.DIGIT].unique().tolist(), label[:, task.DIGIT :].unique().tolist()
        assert sorted([left, right]) == [[0, 1], [0, 2]]


def test_iou_by_counting(scripts: dict[str, Any]) -> None:
    labels = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 2]]])
    said = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 1]]])
    found = scripts["segmentation_task"].iou(nn.functional.one_hot(said, 3).permute(0, 3, 1, 2).float(), labels)
    # first image: 1/2 and 2/3; second: 1 and 0 (class 1 is not there, but said)
    assert found.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 0.5])


@needs_shared
def test_segmenters_train_and_stay(scripts: dict[str, Any], tmp_path: Path) -> None:
    part, task = scripts["segmentation"], scripts["segmentation_task"]
    model = part.network(tmp_path, 2)
    assert sum(p.numel() for p in model.parameters()) <= 200_000
    kept = (tmp_path / "segmenter-2.safetensors").read_bytes()
    torch.testing.assert_close(task.train(2)[0].weight, model[0].weight, rtol=0, atol=0)  # by its seed
    hard = part.hardened(tmp_path, 2, 1)
    assert (tmp_path / "segmenter-2.safetensors").read_bytes() == kept
    assert not torch.equal(hard[0].weight, model[0].weight)
    images, _ = task.held_out(3)
    assert images.shape == (3, 1, 48, 48)
    assert 0 <= images.min() < images.max() <= 1


def test_rows_are_kept_until_their_settings_change(
    scripts: dict[str, Any], purifier: fa.Purifier, tmp_path: Path
) -> None:
    made: list[str] = []

    def make() -> dict[str, Any]:
        made.append("row")
        return {"value": len(made)}

    path = tmp_path / "r.json"
    store = scripts["store"].Store
    other = purifier.replaced(t_star=50)
    for settings, used, rows in (({"n": 1}, None, 1), ({"n": 1}, None, 1), ({"n": 2}, None, 2), ({"n": 2}, purifier, 3),
                                 ({"n": 2}, purifier, 3), ({"n": 2}, other, 4)):  # fmt: skip
        assert store(path, "a", settings, "embedded")("row", make, used) == "row"
        assert len(made) == rows
    store(path, "b", {}, "embedded")("else", make)
    assert json.loads(path.read_text()).keys() == {"a", "b"}  # a section leaves the others alone
    assert json.loads(path.read_text())["a"]["row"]["value"] == 4


def test_digits_rows_and_tables(
    scripts: dict[str, Any], purifier: fa.Purifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, tables = scripts["digits"], scripts["tables"]
    monkeypatch.setattr(digits, "LEVELS", [20, 60])
    monkeypatch.setattr(digits, "SLOW", 1)
    monkeypatch.setattr(digits, "Bm3d", Slow)  # half a second an image
    monkeypatch.setattr(digits, "trained", lambda task, hardened=False: digits.network().eval())
    store = scripts["store"].Store(tmp_path / "r.json", "digits", {}, "embedded")
    names = list(digits.rows(purifier, 8, few(scripts), store))
    assert names[0] == "no defence"
    assert names[-3:-1] == ["levels", "purifier"]
    rows = json.loads((tmp_path / "r.json").read_text())["digits"]
    for name in set(names) - {"levels"}:
        row = rows[name]
        count = 1 if "Bm3d" in name else 8
        assert row["count"] == len(row["clean"]) == count
        assert row["adaptive"] or name == "noise-trained MLP, purifier"
        assert all(len(v) == count for kind in ("blind", "adaptive") for v in row[kind].values())
    assert set(rows["purifier"]["adaptive"]) == {
        "PGD, blind", "PGD, full", "PGD, bpda", "PGD, surrogate", "PGD, full+eot",
    }  # fmt: skip
    assert "PGD, BPDA" in rows["Jpeg(quality=75)"]["adaptive"]
    assert rows["no defence"]["blind"] == rows["no defence"]["adaptive"]
    assert rows["levels"]["chosen"] in (20, 60)
    text = tables.markdown({"digits": rows})
    widths = [{line.count("|") for line in part.splitlines() if line.startswith("|")} for part in text.split("\n\n")]
    assert all(len(found) <= 1 for found in widths)
    assert text.count("\n| ") >= len(names) + 3


def test_adversarial_training_moves_the_classifier(scripts: dict[str, Any]) -> None:
    digits = scripts["digits"]
    task = digits.task()
    few_digits = tuple(part[: task.HELD_OUT + 64] for part in task.digits())
    task.digits = lambda: few_digits
    plain, hard, again = (digits.trained(task, epochs=1, hardened=h)[0].weight for h in (False, True, True))
    assert not torch.equal(plain, hard)
    assert torch.equal(hard, again)


@needs_shared
def test_a_row_of_denoising(scripts: dict[str, Any], purifier: fa.Purifier, tmp_path: Path) -> None:
    denoising = scripts["denoising"]
    x = denoising.crops("bsd68", 1, 16, 2)
    case = denoising.case(x, denoising.small(), few(scripts))
    assert (case.x - x).std().item() == pytest.approx(25 / 255, rel=0.2)
    row = case.row(denoising.in_front(purifier))
    assert {"free, full", "free, full+eot", "noise kept, full+eot"} <= row["adaptive"].keys()
    assert denoising.in_front(purifier).sigma >= 35 / 255
    for name in denoising.STRATEGIES:
        model = denoising.tuned(tmp_path, name, 1)
        assert not torch.equal(next(model.parameters()), next(denoising.small().parameters()))
    assert len(list(tmp_path.iterdir())) == len(denoising.STRATEGIES)


def test_the_strongest_attack_is_the_one_that_counts(scripts: dict[str, Any]) -> None:
    tables = scripts["tables"]
    bare = {
        "count": 2,
        "clean": [1.0, 1.0],
        "blind": {"a": [0.0, 0.0]},
        "adaptive": {"a": [0.0, 0.0]},
        "milliseconds": 20.4,
    }
    some = {"count": 2, "clean": [1.0, 1.0], "blind": {"a": [1.0, 0.0], "b": [1.0, 1.0]}, "milliseconds": 1.0,
            "adaptive": {"c": [0.0, 0.0], "d": [1.0, 0.0]}}  # fmt: skip
    none, row = tables.section({"net, no defence": bare, "net, x": some}, tables.percent).splitlines()[2:4]
    sure = "0 % (0 % .. 0 %)"
    assert none == f"| net, no defence | 2 | 100 % (100 % .. 100 %) | {sure} | {sure} |  |  | a | 20 |"
    assert row == (
        f"| net, x | 2 | 100 % (100 % .. 100 %) | 50 % (0 % .. 100 %) | {sure} | +50 % (+0 % .. +100 %) | "
        "+0 % (+0 % .. +0 %) | c | 1 |"
    )
    assert "| net, x | 50 % /" not in tables.section({"net, x": some}, tables.percent)  # none of that name went through
    ways = {"a, full": [0.5, 0.0], "a, full+eot": [0.5, 1.0], "b": [1.0, 1.0]}
    assert "| y | 50 % / 25 % | 100 % / 100 % |" in tables.section({"y": some | {"adaptive": ways}}, tables.percent)
