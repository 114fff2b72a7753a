"""Objectives that call a network: deviation, features and LPIPS."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack import objectives


def images(seed, *shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Net(nn.Module):
    """Everything that a call could change: batch norm, dropout, one parameter that learns and one that does not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(4, 5, 1, bias=False)
        self.last.weight.requires_grad_(False)

    def forward(self, x):
        return self.last(self.drop(self.relu(self.norm(self.conv(x)))))


def seen(net):
    """All that must be as it was."""
    return (
        [m.training for m in net.modules()],
        [p.requires_grad for p in net.parameters()],
        [p.grad is None for p in net.parameters()],
        [len(m._forward_hooks) for m in net.modules()],
        [b.clone() for b in net.buffers()],
        torch.get_rng_state(),
    )


def same(a, b):
    return a[:4] == b[:4] and all(torch.equal(p, q) for p, q in zip((*a[4], a[5]), (*b[4], b[5]), strict=True))


# deviation


@pytest.mark.parametrize("eval_mode", [True, False])
def test_deviation_target_leaves_the_model_as_found(eval_mode):
    net = Net().train()
    y = images(1, 4, 3, 6, 6, dtype=torch.float32)
    before = seen(net)
    target = objectives.deviation_target(net, y, eval_mode=eval_mode)
    assert same(before, seen(net))
    assert not target.requires_grad
    if eval_mode:
        with torch.no_grad():
            assert torch.equal(target, net.eval()(y))
    torch.testing.assert_close(objectives.deviation_target(net, y, max_batch=3), objectives.deviation_target(net, y))


def test_deviation_target_is_a_copy():
    y = images(1, 2, 1, 3, 3)
    for model in (lambda v: v, lambda v: v[..., 1:]):
        target = objectives.deviation_target(model, y)
        kept = target.clone()
        y += 1
        assert torch.equal(target, kept)


def test_deviation_of_a_linear_model():
    """D(y) = a y: |D(y') - D(y)|² is a² |y' - y|², and a long sign step from inside the cube ends in a corner."""
    with torch.inference_mode():
        y = images(1, 3, 1, 8, 9, dtype=torch.float32)
    target = objectives.deviation_target(lambda v: 1.5 * v, y)
    result = fa.PGD(lambda v: 1.5 * v, objective=objectives.deviation, eps=0.1, steps=3, step=0.2).run(y, target)
    np.testing.assert_allclose(result.loss, np.full(3, 0.15**2), rtol=1e-5)
    free = fa.DenoisingPGD(lambda v: 1.5 * v, objective=objectives.deviation, preserve_noise=False, eps=0.1, steps=3)
    assert (free.run(y, target).loss > 0).all()


def test_deviation_errors():
    y = torch.rand(4, 1, 3, 3)
    with pytest.raises(TypeError, match="y: wanted a tensor"):
        objectives.deviation_target(abs, [1.0])
    for bad in (torch.rand(3), torch.rand(0, 1, 3, 3)):
        with pytest.raises(ValueError, match="y: wanted a batch"):
            objectives.deviation_target(abs, bad)
    with pytest.raises(ValueError, match="max_batch: wanted"):
        objectives.deviation_target(abs, y, max_batch=0)
    with pytest.raises(TypeError, match="model: wanted a tensor as output, got list"):
        objectives.deviation_target(lambda v: [v], y)
    for model in (lambda v: v[:1], torch.sum):
        with pytest.raises(ValueError, match="model: wanted an output of 4 samples"):
            objectives.deviation_target(model, y)


# features


def l2(a, b):
    return ((a - b) ** 2).reshape(a.shape[0], -1).mean(1)


