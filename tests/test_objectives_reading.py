"""CTC against a sum over every path in NumPy float64, and torch's own."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

import fastattack as fa
from fastattack.objectives import ctc

NONE = -100


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(c for c, _ in itertools.groupby(path) if c != blank)


def by_enumeration(logits: np.ndarray, text: tuple[int, ...], blank: int) -> float:
    """-log of the probability of all paths that collapse to the text; logits (classes, T)."""
    p = np.exp(logits) / np.exp(logits).sum(0)
    classes, places = p.shape
    total = sum(
        math.prod(p[c, t] for t, c in enumerate(path))
        for path in itertools.product(range(classes), repeat=places)
        if collapsed(path, blank) == text
    )
    return -math.log(total)


def random(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("blank", [0, 2])
def test_against_every_path(blank):
    logits = random((4, 4, 5))
    a, b, c = (k for k in range(4) if k != blank)
    texts = [(a, b), (c, c, a), (), (b,)]
    target = torch.tensor([[*text, *[NONE] * (3 - len(text))] for text in texts])
    want = [by_enumeration(x, text, blank) for x, text in zip(logits.numpy(), texts, strict=True)]
    loss = ctc(blank=blank)
    np.testing.assert_allclose(loss(logits, target), want, rtol=1e-9)
    np.testing.assert_allclose(loss(logits.log_softmax(1), target.int()), want, rtol=1e-9)
    np.testing.assert_allclose(loss(logits.float(), target), want, rtol=1e-5)
    for half in (torch.float16, torch.bfloat16):
        assert loss(logits.to(half), target).dtype == torch.float32
    np.testing.assert_allclose(loss(logits.half().double(), target), loss(logits.half(), target), rtol=1e-5)


def test_values_and_gradients_as_torch_has_them():
    logits = random((3, 27, 24), 1).requires_grad_()
    words = [[3, 1, 20], [19, 5, 5, 14], [1, 2, 3, 4, 5, 6]]
    target = torch.tensor([word + [NONE] * (8 - len(word)) for word in words])
    found = ctc()(logits, target)
    one_after_another = torch.tensor([letter for word in words for letter in word])
    want = torch.nn.functional.ctc_loss(
        logits.permute(2, 0, 1).log_softmax(2), one_after_another, (24, 24, 24), tuple(map(len, words)),
        reduction="none",
    )  # fmt: skip
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(loss.sum(), logits) for loss in (found, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    direction = random(logits.shape, 2)
    with torch.no_grad():
        slope = (ctc()(logits + 1e-6 * direction, target) - ctc()(logits - 1e-6 * direction, target)).sum() / 2e-6
    assert (ours * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_sure_readers_stay_finite():
    """Logits so far apart that probabilities are 0 in float32."""
    logits = torch.full((1, 4, 6), -300.0)
    logits[:, 0] = 300
    logits.requires_grad_()
    loss = ctc()(logits, torch.tensor([[1, 2]]))
    assert loss.item() == pytest.approx(1200 - math.log(15), rel=1e-6)  # two of six places
    loss.sum().backward()
    assert logits.grad.isfinite().all()
    assert ctc()(logits, torch.tensor([[NONE]])).item() == pytest.approx(0, abs=1e-5)


def test_a_text_that_does_not_fit():
    logits = random((2, 5, 4))
    assert ctc()(logits, torch.tensor([[1, 2, 1, 2], [1, 1, 2, NONE]])).isfinite().all()  # four places, to the last
    for word, needs in (([1, 1, 2, 2], 6), ([1, 2, 3, 4, 1], 5)):
        target = torch.tensor([[1] + [NONE] * (len(word) - 1), word])
        message = rf"^target: wanted texts that 4 places can hold, got one that needs {needs}"
        with pytest.raises(ValueError, match=message):
            ctc()(logits, target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([[1, NONE, 2]] * 2, r"^target: wanted -100 only after the end"), ([[0, 1]] * 2, "not the blank"),
        ([[5]] * 2, "letters from 0 to 4"), ([[-1]] * 2, "letters from 0 to 4"), ([[1]], r"integers \(2, L\)"),
        ([1, 2], r"integers \(2, L\)"), ([[1.0]] * 2, r"integers .*float32"), ([[True]] * 2, "integers .*bool"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be(target, message):
    with pytest.raises(ValueError, match=message):
        ctc()(random((2, 5, 4)), torch.tensor(target))


def test_outputs_and_options_that_cannot_be():
    target = torch.tensor([[1], [2]])
    for shape in ((2, 5), (2, 5, 0), (2, 5, 3, 3)):
        with pytest.raises(ValueError, match=r"^model: wanted logits \(B, classes, T\) for ctc"):
            ctc()(torch.zeros(shape), target)
    with pytest.raises(TypeError, match=r"^target: wanted texts"):
        ctc()(random((2, 5, 4)), ["a", "b"])
    for blank in (-1, True, 1.0, None):
        with pytest.raises(ValueError, match=r"^blank: wanted"):
            ctc(blank=blank)
    with pytest.raises(ValueError, match=r"^blank: wanted a class from 0 to 4, got 5"):
        ctc(blank=5)(random((2, 5, 4)), target)
    assert pickle.loads(pickle.dumps(ctc(blank=3))) == ctc(blank=3) != ctc()


def test_an_attack_goes_towards_a_word():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 5, (6, 3), padding=(0, 1)), torch.nn.Flatten(2))
    x = torch.rand(2, 1, 6, 7)
    wanted = torch.tensor([[1, 2, 3], [4, NONE, NONE]])
    attack = fa.PGD(net, objective=ctc(), eps=0.2, steps=4, targeted=True)
    assert (ctc()(net(attack(x, wanted)), wanted) < ctc()(net(x), wanted)).all()
