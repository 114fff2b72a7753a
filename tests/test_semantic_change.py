"""What an attack changed: figures against what is known of small models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa


class Darker(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return 0.5 * y


class Halves(nn.Module):
    """Class 1 where the right half is the brighter one."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack((z[..., :8].mean((1, 2, 3)), z[..., 8:].mean((1, 2, 3))), 1)


def _pair() -> tuple[Tensor, Tensor]:
    """Four images of class 0, two of which are turned over."""
    noisy = torch.rand(4, 1, 32, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    noisy[..., :8] += 0.4
    turned = noisy.clone()
    turned[:2] = turned[:2].flip(-1)
    turned[2] += 0.02
    return noisy, turned


def test_the_figures_of_a_known_change() -> None:
    noisy, turned = _pair()
    found = fa.semantic_change(Darker(), Halves(), noisy, turned, torch.tensor([0, 0, 0, 1]))
    assert found.right_before is not None
    assert found.right_before.tolist() == [True, True, True, False]
    assert found.right_after is not None
    assert found.right_after.tolist() == [False, False, True, False]
    assert found.success is not None
    assert found.success.tolist() == [True, True, False, False]
    summary = found.summary()
    assert math.isclose(summary["success"], 2 / 3)
    assert summary["right_before"] == 0.75
    assert summary["unmoved"] == 0.25
    assert math.isclose(summary["input_psnr"], float(found.input_psnr[:3].mean()))
    gap = np.abs(turned.double().numpy() - noisy.double().numpy())[:3]
    np.testing.assert_allclose(found.input_psnr[:3], -10 * np.log10((gap**2).mean((1, 2, 3))), rtol=1e-6)
    np.testing.assert_allclose(found.output_psnr[:3] - found.input_psnr[:3], 20 * np.log10(2), rtol=1e-5)
    assert torch.isinf(found.output_psnr[3])
    assert found.scales == 1
    torch.testing.assert_close(found.output_ms_ssim, found.output_ssim.clamp(min=0))  # one scale
    assert found.input_lpips is None
    assert found.semantic is None


def test_without_labels_what_the_task_said_before_is_right() -> None:
    noisy, turned = _pair()
    found = fa.semantic_change(Darker(), Halves(), noisy, turned, max_batch=3)
    assert found.right_before is not None
    assert found.right_before.all()
    assert found.success is not None
    assert found.success.tolist() == [True, True, False, False]


def test_texts_and_features() -> None:
    noisy, turned = _pair()

    def read(verdict: Tensor) -> list[str]:
        return ["left" if v == 0 else "right" for v in verdict.argmax(1).tolist()]

    found = fa.semantic_change(
        Darker(), Halves(), noisy, turned, ["left"] * 4, read=read, encoder=lambda z: z.mean((1, 2))
    )
    assert found.text_before is not None
    assert found.text_before.tolist() == [1, 1, 1, 1]
    assert found.text_after is not None
    assert found.text_after[0] == pytest.approx(2 / 9)  # "t" is common to left and right
    assert found.text_after[2] == 1
    assert found.semantic is not None
    a, b = (0.5 * t.double().mean((1, 2)).numpy() for t in (turned, noisy))
    want = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(found.semantic, want, rtol=1e-5)


def test_a_curve_along_an_option() -> None:
    noisy, turned = _pair()

    class Mixed:
        def __init__(self, share: float) -> None:
            self.share = share

        def __call__(self, x: Tensor, target: Any) -> Tensor:
            assert x is noisy
            return x + self.share * (turned - x)

    labels = torch.zeros(4, dtype=torch.long)
    curve = fa.tradeoff_curve(Darker(), Halves(), noisy, labels, Mixed, values=[0.0, 1.0])  # type: ignore[arg-type]
    rows = curve.table()
    assert [row["value"] for row in rows] == [0.0, 1.0]
    assert [row["success"] for row in rows] == [0.0, 0.5]
    assert rows[1]["right_after"] == 0.5
    with pytest.raises(ValueError, match="values: wanted one or more"):
        fa.tradeoff_curve(Darker(), Halves(), noisy, labels, Mixed, values=[])  # type: ignore[arg-type]


def test_models_are_left_as_found() -> None:
    noisy, turned = _pair()
    denoiser, task = Darker().train(), Halves().train()
    fa.semantic_change(denoiser, task, noisy, turned)
    assert denoiser.training
    assert task.training


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": None, "labels": torch.zeros(4, dtype=torch.long)}, "labels: wanted None without a task model"),
        ({"task": nn.Identity()}, "task: wanted logits .B, classes., or read= for texts, got .4, 1, 32, 16."),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "labels: wanted integer classes .4,., got .3,. torch.int64"),
        ({"labels": torch.zeros(4)}, "labels: wanted integer classes .4,., got .4,. torch.float32"),
        ({"labels": torch.full((4,), 7)}, "labels: wanted classes from 0 to 1, got 7 to 7"),
        ({"noisy": torch.full((4, 1, 32, 16), float("nan"))}, "noisy: wanted finite numbers"),
        (
            {"adversarial": torch.full((4, 1, 32, 16), 255.0)},
            "adversarial: wanted images in .*to 255",
        ),
        ({"adversarial": torch.zeros(4, 1, 32, 15)}, "adversarial: wanted the shape"),
        ({"task": nn.Linear(3, 3)}, "task: wanted a model that takes the denoiser's output"),
        ({"read": lambda v: ["a"] * len(v), "labels": ["a"]}, "labels: wanted 4 texts"),
    ],
)
def test_bad_input(options: dict[str, Any], words: str) -> None:
    noisy, turned = _pair()
    arguments = {"task": Halves(), "noisy": noisy, "adversarial": turned, **options}
    with pytest.raises(ValueError, match=words):
        fa.semantic_change(Darker(), **arguments)


def test_no_model_sees_more_than_max_batch() -> None:
    noisy, turned = _pair()
    sizes = []

    def encoder(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return z.mean((1, 2))

    part = fa.semantic_change(Darker(), None, noisy, turned, encoder=encoder, max_batch=3)
    assert max(sizes) == 3
    whole = fa.semantic_change(Darker(), None, noisy, turned, encoder=encoder)
    assert part.semantic is not None
    assert whole.semantic is not None
    torch.testing.assert_close(part.semantic, whole.semantic)


@pytest.mark.parametrize("name", ["denoiser", "task"])
def test_a_model_that_gives_no_tensor_is_named(name: str) -> None:
    noisy, turned = _pair()
    models: dict[str, Any] = {"denoiser": Darker(), "task": Halves(), name: lambda z: [z]}
    with pytest.raises(ValueError, match=f"^{name}: wanted a tensor .2, .... as output, got list"):
        fa.semantic_change(noisy=noisy, adversarial=turned, max_batch=2, **models)
