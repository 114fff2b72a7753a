"""models: each architecture against numpy in float64, each published checkpoint against its published PSNR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastattack.images import find_images, read_image
from fastattack.metrics import psnr
from fastattack.models import Denoiser, DnCNN, ECNDNet, FFDNet, N2NUNet, load
from tests.shared import SHARED, needs_shared

ASSETS = Path(__file__).resolve().parents[1] / "fastattack" / "assets"
EMBEDDED = ASSETS / "dncnn_small_gray_25.safetensors"
WEIGHTS = SHARED / "weights"
Array = npt.NDArray[np.float64]

TINY: dict[str, Callable[[], Denoiser]] = {
    "dncnn gray": lambda: DnCNN(1, depth=4, features=5),
    "dncnn color": lambda: DnCNN(3, depth=3, features=4),
    "dncnn batch norm": lambda: DnCNN(1, depth=4, features=5, batch_norm=True),
    "ffdnet gray": lambda: FFDNet(1, depth=3, features=5, sigma=25),
    "ffdnet color": lambda: FFDNet(3, depth=2, features=4, sigma=25),
    "ecndnet": lambda: ECNDNet(1, features=4),
    "n2n": N2NUNet,
}


def tiny(name: str) -> Denoiser:
    """A small model with random weights and batch norm statistics, float64, eval mode."""
    torch.manual_seed(3)
    model = TINY[name]().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


# ---- architectures against numpy


def conv(x: Array, w: Array, b: Array | float = 0.0, dilation: int = 1) -> Array:
    """3 x 3 correlation with zero padding: [C, H, W], [O, C, 3, 3] -> [O, H, W]."""
    h, width = x.shape[1:]
    p = np.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation)))
    out = np.zeros((w.shape[0], h, width))
    for i in range(3):
        for j in range(3):
            window = p[:, i * dilation : i * dilation + h, j * dilation : j * dilation + width]
            out += np.einsum("oc,chw->ohw", w[:, :, i, j], window)
    out += np.reshape(b, (-1, 1, 1))
    return out


def norm(x: Array, s: dict[str, Array], key: str) -> Array:
    def column(name: str) -> Array:
        return s[f"{key}.{name}"][:, None, None]

    scaled: Array = (x - column("running_mean")) / np.sqrt(column("running_var") + 1e-5)
    return scaled * column("weight") + column("bias")


def stack(x: Array, s: dict[str, Array], batch_norm: bool = False) -> Array:
    """The Sequential of DnCNN and FFDNet, by its checkpoint keys."""
    convs = [i for i in range(100) if s.get(f"model.{i}.weight", np.zeros(0)).ndim == 4]
    for i in convs:
        x = conv(x, s[f"model.{i}.weight"], s[f"model.{i}.bias"])
        if batch_norm and i not in (convs[0], convs[-1]):
            x = norm(x, s, f"model.{i + 1}")
        x = x if i == convs[-1] else np.maximum(x, 0)
    return x


def numpy_ffdnet(x: Array, s: dict[str, Array], sigma: float) -> Array:
    c, h, w = x.shape
    x = np.pad(x, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
    phases = np.stack([x[k, i::2, j::2] for k in range(c) for i in (0, 1) for j in (0, 1)])
    out = stack(np.concatenate((phases, np.full((1, *phases.shape[1:]), sigma))), s)
    image = np.empty_like(x)
    for n, phase in enumerate(out):
        image[n // 4, n % 4 // 2 :: 2, n % 2 :: 2] = phase
    return image[:, :h, :w]


def numpy_ecndnet(x: Array, s: dict[str, Array]) -> Array:
    out = x
    for k in range(1, 17):
        out = conv(out, s[f"conv1_{k}.0.weight"], dilation=2 if k in (2, 5, 9, 12) else 1)
        out = np.maximum(out if k == 16 else norm(out, s, f"conv1_{k}.1"), 0)
    return x - conv(out, s["conv3.weight"], s["conv3.bias"])


@pytest.mark.parametrize("name", [name for name in TINY if name != "n2n"])
@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 1)])
def test_forward_against_numpy(name: str, size: tuple[int, int]) -> None:
    model = tiny(name)
    y = torch.rand(2, model.channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    got = model(y).detach().numpy()
    for sample, x in zip(got, y.numpy(), strict=True):
        if name.startswith("dncnn"):
            expected = x - stack(x, state, batch_norm="norm" in name)
        elif name.startswith("ffdnet"):
            expected = numpy_ffdnet(x, state, 25 / 255)
        else:
            expected = numpy_ecndnet(x, state)
        np.testing.assert_allclose(sample, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(32, 64), (33, 31), (5, 40), (2, 3), (1, 1)])
def test_n2n_padding_against_numpy(size: tuple[int, int]) -> None:
    model = tiny("n2n")
    y = torch.rand(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    pads = [(0, 0), (0, 0), *((0, -s % 32) for s in size)]
    padded = np.pad(y.numpy(), pads, mode="reflect" if min(size) > 1 else "edge")
    expected = model(torch.from_numpy(padded))[..., : size[0], : size[1]]
    torch.testing.assert_close(model(y), expected, rtol=0, atol=0)


def test_ffdnet_sigma() -> None:
    model = tiny("ffdnet gray")
    y = torch.rand(3, 1, 5, 6, dtype=torch.float64)
    levels = torch.tensor([0.01, 0.1, 0.3], dtype=torch.float32)
    together = model(y, levels)
    for i, level in enumerate(levels.tolist()):
        torch.testing.assert_close(together[i : i + 1], model(y[i : i + 1], level))
    torch.testing.assert_close(model(y), model(y, 25 / 255))
    torch.testing.assert_close(model(y, torch.tensor(0.1)), model(y, 0.1), rtol=1e-6, atol=1e-7)
    assert (model(y, 0.3) - model(y, 0.01)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="shape"):
        model(y, levels[:2])
    with pytest.raises(ValueError, match="noise level"):
        FFDNet(1)(y.float())


@pytest.mark.parametrize("name", TINY)
def test_gradient_and_double_use(name: str) -> None:
    """The input gradient is the derivative, the input stays as it was, and one graph may hold two calls."""
    model = tiny(name)
    g = torch.Generator().manual_seed(7)
    y = torch.rand(2, model.channels, 9, 11, dtype=torch.float64, generator=g).requires_grad_()
    before = y.detach().clone()
    out = model(y)
    assert out.shape == y.shape
    assert torch.equal(y.detach(), before)
    v = torch.randn(y.shape, dtype=torch.float64, generator=g)
    (grad,) = torch.autograd.grad(out.square().sum(), y)
    with torch.no_grad():
        step = 1e-6
        slope = (model(y + step * v).square().sum() - model(y - step * v).square().sum()) / (2 * step)
    assert (grad * v).sum().item() == pytest.approx(slope.item(), rel=1e-4)
    (twice,) = torch.autograd.grad((model(y) + model(model(y))).sum(), y)
    assert twice.isfinite().all()
    assert twice.abs().sum() > 0


@pytest.mark.parametrize("name", TINY)
def test_batch_independence(name: str) -> None:
    model = tiny(name)
    y = torch.rand(3, model.channels, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(y)[1:2], model(y[1:2]))


def test_published_sizes() -> None:
    assert sum(isinstance(m, nn.Conv2d) for m in DnCNN().modules()) == 17
    gray, color = FFDNet(1), FFDNet(3)
    assert [sum(isinstance(m, nn.Conv2d) for m in net.modules()) for net in (gray, color)] == [15, 12]
    assert [tuple(net.state_dict()["model.0.weight"].shape) for net in (gray, color)] == [(64, 5, 3, 3), (96, 13, 3, 3)]
    for make in (DnCNN, FFDNet):
        with pytest.raises(ValueError, match="depth"):
            make(1, depth=1)


# ---- loading


@pytest.mark.parametrize("name", TINY)
def test_load_infers_the_architecture(tmp_path: Path, name: str) -> None:
    model = tiny(name).float()
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "w.pth")
    got = load(name.split()[0], weights=tmp_path / "w.pth", sigma=25)
    assert type(got) is type(model)
    assert (got.channels, got.sigma, got.training) == (model.channels, 25, False)
    assert all(p.requires_grad for p in got.parameters())
    y = torch.rand(1, model.channels, 16, 16)
    torch.testing.assert_close(got(y), model(y))


def test_load_batch_norm_without_biases_and_counters(tmp_path: Path) -> None:
    """The layout of the first public PyTorch DnCNN: other prefix, no convolution bias, no step counters."""
    model = tiny("dncnn batch norm").float()
    assert isinstance(model, DnCNN)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    convs = {f"model.{i}" for i, m in enumerate(model.model) if isinstance(m, nn.Conv2d)}
    drop = {f"{c}.bias" for c in convs} | {k for k in model.state_dict() if k.endswith("tracked")}
    state = {f"dncnn.{k.removeprefix('model.')}": v for k, v in model.state_dict().items() if k not in drop}
    torch.save(state, tmp_path / "w.pth")
    y = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(load("dncnn", weights=tmp_path / "w.pth")(y), model(y))


def test_sigma_from_metadata(tmp_path: Path) -> None:
    state = tiny("ffdnet gray").float().state_dict()
    save_file(state, tmp_path / "w.safetensors", metadata={"sigma": "15"})
    assert load("ffdnet", weights=tmp_path / "w.safetensors").sigma == 15
    with pytest.raises(ValueError, match=r"w\.safetensors: trained for sigma = 15, not 25"):
        load("ffdnet", weights=tmp_path / "w.safetensors", sigma=25)
    save_file(state, tmp_path / "w.safetensors", metadata={"sigma": "low"})
    with pytest.raises(ValueError, match=r"w\.safetensors.*'low'"):
        load("ffdnet", weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("wanted", "came"), [(w, c) for w in ("dncnn", "ffdnet", "ecndnet", "n2n") for c in TINY if not c.startswith(w)]
)
def test_other_architecture_is_refused(tmp_path: Path, wanted: str, came: str) -> None:
    torch.save(tiny(came).float().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"w\.pth: not weights of {wanted}: wanted .*got"):
        load(wanted, weights=tmp_path / "w.pth")


def test_load_raises(tmp_path: Path) -> None:
    state = tiny("dncnn gray").float().state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: wanted 3 channel\(s\), the weights are for 1"):
        load("dncnn", weights=tmp_path / "w.pth", channels=3)
    torch.save(DnCNN(2, depth=2, features=3).state_dict(), tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"two\.pth: not weights of dncnn: wanted .* 1 or 3, got 2 in and 2 out"):
        load("dncnn", weights=tmp_path / "two.pth")
    with pytest.raises(ValueError, match="unknown model 'unet', expected one of dncnn"):
        load("unet", weights=tmp_path / "w.pth")
    with pytest.raises(ValueError, match="0-255"):
        load("dncnn", weights=tmp_path / "w.pth", sigma=-1)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load("dncnn", weights=tmp_path / "absent.pth")
    for change in (
        {"model.2.weight": torch.zeros(5, 6, 3, 3)},
        {"model.2.bias": None},
        {"model.9.bias": torch.ones(1)},
    ):
        changed = {k: v for k, v in (state | change).items() if v is not None}
        torch.save(changed, tmp_path / "changed.pth")
        with pytest.raises(ValueError, match=rf"changed\.pth: not weights of dncnn: .*{next(iter(change))}"):
            load("dncnn", weights=tmp_path / "changed.pth")


# ---- what the trained models are worth


def noisy(x: Tensor, seed: int) -> Tensor:
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * (25 / 255)


def quality(model: nn.Module, images: list[Tensor], bf16: bool = False) -> tuple[float, float]:
    """Mean PSNR (dB) of the restored and of the noisy images, sigma 25, nothing clipped.

    bfloat16 costs 0.02 dB at most on the gray models here (measured) and is several times faster where the CPU has it.
    """
    layout: Any = torch.channels_last if bf16 else torch.contiguous_format
    model.to(memory_format=layout)  # type: ignore[call-overload]
    restored, before = [], []
    for seed, x in enumerate(images):
        y = noisy(x[None], seed)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(y.contiguous(memory_format=layout))
        restored.append(psnr(out.float(), x[None]).item())
        before.append(psnr(y, x[None]).item())
    return sum(restored) / len(restored), sum(before) / len(before)


@pytest.fixture(scope="module")
def set12() -> list[Tensor]:
    return [read_image(path, 1) for path in find_images(SHARED / "data" / "set12")]


@needs_shared
@pytest.mark.parametrize(
    ("name", "file", "published"),
    [
        ("dncnn", "kair_dncnn_25.pth", 30.43),
        ("ffdnet", "ffdnet_gray.safetensors", 30.43),
        ("ecndnet", "ecndnet_gray_sigma25.pth", 30.39),
    ],
)
def test_published_psnr_on_set12(set12: list[Tensor], name: str, file: str, published: float) -> None:
    model = load(name, weights=WEIGHTS / file, channels=1, sigma=25)
    restored, before = quality(model, set12, bf16=True)
    assert before == pytest.approx(20.17, abs=0.02)  # 20 log10(255 / 25)
    assert restored == pytest.approx(published, abs=0.1)


@needs_shared
@pytest.mark.parametrize(
    ("name", "file", "gain"),
    [
        ("dncnn", "dncnn_color_blind.safetensors", 8.5),
        ("ffdnet", "ffdnet_color.safetensors", 8.5),
        ("n2n", "n2n_color_gaussian.pt", 8.0),
    ],
)
def test_color_models_denoise(name: str, file: str, gain: float) -> None:
    images = [read_image(path, 3)[:, 60:260, 60:260] for path in find_images(SHARED / "data" / "cbsd68")[:2]]
    restored, before = quality(load(name, weights=WEIGHTS / file, channels=3, sigma=25), images)
    assert restored - before > gain


@needs_shared
@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.*")) or [WEIGHTS], ids=lambda path: path.name)
def test_every_published_file_loads(path: Path) -> None:
    name = next(n for n in ("dncnn", "ffdnet", "ecndnet", "n2n") if path.name.removeprefix("kair_").startswith(n))
    model = load(name, weights=path, sigma=15)
    assert model.channels == (3 if "color" in path.name else 1)
    assert model(torch.rand(1, model.channels, 8, 8)).isfinite().all()


def test_embedded_on_packaged_images() -> None:
    model = load("embedded")
    images = [read_image(path, 1) for path in find_images(ASSETS / "images")]
    restored, before = quality(model, images)
    assert restored - before > 9.25  # measured 9.354


def test_embedded_arguments() -> None:
    model = load("embedded", channels=1, sigma=25)
    assert (model.channels, model.sigma, model.training) == (1, 25, False)
    with pytest.raises(ValueError, match="trained for sigma = 25, not 50"):
        load("embedded", sigma=50)
    with pytest.raises(ValueError, match="wanted 3"):
        load("embedded", channels=3)
    with pytest.raises(ValueError, match="own weights"):
        load("embedded", weights=EMBEDDED)


def test_embedded_file() -> None:
    assert EMBEDDED.stat().st_size < 1_000_000
    with safe_open(EMBEDDED, framework="pt") as file:
        metadata = file.metadata()
    assert {key: metadata[key] for key in ("architecture", "depth", "features", "channels", "sigma")} == {
        "architecture": "dncnn",
        "depth": "14",
        "features": "32",
        "channels": "1",
        "sigma": "25",
    }
    assert float(metadata["seconds_trained"]) > 0


@needs_shared
def test_embedded_psnr_on_set12(set12: list[Tensor]) -> None:
    with safe_open(EMBEDDED, framework="pt") as file:
        recorded = float(file.metadata()["set12_psnr"])
    restored, _ = quality(load("embedded"), set12)
    assert restored == pytest.approx(recorded, abs=0.01)
    assert restored >= 29.78  # measured 29.886
