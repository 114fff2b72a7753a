"""`fastattack distill`: what it writes, how it goes on, and what it says of bad input."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fastattack as fa
from fastattack.distillation import load_student
from fastattack.distillation.learning import Student
from tests.command import run
from tests.test_distill_queries import serving

TARGET = """
import os, pathlib, torch
calls = pathlib.Path(os.environ["CALLS"])

class Target(torch.nn.Module):
    def forward(self, x):
        before = len(calls.read_text()) if calls.exists() else 0
        if before + len(x) > int(os.environ.get("DIES_AT", "1000000")):
            raise KeyboardInterrupt
        calls.write_text("." * (before + len(x)))
        return torch.stack([x.mean((1, 2, 3)), x[:, :, :4].mean((1, 2, 3)), x[..., :4].mean((1, 2, 3))], 1) * 20

def target():
    return Target()

def labels():
    return lambda x: Target()(x).argmax(1)

def student():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

def wide():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 3))

def function():
    return lambda x: x
"""


class Place:
    """A folder with images, their labels and the target's file; knows how many images were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.file, self.out = folder, folder / "data", folder / "target.py", folder / "out"
        self.calls = folder / "calls"
        self.data.mkdir()
        self.file.write_text(TARGET)
        random = np.random.default_rng(0)
        for k in range(40):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(self.data / f"image{k:02d}.png")
        (folder / "labels.json").write_text(json.dumps({f"image{k:02d}": k % 3 for k in range(40)}))

    @property
    def asked(self) -> int:
        return len(self.calls.read_text()) if self.calls.exists() else 0

    def command(self, *more: object, function: str = "target", budget: int = 60, out: Path | None = None) -> list[Any]:
        fixed = ["distill", "--query", f"{self.file}:{function}", "--data", self.data, "--out", out or self.out]
        return [*fixed, "--budget", budget, "--steps", 6, "--features", 4, "--query-batch", 10, "--threads", 1, *more]


def same(one: Path, other: Path) -> None:
    """Bit for bit the same weights; the order of a file's metadata is the writer's."""
    a, b = load_file(one), load_file(other)
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(tmp_path)
    monkeypatch.setenv("CALLS", str(found.calls))
    return found


