"""Build a denoiser from its weight file: `load`, and how each architecture is inferred from a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from fastattack.models.deepinv import DeepinvDenoiser, load_deepinv
from fastattack.models.dncnn import DnCNN
from fastattack.models.ecndnet import ECNDNet
from fastattack.models.ffdnet import FFDNet
from fastattack.models.n2n import N2NUNet
from fastattack.models.udc_unet import UDCUNet
from fastattack.models.weights import State, official_weights, read_weights

if TYPE_CHECKING:
    from fastattack.models.tweedie import DiffusionDenoiser

Denoiser = Union[DnCNN, FFDNet, ECNDNet, N2NUNet, UDCUNet, DeepinvDenoiser, "DiffusionDenoiser"]

EMBEDDED = "dncnn_small_gray_25.safetensors"
DEEPINV = "deepinv:"
DIFFUSION = "diffusion"


class _Mismatch(ValueError):
    """The tensors are not those of the wanted architecture; the message says what was wanted and what came."""


def load(
    name: str,
    *,
    channels: int | None = None,
    sigma: float | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Denoiser:
    """A trained denoiser in eval mode; its parameters keep requires_grad.

    Depth, width, channels and batch norm come from the checkpoint itself. The result has ``channels`` (1 or 3) and
    ``sigma`` (0-255 scale; None when blind or unknown).

    Args:
        name: "dncnn", "ffdnet", "ecndnet", "n2n", "udc_unet" (what ``scripts/train_udc.py`` makes), "embedded" (the
            small gray DnCNN for sigma 25 in this package); "deepinv:CLASS" for a denoiser of the package deepinv (extra
            "deepinv"), "deepinv:pnp-CLASS" for it in a plug-and-play loop; or "diffusion" for one step of a diffusion
            model from the noise level sigma to the clean image (`fastattack.models.tweedie`; the model itself is
            `fastattack.diffusion.load`). The last two want sigma.
        channels: image channels that the checkpoint must have; None accepts what it has.
        sigma: noise level on the 0-255 scale of the literature (25, not 25/255). It selects the official file when
            no weights are given, is the level that FFDNet, deepinv's and diffusion models assume, and a label for the
            others. A file whose metadata names its level must agree.
        weights: a .safetensors, .pt or .pth file, of "diffusion" also a folder of diffusers; None takes the official
            one (downloaded, checked and cached; deepinv fetches its own, unchecked), or the embedded diffusion model.
        device: where to put it.

    Raises:
        ValueError: unknown name, weights of another architecture, or channels or sigma that do not fit.
        OSError: the file is missing or cannot be downloaded.
        RuntimeError: deepinv is asked for and does not import.
    """
    known = (*_BUILDERS, "embedded", DIFFUSION, "deepinv:CLASS")
    if name not in known[:-1] and not name.startswith(DEEPINV):
        raise ValueError(f"unknown model {name!r}, expected one of {', '.join(known)}")
    if sigma is not None and not 0 <= sigma <= 255:
        raise ValueError(f"sigma must lie in [0, 255] (0-255 scale), got {sigma}")
    if name.startswith(DEEPINV):
        path = None if weights is None else Path(weights)
        found = load_deepinv(name.removeprefix(DEEPINV), channels=channels, sigma=sigma, weights=path)
        return found.to(device)
    if name == DIFFUSION:
        from fastattack.models.tweedie import load_denoiser  # it is built on the diffusion models, which read weights

        return load_denoiser(weights, channels=channels, sigma=sigma, device=device)
    if name == "embedded":
        if weights is not None:
            raise ValueError("the embedded model has its own weights; use load('dncnn', weights=...) for a file")
        with embedded_file() as path:
            return _build("dncnn", path, channels, sigma).to(device)
    path = official_weights(name, channels, sigma) if weights is None else Path(weights)
    return _build(name, path, channels, sigma).to(device)


def embedded_file() -> AbstractContextManager[Path]:
    """Inside, the weights of the embedded model are a file."""
    return resources.as_file(resources.files("fastattack") / "assets" / EMBEDDED)


def _build(name: str, path: Path, channels: int | None, sigma: float | None) -> Denoiser:
    state, metadata = read_weights(path)
    try:
        trained = float(metadata["sigma"]) if "sigma" in metadata else None
    except ValueError as exc:
        raise ValueError(f"{path}: metadata sigma is no number: {metadata['sigma']!r}") from exc
    if trained is not None and sigma is not None and sigma != trained:
        raise ValueError(f"{path}: trained for sigma = {trained:g}, not {sigma:g}")
    try:
        model, state = _BUILDERS[name](state, trained if sigma is None else sigma)
        _check_tensors(model.state_dict(), state)
    except _Mismatch as exc:
        raise ValueError(f"{path}: not weights of {name}: {exc}") from exc
    if channels is not None and channels != model.channels:
        raise ValueError(f"{path}: wanted {channels} channel(s), the weights are for {model.channels}")
    model.load_state_dict(state)
    return model.eval()


def _check_tensors(wanted: State, came: State) -> None:
    """Every tensor there, none too many, shapes equal; else a _Mismatch that lists the first few differences."""
    problems = [f"wanted {key} {tuple(wanted[key].shape)}, which is missing" for key in wanted if key not in came]
    problems += [f"{key} {tuple(came[key].shape)} came, which has no place" for key in came if key not in wanted]
    for key in wanted.keys() & came.keys():
        if wanted[key].shape != came[key].shape:
            problems.append(f"wanted {key} {tuple(wanted[key].shape)}, got {tuple(came[key].shape)}")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise _Mismatch("; ".join(problems[:3]) + more)


def _sequential(state: State) -> tuple[State, list[Tensor], list[int]]:
    """Read a checkpoint of one Sequential, ``<prefix>.<index>.<what>``.

    Returns:
        The state with its prefix renamed to "model"; the 4-D convolution weights in order; the batch norm indices.
    """
    keys = [key.split(".") for key in state]
    if any(len(key) != 3 or key[0] != keys[0][0] or not key[1].isdecimal() for key in keys):
        raise _Mismatch(f"wanted keys like 'model.0.weight', got {_some(state)}")
    state = {".".join(("model", *key.split(".")[1:])): value for key, value in state.items()}
    indices = sorted({int(key[1]) for key in keys})
    convs = [w for i in indices if (w := state.get(f"model.{i}.weight")) is not None and w.ndim == 4]
    norms = [i for i in indices if f"model.{i}.running_mean" in state]
    if len(convs) < 2:
        raise _Mismatch(f"wanted a stack of convolutions, got {_some(state)}")
    return state, convs, norms


def _some(state: State) -> str:
    return ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(state.items())[:3]) + ", ..."


def _with_counters(model: Denoiser, state: State) -> State:
    """Add the batch norms' step counters, which older checkpoints lack."""
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    return {**counters, **state}


