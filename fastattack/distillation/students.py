"""Small students for those who have none of their own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..training.config import require_whole

ARCHITECTURE = "smallcnn"


class SmallCNN(nn.Module):
    """Three convolutions with ReLU, a pooling by 2 after the first two, means over 4 x 4 parts, and a linear layer.

    Args:
        channels: of the images (B, channels, H, W), H and W at least 4.
        classes: how many logits.
        features: channels after the first convolution; doubled after the second.
        seed: of the initial weights; torch's random state is left as found.
    """

    def __init__(self, channels: int, classes: int, *, features: int = 32, seed: int = 0) -> None:
        super().__init__()
        for name, value, least in (("channels", channels, 1), ("classes", classes, 2), ("features", features, 1)):
            require_whole(value, name, least)
        self.channels, self.classes, self.features = channels, classes, features
        widths = (channels, features, 2 * features, 2 * features)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layers: list[nn.Module] = []
            for inside, outside in pairwise(widths):
                layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            self.layers = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(4), nn.Flatten())
            self.last = nn.Linear(16 * widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.layers(images))
        return logits

    @property
    def described(self) -> dict[str, str]:
        """What a weight file says of itself."""
        sizes = {"channels": self.channels, "classes": self.classes, "features": self.features}
        return {"architecture": ARCHITECTURE, **{name: str(size) for name, size in sizes.items()}}


def weights_of(student: nn.Module) -> bytes:
    """A .safetensors file of a student; `load_student` and, of a DnCNN, `fastattack.models.load` read it."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in student.state_dict().items()}
    described = student.described if isinstance(student, SmallCNN) else {"architecture": type(student).__name__.lower()}
    return save(tensors, metadata=described)


def load_student(path: str | Path) -> SmallCNN:
    """A `SmallCNN` from the weight file of ``fastattack distill``, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or holds another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it has no iterator
    except Exception as error:  # the reader's own exceptions
        raise ValueError(f"{path}: cannot be read as safetensors: {error}") from error
    if told.get("architecture") != ARCHITECTURE:
        raise ValueError(f"{path}: wanted the weights of a {ARCHITECTURE}, got {told.get('architecture', 'no name')!r}")
    student = SmallCNN(int(told["channels"]), int(told["classes"]), features=int(told["features"]))
    student.load_state_dict(tensors)
    return student.eval()
