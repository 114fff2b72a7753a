"""MIGA with a known task: its objective against float64 NumPy, what it reaches, what it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.objectives import cross_entropy
from fastattack.objectives.semantic import Meant, semantic, weight_at


def _linear(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Blur(nn.Module):
    """A denoiser that can be worked out: a fixed mixture of the pixels."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(size) * 0.7 + 0.02 * _linear(1, size, size))

    def forward(self, y: Tensor) -> Tensor:
        return (y.flatten(1) @ self.matrix).reshape(y.shape)


class Classes(nn.Module):
    def __init__(self, size: int = 64, classes: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(_linear(2, size, classes))

    def forward(self, z: Tensor) -> Tensor:
        return z.flatten(1) @ self.weight


def _case(batch: int = 6) -> tuple[Blur, Classes, Tensor, Tensor]:
    denoiser, task = Blur(), Classes()
    noisy = torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = task(denoiser(noisy)).argmax(1)
    return denoiser, task, noisy, labels


def _loss_by_hand(
    denoiser: Blur, task: Classes, noisy: Tensor, adv: Tensor, labels: Tensor, weights: tuple[float, float, float], *,
    towards: bool = False,
) -> np.ndarray[Any, Any]:  # fmt: skip
    """Without a perceptual distance, in float64 NumPy."""
    matrix, classes = (t.detach().double().numpy() for t in (denoiser.matrix, task.weight))
    y, a = (t.double().flatten(1).numpy() for t in (noisy, adv))
    z, z0 = a @ matrix, y @ matrix
    logits = z @ classes
    top = logits.max(1, keepdims=True)
    entropy = top[:, 0] + np.log(np.exp(logits - top).sum(1)) - logits[np.arange(len(y)), labels.numpy()]
    parts = (entropy if towards else -entropy, ((z - z0) ** 2).mean(1), ((a - y) ** 2).mean(1))
    return sum(w * part for w, part in zip(weights, parts, strict=True))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 30.0, 0.0), (0.5, 0.0, 7.0), (0.0, 1.0, 1.0)])
def test_the_loss_is_the_three_terms(weights: tuple[float, float, float]) -> None:
    denoiser, task, noisy, labels = _case()
    names = dict(zip(("lambda_mi", "lambda_rec", "lambda_com"), weights, strict=True))
    attack = fa.MIGA(denoiser, task, eps=0.1, steps=3, perceptual=None, task_loss=cross_entropy, **names)
    found = attack.run(noisy, labels)
    want = -_loss_by_hand(denoiser, task, noisy, found.adversarial, labels, weights)
    np.testing.assert_allclose(found.loss.numpy(), want, rtol=1e-5, atol=1e-6)
    assert bool(((found.adversarial - noisy).abs() <= 0.1).all())


def test_a_known_optimum_without_the_meaning() -> None:
    """L_rec and L_com alone are smallest at the input itself, from wherever the attack starts."""
    denoiser, task, noisy, _ = _case()
    attack = fa.MIGA(denoiser, task, eps=0.05, steps=100, lambda_mi=0, random_start=True, perceptual=None)
    assert float((attack(noisy) - noisy).abs().max()) <= 0.0015


def test_a_linear_task_s_optimum() -> None:
    """L_MI alone with two logits climbs along the sign of one fixed direction: the corner of the ball."""
    denoiser, task = Blur(), Classes(classes=2)
    noisy = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = task(denoiser(noisy)).argmax(1)
        direction = (denoiser.matrix @ (task.weight[:, 1] - task.weight[:, 0])).reshape(1, 1, 8, 8)
        corner = noisy + 0.1 * direction.sign() * torch.where(labels == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)
    adv = fa.MIGA(denoiser, task, eps=0.1, steps=10, lambda_rec=0, lambda_com=0, perceptual=None)(noisy, labels)
    torch.testing.assert_close(adv, corner, rtol=0, atol=1e-6)


