"""`fastattack train-registration` from image files to a weight file that `fastattack register` takes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastattack.images import save_png
from fastattack.models.llm_morph import load
from fastattack.training import checkpoint
from tests.command import run
from tests.test_registration_training import images
from tests.test_training import same

SMALL = ("--width", 4, "--levels", 2, "--batch", 2, "--log-every", 1, "--epoch-steps", 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for k, image in enumerate(images(3, (24, 28))):
        save_png(tmp_path / "data" / f"{k}.png", image)
    return tmp_path / "data"


def train(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    code, told, err = run(capsys, "train-registration", "--out", out, *SMALL, *arguments)
    assert code == 0, err
    return told


def _before_the_last_epoch(folder: Path) -> Path:
    """The run in folder/net as if it had been killed before its last epoch ended, in folder/again."""
    again = Path(shutil.copytree(folder / "net", folder / "again"))
    (again / checkpoint.PREVIOUS).replace(again / checkpoint.NAME)
    (again / "model.safetensors").unlink()
    return again


def test_a_net_is_trained_resumed_to_the_same_bits_and_registers(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = train(capsys, tmp_path / "net", "--data", data, "--val", data, "--steps", 4, "--amplitude", 2)
    rows = list(csv.DictReader((tmp_path / "net" / "log.csv").open(encoding="utf-8")))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert f"field error {float(rows[-1]['valid']):.3f} voxels" in told
    again = _before_the_last_epoch(tmp_path)
    train(capsys, again, "--data", data, "--val", data, "--steps", 4, "--amplitude", 2, "--resume")
    weights = [load_file(tmp_path / folder / "model.safetensors") for folder in ("net", "again")]
    assert same(*weights)
    code, told, err = run(
        capsys, "register", data / "0.png", data / "1.png", "--out", tmp_path / "out", "--model",
        f"llm-morph:{tmp_path / 'net' / 'model.safetensors'}",
    )  # fmt: skip
    assert code == 0, err
    assert "by net" in told  # the folder that was trained in


def test_adversarial_training_gives_other_weights(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, more in (("plain", ()), ("hard", ("--eps", "8/255", "--attack-steps", 2))):
        train(capsys, tmp_path / name, "--data", data, "--patch", 16, "--steps", 2, *more)
    plain, hard = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "hard"))
    assert plain.keys() == hard.keys()
    assert not same(plain, hard)


def test_a_language_model_learns_by_lora_and_stays_out_of_the_checkpoints(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "language")
    own = ("--data", data, "--steps", 4, "--language", tmp_path / "language", "--layers", "1:3", "--ema", 0.9)
    train(capsys, tmp_path / "net", *own)
    trained = load(tmp_path / "net" / "model.safetensors")
    stored = torch.load(tmp_path / "net" / checkpoint.NAME, weights_only=True)
    for part in ("model", "ema"):
        names = {name for name in stored[part] if name.startswith("blocks.net.")}
        assert names
        assert all("lora_" in name for name in names)
    moved = [p for name, p in trained.named_parameters() if "lora_B" in name]
    assert moved
    assert all(p.abs().max() > 0 for p in moved)  # LoRA's second factor begins at 0
    again = _before_the_last_epoch(tmp_path)
    train(capsys, again, *own, "--resume")
    assert same(load_file(again / "model.safetensors"), load_file(tmp_path / "net" / "model.safetensors"))
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "language")
    code, _, err = run(capsys, "train-registration", "--out", again, *SMALL, *own, "--resume")
    assert code == 2
    assert "another run: elsewhere" in err


def test_volumes_in_nifti_files_are_trained_on_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "data").mkdir()
    for k, image in enumerate(images(2, (10, 12, 14))):
        nibabel.save(nibabel.Nifti1Image(500 * image[0].numpy(), np.eye(4)), tmp_path / "data" / f"{k}.nii.gz")
    train(capsys, tmp_path / "net", "--data", tmp_path / "data", "--steps", 1, "--amplitude", 1, "--scale", 3)
    assert load(tmp_path / "net" / "model.safetensors").dims == 3


def test_options_that_do_not_fit_are_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_png(tmp_path / "other.png", images(1, (20, 28))[0])
    for arguments, error in (
        (("--data", data, "--data", tmp_path / "other.png"), "data: wanted images of one shape"),
        (("--data", data, "--similarity", "ncc"), "similarity: wanted one of mind"),
        (("--data", data, "--layers", "0:2"), "layers: wanted with --language"),
        (("--data", data, "--language", data, "--layers", "two"), "layers: wanted first:last+1"),
        (
            ("--data", data, "--language", data, "--layers", "0:1", "--weights", "x"),
            "layers: wanted none with --weights",
        ),
        (("--data", data, "--weights", "x"), "width: wanted none with --weights, whose file says it, got 4"),
        (("--data", data, "--weights", "x", "--no-lora"), "lora: wanted none with --weights"),
        (("--data", data, "--causal"), "causal: wanted with --language alone, got True"),
        (("--data", data, "--no-lora"), "lora: wanted with --language alone, got False"),
        (("--data", tmp_path / "none"), "none: no such file or folder"),
        (("--plane", "oblique"), "plane: wanted one of"),
        (("--patch", 32), "patch: wanted with --data"),
        (("--data", data, "--similarity", "none", "--supervised", 0), "similarity: wanted one, or a weight"),
    ):
        code, _, err = run(capsys, "train-registration", "--out", tmp_path / "out", *SMALL, *arguments)
        assert code == 2
        assert error in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
