"""scripts/agdm_results.py and scripts/guided_step.py in small: rows, tables, and what is not made twice."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastattack.defenses import Auxiliary

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
EMBEDDED = SCRIPTS.parent / "fastattack" / "assets" / "diffusion_small_gray.safetensors"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    yield importlib.import_module("agdm_results")
    torch.set_num_threads(threads)


def test_rows_are_kept_and_tables_are_means_of_them(
    results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Auxiliary(1, widths=(2, 2), latent=3, classes=10).save(tmp_path / "auxiliary.safetensors", metadata={"epochs": 99})
    few = ["--out", str(tmp_path), "--digits", "3", "--reverse", "1", "--steps", "1", "--draws", "2", "--ways", "blind"]
    monkeypatch.setattr(
        results, "classifier", lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    )
    results.main([*few, "--scales", "0.5"])
    first = json.loads((tmp_path / "agdm.json").read_text())
    assert list(first["rows"]) == ["nothing", "network as classifier", "purified", "guided, scale 0.5"]
    results.main([*few, "--scales", "0.5", "2"])
    second = json.loads((tmp_path / "agdm.json").read_text())
    assert {name: second["rows"][name] for name in first["rows"]} == first["rows"]
    assert "guided, scale 2" in second["rows"]
    assert second["diffusion_sha256"] == hashlib.sha256(EMBEDDED.read_bytes()).hexdigest()
    assert second["auxiliary"]["epochs"] == "99", "as the file says, whatever the script would do today"
    (tmp_path / "agdm.json").write_text(json.dumps(second | {"diffusion_sha256": "that of another model"}))
    results.main([*few, "--scales"])
    assert list(json.loads((tmp_path / "agdm.json").read_text())["rows"]) == list(first["rows"])[:3], "made anew"
    rows = {
        "purified": {
            "clean": [1, 0],
            "ways": {"blind": [0.5, 0], "full": [0, 0.25]},
            "cpu_seconds": 2,
            "purify_ms": 1.5,
        }
    }
    rows["guided, scale 1"] = rows["purified"] | {"clean": [1, 1]}
    text = results.tables({"rows": rows, "config": {"ways": ["blind", "full"]}})
    assert "| purified | 50.0 ± 50.0 | 25.0 ± 25.0 | 12.5 ± 12.5 | 0.0 ± 0.0 | 1.5 | 2 |" in text
    assert "guided, scale 1, less purified (points, paired): clean 50.0 ± 50.0, blind 0.0 ± 0.0" in text
    assert "± " in capsys.readouterr().out


def test_medians_of_each_way(results: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the ways themselves move: the first two rounds do not count."""
    step = importlib.import_module("guided_step")
    clock, calls = [0.0], []

    def takes(seconds: float) -> None:
        calls.append(seconds)
        clock[0] += seconds if len(calls) > 4 else 100.0

    monkeypatch.setattr(step.time, "process_time", lambda: clock[0])
    assert step.medians([lambda: takes(1.0), lambda: takes(3.0)], 3) == pytest.approx([1.0, 3.0])
    assert calls == [1.0, 3.0] * 5