def test_it_turns_the_meaning_and_reaches_a_target() -> None:
    denoiser, task, noisy, labels = _case()
    with torch.no_grad():
        adv = fa.MIGA(denoiser, task, eps=0.2, lambda_rec=0.1, lambda_com=0.1, perceptual=None)(noisy, labels)
        assert not bool((task(denoiser(adv)).argmax(1) == labels).any())
        wanted = (labels + 1) % 5
        for target in (wanted, 3):
            adv = fa.MIGA(denoiser, task, eps=0.4, lambda_rec=0.1, perceptual=None, target=target)(noisy)
            said = task(denoiser(adv)).argmax(1)
            assert bool((said == (wanted if isinstance(target, Tensor) else 3)).all())


def test_a_target_s_loss_by_hand() -> None:
    denoiser, task, noisy, labels = _case()
    options: dict[str, Any] = {"eps": 0.1, "steps": 3, "perceptual": None, "task_loss": cross_entropy}
    found = fa.MIGA(denoiser, task, target=(labels + 1) % 5, **options).run(noisy)
    want = -_loss_by_hand(denoiser, task, noisy, found.adversarial, (labels + 1) % 5, (1, 10, 1), towards=True)
    np.testing.assert_allclose(found.loss.numpy(), want, rtol=1e-5, atol=1e-6)


def test_output_and_input_come_out_cleaner_than_from_the_task_s_loss_alone() -> None:
    denoiser, task, noisy, labels = _case()
    bare = fa.MIGA(denoiser, task, eps=0.1, lambda_rec=0, lambda_com=0, perceptual=None)(noisy, labels)
    whole = fa.MIGA(denoiser, task, eps=0.1, lambda_rec=3000, lambda_com=0, perceptual=None)(noisy, labels)
    near = fa.MIGA(denoiser, task, eps=0.1, lambda_rec=0, lambda_com=3000, perceptual=None)(noisy, labels)
    with torch.no_grad():
        moved = [float((denoiser(adv) - denoiser(noisy)).square().mean()) for adv in (bare, whole)]
    assert moved[1] < 0.5 * moved[0]
    assert float((near - noisy).square().mean()) < 0.5 * float((bare - noisy).square().mean())


def test_micro_batches_chunks_and_ensembles_of_draws_change_nothing() -> None:
    denoiser, task, noisy, labels = _case()
    options: dict[str, Any] = {"eps": 0.1, "steps": 4, "perceptual": None}
    whole = fa.MIGA(denoiser, task, **options)(noisy, labels)
    for more in ({"max_batch": 4}, {"chunk": 2}):
        found = fa.MIGA(denoiser, task, **options, **more).run(noisy, labels)
        torch.testing.assert_close(found.adversarial, whole, rtol=0, atol=0)
        assert ("2 samples at a time" in found.how) == ("chunk" in more)


