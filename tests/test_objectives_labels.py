"""Objectives on logits, against loops over NumPy numbers in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastattack import objectives

SHAPES = [(5, 6), (3, 4, 7), (2, 5, 3, 4)]


def logits_and_labels(shape, seed=0, pair=False):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=g, dtype=torch.float64)
    return logits, torch.randint(0, shape[1], (shape[0], *((2,) if pair else ()), *shape[2:]), generator=g)


def by_position(formula, logits, labels):
    """The mean of formula(z, y) over each sample's positions, z (classes,)."""
    z = np.moveaxis(logits.numpy(), 1, -1).reshape(logits.shape[0], -1, logits.shape[1])
    pair = labels.dim() == logits.dim()
    y = np.moveaxis(labels.numpy(), 1, -1).reshape(*z.shape[:2], 2) if pair else labels.numpy().reshape(z.shape[:2])
    return np.array(
        [np.mean([formula(a, b) for a, b in zip(zs, ys, strict=True)]) for zs, ys in zip(z, y, strict=False)]
    )


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def entropy(z, y):
    return -math.log(softmax(z)[y])


def other(z, y):
    return max(v for i, v in enumerate(z) if i != y) - z[y]


def ratio(z, y):
    s = sorted(z, reverse=True)
    return other(z, y) / (s[0] - s[2])


def targeted_ratio(z, pair):
    s = sorted(z, reverse=True)
    return (z[pair[0]] - z[pair[1]]) / (s[0] - (s[2] + s[3]) / 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_against_loops(shape):
    logits, labels = logits_and_labels(shape)
    for objective, formula in (
        (objectives.cross_entropy, entropy),
        (objectives.cw_margin(), other),
        (objectives.cw_margin(kappa=0.5), lambda z, y: min(other(z, y), 0.5)),
        (objectives.cw_margin(kappa=0, targeted=True), lambda z, y: max(other(z, y), 0)),
        (objectives.dlr, ratio),
    ):
        np.testing.assert_allclose(objective(logits, labels), by_position(formula, logits, labels), rtol=1e-9)
    logits, labels = logits_and_labels(shape, pair=True)
    want = by_position(targeted_ratio, logits, labels)
    np.testing.assert_allclose(objectives.dlr_targeted(logits, labels), want, rtol=1e-9)


@pytest.mark.parametrize("shape", [(4, 5), (3, 5, 2, 3)])
def test_divergence_of_two_outputs(shape):
    g = torch.Generator().manual_seed(11)
    output, target = (3 * torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    p, q = (np.exp(z - z.max(1, keepdims=True)) for z in (target.numpy(), output.numpy()))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    want = (p * np.log(p / q)).sum(1).reshape(shape[0], -1).mean(1)
    np.testing.assert_allclose(objectives.kl_divergence(output, target), want, rtol=1e-9)
    assert objectives.kl_divergence(output, output).abs().max() < 1e-12
    with pytest.raises(ValueError, match="target: wanted logits"):
        objectives.kl_divergence(output, target[:, :4])


def test_signs():
    right, wrong = torch.tensor([[5.0, 1, 0, -1]]), torch.tensor([[1.0, 5, 0, -1]])
    label = torch.tensor([0])
    assert objectives.cw_margin()(right, label).item() == -4
    assert objectives.cw_margin()(wrong, label).item() == 4
    assert objectives.dlr(right, label).item() == pytest.approx(-4 / 5)
    assert objectives.dlr(wrong, label).item() == pytest.approx(4 / 5)
    towards = torch.tensor([[0, 1]])  # from class 0 to class 1: less is nearer
    assert objectives.dlr_targeted(right, towards).item() == pytest.approx(4 / 5.5)
    assert objectives.dlr_targeted(wrong, towards).item() == pytest.approx(-4 / 5.5)


def test_dlr_knows_neither_offset_nor_factor():
    logits, labels = logits_and_labels((6, 5))
    torch.testing.assert_close(objectives.dlr(100 * logits + 7, labels), objectives.dlr(logits, labels))


def test_equal_logits_are_finite():
    logits = torch.zeros(2, 5, requires_grad=True)
    for objective, labels in ((objectives.dlr, [0, 4]), (objectives.dlr_targeted, [[0, 1], [4, 2]])):
        loss = objective(logits, torch.tensor(labels))
        assert loss.tolist() == [0, 0]
        assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


def test_confidence_stops_the_gradient_on_its_side_alone():
    logits = torch.tensor([[3.0, 0, 0], [0.0, 3, 1]], requires_grad=True)  # margins of class 0: -3 and 3
    for targeted, stopped in ((False, 1), (True, 0)):
        objective = objectives.cw_margin(kappa=2, targeted=targeted)
        (grad,) = torch.autograd.grad(objective(logits, torch.tensor([0, 0])).sum(), logits)
        assert (grad[stopped] == 0).all()
        assert (grad[1 - stopped] != 0).any()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5])
