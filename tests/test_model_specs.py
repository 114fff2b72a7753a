"""Models as the command line names them: the grammar, and every kind against the model that it should be."""

from __future__ import annotations

import hashlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.models import ModelSpec, check_labels, load, open_model, parse_spec
from fastattack.models.deepinv import PlugAndPlay

EMBEDDED = Path(__file__).resolve().parents[1] / "fastattack" / "assets" / "dncnn_small_gray_25.safetensors"

# ---- the grammar


@pytest.mark.parametrize(
    ("text", "label", "kind", "path", "name"),
    [
        ("dncnn:w/dncnn_25.pth", "dncnn_25", "dncnn", "w/dncnn_25.pth", None),
        ("a=ffdnet:x.safetensors", "a", "ffdnet", "x.safetensors", None),
        ("my net=n2n:x=1:2.pt", "my net", "n2n", "x=1:2.pt", None),
        ("ecndnet:lr=0.1/a=b.pth", "a=b", "ecndnet", "lr=0.1/a=b.pth", None),
        ("dncnn", "dncnn", "dncnn", None, None),
        (" embedded ", "embedded", "embedded", None, None),
        ("e2=embedded", "e2", "embedded", None, None),
        ("bm3d", "bm3d", "bm3d", None, None),
        ("deepinv:DRUNet", "DRUNet", "deepinv", None, "DRUNet"),
        ("deepinv:pnp-DRUNet", "pnp-DRUNet", "deepinv", None, "pnp-DRUNet"),
        ("d=deepinv:DRUNet=w/a=b:c.pth", "d", "deepinv", "w/a=b:c.pth", "DRUNet"),
        ("nets/mine.py:build", "mine.build", "python", "nets/mine.py", "build"),
        ("m=nets/mine.py:build", "m", "python", "nets/mine.py", "build"),
        ("a:b/mine.py:build", "mine.build", "python", "a:b/mine.py", "build"),
        ("torchscript:x.pt", "x", "torchscript", "x.pt", None),
        ("export:x.pt2", "x", "export", "x.pt2", None),
    ],
)
def test_parses(text: str, label: str, kind: str, path: str | None, name: str | None) -> None:
    assert parse_spec(text) == ModelSpec(text.strip(), label, kind, None if path is None else Path(path), name)


