"""The network of LLM-Morph: see `fastattack.models.llm_morph`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..guard import random_state, seed_torch
from ..registration.fields import compose, exponential, warp
from .language import LanguageBlocks, Lora, open_language
from .morph_parts import Encoder, Enter, Head, Leave, PlainBlocks, finer, finer_field
from .n2n import pad_dim

LANGUAGE = "blocks.net."
"""How the names of a language model's weights begin."""


class LLMMorph(nn.Module):
    """A pair (B, 2, *spatial) -> the field (B, dims, *spatial) in voxels, warped(p) = moving(p + field(p)).

    Two encoders, one an image, each with ``levels`` scales; their coarsest features become tokens, which the blocks
    compare; one adapter a scale brings tokens back to features. From coarse to fine, a head sees the moving image's
    features, warped by the field so far, the fixed image's and the tokens', and its field is composed with the one so
    far. The finest field is interpolated to the images' size. Any size: images go on in their mirror image up to a
    multiple of ``multiple`` = finest * 2^(levels - 1), and the field is cut. An untrained one gives the field 0.

    Args:
        dims: 2 or 3, of the images.
        language: a folder, a name or a model as for `open_language`, which is copied; or the blocks that it gave, which
            are shared, not copied, and have been chosen: ``layers``, ``lora`` and ``causal`` must not differ from them.
            None: plain transformer blocks, the baseline, with the same adapters.
        layers: which of the language model's layers; None: all.
        lora: None, True or a `Lora`: the language model's linear layers get it. False: it stays as it is, frozen.
        causal: tokens see only those before them, as the language model was trained.
        width: channels of the finest scale; twice as many at each coarser one, four times at most.
        levels: scales. finest: voxels of the image in a voxel of the finest scale along an axis: 1, 2 or 4.
        blocks, heads: of the baseline, whose tokens have 8 width numbers.
        diffeomorphic: each scale's field is the exponential of what its head gives.
        seed: of the first weights. torch's random state is left as found.

    Raises:
        TypeError, ValueError: options that do not fit; whatever `open_language` raises.
    """

    OPTIONS = frozenset({"dims", "width", "levels", "finest", "blocks", "heads", "diffeomorphic"})
    """Those of `config`."""

    def __init__(
        self,
        *,
        dims: int = 2,
        language: str | Path | nn.Module | None = None,
        layers: slice | Sequence[int] | None = None,
        lora: bool | Lora | None = None,
        causal: bool = False,
        width: int = 16,
        levels: int = 4,
        finest: int = 2,
        blocks: int = 2,
        heads: int = 4,
        diffeomorphic: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (dims, finest) not in product((2, 3), (1, 2, 4)) or {type(dims), type(finest)} != {int}:
            raise ValueError(f"LLMMorph: wanted dims 2 or 3 and finest 1, 2 or 4, got {dims!r} and {finest!r}")
        for name, value in {"width": width, "levels": levels, "blocks": blocks, "heads": heads}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: wanted a whole number >= 1, got {value!r}")
        if language is None and 8 * width % heads:
            raise ValueError(f"heads: wanted a divisor of the tokens' {8 * width} numbers, got {heads}")
        if language is None and layers is not None:
            raise ValueError("layers: wanted None without a language model; blocks= is how many the baseline has")
        self.dims, self.width, self.levels, self.finest = dims, width, levels, finest
        self.count, self.heads_each, self.diffeomorphic = blocks, heads, diffeomorphic
        self.multiple = finest * 2 ** (levels - 1)
        widths = tuple(width * min(2**k, 4) for k in range(levels))
        inside = _opened(language, layers, lora, causal, seed)
        with random_state(torch.device("cpu")):
            seed_torch(seed, torch.device("cpu"))
            self.encoders = nn.ModuleList(Encoder(dims, widths, finest) for _ in range(2))
            self.leaves = nn.ModuleList()
            self.blocks: LanguageBlocks | PlainBlocks
            self.heads = nn.ModuleList(Head(dims, 3 * w, w) for w in widths)
            self.blocks = inside or PlainBlocks(8 * width, blocks=blocks, heads=heads)
            self.enter = Enter(dims, 2 * widths[-1], self.blocks.width, self.blocks.scale)
            self.leaves.extend(Leave(self.blocks.out_width, w) for w in widths)

    def forward(self, pair: Tensor) -> Tensor:
        """The field, in float32 at least.

        Raises:
            TypeError, ValueError: no pair of images of ``dims`` dimensions, or of another type than the weights.
        """
        self._check(pair)
        shape, padded = pair.shape[2:], pair
        for axis in range(2, pair.dim()):
            padded = pad_dim(padded, axis, self.multiple)
        moving, fixed = self.encoders[0](padded[:, :1]), self.encoders[1](padded[:, 1:])
        coarsest = torch.cat([moving[-1], fixed[-1]], 1)
        grid = tuple(coarsest.shape[2:])
        tokens = self.blocks(self.enter(coarsest))
        field: Tensor | None = None
        for k in reversed(range(self.levels)):
            told = finer(self.leaves[k](tokens, grid), 2 ** (self.levels - 1 - k))
            field = None if field is None else finer_field(field, 2)
            seen = moving[k] if field is None else warp(moving[k], field)
            more = self.heads[k](torch.cat([seen, fixed[k], told], 1))
            more = more.to(torch.promote_types(more.dtype, torch.float32))
            more = exponential(more) if self.diffeomorphic else more
            field = more if field is None else compose(field, more)
        assert field is not None
        whole = finer_field(field, self.finest)
        for axis, size in enumerate(shape, 2):
            whole = whole.narrow(axis, 0, size)
        return whole

    def _check(self, pair: Tensor) -> None:
        form = "(B, 2, H, W)" if self.dims == 2 else "(B, 2, D, H, W)"
        if not isinstance(pair, Tensor) or not pair.is_floating_point():
            came = pair.dtype if isinstance(pair, Tensor) else type(pair).__name__
            raise TypeError(f"pair: wanted a floating tensor {form}, got {came}")
        if pair.dim() != self.dims + 2 or pair.shape[1] != 2 or not pair.numel():
            raise ValueError(
                f"pair: wanted {form}, moving and fixed image of {self.dims} dimensions, got {tuple(pair.shape)}"
            )
        weight = next(self.encoders.parameters())
        if pair.dtype != weight.dtype and not torch.is_autocast_enabled(pair.device.type):
            raise TypeError(f"pair: wanted {weight.dtype} as the weights are, got {pair.dtype}")

    def config(self) -> dict[str, Any]:
        """The options that make one like this, but for the language model's."""
        return {
            "dims": self.dims,
            "width": self.width,
            "levels": self.levels,
            "finest": self.finest,
            "blocks": self.count,
            "heads": self.heads_each,
            "diffeomorphic": self.diffeomorphic,
        }

    def describe_options(self) -> dict[str, Any]:
        """`config`, and how the language model's layers are used: what a run of training goes on with."""
        inside = self.blocks.describe_options() if isinstance(self.blocks, LanguageBlocks) else None
        return {**self.config(), "language": inside}

    def kept_elsewhere(self) -> list[str]:
        """Names in the state_dict of a language model's own weights, where those have a folder of their own."""
        if not isinstance(self.blocks, LanguageBlocks) or self.blocks.source is None:
            return []
        return [name for name in self.state_dict() if name.startswith(LANGUAGE) and "lora_" not in name]


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: all, those that need a gradient, and parts of all."""

    total: int
    trainable: int
    language: int
    lora: int


def count_parameters(model: LLMMorph) -> Parameters:
    """Of the language model the kept layers alone count; the baseline has none."""
    sizes = [(name, p.numel(), p.requires_grad) for name, p in model.named_parameters()]
    lora = sum(n for name, n, _ in sizes if "lora_" in name)
    inside = sum(n for name, n, _ in sizes if name.startswith(LANGUAGE))
    return Parameters(sum(n for _, n, _ in sizes), sum(n for _, n, grad in sizes if grad), inside - lora, lora)


def _opened(
    language: str | Path | nn.Module | None,
    layers: slice | Sequence[int] | None,
    lora: bool | Lora | None,
    causal: bool,
    seed: int,
) -> LanguageBlocks | None:
    if lora is not None and not isinstance(lora, (bool, Lora)):
        raise TypeError(f"lora: wanted True, False or Lora(...), got {type(lora).__name__}")
    if language is None:
        return None
    wanted = lora if isinstance(lora, Lora) else None if lora is False else Lora()
    if isinstance(language, LanguageBlocks):
        for name, differs, there, got in (
            ("layers", layers is not None, list(language.layers), layers),
            ("lora", lora is not None and wanted != language.lora, language.lora, lora),
            ("causal", causal and not language.causal, language.causal, causal),
        ):
            if differs:
                raise ValueError(f"{name}: wanted none beside blocks, which have been chosen ({there}), got {got!r}")
        return language
    return open_language(language, layers=layers, lora=wanted, causal=causal, seed=seed)
