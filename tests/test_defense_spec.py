"""Defences as the command line names them: the grammar, and every kind against the object that it should be."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Identity

import fastattack as fa
from fastattack.defenses import Blur, Bm3d, Jpeg, Median, open_defense, parse_defense
from fastattack.defenses.spec import DefenseSpec, check_defense_labels
from fastattack.evaluate.panel import Behind
from fastattack.evaluate.results import describe_defense
from fastattack.job import JobConfig, build_attack
from fastattack.models.tweedie import sha256_of_diffusion

EMBEDDED = Path(__file__).resolve().parents[1] / "fastattack" / "assets" / "diffusion_small_gray.safetensors"


@pytest.mark.parametrize(
    ("text", "label", "kind", "options"),
    [
        ("purifier:t_star=60", "purifier", "purifier", {"t_star": 60}),
        (" far=purifier:sigma=35.5,sampler=ddim,steps=3 ", "far", "purifier",
         {"sigma": 35.5, "sampler": "ddim", "steps": 3}),
        ("purifier:input_sigma=25", "purifier", "purifier", {"input_sigma": 25.0}),
        ("purifier:weights=a,b:c=d.safetensors,t_star=6", "purifier", "purifier",
         {"weights": "a,b:c=d.safetensors", "t_star": 6}),
        ("purifier:t_star=9,gradient=surrogate,surrogate_steps=2,seed=7,precision=bf16,output_sigma=5,max_batch=1",
         "purifier", "purifier", {"t_star": 9, "gradient": "surrogate", "surrogate_steps": 2, "seed": 7,
                                  "precision": "bf16", "output_sigma": 5.0, "max_batch": 1}),
        ("blur:1.5", "blur1.5", "blur", {"sigma": 1.5}),
        ("median:3", "median3", "median", {"size": 3}),
        ("low quality=jpeg:quality=40", "low quality", "jpeg", {"quality": 40}),
        ("bm3d:25", "bm3d25", "bm3d", {"sigma": 25.0}),
    ],
)  # fmt: skip
def test_parses(text: str, label: str, kind: str, options: dict[str, Any]) -> None:
    assert parse_defense(text) == DefenseSpec(text.strip(), label, kind, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("purifyer:t_star=6", "'purifyer:t_star=6' has the unknown kind 'purifyer'; did you mean 'purifier'"),
        ("a=jpg:50", "unknown kind 'jpg'; did you mean 'jpeg'"),
        ("purifier:t_sta=6", "'purifier:t_sta=6' has the unknown key 't_sta'; did you mean 't_star'"),
        ("purifier:60", "has the unknown key '60'"),
        ("purifier", "wanted t_star=LEVEL or sigma=LEVEL .* got neither"),
        ("purifier:steps=3", "got neither"),
        ("purifier:t_star=6,t_star=7", "has the key 't_star' twice"),
        ("purifier:t_star=6,sigma=7", "sigma: wanted none beside t_star"),
        ("purifier:t_star=6.5", "t_star: wanted a whole number >= 0, got '6.5'"),
        ("purifier:t_star=", "t_star: wanted t_star=VALUE, got nothing"),
        ("purifier:sigma=300", "sigma: wanted a noise level on the 0-255 scale, from 0 to 255, got '300'"),
        ("purifier:sigma=nan", "sigma: wanted a number, got 'nan'"),
        ("purifier:t_star=6,sampler=euler", "sampler: wanted one of ddpm, ddim, got 'euler'"),
        ("purifier:t_star=6,gradient=none", "gradient: wanted one of full, bpda, surrogate, got 'none'"),
        ("jpeg", "quality: wanted jpeg:QUALITY, got nothing"),
        ("jpeg:high", "quality: wanted a whole number >= 0, got 'high'"),
        ("blur:wide", "sigma: wanted a number, got 'wide'"),
        ("", "unknown kind ''"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_defense(text)
    assert repr(text) in str(error.value)


def test_every_label_once() -> None:
    twice = [parse_defense("purifier:t_star=6"), parse_defense("purifier:t_star=60")]
    with pytest.raises(ValueError, match="both be called 'purifier'; give one a label: purifier-2=purifier:t_star=60"):
        check_defense_labels(twice)
    check_defense_labels([twice[0], parse_defense("far=purifier:t_star=60")])


def images() -> torch.Tensor:
    return torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))


def test_the_run_says_what_the_text_leaves_open(tmp_path: Path) -> None:
    """Noise levels on the 0-255 scale; the text wins over the run."""
    weights = tmp_path / "a,b.safetensors"
    shutil.copy(EMBEDDED, weights)
    ids = torch.tensor([5, 3])
    run: dict[str, Any] = {"channels": 1, "input_sigma": 25, "output_sigma": 20, "seed": 4}
    by_run = open_defense(parse_defense("purifier:sigma=35,steps=2"), **run)
    want = fa.Purifier(sigma=35 / 255, steps=2, input_sigma=25 / 255, output_sigma=20 / 255, seed=4)
    assert torch.equal(by_run.purify(images(), ids), want.purify(images(), sample_ids=ids))
    text = f"purifier:weights={weights},t_star=70,input_sigma=10,output_sigma=0,seed=1,sampler=ddim,steps=2"
    by_text = open_defense(parse_defense(text), **run)
    want = fa.Purifier(t_star=70, input_sigma=10 / 255, seed=1, sampler="ddim", steps=2)
    assert torch.equal(by_text.purify(images(), ids), want.purify(images(), sample_ids=ids))
    assert by_run.sha256 == by_text.sha256 == hashlib.sha256(EMBEDDED.read_bytes()).hexdigest()
    assert by_run.random
    assert not open_defense(parse_defense("purifier:t_star=0"), channels=1).random
    assert not by_run.purify(images().requires_grad_(), ids).requires_grad


def test_a_model_that_draws_behind_a_defence_that_does_not() -> None:
    """EOT has something to average wherever the noise is drawn."""
    texts = ("jpeg:50", "purifier:t_star=0", "purifier:t_star=9,steps=1")
    jpeg, still, drawn = (open_defense(parse_defense(text), channels=1) for text in texts)
    purified = fa.Purifier(t_star=9, steps=1)(Identity())
    for model, eot in (
        (jpeg(purified), 3), (still(purified), 3), (drawn(Identity()), 3), (jpeg(drawn(Identity())), 3),
        (jpeg(Identity()), 1), (still(jpeg(Identity())), 1), (jpeg(still(Identity())), 1), (Identity(), 1),
    ):  # fmt: skip
        assert build_attack(model, JobConfig(eot=3, steps=1)).schedule.eot == eot, model
        told = describe_defense(Behind("m", jpeg), model)
        assert told["random"] == (eot == 3), model


def test_simple_kinds() -> None:
    for text, before in (("blur:1.5", Blur(1.5)), ("median:3", Median(3)), ("jpeg:40", Jpeg(40))):
        opened = open_defense(parse_defense(text), channels=1)
        assert opened.before == before
        assert (opened.sha256, opened.random) == (None, False)
        assert torch.equal(opened.purify(images(), torch.arange(2)), before.purify(images()))
        assert torch.equal(opened(torch.nn.Identity())(images()), before.purify(images()))
    assert "BPDA" in opened.how


def test_bm3d_is_told_its_level_on_the_scale_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattack.defenses.simple._bm3d", lambda sigma: None)  # the package takes seconds to import
    assert open_defense(parse_defense("bm3d:25"), channels=1).before == Bm3d(25 / 255)


def test_a_guide(tmp_path: Path) -> None:
    torch.manual_seed(0)
    auxiliary = fa.defenses.Auxiliary(1, widths=(4, 4), latent=4)
    auxiliary.save(tmp_path / "h.safetensors")
    text = f"purifier:t_star=30,sampler=ddim,steps=2,guide={tmp_path / 'h.safetensors'},guide_scale=4000"
    opened = open_defense(parse_defense(f"{text},guide_schedule=sigma"), channels=1)
    guide = fa.defenses.LatentGuide(auxiliary.eval(), scale=4000, schedule="sigma")
    want = fa.Purifier(t_star=30, sampler="ddim", steps=2, guide=guide).purify(images())
    assert torch.allclose(opened.purify(images(), torch.arange(2)), want, rtol=0, atol=1e-6)
    plain = open_defense(parse_defense("purifier:t_star=30,sampler=ddim,steps=2"), channels=1)
    assert (plain.purify(images(), torch.arange(2)) - want).abs().max() > 1e-3
    assert opened.sha256 != plain.sha256
    with pytest.raises(ValueError, match=r"guide: .*wanted a file of Auxiliary"):
        open_defense(parse_defense(f"purifier:t_star=3,guide={EMBEDDED}"), channels=1)
    with pytest.raises(ValueError, match="guide_scale: wanted guide=FILE beside it"):
        parse_defense("purifier:t_star=3,guide_scale=2")


@pytest.mark.parametrize(("mine", "images"), [(1, 3), (3, 1)])
def test_a_guide_for_images_of_other_channels(tmp_path: Path, mine: int, images: int) -> None:
    """The embedded model sees each channel alone, so that it does not say it."""
    fa.defenses.Auxiliary(mine, widths=(4,), latent=4).save(tmp_path / "h.safetensors")
    text = f"purifier:t_star=3,guide={tmp_path / 'h.safetensors'}"
    open_defense(parse_defense(text), channels=mine)
    with pytest.raises(
        ValueError, match=rf"guide: wanted a network for {images} channel\(s\) .* one for {mine}"
    ) as error:
        open_defense(parse_defense(text), channels=images)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "options", "kind", "message"),
    [
        ("purifier:sigma=20", {"input_sigma": 25}, ValueError, r"sigma: wanted at least the 25 .* got 20"),
        ("purifier:t_star=2000", {}, ValueError, "t_star: wanted a level from 0"),
        ("purifier:t_star=9,steps=10", {}, ValueError, "steps: wanted at most 9"),
        ("purifier:t_star=9,weights=none/such", {}, FileNotFoundError, "weights: no such file or folder: none/such"),
        ("median:4", {}, ValueError, "size: wanted an odd whole number"),
        ("jpeg:0", {}, ValueError, "quality: wanted a whole number from 1 to 100"),
    ],
)
def test_what_does_not_fit_names_the_text(text: str, options: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        open_defense(parse_defense(text), channels=1, **options)
    assert f"defense: {text!r}: " in str(error.value)


def test_colour_and_a_gray_model() -> None:
    opened = open_defense(parse_defense("purifier:t_star=10,sampler=ddim,steps=1"), channels=3)
    assert opened.purify(images().expand(-1, 3, -1, -1), torch.arange(2)).shape == (2, 3, 16, 16)


def test_the_checksum_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"1")
    found = [sha256_of_diffusion(tmp_path)]
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"2")
    found.append(sha256_of_diffusion(tmp_path))
    (tmp_path / "unet" / "a.safetensors").rename(tmp_path / "unet" / "b.safetensors")
    found.append(sha256_of_diffusion(tmp_path))
    assert len(set(found)) == 3
