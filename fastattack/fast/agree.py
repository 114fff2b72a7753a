"""Whether what makes the gradients gives the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..guard import buffers_kept
from ..inputs import told

Call = Callable[[Tensor], Any]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
ROUGH = 3e-2  # for half precision


def difference(model: Call, fast: Call, x: Tensor, parts: Iterable[Tensor], modules: list[nn.Module]) -> str:
    """What is wrong with ``fast`` at the parts of x, "" where nothing is.

    Random models draw the same numbers, the attack's numbers stay, and so do the buffers of ``modules``.
    """
    devices = [x.device] if x.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices), buffers_kept(modules):
        state = torch.random.get_rng_state()
        want = tree_leaves(model(x))
        torch.random.set_rng_state(state)
        try:
            each = [tree_leaves(fast(v)) for v in parts]
            got = [torch.cat(leaves) for leaves in zip(*each, strict=True)]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return told(error)
        if [_shape(w) for w in want] != [_shape(g) for g in got]:
            return "its output is not made sample by sample"
        worst = max((_apart(w, g) for w, g in zip(want, got, strict=True)), default=0.0)
    rough = torch.is_autocast_enabled(x.device.type)  # the caller's
    limit = ROUGH if rough else TOLERANCE.get(x.dtype, ROUGH)
    return "" if worst <= limit else f"the outputs differ by {worst:.1e} of their size"


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else type(value)


def _apart(want: Tensor, got: Tensor) -> float:
    """The largest difference beside the largest size; infinite where one has NaN and the other not."""
    if not want.is_floating_point():
        return 0.0 if torch.equal(want, got) else float("inf")
    if not want.numel() or not bool(want.isfinite().all()):  # the loop names what is not finite
        return 0.0
    found = float((want - got).abs().max() / want.abs().max().clamp(min=1e-30))
    return float("inf") if found != found else found
