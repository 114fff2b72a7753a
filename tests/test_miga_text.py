"""scripts/miga_text.py, which tampers words: at a tiny size, and its measures by hand."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("matplotlib", reason="needs matplotlib's fonts")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import miga_text
import words

TINY = ["--eps", "8", "--steps", "2", "--count", "3", "--images", "8"]
TINY += ["--denoiser-steps", "2", "--recogniser-steps", "2"]


def spoken(texts: list[str], places: int = 12) -> torch.Tensor:
    """Logits (B, 27, T) that say the texts, with a blank after each letter, as CTC needs it between equal ones."""
    logits = torch.zeros(len(texts), 27, places)
    for i, text in enumerate(texts):
        for k in range(places):
            letter = ord(text[k // 2]) - ord("a") + 1 if k % 2 == 0 and k // 2 < len(text) else 0
            logits[i, letter, k] = 5
    return logits


def test_decode_and_encode():
    texts = ["cat", "free", "z", ""]
    assert words.decode(spoken(texts)) == texts
    assert words.decode(spoken(["tt"])[..., :12].repeat_interleave(3, 2)) == ["tt"]  # a letter over three places is one
    assert words.encode(["ab", "xyz"]).tolist() == [[1, 2, -100], [24, 25, 26]]


def test_images_of_words():
    texts = ["cat", "wwwww", "iii", "jumpy"] * 6
    x = words.rendered(texts, 3)
    assert x.shape == (24, 1, 32, 96)
    assert x.min() >= 0
    assert x.max() <= 1
    assert torch.equal(x, words.rendered(texts, 3))
    assert not torch.equal(x, words.rendered(texts, 4))
    for image in x[:, 0]:  # nothing is cut off: paper all round, ink inside
        rim = torch.cat((image[0], image[-1], image[:, 0], image[:, -1]))
        assert (rim == rim[0]).all()
        assert (image - rim[0]).abs().max() > 0.35
    assert len({image.shape for image in x}) == 1
    assert {len(w) for w in words.strings(50, 0)} == {3, 4, 5}


def test_pairs_are_words_of_one_length_that_differ():
    assert len(miga_text.WORDS) == len(miga_text.WANTED) == len(set(miga_text.WORDS)) == 40
    for word, wanted in zip(miga_text.WORDS, miga_text.WANTED, strict=True):
        assert word != wanted
        assert set(word + wanted) <= set(words.LETTERS)
        assert max(len(word), len(wanted)) <= 6


class Says(nn.Module):
    """Reads by the mean of an image: below 0.5 the first of its two texts, else the second."""

    def __init__(self, low: list[str], high: list[str]) -> None:
        super().__init__()
        self.low, self.high = spoken(low), spoken(high)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where((x.mean((1, 2, 3)) < 0.5)[:, None, None], self.low, self.high)


def test_what_is_measured():
    reader = Says(["cat", "sun", "lift"], ["car", "sun", "xxxx"])
    noisy = torch.full((3, 1, 32, 96), 0.45)
    found = miga_text.measured(
        nn.Identity(), reader, noisy, noisy + 0.1, ["cat", "sun", "left"], ["car", "son", "lift"]
    )
    assert found["reads"] == ["car", "sun", "xxxx"]
    assert [found[k] for k in ("right_before", "right_after", "wanted_after")] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert found["success"] == 0.5
    assert found["text_before"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["text_after"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["text_wanted"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["output_psnr"] == found["input_psnr"] == pytest.approx(20, abs=1e-4)


def test_the_whole_at_a_tiny_size(tmp_path, monkeypatch, capsys):
    out, docs = tmp_path / "out", tmp_path / "docs"
    docs.mkdir()
    page = docs / "miga_text.md"
    page.write_text(f"above\n{miga_text.BEGIN}\nold table\n{miga_text.END}\nbelow\n")
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["miga_text.py", "--out", str(out), "--docs", str(docs), *TINY])
    miga_text.main()
    report = json.loads((docs / "miga_text.json").read_text())
    printed = capsys.readouterr().out
    assert list(report["results"]) == ["8, MIGA to a word", "8, MIGA away", "8, denoising-PGD"]
    for name, found in report["results"].items():
        assert f"| {name} | {found['right_before']:.2f} |" in printed
        assert found["input_psnr"] >= 20 * torch.log10(torch.tensor(255 / 8)).item() - 1e-3  # inside the ball
    above, row, below = "above\n", f"| 8, denoising-PGD | {found['right_before']:.2f} |", f"{miga_text.END}\nbelow\n"
    assert page.read_text().startswith(above)
    assert row in page.read_text()
    assert page.read_text().endswith(below)
    assert "old" not in page.read_text()
    with Image.open(io.BytesIO((docs / "miga_text.png").read_bytes())) as picture:
        assert picture.size == (9 * 200, 20 + 3 * 86)
    kept = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    assert len(kept) == 2
    before = (docs / "miga_text.json").read_bytes()
    miga_text.main()  # with the networks that are there, the same numbers
    assert (docs / "miga_text.json").read_bytes() == before
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert torch.get_num_threads() == threads