def cosine(a, b):
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    return 1 - (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@pytest.mark.parametrize(("distance", "formula"), [("l2", l2), ("cosine", cosine)])
def test_features_against_numpy(distance, formula):
    """Whatever holds the features: one tensor, a list, a dictionary; the mean over them."""
    a, b = images(1, 3, 2, 5, 6) - 0.3, images(2, 3, 2, 5, 6)
    first, second = lambda t: t**3, lambda t: t[:, 1] + 2 * t[:, 0]
    x, y = a.numpy(), b.numpy()
    one, two = formula(first(x), first(y)), formula(second(x), second(y))
    for net, want in (
        (first, one),
        (lambda t: [first(t), second(t)], (one + two) / 2),
        (lambda t: (first(t), second(t)), (one + two) / 2),
        (lambda t: {"a": first(t), "b": second(t)}, (one + two) / 2),
    ):
        objective = objectives.features(net, distance=distance)
        np.testing.assert_allclose(objective(a, b), want, rtol=1e-12)
        assert torch.autograd.gradcheck(lambda t, f=objective: f(t, b), a.clone().requires_grad_(True))


def test_features_of_named_layers():
    """What the layers returned, also where the next one wrote over it; in the order of the names."""
    net = Net().double().eval()
    a, b = images(1, 2, 3, 3, 4), images(2, 2, 3, 3, 4)
    with torch.no_grad():
        x, y = net.norm(net.conv(a)).numpy(), net.norm(net.conv(b)).numpy()
        p, q = net(a).numpy(), net(b).numpy()
    assert (x < 0).any()
    np.testing.assert_allclose(objectives.features(net, layers=["norm"])(a, b), l2(x, y), rtol=1e-12)
    both = objectives.features(net, layers=["last", "norm"], distance="cosine")
    np.testing.assert_allclose(both(a, b), (cosine(x, y) + cosine(p, q)) / 2, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda t: both(t, b), a.requires_grad_(True))


@pytest.mark.parametrize("layers", [None, ["norm", "last"]])
def test_features_leave_the_net_as_found(layers):
    net = Net().train()
    x, y = (images(i, 4, 3, 6, 6, dtype=torch.float32) for i in (1, 2))
    before = seen(net)
    objective = objectives.features(net, layers=layers)
    result = fa.PGD(lambda v: 1.1 * v, objective=objective, eps=0.05, steps=3, seed=1).run(x, y)
    assert same(before, seen(net))
    assert (result.loss > objective(1.1 * x, y)).all()
    assert torch.equal(objective(x, y), objective(x, y))  # eval mode: no dropout
    assert torch.autograd.grad(objective(x.requires_grad_(True), y).sum(), x)[0].isfinite().all()
    assert not objective(x.detach(), y).requires_grad  # nothing for the parameters

    def broken(_module, _args):
        raise KeyboardInterrupt

    handle = net.last.register_forward_pre_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        objective(x, y)
    handle.remove()
    assert same(before, seen(net))


def test_features_errors():
    net, x = Net(), torch.rand(2, 3, 6, 6)
    with pytest.raises(TypeError, match="net: wanted something callable"):
        objectives.features("vgg")
    with pytest.raises(ValueError, match="distance: wanted 'l2' or 'cosine'"):
        objectives.features(net, distance="l1")
    for layers in ("norm", []):
        with pytest.raises(ValueError, match="layers: wanted a list"):
            objectives.features(net, layers=layers)
    with pytest.raises(ValueError, match="layers: wanted names of modules in net, got 'nrm'"):
        objectives.features(net, layers=["nrm"])
    with pytest.raises(TypeError, match="layers: wanted None"):
        objectives.features(abs, layers=["norm"])
    net.spare = nn.ReLU()
    with pytest.raises(ValueError, match="layers: wanted modules that a forward pass of net calls, got 'spare'"):
        objectives.features(net, layers=["spare"])(x, x)
    with pytest.raises(TypeError, match="net: wanted a tensor or a list of tensors as features, got str"):
        objectives.features(lambda t: ["a"])(x, x)
    for bad in (lambda t: t.mean(), lambda t: t[:1]):
        with pytest.raises(ValueError, match=r"net: wanted features \(B, ...\) of 2 samples"):
            objectives.features(bad)(x, x)
    with pytest.raises(ValueError, match="one tensor of features at least"):
        objectives.features(lambda t: [])(x, x)


# LPIPS

MIX = [np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(((4, 3), (6, 4)))]


def stand_in(x):
    """Two layers: channels mixed, then the same over every second pixel."""
    first = torch.einsum("oc,bchw->bohw", torch.from_numpy(MIX[0]).to(x), x).relu()
    return [first, torch.einsum("oc,bchw->bohw", torch.from_numpy(MIX[1]).to(x), first[..., ::2, ::2]).relu()]


def lpips_of(x, y, lins):
    """In NumPy, from images (3, H, W) in [0, 1]."""

    def layers(t):
        t = (2 * t - 1 - np.array([-0.03, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.45])[
            :, None, None
        ]
        first = np.maximum(np.tensordot(MIX[0], t, 1), 0)
        return [first, np.maximum(np.tensordot(MIX[1], first[:, ::2, ::2], 1), 0)]

    total = 0.0
    for a, b, lin in zip(layers(x), layers(y), lins, strict=True):
        for i, j in np.ndindex(*a.shape[1:]):
            u, v = (t[:, i, j] / (np.sqrt((t[:, i, j] ** 2).sum()) + 1e-10) for t in (a, b))
            total += (lin * (u - v) ** 2).sum() / (a.shape[1] * a.shape[2])
    return total


def saved(path, lins, key="lin{}.model.1.weight"):
    torch.save({key.format(i): torch.as_tensor(lin).reshape(1, -1, 1, 1) for i, lin in enumerate(lins)}, path)
    return path


LINS = [np.array([0.5, 0.0, 2.0, 1.0]), np.linspace(0.1, 1.5, 6)]


@pytest.fixture
def weights(tmp_path):
    return saved(tmp_path / "lin.pth", LINS)


@pytest.mark.parametrize("key", ["lin{}.model.1.weight", "lin{}.model.0.weight", "module.lin{}.model.1.weight"])
def test_lpips_against_numpy(tmp_path, key):
    a, b = images(1, 2, 3, 6, 7), images(2, 2, 3, 6, 7)
    objective = objectives.lpips(saved(tmp_path / "w.pth", LINS, key), net=stand_in)
    want = [lpips_of(x, y, LINS) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(objective(a, b), want, rtol=1e-9)
    assert torch.autograd.gradcheck(lambda t: objective(t, b), a.clone().requires_grad_(True))
    for dtype, near in ((torch.float32, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.1)):
        found = objective(a.to(dtype), b.to(dtype))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, want, rtol=near)
    grey = images(3, 2, 1, 6, 7)
    np.testing.assert_allclose(
        objective(grey, b[:, :1]), objective(grey.expand(2, 3, 6, 7), b[:, :1].expand(2, 3, 6, 7))
    )


def test_lpips_where_nothing_passes_the_relu(weights):
    objective = objectives.lpips(weights, net=lambda t: [layer * 0 for layer in stand_in(t)])
    x = images(1, 1, 3, 6, 6).requires_grad_(True)
    loss = objective(x, images(2, 1, 3, 6, 6))
    assert loss.item() == 0
    assert torch.autograd.grad(loss.sum(), x)[0].isfinite().all()


def test_lpips_in_an_attack(weights):
    x, y = (images(i, 3, 3, 8, 8, dtype=torch.float32) for i in (1, 2))
    objective = objectives.lpips(weights, net=stand_in)
    result = fa.PGD(lambda v: 0.9 * v, objective=objective, eps=0.05, steps=4).run(x, y)
    assert (result.loss > objective(0.9 * x, y)).all()


def trunk(convs_before_pooling):
    """Small channels in the layout of torchvision's `features`: convolutions with ReLU, blocks with pooling."""
    torch.manual_seed(0)
    modules, width = [], 3
    for count in convs_before_pooling:
        for _ in range(count):
            modules += [nn.Conv2d(width, width + 1, 3, padding=1), nn.ReLU(inplace=True)]
            width += 1
        modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules)


LAYOUTS = {
    "alex": ("alexnet", (1, 1, 3), (1, 4, 7, 9, 11)),
    "vgg": ("vgg16", (2, 2, 3, 3, 3), (3, 8, 15, 22, 29)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_lpips_on_torchvisions_networks(name, tmp_path, monkeypatch):
    """With a stand-in for torchvision: the layers are those that LPIPS takes."""
    attribute, blocks, ends = LAYOUTS[name]
    net = trunk(blocks).train()
    asked = []

    def make(weights):
        asked.append(weights)
        return SimpleNamespace(features=net)

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=SimpleNamespace(**{attribute: make})))
    lins = [np.random.default_rng(i).random(net[end - 1].out_channels) for i, end in enumerate(ends)]
    path = saved(tmp_path / "lin.pth", lins)
    objective = objectives.lpips(path, net=name)
    assert asked == ["IMAGENET1K_V1"]
    assert not any(p.requires_grad for p in net.parameters())

    def sliced(x):
        found = []
        for i, module in enumerate(net):
            x = module(x)
            if i in ends:
                found.append(x)
        return found

    a, b = (images(i, 2, 3, 32, 32) for i in (1, 2))
    for dtype in (torch.float32, torch.float64):
        found = objective(a.to(dtype), b.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found, objectives.lpips(path, net=sliced)(a.to(dtype), b.to(dtype)))
    assert repr(objective) == f"lpips(weights={path!r}, net={name!r})"


def test_lpips_without_torchvision(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(RuntimeError, match=r"net: 'alex' needs torchvision.*pip install 'fastattack\[lpips\]'"):
        objectives.lpips(weights)


def test_lpips_errors(weights, tmp_path):
    x = torch.rand(2, 3, 6, 6)
    with pytest.raises(FileNotFoundError, match=r"none.pth"):
        objectives.lpips(tmp_path / "none.pth", net=stand_in)
    for bad in ({"lin1.model.1.weight": torch.ones(1, 4, 1, 1)}, {"conv.weight": torch.ones(1)}):
        torch.save(bad, tmp_path / "bad.pth")
        with pytest.raises(ValueError, match=r"weights: wanted lin0.model.1.weight"):
            objectives.lpips(tmp_path / "bad.pth", net=stand_in)
    torch.save({"lin0.model.1.weight": torch.ones(2, 4, 1, 1)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"of shape \(1, C, 1, 1\), got \(2, 4, 1, 1\)"):
        objectives.lpips(tmp_path / "bad.pth", net=stand_in)
    with pytest.raises(ValueError, match="net: wanted 'alex', 'vgg' or a callable, got 'squeeze'"):
        objectives.lpips(weights, net="squeeze")
    with pytest.raises(TypeError, match="net: wanted"):
        objectives.lpips(weights, net=3)
    with pytest.raises(ValueError, match="net: wanted 2 layers of features as in weights, got 1"):
        objectives.lpips(weights, net=lambda t: stand_in(t)[:1])(x, x)
    with pytest.raises(ValueError, match=r"net: wanted features \(B, 4, h, w\) as in weights, got \(2, 6, 3, 3\)"):
        objectives.lpips(weights, net=lambda t: stand_in(t)[::-1])(x, x)
    with pytest.raises(ValueError, match=r"model: wanted images \(B, 1 or 3, H, W\) for lpips"):
        objectives.lpips(weights, net=stand_in)(x[:, :2], x[:, :2])