def _build_dncnn(state: State, sigma: float | None) -> tuple[Denoiser, State]:
    """Any depth and width; batch norm folded or not; convolutions without a bias get a bias of zero."""
    state, convs, norms = _sequential(state)
    channels, came = convs[0].shape[1], convs[-1].shape[0]
    if channels not in (1, 3) or channels != came:
        raise _Mismatch(f"wanted as many channels in as out, 1 or 3, got {channels} in and {came} out")
    model = DnCNN(channels, depth=len(convs), features=convs[0].shape[0], batch_norm=bool(norms), sigma=sigma)
    if norms:
        biases = {k: torch.zeros_like(v) for k, v in model.state_dict().items() if k.endswith(".bias")}
        state = {**biases, **_with_counters(model, state)}
    return model, state


def _build_ffdnet(state: State, sigma: float | None) -> tuple[Denoiser, State]:
    state, convs, _ = _sequential(state)
    came, out = convs[0].shape[1], convs[-1].shape[0]
    if (came, out) not in ((5, 4), (13, 12)):
        raise _Mismatch(f"wanted 5 channels in and 4 out (gray) or 13 and 12 (RGB), got {came} in and {out} out")
    return FFDNet(out // 4, depth=len(convs), features=convs[0].shape[0], sigma=sigma), state


def _build_ecndnet(state: State, sigma: float | None) -> tuple[Denoiser, State]:
    first = state.get("conv1_1.0.weight")
    if first is None or first.ndim != 4:
        raise _Mismatch(f"wanted conv1_1.0.weight (64, 1, 3, 3), got {_some(state)}")
    model = ECNDNet(first.shape[1], features=first.shape[0], sigma=sigma)
    return model, _with_counters(model, state)


def _build_n2n(state: State, sigma: float | None) -> tuple[Denoiser, State]:
    first = state.get("_block1.0.weight")
    if first is None or first.ndim != 4:
        raise _Mismatch(f"wanted _block1.0.weight (48, 3, 3, 3), got {_some(state)}")
    return N2NUNet(first.shape[1], sigma=sigma), state


def _build_udc_unet(state: State, sigma: float | None) -> tuple[Denoiser, State]:
    first = state.get("enter.weight")
    levels = [key for key in state if re.fullmatch(r"before\.\d+\.conv1\.weight", key)]
    named = {f"before.{k}.conv1.weight" for k in range(len(levels))} == set(levels)
    if first is None or first.ndim != 4 or first.shape[1] % 4 or not levels or not named:
        raise _Mismatch(f"wanted enter.weight (32, 4, 3, 3) and before.0.conv1.weight, before.1..., got {_some(state)}")
    widths = tuple(state[f"before.{k}.conv1.weight"].shape[0] for k in range(len(levels)))
    return UDCUNet(first.shape[1] // 4, widths=widths, sigma=sigma), state


_BUILDERS: dict[str, Callable[[State, float | None], tuple[Denoiser, State]]] = {
    "dncnn": _build_dncnn,
    "ffdnet": _build_ffdnet,
    "ecndnet": _build_ecndnet,
    "n2n": _build_n2n,
    "udc_unet": _build_udc_unet,
}