def test_segpgd_against_loops(weight, targeted):
    def formula(z, y):
        holds = (z.argmax() == y) != targeted
        return (1 - weight if holds else weight) * entropy(z, y)

    logits, labels = logits_and_labels((3, 4, 5, 6))
    found = objectives.segpgd(weight=weight, targeted=targeted)(logits, labels)
    np.testing.assert_allclose(found, by_position(formula, logits, labels), rtol=1e-12)


def test_segpgd_by_steps():
    """lambda = (t - 1) / (2 T) for t = 1 .. T."""
    for t in range(1, 9):
        assert objectives.segpgd(targeted=True).at(t - 1, 8) == objectives.segpgd(weight=(t - 1) / 16, targeted=True)
    assert objectives.segpgd().at(8, 8).weight == 0.5
    logits, labels = logits_and_labels((2, 4, 3, 3))
    with pytest.raises(ValueError, match="weight: wanted a number, got None"):
        objectives.segpgd()(logits, labels)
    for step, steps in ((-1, 4), (5, 4), (0, 0)):
        with pytest.raises(ValueError, match="step: wanted"):
            objectives.segpgd().at(step, steps)


ACTIVATIONS = {"softmax": softmax, "sigmoid": lambda z: 1 / (1 + np.exp(-z))}


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_cospgd_on_labels_against_loops(activation, targeted):
    def weight(z, y):
        c = cosine(ACTIVATIONS[activation](z), np.eye(4)[y])
        return 1 - c if targeted else c

    logits, labels = logits_and_labels((3, 4, 5, 6))
    objective = objectives.cospgd(activation=activation, targeted=targeted)
    found = objective(logits.requires_grad_(True), labels)
    np.testing.assert_allclose(
        found.detach(), by_position(lambda z, y: weight(z, y) * entropy(z, y), logits.detach(), labels), rtol=1e-12
    )
    (grad,) = torch.autograd.grad(found.sum(), logits)  # that of cross-entropy alone, weighted: softmax less one-hot
    z, want = logits.detach().numpy(), np.empty(grad.shape)
    for b, i, j in np.ndindex(3, 5, 6):
        here, y = z[b, :, i, j], labels[b, i, j].item()
        want[b, :, i, j] = weight(here, y) * (softmax(here) - np.eye(4)[y]) / 30
    np.testing.assert_allclose(grad, want, atol=1e-14)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_cospgd_on_images_against_loops(activation, targeted):
    g = torch.Generator().manual_seed(1)
    output, target = (torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64) for _ in range(2))
    found = objectives.cospgd(activation=activation, targeted=targeted)(output.requires_grad_(True), target)
    a, b, act = output.detach().numpy(), target.numpy(), ACTIVATIONS[activation]
    want, slope = np.zeros(2), np.empty(a.shape)
    for n, i, j in np.ndindex(2, 4, 5):
        c = cosine(act(a[n, :, i, j]), act(b[n, :, i, j]))
        w, d = (1 - c if targeted else c), a[n, :, i, j] - b[n, :, i, j]
        want[n] += w * (d**2).sum() / 60
        slope[n, :, i, j] = w * 2 * d / 60
    np.testing.assert_allclose(found.detach(), want, rtol=1e-12)
    np.testing.assert_allclose(torch.autograd.grad(found.sum(), output)[0], slope, atol=1e-14)