def test_a_view_moves_the_images_that_are_compared() -> None:
    """Under a flip, the losses are those of flipped images on both sides: 0 where nothing has moved."""
    seen: list[float] = []

    def watch(verdict: Any, labels: Tensor) -> Tensor:
        return torch.zeros(len(labels)) + 0 * verdict.sum()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        seen.append(float((a - b).detach().abs().max()))
        return (a - b).abs().flatten(1).mean(1)

    def flip(x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(-1)

    _, task, noisy, labels = _case()
    fa.MIGA(
        nn.Identity(), task, eps=1e-6, steps=1, random_start=False, view=flip, perceptual=distance, task_loss=watch
    )(noisy, labels)  # fmt: skip
    assert len(seen) >= 2
    assert max(seen) < 1e-5


@pytest.mark.parametrize("weight", [(0.0, 4.0), lambda step, steps: 4.0 * step / (steps - 1)])
def test_weights_walk_along_the_steps(weight: Any) -> None:
    assert [weight_at(weight, step, 5) for step in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert weight_at(2, 3, 5) == 2.0
    denoiser, task, noisy, labels = _case()
    attack = fa.MIGA(denoiser, task, eps=0.1, steps=5, lambda_rec=weight, perceptual=None, task_loss=cross_entropy)
    found = attack.run(noisy, labels)
    want = -_loss_by_hand(denoiser, task, noisy, found.adversarial, labels, (1.0, 4.0, 1.0))
    np.testing.assert_allclose(found.loss.numpy(), want, rtol=1e-5, atol=1e-6)
    assert set(found.best_step.tolist()) == {5}
    with pytest.raises(ValueError, match="keep: wanted 'last'"):
        fa.MIGA(denoiser, task, eps=0.1, lambda_rec=weight, keep="best")


def test_preserve_noise_with_the_clean_images() -> None:
    denoiser, task, noisy, labels = _case()
    clean = noisy - 0.1 * _linear(9, *noisy.shape)
    found = fa.MIGA(denoiser, task, eps=0.05, preserve_noise=True, perceptual=None).run(noisy, labels, clean=clean)
    before, after = (t.double() - clean.double() for t in (noisy, found.adversarial))
    torch.testing.assert_close(after.flatten(1).norm(dim=1), before.flatten(1).norm(dim=1), rtol=1e-4, atol=0)
    torch.testing.assert_close(after.flatten(1).mean(1), before.flatten(1).mean(1), rtol=0, atol=1e-5)
    assert found.noise_before is not None
    with pytest.raises(TypeError, match="clean: wanted the clean images with preserve_noise=True, got None"):
        fa.MIGA(denoiser, task, eps=0.05, preserve_noise=True, perceptual=None).run(noisy, [1] * 6)


def test_ssim_as_the_perceptual_distance() -> None:
    noisy = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    other = (noisy + 0.05).clamp(0, 1)
    objective = semantic(lambda_mi=0.0, lambda_com=0.0, perceptual=fa.objectives.ssim())
    loss = objective((noisy, other), Meant(noisy, noisy, None))
    want = fa.metrics.mse(other, noisy) + 1 - fa.metrics.ssim(other, noisy)
    torch.testing.assert_close(-loss.double(), want, rtol=1e-4, atol=1e-5)


def test_the_models_are_left_as_found() -> None:
    denoiser, task, noisy, labels = _case()
    denoiser.train()
    task.weight.grad = torch.ones_like(task.weight)
    state = torch.get_rng_state()
    fa.MIGA(denoiser.forward, task, eps=0.1, steps=2, perceptual=None)(noisy, labels)
    assert denoiser.training
    assert denoiser.matrix.requires_grad
    assert denoiser.matrix.grad is None
    assert task.weight.requires_grad
    assert torch.equal(task.weight.grad, torch.ones_like(task.weight))
    assert torch.equal(torch.get_rng_state(), state)


class Argmax(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(z.flatten(1).argmax(1), 64).float()


@pytest.mark.parametrize(
    ("options", "call", "error", "words"),
    [
        ({"lambda_mi": 0, "lambda_rec": 0, "lambda_com": 0.0}, {}, ValueError, "lambda_mi, lambda_rec, lambda_com"),
        ({"lambda_mi": -1}, {}, ValueError, "lambda_mi: wanted a finite weight >= 0, got -1"),
        ({"lambda_rec": "much"}, {}, TypeError, "lambda_rec: wanted a number"),
        ({"lambda_rec": (1, 2, 3)}, {}, ValueError, "lambda_rec: wanted a number, .first, last. or a function, got 3"),
        ({"perceptual": "vgg"}, {}, ValueError, "perceptual: wanted 'ssim'"),
        ({"perceptual": "lpips", "lpips_weights": "nowhere.pth"}, {}, FileNotFoundError, "nowhere.pth"),
        ({"lpips_weights": "alex.pth"}, {}, ValueError, "lpips_weights: wanted None where perceptual is not 'lpips'"),
        ({"task": Argmax()}, {}, ValueError, "task: wanted a differentiable model"),
        ({"task": Classes(size=100)}, {}, ValueError, "task: wanted a model that takes the denoiser's output, .6, 1"),
        ({"task": 5}, {}, TypeError, "task: wanted one model"),
        ({"denoiser": [Blur()]}, {}, TypeError, "denoiser: wanted one model, called as denoiser.images., got list"),
        ({"denoiser": lambda y: y.detach() * 1}, {}, ValueError, "denoiser: wanted an output that depends on"),
        ({"targeted": True}, {}, TypeError, "MIGA: targeted has no place here; target= says where to"),
        ({"target": torch.zeros(4, dtype=torch.long)}, {}, ValueError, "target: wanted 6 rows, one for each sample"),
        ({"target": 2.5}, {}, TypeError, "target: wanted a class"),
        ({"task_loss": 3}, {}, TypeError, "task_loss: wanted a function of .verdict, labels., got int"),
        ({}, {"target": None}, ValueError, "labels: wanted what the task model shall no longer say"),
        ({}, {"target": torch.zeros(4, dtype=torch.long)}, ValueError, "labels: wanted 6 rows"),
        ({"eps": 8}, {}, ValueError, "eps: wanted a radius for images in .0, 1., such as 5/255, got 8"),
        ({"denoiser": Blur(size=100)}, {}, ValueError, "denoiser: wanted a model called as denoiser.y. that takes"),
        ({"denoiser": lambda y, s: y}, {}, ValueError, "denoiser: .*fa.with_sigma is for model.y, sigma"),
        ({"denoiser": Blur().double()}, {}, ValueError, "denoiser: .*wanted parameters in float32 on cpu"),
        ({"sieve": 3}, {}, TypeError, "MIGA: unknown option 'sieve'"),
    ],
)  # fmt: skip
def test_bad_input(options: dict[str, Any], call: dict[str, Any], error: type[Exception], words: str) -> None:
    denoiser, task, noisy, labels = _case()
    models = {"denoiser": denoiser, "task": task}
    chosen = {"eps": 0.1, "steps": 2, "perceptual": None, **models, **options}
    if "lpips_weights" in options and "perceptual" not in options:
        chosen.pop("perceptual")
    with pytest.raises(error, match=words):
        fa.MIGA(**chosen).run(noisy, **{"target": labels, **call})


def test_lpips_without_weights_says_where_they_are_looked_for(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("FASTATTACK_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"lpips_weights: .*lpips_alex\.pth"):
        fa.MIGA(Blur(), Classes(), eps=0.1, perceptual="lpips")


def test_a_task_that_is_never_right_is_pointed_at() -> None:
    denoiser, task, noisy, labels = _case()
    attack = fa.MIGA(denoiser, task, eps=0.1, steps=1, perceptual=None)
    with pytest.warns(UserWarning, match="task: right on none of the first 6 samples") as told:
        attack(noisy, (labels + 1) % 5)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(noisy, labels)


def test_a_task_that_is_sure_is_moved_all_the_same() -> None:
    """Logits ten times as far apart: the entropy has no slope left at the input, the margin of the default has."""
    denoiser, task, noisy, labels = _case()
    with torch.no_grad():
        task.weight.mul_(30)
    options: dict[str, Any] = {"eps": 0.02, "steps": 10, "perceptual": None, "lambda_rec": 3000.0}
    entropy = fa.MIGA(denoiser, task, task_loss=cross_entropy, **options)(noisy, labels)
    margin = fa.MIGA(denoiser, task, **options)(noisy, labels)
    moved = [(adv != noisy).flatten(1).any(1) for adv in (entropy, margin)]
    assert not bool(moved[0].all())
    assert bool(moved[1].all())


@pytest.mark.parametrize("target", [None, 1])
def test_a_segmenter_is_a_task_like_any_other(target: int | None) -> None:
    """Two classes at every pixel: brighter or darker than a half."""

    class Segmenter(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.cat((0.5 - z, z - 0.5), 1) * 4

    noisy = torch.full((3, 1, 12, 12), 0.45)
    noisy[..., :6] = 0.55
    segmenter = Segmenter()
    labels = segmenter(noisy).argmax(1)
    wanted = None if target is None else torch.full_like(labels, target)
    attack = fa.MIGA(nn.Identity(), segmenter, eps=0.1, lambda_rec=1.0, perceptual=None, target=wanted)
    said = segmenter(attack(noisy, None if wanted is not None else labels)).argmax(1)
    assert bool((said == wanted).all()) if wanted is not None else not bool((said == labels).any())


def test_the_scale_of_the_images_and_the_call_s_options() -> None:
    denoiser, task, noisy, labels = _case()
    attack = fa.MIGA(denoiser, task, eps=0.1, steps=1, perceptual=None)
    with pytest.raises(ValueError, match=r"input: wanted images in .0, 1., .* got values to 2\d\d"):
        attack(noisy * 255, labels)
    with pytest.raises(TypeError, match=r"MIGA.*unknown option 'steps'"):
        attack(noisy, labels, steps=3)