def test_it_writes_a_student_and_says_how_it_came(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--query-noise", "0.1", "--mixup", "--labels", place.folder / "labels.json", "--seed", 3)
    code, out, _ = run(capsys, *place.command(*more))
    assert code == 0
    assert "60 queries, 0 answered from the cache" in out
    assert "accuracy" in out
    assert place.asked == 60
    told = json.loads((place.out / "manifest.json").read_text())
    weights = place.out / "student.safetensors"
    assert told["student_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert told["target"]["sha256"] == hashlib.sha256(place.file.read_bytes()).hexdigest()
    assert told["options"]["seed"] == 3
    assert told["options"]["augment"] == {"hflip": False, "vflip": False, "shift": 0, "noise": 0.1}
    assert (told["result"]["kind"], told["result"]["queries"], told["result"]["held_out"]) == ("logits", 60, 4)
    assert told["result"]["rows"][-1]["step"] == 6
    student = load_student(weights)
    assert student(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert not student.training
    # the same from Python
    from fastattack.images import find_images, read_image

    inputs = torch.stack([read_image(path, 1) for path in find_images(place.data)])
    again = fa.distillation.SmallCNN(1, 3, features=4, seed=3)
    found = fa.distill(
        lambda x: torch.stack([x.mean((1, 2, 3)), x[:, :, :4].mean((1, 2, 3)), x[..., :4].mean((1, 2, 3))], 1) * 20,
        again, inputs, budget=60, steps=6, augment=fa.distillation.Augment(noise=0.1), seed=3, bounds=(0, 1),
        generated=fa.distillation.Generate(mixup=True), query_batch=10,
    )  # fmt: skip
    assert json.loads(json.dumps(found.rows)) == told["result"]["rows"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in load_file(weights).items())


def test_a_run_that_was_interrupted_goes_on(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, *place.command("--query-noise", 0.1))[0] == 0
    place.calls.unlink()
    broken = place.folder / "broken"
    monkeypatch.setenv("DIES_AT", "30")
    code, _, err = run(capsys, *place.command("--query-noise", 0.1, out=broken))
    assert (code, place.asked) == (130, 30)
    assert "interrupted" in err
    assert not (broken / "manifest.json").exists()
    monkeypatch.setenv("DIES_AT", "1000")
    code, out, _ = run(capsys, *place.command("--query-noise", 0.1, "--resume", out=broken))
    assert (code, place.asked) == (0, 60)
    assert "30 queries, 30 answered from the cache" in out
    name = "student.safetensors"
    same(broken / name, place.out / name)
    code, out, _ = run(capsys, *place.command("--query-noise", 0.1, "--resume", out=broken))  # nothing is left to do
    assert (code, place.asked) == (0, 60)
    same(broken / name, place.out / name)


def test_an_earlier_run_is_kept_unless_told(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *place.command("--student", f"{place.file}:student"))
    before = (place.out / "student.safetensors").read_bytes()
    kept = place.folder / "kept.safetensors"
    kept.write_bytes(before)
    code, _, err = run(capsys, *place.command())
    assert code == 2
    assert "holds a distillation; resume or overwrite it" in err
    code, _, err = run(capsys, *place.command("--overwrite", "--loss", "l2"))
    assert (code, "loss: wanted one of l1, kl, ce" in err) == (2, True)
    assert (place.out / "student.safetensors").read_bytes() == before
    code, _, err = run(capsys, *place.command("--resume", "--lr", "0.5", "--student", f"{place.file}:student"))
    assert (code, "the checkpoint of another run: learning.lr: wanted 0.5" in err) == (2, True)
    code, out, _ = run(capsys, *place.command("--overwrite", "--student", f"{place.file}:student"))
    assert code == 0
    assert "0 queries, 40 answered from the cache" in out
    same(place.out / "student.safetensors", kept)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--student", "FILE:wide"], "student: it does not take images"), (["--lr", "1e30"], "take a smaller lr")],
)
def test_an_earlier_run_outlives_one_that_fails(
    place: Place, capsys: pytest.CaptureFixture[str], more: list[Any], message: str
) -> None:
    assert run(capsys, *place.command())[0] == 0
    before = contents(place.out)
    assert {"student.safetensors", "manifest.json", "checkpoint.pt"} <= before.keys()
    more = [str(text).replace("FILE", str(place.file)) for text in more]
    code, _, err = run(capsys, *place.command("--overwrite", *more))
    assert (code != 0, message in err) == (True, True), err
    assert place.asked == 40
    assert contents(place.out) == before
    assert [path.name for path in place.out.iterdir() if path.is_dir()] == ["answers"]


def test_a_replacement_that_was_killed_goes_on(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = place.folder / "straight"
    assert run(capsys, *place.command("--lr", "0.01", out=straight))[0] == 0
    assert run(capsys, *place.command())[0] == 0
    before, save = contents(place.out), Student.save

    def dying(self: Student, folder: Path) -> None:
        save(self, folder)
        if self.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Student, "save", dying)
    assert run(capsys, *place.command("--lr", "0.01", "--overwrite"))[0] == 130
    assert contents(place.out) == before
    monkeypatch.setattr(Student, "save", save)
    assert run(capsys, *place.command("--lr", "0.01", "--resume"))[0] == 0
    same(place.out / "student.safetensors", straight / "student.safetensors")
    assert [path.name for path in place.out.iterdir() if path.is_dir()] == ["answers"]


def test_an_address_and_a_denoiser(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        command = place.command(
            "--header", "Authorization: Bearer secret", "--query-batch", 36, out=place.folder / "address"
        )
        command[2] = server.url
        code, out, _ = run(capsys, *command)
        assert code == 0
        assert "40 queries" in out
        assert [len(body["instances"]) for body in server.bodies] == [36, 4]  # --query-batch
        assert {h["Authorization"] for h in server.headers} == {"Bearer secret"}
    written = [path.read_bytes() for path in (place.folder / "address").rglob("*") if path.is_file()]
    assert not any(b"secret" in content for content in written)
    command = place.command(
        "--sigma", "25", "--student", "dncnn", "--depth", 3, "--held-out", 0, out=place.folder / "den"
    )
    command[2] = "embedded"
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    told = json.loads((place.folder / "den" / "manifest.json").read_text())
    assert (told["result"]["kind"], told["result"]["fidelity"]) == ("images", None)
    fa.models.load("dncnn", weights=place.folder / "den" / "student.safetensors", channels=1)


@pytest.mark.parametrize(
    ("more", "function", "message"),
    [
        (["--budget", 0], "target", "budget: wanted a whole number >= 1, got 0"),
        ([], "labels", "the query answers with labels alone; use loss='ce'"),
        ([], "nothing", "query: .* has no function 'nothing'"),
        (["--student", "vit"], "target", r"student: wanted one of cnn, dncnn, FILE\.py:function, got 'vit'"),
        (["--student", "dncnn"], "target", "student: wanted cnn or your own .* logits, got dncnn"),
        ([], "function", "student: wanted dncnn or your own for a query that answers with images, got cnn"),
        (["--rate", 2], "target", "rate: wanted none beside a model on this machine"),
        (["--header", "secret"], "target", "header: wanted 'Name: value', got a text of 6 characters"),
        (["--noise", 25], "target", r"noise: wanted a noise level from 0 to 1.* did you mean 25 / 255\?"),
        (["--query-noise", 25], "target", r"noise: wanted a noise level from 0 to 1.* did you mean 25 / 255\?"),
        (["--channels", 2], "target", "channels: wanted 1 or 3, got 2"),
        (["--encode", "jpeg"], "target", "encode: wanted one of lists, png, got 'jpeg'"),
        (["--resume", "--overwrite"], "target", "resume: wanted either resume or overwrite"),
    ],
)
def test_bad_input_is_one_line(
    place: Place, capsys: pytest.CaptureFixture[str], more: list[Any], function: str, message: str
) -> None:
    code, out, err = run(capsys, *place.command(*more, function=function))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err


def test_a_student_that_does_not_fit_costs_no_query(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *place.command("--student", f"{place.file}:wide"))
    assert (code, "student: it does not take images (1, 8, 8)" in err) == (2, True)
    assert place.asked == 0
    code, _, err = run(capsys, *place.command("--classes", 7))
    assert (code, "as the query's answers, got (2, 7)" in err) == (2, True)
    assert place.asked == 10


def test_images_of_two_sizes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (9, 8)).save(place.data / "wide.png")
    code, _, err = run(capsys, *place.command())
    assert code == 2
    assert "data: wanted images of one size, got 8 x 8 ('image39'), 8 x 9 ('wide')" in err
    assert not place.out.exists() or not list(place.out.iterdir())
