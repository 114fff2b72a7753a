"""What the tests of the ART layer attack: a small smooth classifier, a restorer that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

theirs = pytest.importorskip("art.attacks.evasion", reason="adversarial-robustness-toolbox is not installed")

from art.estimators.classification import PyTorchClassifier  # noqa: E402

from fastattack.compat import art as ours  # noqa: E402

Array = np.ndarray[Any, Any]
COUNT, SHAPE, CLASSES = 7, (3, 4, 4), 5
MEANS = (np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25]))


def net(seed: int = 0) -> nn.Module:
    """Smooth, so that no sign hangs on the last bit."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, CLASSES)).eval()
    with torch.no_grad():
        model[1].weight.mul_(3)  # several classes
        model[3].weight.mul_(3)
    return model


def classifier(model: nn.Module | None = None, *, clip: Any = (0.0, 1.0), loss: Any = None, **options: Any) -> Any:
    return PyTorchClassifier(
        net() if model is None else model, loss=nn.CrossEntropyLoss() if loss is None else loss, input_shape=SHAPE,
        nb_classes=options.pop("nb_classes", CLASSES), clip_values=clip, device_type="cpu", **options,
    )  # fmt: skip


def images(seed: int = 0) -> Array:
    """Some of them at the ends of [0, 1], so that clip values matter."""
    x = np.random.default_rng(seed).random((COUNT, *SHAPE), dtype=np.float32)
    return np.where(x > 0.8, np.float32(1), np.where(x < 0.2, np.float32(0), x))


def labels(estimator: Any, x: Array, *, off: int = 0) -> Array:
    return (estimator.predict(x).argmax(1) + off) % CLASSES


def ran(package: Any, name: str, estimator: Any, x: Array, y: Any, mask: Any = None, **options: Any) -> Array:
    np.random.seed(3)  # noqa: NPY002 (what ART draws from)
    options = {"batch_size": 3, **options} | ({} if name == "FastGradientMethod" else {"verbose": False})
    extra = {} if mask is None else {"mask": mask}
    return getattr(package, name)(estimator, **options).generate(x, y, **extra)


def agree(name: str, estimator: Any, x: Array, y: Any, *, tolerance: float = 1e-5, **options: Any) -> Array:
    """Theirs and ours, which must have moved; and both have drawn as many numbers."""
    wanted = ran(theirs, name, estimator, x.copy(), y, **options)
    drawn = np.random.random()  # noqa: NPY002
    found = ran(ours, name, estimator, x.copy(), y, **options)
    assert np.random.random() == drawn  # noqa: NPY002
    assert found.dtype == x.dtype
    assert np.abs(found - wanted).max() < tolerance
    moved = np.abs(wanted - x).reshape(len(x), -1).max(1)
    assert (moved > 1e-3).all()
    return found


class Scale(nn.Module):
    """A restorer whose gradients are known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(0.75))

    def forward(self, x: Tensor) -> Tensor:
        return self.by * x


def denoising() -> tuple[Any, Array, Array]:
    clean = images(3) * 0.8
    return ours.PyTorchRestorer(Scale()), clean + 0.1 * images(4) - 0.05, clean
