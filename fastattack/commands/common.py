"""What the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..models import Denoiser


def device_name(name: str) -> str:
    """ "auto" is the GPU where there is one."""
    import torch

    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def device_of(name: str) -> torch.device:
    """A device of this machine; "auto" is the GPU where there is one."""
    import torch

    try:
        where = torch.device(device_name(name))
        if where.type not in ("cpu", "cuda"):
            raise RuntimeError("no such device here")
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: wanted cpu, cuda or cuda:N of this machine, got {name!r} ({error})") from error
    return where


def use_threads(threads: int | None) -> None:
    """As many CPU threads of torch as --threads says; None leaves them."""
    if threads is None:
        return
    import torch

    from ..training.config import require_whole

    require_whole(threads, "threads", 1)
    torch.set_num_threads(threads)


def load_model(name: str, weights: Path | None, sigma: float, device: str) -> Denoiser:
    """sigma on the 0-255 scale."""
    from .. import models

    return models.load(name, sigma=sigma, weights=weights, device=device_of(device))


def versions() -> dict[str, str]:
    """For reports."""
    import torch

    from .. import __version__

    return {"fastattack": __version__, "torch": torch.__version__}
