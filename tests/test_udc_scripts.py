"""scripts/train_udc.py and scripts/udc_results.py from images to a table, at a tiny size."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastattack.images import save_png

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    found = {name: importlib.import_module(name) for name in ("train_udc", "udc_results")}
    yield found
    for name in found:
        sys.modules.pop(name, None)


def arguments(module: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    return module.parse_args()


def test_from_images_to_a_table(scripts, tmp_path, monkeypatch, capsys):
    train, results = scripts["train_udc"], scripts["udc_results"]
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(2):
        image = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(k))
        save_png(folder / f"{k}.png", image.repeat_interleave(34, 1).repeat_interleave(34, 2))
    out = tmp_path / "models"
    common = ("--out", out, "--train", folder, "--valid", folder, "--batch", 2, "--patch", 34)
    train.train(arguments(train, monkeypatch, "restorer", *common, "--steps", 2))
    train.train(arguments(train, monkeypatch, "purified", *common, "--steps", 1))
    train.train(arguments(train, monkeypatch, "adversarial", *common, "--steps", 1, "--attack-steps", 1))
    assert capsys.readouterr().out.count("828868 parameters") == 3

    into = tmp_path / "cells"
    words = ("--models", out, "--data", folder, "--count", 1, "--crop", 33, "--out", into)
    asked = arguments(
        results, monkeypatch, "run", *words, "--defences", "none", "purified", "--attacks", "PGD 4/256", "--no-check"
    )
    results.run(asked)
    capsys.readouterr()
    results.run(asked)
    assert capsys.readouterr().out == ""  # everything is there
    results.tables(arguments(results, monkeypatch, "table", "--out", into, "--json", tmp_path / "all.json"))
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("| PGD 4/256"))
    (content,) = json.loads((tmp_path / "all.json").read_text())
    none, clean = (
        next(r for r in content["rows"] if (r["defence"], r["attack"]) == ("none", name)) for name in ("PGD 4/256", "")
    )
    assert f"| {none['psnr']:.2f} |" in row
    assert none["psnr"] < clean["psnr"] - 0.1
    assert none["linf"] == pytest.approx(4 * 255 / 256, abs=1e-3)
    assert set(content["about"]["models"]) == {"restorer", "purified", "adversarial"}
