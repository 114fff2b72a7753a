"""What whole attacks are measured on: published denoisers on their images, and a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import models, objectives
from ..images import find_images, read_image
from .classifier import resnet18

DENOISERS = ("embedded", "dncnn", "ffdnet", "n2n", "ecndnet")
NAMES = (*DENOISERS, "resnet18", "resnet18-224")
FILES = {
    "dncnn": "dncnn_gray_sigma25.safetensors",
    "ffdnet": "ffdnet_gray.safetensors",
    "ecndnet": "ecndnet_gray_sigma25.pth",
    "n2n": "n2n_color_gaussian.pt",
}
SIGMA = 25
PACKAGED = Path(__file__).resolve().parents[1] / "assets" / "images"


Loss = Callable[[Any, Any], Tensor]


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().flatten(1).mean(1)


def entropy(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, reduction="none")


def weighted(output: Tensor, target: Tensor) -> Tensor:
    """CosPGD's for images (arXiv 2302.02213)."""
    cosine = functional.cosine_similarity(output.detach().softmax(1), target.softmax(1), dim=1)
    return (cosine.unsqueeze(1) * (output - target).square()).flatten(1).mean(1)


@dataclass(frozen=True)
class Case:
    """One model with its inputs, and the attack that every way makes.

    Args:
        model: in eval mode.
        x: (B, C, H, W), where every attack starts.
        target: what ``objective`` compares the model's output with.
        objective: one loss for each sample, to climb; ours.
        by_hand: the same in plain PyTorch without checks, as the plain loops climb it.
        steps: gradients that an attack may take.
        eps: radius of the ball, of ``norm``; ``step``: length of a step; both on the scale of x.
        bounds: for every way the same; those of a classifier's images, to which some peers always clip.
        measure: by what results are judged, where that is not ``by_hand``.
    """

    model: nn.Module
    x: Tensor
    target: Tensor
    objective: Loss
    by_hand: Loss
    steps: int = 10
    eps: float = 5 / 255
    step: float = 1 / 255
    bounds: tuple[float, float] | None = None
    measure: Loss | None = None
    norm: str = "linf"

    def loss(self, x: Tensor) -> float:
        """What an attack has reached: the mean over the samples, by the model as it is."""
        with torch.no_grad():
            return (self.measure or self.by_hand)(self.model(x), self.target).double().mean().item()


@dataclass(frozen=True)
class Size:
    """Of the inputs: crops of side x side pixels for a denoiser, square images for the classifiers."""

    count: int = 4
    side: int = 128
    labelled: int = 16
    labelled_side: int = 32
    large: int = 4
    large_side: int = 224


FULL, QUICK = Size(), Size(2, 32, 2, 16, 2, 64)


def case_of(name: str, *, shared: Path | None, steps: int = 10, device: str = "cpu", size: Size = FULL) -> Case:
    """A case by its name, of NAMES.

    Args:
        shared: folder with the published ``weights`` and ``data``; None: random weights on random images, which cost
            the same. "embedded" has its own weights and images.

    Raises:
        ValueError: an unknown name.
        OSError, ValueError: weights or images that are not there or no such thing; names the file.
    """
    if name not in NAMES:
        raise ValueError(f"name: wanted one of {', '.join(NAMES)}, got {name!r}")
    if name == "resnet18":
        return classified(resnet18(), steps, device, size.labelled, size.labelled_side)
    if name == "resnet18-224":
        return classified(resnet18(large=True), steps, device, size.large, size.large_side)
    return denoised(name, shared, steps, device, size)


def denoised(name: str, shared: Path | None, steps: int, device: str, size: Size) -> Case:
    channels = 3 if name == "n2n" else 1
    draw = torch.Generator().manual_seed(0)
    model: nn.Module
    if name == "embedded":
        model, clean = models.load(name), crops(PACKAGED, channels, size)
    elif shared is None:
        model, clean = untrained(name), torch.rand(size.count, channels, size.side, size.side, generator=draw)
    else:
        sigma = SIGMA if name == "ffdnet" else None
        model = models.load(name, weights=shared / "weights" / FILES[name], sigma=sigma)
        clean = crops(shared / "data" / ("set12" if channels == 1 else "cbsd68"), channels, size)
    noisy = clean + SIGMA / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return Case(model.eval().to(device), noisy.to(device), clean.to(device), objectives.mse, squared, steps)


def crops(folder: Path, channels: int, size: Size) -> Tensor:
    """The upper left corners of the first images of a folder."""
    files = find_images(folder)[: size.count]
    return torch.stack([read_image(p, channels)[:, : size.side, : size.side] for p in files]).contiguous()


def untrained(name: str) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {
        "dncnn": models.DnCNN,
        "ffdnet": lambda: models.FFDNet(sigma=SIGMA),
        "ecndnet": models.ECNDNet,
        "n2n": models.N2NUNet,
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return makers[name]()


def classified(model: nn.Module, steps: int, device: str, count: int, side: int) -> Case:
    """Random labels but those that the network gives, which has not learnt any: every sample counts as misclassified
    from the start, and peers that stop at or return such points alone go all the way."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, side, side, generator=draw)
    with torch.no_grad():
        labels = (model(x).argmax(1) + torch.randint(1, 10, (count,), generator=draw)) % 10
    return Case(
        model.to(device), x.to(device), labels.to(device), objectives.cross_entropy, entropy, steps, bounds=(0.0, 1.0)
    )  # fmt: skip


def predicted(case: Case) -> Case:
    """With the classes that the network gives as labels: every sample has to be fooled."""
    with torch.no_grad():
        return replace(case, target=case.model(case.x).argmax(1))


def dense(case: Case) -> Case:
    """With the loss of CosPGD, judged by the squared error: the weighted loss can fall while the attack succeeds."""
    return replace(case, objective=objectives.cospgd(), by_hand=weighted, measure=squared)
