"""A segmentation task made of real images, whose masks are exact: `python scripts/segmentation_task.py`.

Two handwritten digits (scikit-learn's, real) lie on each crop of a photograph, one written in light ink and one in
dark; the network says of every pixel whether it is photograph, light stroke or dark stroke. The mask is where the ink
is laid on, so there is no labelling and nobody's opinion in it. Photographs: train400 to learn from, bsd68 to test on;
digits: those that examples/digits_task.py learns from, and the others.

Strokes are half transparent on a photograph whose contrast is reduced to LOW .. HIGH: there is always a step of
INK (1 - HIGH) = 0.1 at a stroke, and a photograph has edges of that size too.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.nn import functional

from fastattack.files import write_atomic
from fastattack.images import find_images, read_image

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE, DIGIT = 48, 24  # pixels along an image, and along a digit: two columns of one digit each
LOW, HIGH, INK = 0.2, 0.8, 0.5
HELD_OUT = 360  # digits that are only tested on
CLASSES = ("photograph", "light stroke", "dark stroke")
BATCH, LR = 8, 3e-3

Pairs = tuple[Tensor, Tensor]


@lru_cache(maxsize=2)
def photographs(folder: Path) -> list[Tensor]:
    """Gray images (1, H, W) with their contrast reduced."""
    return [LOW + (HIGH - LOW) * read_image(path, 1) for path in find_images(folder)]


def strokes(train: bool) -> Tensor:
    """How much ink there is (N, DIGIT, DIGIT), 0 .. 1."""
    from sklearn.datasets import load_digits

    found = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]
    large = functional.interpolate(found, size=(DIGIT, DIGIT), mode="bicubic", align_corners=False).clamp(0, 1)[:, 0]
    return large[HELD_OUT:] if train else large[:HELD_OUT]


def draw(count: int, photos: list[Tensor], ink: Tensor, generator: torch.Generator) -> Pairs:
    """Images (count, 1, SIZE, SIZE) in [0, 1] and classes (count, SIZE, SIZE) int64, by the generator alone."""
    images, labels = torch.empty(count, 1, SIZE, SIZE), torch.zeros(count, SIZE, SIZE, dtype=torch.int64)

    def one(last: int) -> int:
        return int(torch.randint(last, (), generator=generator))

    for image, label in zip(images, labels, strict=True):
        photo = photos[one(len(photos))]
        top, left = (one(edge - SIZE + 1) for edge in photo.shape[1:])
        image.copy_(photo[:, top : top + SIZE, left : left + SIZE])
        light = one(2)  # the column of the light digit
        for column in range(SIZE // DIGIT):
            mask, row = ink[one(len(ink))], one(SIZE - DIGIT + 1)
            place = slice(row, row + DIGIT), slice(column * DIGIT, (column + 1) * DIGIT)
            colour, name = (1.0, 1) if column == light else (0.0, 2)
            image[0][place].lerp_(torch.full_like(mask, colour), INK * mask)
            label[place][mask > 0.5] = name
    return images, labels


class Segmenter(nn.Sequential):
    """Logits (B, 3, H, W) of gray images (B, 1, H, W), any size: dilated convolutions, 26 thousand parameters."""

    def __init__(self, width: int = 24, seed: int = 0) -> None:
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for inward, dilation in ((1, 1), (width, 2), (width, 4), (width, 8), (width, 2), (width, 1)):
                layers += [nn.Conv2d(inward, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            layers.append(nn.Conv2d(width, len(CLASSES), 1))
        super().__init__(*layers)


def iou(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) float64: intersection over union of each class in an image, averaged over the classes that are there."""
    said = logits.argmax(1)
    each = []
    for k in range(logits.shape[1]):
        here, there = (t.eq(k).flatten(1) for t in (said, labels))
        each.append((here & there).sum(1).double() / (here | there).sum(1).clamp(min=1))
    present = torch.stack([labels.eq(k).flatten(1).any(1) for k in range(logits.shape[1])]).double()
    return (torch.stack(each) * present).sum(0) / present.sum(0)


def train(
    steps: int = 500, *, seed: int = 0, model: nn.Module | None = None,
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None, lr: float = LR,
) -> nn.Module:  # fmt: skip
    """Adam on batches of BATCH, cosine; ``attack`` (model, images, labels) -> images makes it adversarial training."""
    model = model or Segmenter(seed=seed)
    photos, ink = photographs(DATA / "train400"), strokes(train=True)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        images, labels = draw(BATCH, photos, ink, generator)
        if attack is not None:
            images = attack(model, images, labels)
        loss = functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def held_out(count: int, seed: int = 0) -> Pairs:
    """Images and classes on photographs and digits that nothing was trained on."""
    return draw(count, photographs(DATA / "bsd68"), strokes(train=False), torch.Generator().manual_seed(seed + 1000))


def save(model: nn.Module, path: Path) -> None:
    write_atomic(path, serialise({k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}))


def load(path: Path) -> nn.Module:
    model = Segmenter()
    model.load_state_dict(parse(path.read_bytes()))
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/segmentation.safetensors"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    model = train(options.steps, seed=options.seed)
    spent = time.process_time() - began
    save(model, options.out)
    images, labels = held_out(64)
    with torch.no_grad():
        reached = iou(model(images), labels).mean()
    print(f"{options.out}: mean IoU {reached:.3f} on 64 test images, {spent:.0f} CPU seconds")


if __name__ == "__main__":
    main()