def test_a_file_that_exists_is_not_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_spec("lr=1.py:net").path == Path("1.py")
    Path("lr=1.py").write_text("")
    assert parse_spec("lr=1.py:net") == ModelSpec("lr=1.py:net", "lr=1.net", "python", Path("lr=1.py"), "net")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dnccn:x.pth", r"unknown kind 'dnccn'; did you mean 'dncnn'\?"),
        ("a=torchscrpt:x", r"unknown kind 'torchscrpt'; did you mean 'torchscript'\?"),
        ("", "unknown kind ''"),
        ("zzz", r"unknown kind 'zzz'; wanted \[label=\]kind"),
        ("mine.py", r"a file without a function; wanted FILE\.py:function"),
        ("mine.py:1x", r"name of a function in mine\.py, got '1x'"),
        ("dncnn:", "names nothing after the ':'"),
        ("embedded:x", "embedded takes no source"),
        ("bm3d:np", "bm3d takes no source"),
        ("export", "wanted export:FILE"),
        ("deepinv", "wanted deepinv:CLASS"),
        ("deepinv:pnp-", "wanted deepinv:CLASS"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


def test_two_models_of_one_label() -> None:
    check_labels([parse_spec("dncnn:a/x.pth"), parse_spec("b=dncnn:b/x.pth")])
    with pytest.raises(ValueError, match=r"'dncnn:a/x\.pth' and 'dncnn:b/x\.pth' .* 'x'; .*x-2=dncnn:b/x\.pth"):
        check_labels([parse_spec("dncnn:a/x.pth"), parse_spec("dncnn:b/x.pth")])
    with pytest.raises(ValueError, match=r"give one a label: x-2=embedded"):
        check_labels([parse_spec("x=bm3d"), parse_spec("x=embedded")])


# ---- weight files


def test_opens_weights() -> None:
    digest = hashlib.sha256(EMBEDDED.read_bytes()).hexdigest()
    y = torch.rand(1, 1, 12, 12)
    for text in ("embedded", f"small=dncnn:{EMBEDDED}"):
        opened = open_model(parse_spec(text), sigma=25)
        assert (opened.spec, opened.channels, opened.differentiable, opened.shape) == (text, 1, True, None)
        assert (opened.parameters, opened.sha256) == (111585, digest)
        assert torch.equal(opened.model(y), load("embedded")(y))
    with pytest.raises(ValueError, match="3 channel"):
        open_model(parse_spec("embedded"), sigma=25, channels=3)
    with pytest.raises(FileNotFoundError, match=r"'dncnn:gone\.pth': no such file: gone\.pth"):
        open_model(parse_spec("dncnn:gone.pth"), sigma=25)


# ---- a user's file

MINE = """
import torch
from torch import nn
from helper import FACTOR

class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, 1)
    def forward(self, y):
        return self.conv(y)

def net(channels): return Net(channels)
def scaled(*, sigma): return lambda y: y * FACTOR * sigma
def both(**options): return lambda y: y * len(options)
def fixed():
    model = lambda y: y
    model.differentiable = False
    return model
def denoise(y): return y
def breaks(): raise KeyError("no weights")
def nothing(): return 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("FACTOR = 2\n")
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def opened(file: Path, function: str, **options: Any) -> fa.models.OpenedModel:
    return open_model(parse_spec(f"{file}:{function}"), **{"sigma": 25.0, **options})


def test_opens_a_users_function(mine: Path) -> None:
    y = torch.rand(1, 1, 3, 3)
    path, random = list(sys.path), torch.get_rng_state()
    net = opened(mine, "net", channels=3)
    assert (net.label, net.channels, net.parameters) == ("mine.net", 3, 12)
    assert isinstance(net.model, nn.Module)
    assert not net.model.training
    assert net.sha256 == hashlib.sha256(mine.read_bytes()).hexdigest()
    assert torch.equal(opened(mine, "scaled").model(y), y * 50)  # sigma on the 0-255 scale
    assert torch.equal(opened(mine, "both").model(y), y * 2)
    assert opened(mine, "both").differentiable
    assert not opened(mine, "fixed").differentiable
    assert sys.path == path
    assert "helper" not in sys.modules
    assert torch.equal(torch.get_rng_state(), random)


def test_neighbours_of_two_files_are_not_mixed_up(mine: Path) -> None:
    y = torch.ones(1, 1, 1, 1)
    other = mine.parent / "other"
    other.mkdir()
    (other / "helper.py").write_text("FACTOR = 3\n")
    (other / "mine.py").write_text(MINE)
    assert [opened(f, "scaled").model(y).item() for f in (mine, other / "mine.py", mine)] == [50, 75, 50]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("nett", ValueError, r"mine\.py has no function 'nett'; the nearest: net"),
        ("denoise", ValueError, r"mine\.py:denoise to be a function that returns the model .* needs y"),
        ("breaks", RuntimeError, r"mine\.py:breaks raised KeyError: 'no weights'"),
        ("nothing", TypeError, r"mine\.py:nothing to return something callable as model\(y\), got int"),
    ],
)
def test_a_users_function_that_does_not_fit(mine: Path, function: str, error: type[Exception], message: str) -> None:
    path = list(sys.path)
    with pytest.raises(error, match=message):
        opened(mine, function)
    assert sys.path == path


def test_a_users_file_that_cannot_run(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("def net(:\n")
    before = set(sys.modules)
    with pytest.raises(RuntimeError, match=r"broken\.py cannot be run: SyntaxError"):
        opened(file, "net")
    assert set(sys.modules) == before


def test_a_user_model_of_other_channels(mine: Path) -> None:
    mine.write_text(MINE.replace("return Net(channels)", "return Net(2)"))
    with pytest.raises(ValueError, match=r"mine\.py:net': wanted 1 channel\(s\), it is for 2"):
        opened(mine, "net", channels=1)


# ---- programs


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)).eval()


def loss_of(model: Any, y: Tensor) -> Tensor:
    return fa.PGD(model, eps=5 / 255, steps=2, step=2 / 255).run(y, torch.zeros_like(y)).loss


def test_opens_torchscript(tmp_path: Path) -> None:
    net, file = small(), tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(net, torch.rand(2, 1, 8, 8)).save(file)
    found = open_model(parse_spec(f"torchscript:{file}"), sigma=None)
    y = torch.rand(3, 1, 9, 10)
    assert (found.label, found.channels, found.parameters, found.shape) == ("net", None, 39, None)
    assert torch.equal(found.model(y), net(y))
    assert torch.equal(loss_of(found.model, y), loss_of(net, y))
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"net\.pt: cannot be read as TorchScript"):
        open_model(parse_spec(f"torchscript:{file}"), sigma=None)


def test_opens_an_exported_program(tmp_path: Path) -> None:
    net, file, y = small(), tmp_path / "net.pt2", torch.rand(3, 1, 9, 10)
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    torch.export.save(torch.export.export(net, (torch.rand(2, 1, 8, 8),), dynamic_shapes=(free,)), file)
    found = open_model(parse_spec(f"export:{file}"), sigma=None)
    assert (found.label, found.channels, found.parameters, found.shape) == ("net", 1, 39, (None, 1, None, None))
    assert torch.equal(found.model(y), net(y))
    torch.testing.assert_close(loss_of(found.model, y), loss_of(net, y))
    with pytest.raises(ValueError, match=r"exported for images \(any, 1, any, any\), got \(1, 3, 9, 9\)$"):
        found.model(torch.rand(1, 3, 9, 9))


def test_an_exported_program_of_fixed_size(tmp_path: Path) -> None:
    net, file = small(), tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.rand(1, 1, 8, 8),)), file)
    found = open_model(parse_spec(f"export:{file}"), sigma=None)
    assert found.shape == (1, 1, 8, 8)
    y = torch.rand(1, 1, 8, 8)
    assert torch.equal(found.model(y), net(y))
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\), got \(2, 1, 8, 8\); export it with a dynamic batch"):
        found.model(torch.rand(2, 1, 8, 8))
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"net\.pt2: cannot be read as a program of torch\.export"):
        open_model(parse_spec(f"export:{file}"), sigma=None)


# ---- deepinv, by a stand-in with the signatures of deepinv 0.5


class DRUNet(nn.Module):
    """The real one's first and last arguments and calling convention; one 1 x 1 convolution in place of the network."""

    def __init__(
        self, in_channels: int = 3, out_channels: int = 3, pretrained: str | None = "download", device: Any = None
    ) -> None:
        super().__init__()
        assert in_channels == out_channels
        self.conv = nn.Conv2d(in_channels + 1, out_channels, 1, bias=False)
        self.pretrained = pretrained
        if pretrained is not None:
            assert pretrained == "download"
            nn.init.constant_(self.conv.weight, 0.5)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        out: Tensor = self.conv(torch.cat((x, torch.full_like(x[:, :1], float(sigma))), 1))
        return out


class SwinIR(nn.Module):
    def __init__(
        self, in_chans: int = 3, pretrained: str | None = "download", pretrained_noise_level: int = 15, **kwargs: Any
    ) -> None:
        super().__init__()
        assert not kwargs
        if pretrained_noise_level not in (15, 25, 50):
            raise KeyError(pretrained_noise_level)
        self.level = pretrained_noise_level

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        return x * self.level


class UNet(nn.Module):
    def __init__(self, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()


class BM3D(nn.Module):
    def __init__(self, use_legacy: bool = True, device: Any = "cpu", **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x.detach()


@pytest.fixture
def deepinv(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("deepinv")
    package.models = types.SimpleNamespace(DRUNet=DRUNet, SwinIR=SwinIR, UNet=UNet, BM3D=BM3D)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepinv", package)


@pytest.mark.usefixtures("deepinv")
def test_deepinv_is_called_with_sigma_on_the_images_scale() -> None:
    random, y = torch.get_rng_state(), torch.rand(2, 1, 4, 5)
    found = open_model(parse_spec("deepinv:DRUNet"), sigma=51, channels=1)
    assert (found.label, found.channels, found.parameters, found.differentiable) == ("DRUNet", 1, 2, True)
    torch.testing.assert_close(found.model(y), 0.5 * y + 0.5 * 51 / 255)
    model = load("deepinv:DRUNet", sigma=51, channels=1)
    assert torch.equal(model(y), found.model(y))
    assert (model.channels, model.sigma, model.training) == (1, 51, False)
    assert load("deepinv:DRUNet", sigma=51).channels == 3
    torch.set_rng_state(random)
    load("deepinv:DRUNet", sigma=51)
    assert torch.equal(torch.get_rng_state(), random)
    assert not open_model(parse_spec("deepinv:BM3D"), sigma=25).differentiable


@pytest.mark.usefixtures("deepinv")
def test_deepinv_with_weights_of_a_file(tmp_path: Path) -> None:
    file, y = tmp_path / "drunet.pth", torch.rand(1, 1, 3, 3)
    torch.save({"conv.weight": torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1)}, file)
    found = open_model(parse_spec(f"deepinv:DRUNet={file}"), sigma=25, channels=1)
    assert torch.equal(found.model(y), 2 * y)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"drunet\.pth: not weights of deepinv:DRUNet: .*size mismatch"):
        open_model(parse_spec(f"deepinv:DRUNet={file}"), sigma=25, channels=3)


@pytest.mark.usefixtures("deepinv")
def test_deepinv_refuses() -> None:
    for text, message in [
        ("deepinv:DRUNett", "deepinv has no denoiser 'DRUNett'; the nearest: DRUNet"),
        ("deepinv:UNet", "deepinv has no weights for it; wanted deepinv:UNet=FILE"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_model(parse_spec(text), sigma=25)
    with pytest.raises(ValueError, match="sigma: wanted a noise level"):
        load("deepinv:DRUNet")
    assert load("deepinv:SwinIR", sigma=25)(torch.ones(1)).item() == 25  # the weights of that level, not the default's
    with pytest.raises(ValueError, match=r"deepinv:SwinIR: deepinv cannot make it: KeyError: 30"):
        load("deepinv:SwinIR", sigma=30)


@pytest.mark.usefixtures("deepinv")
def test_plug_and_play_loop_is_half_quadratic_splitting() -> None:
    """Against DPIR's recursion in numpy: a linear denoiser makes it a closed recursion of numbers."""
    model = load("deepinv:pnp-DRUNet", sigma=25, channels=1)
    y = torch.rand(1, 1, 2, 2, dtype=torch.float64)
    sigma, x = 25 / 255, y.numpy()
    for level in np.logspace(np.log10(49 / 255), np.log10(sigma), 8):
        weight = level**2 / sigma**2 / 0.23
        x = 0.5 * (x + weight * y.numpy()) / (1 + weight) + 0.5 * level
    np.testing.assert_allclose(model.double()(y).detach().numpy(), x, rtol=1e-12)
    assert torch.autograd.gradcheck(model, y.requires_grad_())
    with pytest.raises(ValueError, match="sigma"):
        PlugAndPlay(DRUNet(), 0.0)


def test_deepinv_that_does_not_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(RuntimeError, match=r"fastattack\[deepinv\]"):
        load("deepinv:DRUNet", sigma=25)


def test_deepinv_for_real(tmp_path: Path) -> None:
    try:
        import deepinv
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"deepinv does not import here: {error}")
    net = deepinv.models.DRUNet(1, 1, pretrained=None).eval()
    torch.save(net.state_dict(), tmp_path / "drunet.pth")
    y = torch.rand(1, 1, 32, 32)
    plain = load("deepinv:DRUNet", sigma=25, channels=1, weights=tmp_path / "drunet.pth")
    loop = load("deepinv:pnp-DRUNet", sigma=25, channels=1, weights=tmp_path / "drunet.pth")
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(25 / 255))
    with torch.no_grad():
        assert torch.equal(plain(y), net(y, 25 / 255))
        torch.testing.assert_close(loop(y), deepinv.optim.DPIR(sigma=25 / 255, denoiser=net)(y, physics))


# ---- BM3D


def test_bm3d_denoises_each_image_of_a_batch() -> None:
    pytest.importorskip("bm3d", reason="needs the package bm3d")
    g = torch.Generator().manual_seed(0)
    clean = torch.stack((torch.full((1, 24, 20), 0.3), torch.linspace(0, 1, 20).expand(1, 24, 20)))
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=g)
    found = open_model(parse_spec("bm3d"), sigma=25)
    assert (found.differentiable, found.channels, found.parameters, found.sha256) == (False, None, None, None)
    out = found.model(noisy)
    assert (out.shape, out.dtype) == (noisy.shape, noisy.dtype)
    assert (fa.metrics.psnr(out, clean) - fa.metrics.psnr(noisy, clean) > 6).all()  # sigma on another scale: below 1 dB
    assert torch.equal(out[1:], found.model(noisy[1:]))
    color = noisy[1:] + 0.1 * torch.rand(1, 3, 24, 20, generator=g)
    assert found.model(color.double()).dtype == torch.float64


def test_bm3d_refuses() -> None:
    pytest.importorskip("bm3d", reason="needs the package bm3d")
    model = open_model(parse_spec("bm3d"), sigma=25).model
    with pytest.raises(RuntimeError, match="bm3d: has no gradient"):
        model(torch.rand(1, 1, 16, 16, requires_grad=True))
    with pytest.raises(ValueError, match=r"H and W >= 9, got \(1, 1, 8, 8\)"):
        model(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="contrast"):
        model(torch.full((1, 3, 16, 16), 0.5))
    with pytest.raises(ValueError, match="sigma"):
        open_model(parse_spec("bm3d"), sigma=None)


def test_bm3d_that_does_not_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(RuntimeError, match=r"fastattack\[bm3d\]"):
        open_model(parse_spec("bm3d"), sigma=25)
