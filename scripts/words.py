"""Short words as small gray images (Pillow, the DejaVu fonts that matplotlib brings), and a network that reads them."""

from __future__ import annotations

import string
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import fastattack as fa

HEIGHT, WIDTH = 32, 96
PLACE = 4  # pixels, of the recogniser's output
LETTERS = string.ascii_lowercase  # class 0 of the recogniser is the blank, class k the k-th letter
FACES = [
    f"DejaVu{family}{style}"
    for family, styles in (
        ("Sans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Serif", ("", "-Bold", "-Italic", "-BoldItalic")),
        ("SansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
    )
    for style in styles
]
PADDING = -100


@cache
def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")), size)


def render(word: str, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(1, 32, 96) in [0, 1]: a random face, size, place, and two grays for ink and paper, either of them the darker.

    And which letter's middle lies in each of the 24 places that the recogniser tells apart; (24,), 0 for none.
    """
    face, size = FACES[random.integers(len(FACES))], int(random.integers(18, 25))
    while True:
        left, top, right, bottom = font(face, size).getbbox(word)
        if right - left <= WIDTH - 6 and bottom - top <= HEIGHT - 2:
            break
        size -= 1
    x = int(random.integers(2, WIDTH - 2 - (right - left) + 1)) - left
    y = int(random.integers(1, HEIGHT - 1 - (bottom - top) + 1)) - top
    tones = random.uniform(0, 0.3), random.uniform(0.7, 1)
    ink, paper = tones if random.random() < 0.5 else tones[::-1]
    image = Image.new("L", (WIDTH, HEIGHT), round(255 * paper))
    ImageDraw.Draw(image).text((x, y), word, fill=round(255 * ink), font=font(face, size))
    places = torch.zeros(WIDTH // PLACE, dtype=torch.int64)
    for i, letter in enumerate(word):
        middle = x + (font(face, size).getlength(word[:i]) + font(face, size).getlength(word[: i + 1])) / 2
        places[int(middle) // PLACE] = LETTERS.index(letter) + 1
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None], places


def drawn(words: Iterable[str], seed: int | Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (B, 1, 32, 96) and places (B, 24) of the words."""
    random = np.random.default_rng(seed)
    images, places = zip(*(render(word, random) for word in words), strict=True)
    return torch.stack(images), torch.stack(places)


def rendered(words: Iterable[str], seed: int | Sequence[int]) -> Tensor:
    """(B, 1, 32, 96), one image for each word."""
    return drawn(words, seed)[0]


def strings(count: int, seed: int | Sequence[int]) -> list[str]:
    """Random letters, three to five of them: who learns from these knows no dictionary."""
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list(LETTERS), size=random.integers(3, 6))) for _ in range(count)]


def encode(words: Sequence[str]) -> Tensor:
    """(B, L) int64 as `fastattack.objectives.ctc` wants it."""
    longest = max(map(len, words))
    return torch.tensor([[*(LETTERS.index(c) + 1 for c in w), *[PADDING] * (longest - len(w))] for w in words])


def decode(logits: Tensor) -> list[str]:
    """What logits (B, 27, T) say: the best class of each place, repeats and blanks left out."""
    texts = []
    for row in logits.argmax(1).tolist():
        kept = [c for i, c in enumerate(row) if c and (i == 0 or c != row[i - 1])]
        texts.append("".join(LETTERS[c - 1] for c in kept))
    return texts


class Recogniser(nn.Sequential):
    """Four convolutions down to one line and two along it: (B, 1, 32, W) to logits (B, 27, W / 4)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 24, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d((2, 1)),
            nn.Conv2d(48, 96, (4, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(96), nn.ReLU(), nn.Flatten(2),
            nn.Conv1d(96, 96, 3, padding=1), nn.ReLU(), nn.Conv1d(96, len(LETTERS) + 1, 1),
        )  # fmt: skip


def train_recogniser(*, steps: int, seed: int, images: int = 6000, batch: int = 32, lr: float = 3e-3) -> Recogniser:
    """Adam on random letters with a little noise, for restored images are not quite clean.

    A third of the steps has the letters' places for labels: by CTC alone it had learnt nothing in 650 steps.
    """
    began = time.process_time()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Recogniser().to(memory_format=torch.channels_last)
    texts = strings(images, [seed, 10])
    (pool, places), labels = drawn(texts, [seed, 11]), encode(texts)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    random = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        rows = torch.randint(images, (batch,), generator=random)
        noise = torch.randn(batch, *pool.shape[1:], generator=random)
        x = pool[rows] + 0.05 * torch.rand(batch, 1, 1, 1, generator=random) * noise
        if 3 * step <= steps:
            loss = places.shape[1] * fa.objectives.cross_entropy(net(x), places[rows]).mean()
        else:
            loss = fa.objectives.ctc()(net(x), labels[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        rate.step()
        if step % 50 == 0:
            print(f"recogniser: step {step}, loss {loss.item():.3f}, {time.process_time() - began:.0f} s", flush=True)
    return net.eval()


def accuracy(net: nn.Module, x: Tensor, words: Sequence[str]) -> float:
    with torch.no_grad():
        return sum(a == b for a, b in zip(decode(net(x)), words, strict=True)) / len(words)
