"""Metrics of meaning: ROUGE-L against what can be counted by hand, cosines against NumPy."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fastattack.metrics import semantic_similarity, text_similarity


def subsequences(text: str) -> set[str]:
    return {"".join(some) for n in range(len(text) + 1) for some in itertools.combinations(text, n)}


def test_characters_against_all_subsequences():
    g = np.random.default_rng(0)
    texts = ["".join(g.choice(list("abc A"), size=g.integers(1, 8))) for _ in range(40)]
    references = ["".join(g.choice(list("abc A"), size=g.integers(1, 8))) for _ in range(40)]
    want = [
        2 * max(map(len, subsequences(a) & subsequences(b))) / (len(a) + len(b))
        for a, b in zip(texts, references, strict=True)
    ]
    found = text_similarity(texts, references)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-7, atol=0)
    assert len({*want}) > 8


def test_by_hand():
    assert text_similarity(["cat", "cat", "", "", "a"], ["car", "cat", "", "a", ""]).tolist() == pytest.approx(
        [2 / 3, 1, 1, 0, 0]
    )
    assert text_similarity(["Exit!"], ["exit."]).tolist() == pytest.approx([3 / 5])  # as they are
    words = text_similarity(["turn left now", "left"], ["turn  right now", "right"], units="words")
    assert words.tolist() == pytest.approx([2 / 3, 0])
    assert text_similarity([], []).shape == (0,)


def test_texts_that_are_none():
    with pytest.raises(TypeError, match=r"^texts: wanted a list of strings, got 'cat'"):
        text_similarity("cat", ["cat"])
    with pytest.raises(TypeError, match=r"^references: wanted a list of strings"):
        text_similarity(["cat"], [3])
    with pytest.raises(ValueError, match=r"^references: wanted one for each of 2 texts, got 1"):
        text_similarity(["cat", "car"], ["cat"])
    with pytest.raises(ValueError, match=r"^units: wanted"):
        text_similarity(["cat"], ["cat"], units="letters")


def test_without_torchmetrics_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.text", None)
    with pytest.raises(RuntimeError, match=r"^text_similarity: .*fastattack\[evaluate\]"):
        text_similarity(["cat"], ["car"])


def test_cosines_against_numpy():
    g = torch.Generator().manual_seed(1)
    a, b = torch.rand(4, 1, 6, 5, generator=g), torch.rand(4, 1, 6, 5, generator=g)
    torch.manual_seed(1)
    net = nn.Conv2d(1, 3, 3)
    with torch.no_grad():
        u, v = (net(t).double().flatten(1).numpy() for t in (a, b))
    want = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    found = semantic_similarity(a, b, net)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-6)
    np.testing.assert_allclose(semantic_similarity(a, a, net).numpy(), 1, rtol=1e-12)
    np.testing.assert_allclose(semantic_similarity(a, -3 * a, nn.Flatten()).numpy(), -1, rtol=1e-12)
    huge = a.double() * 1e300
    np.testing.assert_allclose(semantic_similarity(huge, huge, nn.Flatten()).numpy(), 1, rtol=1e-12)


def test_no_direction_is_nan():
    a = torch.rand(3, 1, 4, 4)
    a[1] = 0
    assert semantic_similarity(a, a, nn.Flatten()).isnan().tolist() == [False, True, False]


def test_the_encoder_is_left_as_found():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    before = {name: t.clone() for name, t in net.state_dict().items()}
    a, b = torch.rand(2, 1, 5, 5), torch.rand(2, 1, 5, 5)
    found = semantic_similarity(a, b, net)
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(found, semantic_similarity(a, b, net.eval()))  # no dropout, no statistics of the batch


def test_encoders_that_do_not_fit():
    a = torch.rand(2, 1, 4, 4)
    with pytest.raises(TypeError, match=r"^encoder: wanted a tensor as features, got list"):
        semantic_similarity(a, a, lambda x: [x])
    with pytest.raises(ValueError, match=r"^encoder: wanted features"):
        semantic_similarity(a, a, lambda x: x.flatten(1).sum(1))
    with pytest.raises(ValueError, match=r"shapes differ"):
        semantic_similarity(a, a[:1], nn.Flatten())