def test_cospgd_where_every_sigmoid_is_zero():
    logits = torch.full((1, 3, 2, 2), -500.0, requires_grad=True)
    loss = objectives.cospgd(activation="sigmoid")(logits, torch.zeros(1, 2, 2, dtype=torch.long))
    assert loss.item() == 0
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


DENSE = {
    "cross_entropy": objectives.cross_entropy, "cw_margin": objectives.cw_margin(), "dlr": objectives.dlr,
    "segpgd": objectives.segpgd(weight=0.2), "cospgd": objectives.cospgd(),
    "cospgd targeted": objectives.cospgd(targeted=True),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_ignored_positions_count_nothing(name):
    logits, labels = logits_and_labels((2, 4, 3, 4))
    labels[0, 1, 2] = -100
    shown = logits.clone().requires_grad_(True)
    loss = DENSE[name](shown, labels)
    (grad,) = torch.autograd.grad(loss.sum(), shown)
    assert (grad[0, :, 1, 2] == 0).all()
    rest = [
        DENSE[name](logits[:1, :, i : i + 1, j : j + 1], labels[:1, i : i + 1, j : j + 1]) for i, j in np.ndindex(3, 4)
    ]
    assert rest[1 * 4 + 2].item() == 0
    torch.testing.assert_close(loss[0].detach(), torch.cat(rest).mean())


def test_ignored_pairs():
    logits, pairs = logits_and_labels((1, 5, 1, 3), pair=True)
    pairs[0, 0, 0, 0] = pairs[0, 1, 0, 2] = -100
    alone = objectives.dlr_targeted(logits[..., 1:2], pairs[..., 1:2])
    torch.testing.assert_close(objectives.dlr_targeted(logits, pairs), alone / 3)


@pytest.mark.parametrize("name", DENSE)
def test_errors(name):
    logits, labels = logits_and_labels((2, 5, 3, 4))
    for bad in (labels[:, :2], labels[:1], labels.double() if "cospgd" not in name else labels[..., None]):
        with pytest.raises(ValueError, match=r"target: wanted integer labels of shape \(2, 3, 4\)"):
            DENSE[name](logits, bad)
    with pytest.raises(TypeError, match="target: wanted integer labels, got int"):
        DENSE[name](logits, 3)
    for value in (5, -1):
        with pytest.raises(ValueError, match="target: wanted labels from 0 to 4"):
            DENSE[name](logits, torch.full_like(labels, value))
    with pytest.raises(ValueError, match="model: wanted logits"):
        DENSE[name]([1.0], labels)


def test_too_few_classes():
    for objective, least, per_position in (
        (objectives.cw_margin(), 2, ()),
        (objectives.dlr, 3, ()),
        (objectives.dlr_targeted, 4, (2,)),
    ):
        labels = torch.zeros(3, *per_position, dtype=torch.long)
        objective(torch.randn(3, least), labels)
        with pytest.raises(ValueError, match=f"model: wanted logits of {least} classes at least"):
            objective(torch.randn(3, least - 1), labels)


def test_dense_objectives_want_dense_outputs():
    logits, labels = logits_and_labels((3, 5))
    for objective in (objectives.segpgd(weight=0.5), objectives.cospgd()):
        with pytest.raises(ValueError, match="model: wanted a dense output"):
            objective(logits, labels)
    with pytest.raises(ValueError, match="2 channels at least for cospgd"):
        objectives.cospgd()(torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4))
    with pytest.raises(ValueError, match="target's shape"):
        objectives.cospgd()(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 5))
