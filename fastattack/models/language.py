"""Layers of a pretrained language model as blocks that work on any tokens; LoRA through peft.

The extra ``registration`` brings transformers (>= 4.48) and peft. Both are imported where they are first used, because
that takes seconds.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..extras import require
from ..guard import random_state
from .lora import EXTRA, Lora, adapt

__all__ = ["LanguageBlocks", "Lora", "build_language", "open_language", "own_name"]

WHAT = "a language model"


class LanguageBlocks(nn.Module):
    """Some layers of a language model, in their order, with its final norm: (B, N, width) -> (B, N, out_width).

    Its weights need no gradient; those of LoRA do. Its own dropout stays off in training mode too, so that training
    draws no numbers. The model's own positions (rotary or learnt) number the tokens in the order in which they come.

    Attributes:
        width, out_width: numbers of a token.
        layers: which of the model's layers were kept, by number. causal: a token sees only those before it.
        scale: root mean square of the model's token embeddings: the size of token that it knows.
        most: tokens that its positions reach; None: no limit is known.
        source: the folder or name that it was opened from; None: a module.
        config: of the model as it was, as JSON takes it.
    """

    def __init__(
        self, net: nn.Module, *, width: int, layers: tuple[int, ...], causal: bool, scale: float, config: dict[str, Any]
    ) -> None:
        super().__init__()
        self.net, self.width, self.layers, self.causal, self.scale = net, width, layers, causal, scale
        self.config = config
        self.lora: Lora | None = None
        self.source: str | None = None
        self.most: int | None = getattr(_text(net), "max_position_embeddings", None)
        self.seen = 1.0  # what an open place of the mask holds
        self.places = "position_ids" in inspect.signature(net.forward).parameters
        self.out_width = width
        net.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> LanguageBlocks:
        super().train(mode)
        for name, module in self.net.named_modules():
            module.training = mode and "lora_dropout" in name
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """Raises ValueError where there are more tokens than the model has positions for."""
        batch, count = tokens.shape[:2]
        if self.most is not None and count > self.most:
            raise ValueError(
                f"tokens: wanted {self.most} at most, which the language model has positions for, got {count}"
            )
        weight = next(self.net.parameters())
        options: dict[str, Any] = {"use_cache": False}
        if self.places:
            options["position_ids"] = torch.arange(count, device=tokens.device)[None].expand(batch, count)
        if not self.causal:
            mask = tokens.new_full((1, 1, 1, 1), self.seen, dtype=weight.dtype)
            options["attention_mask"] = mask.expand(batch, 1, count, count)
        out: Tensor = self.net(inputs_embeds=tokens.to(weight.dtype), **options).last_hidden_state
        return out.to(torch.promote_types(out.dtype, tokens.dtype))

    def describe_options(self) -> dict[str, Any]:
        """How its layers are used, as JSON takes it."""
        return {
            "layers": list(self.layers),
            "causal": self.causal,
            "lora": None if self.lora is None else asdict(self.lora),
        }

    def fingerprint(self) -> str:
        """SHA-256 of the language model's own weights that were kept, hexadecimal; LoRA's are not among them."""
        digest = hashlib.sha256()
        for name, value in sorted(self.own().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def own(self) -> dict[str, Tensor]:
        """The language model's own weights, by the names that they have without LoRA, on the CPU."""
        return {own_name(k): v.detach().cpu() for k, v in self.net.named_parameters() if "lora_" not in k}

    @torch.no_grad()
    def answer(self) -> Tensor:
        """(4, out_width): to tokens that are always the same; what another version of transformers must give too."""
        weight = next(self.net.parameters())
        steps = torch.arange(4 * self.width, device=weight.device, dtype=torch.float32).reshape(1, 4, self.width)
        modes = [(m, m.training) for m in self.modules()]
        try:
            return self.eval()(torch.sin(steps))[0]  # type: ignore[no-any-return]
        finally:
            for module, mode in modes:
                module.training = mode


def own_name(name: str) -> str:
    """What a weight is called without LoRA."""
    return name.replace(".base_layer.", ".")


def open_language(
    source: str | Path | nn.Module,
    *,
    layers: slice | Sequence[int] | None = None,
    lora: Lora | None = None,
    causal: bool = False,
    seed: int = 0,
) -> LanguageBlocks:
    """The chosen layers of a causal language model, without embeddings and head, in float32.

    Args:
        source: a folder or name that transformers' AutoModelForCausalLM opens (a name may be downloaded, as it
            decides), or a model of transformers that is there already; it is copied and left as it is.
        layers: a slice or numbers (from the end if below 0), each once and in rising order; None: all.
        lora: None: no LoRA, nothing is to be trained.
        causal: False: all tokens see each other, by a mask of four dimensions. Whether the model follows it is checked
            when it is opened. With transformers 5.24 these do: Llama, Mistral, Qwen2, Gemma, Gemma 2, Phi, GPT-2,
            GPT-J, GPT-NeoX and OPT; BLOOM and GPT-Neo do not; with 4.48 GPT-2 and OPT do not either. True: the model's
            own mask.
        seed: of LoRA's first weights.

    Raises:
        RuntimeError: transformers or peft is missing; names the extra.
        TypeError, ValueError: no causal language model of transformers, layers that it does not have (says which there
            are), tokens that do not see each other although they should.
        OSError: it cannot be found or read.
    """
    require("transformers", what=WHAT, extra=EXTRA)
    found = _body(source if isinstance(source, nn.Module) else _opened(source))
    name, count = _layers_of(found)
    kept = _chosen(layers, count)
    embeddings = found.get_input_embeddings()
    weight = getattr(embeddings, "weight", None)
    if weight is None:
        raise ValueError("language: wanted a model with embeddings of tokens, got one without")
    width, scale = int(weight.shape[1]), float(weight.detach().float().square().mean().sqrt())
    config = found.config.to_dict()
    if isinstance(source, nn.Module):
        stack = found.get_submodule(name)
        dropped = [embeddings, *(part for i, part in enumerate(stack.children()) if i not in kept)]
        found = copy.deepcopy(found, {id(part): nn.Identity() for part in dropped})
    net = _reduced(found, name, kept).to(torch.float32)
    blocks = LanguageBlocks(net, width=width, layers=kept, causal=causal, scale=scale or 1.0, config=config)
    blocks.source = None if isinstance(source, nn.Module) else _where(source)
    blocks.out_width = _probe(blocks)
    if lora is not None:
        adapt(blocks.net, name, lora, seed)
        blocks.lora = lora
        blocks.train(blocks.training)
    return blocks


def build_language(config: dict[str, Any]) -> nn.Module:
    """An untrained model of transformers from what `LanguageBlocks.config` holds. torch's random state stays.

    Raises:
        RuntimeError: transformers is missing. ValueError: it knows no such model.
    """
    require("transformers", what=WHAT, extra=EXTRA)
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {k: v for k, v in config.items() if not k.startswith("_")}  # else transformers 4 thinks its work is done
    with random_state(torch.device("cpu")):
        wanted = AutoConfig.for_model(rest.pop("model_type"), **rest)
        return AutoModelForCausalLM.from_config(wanted)  # type: ignore[no-any-return]


def _where(source: str | Path) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else str(source)


def _opened(source: str | Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    if not isinstance(source, (str, Path)):
        raise TypeError(f"language: wanted a folder, a name or a model of transformers, got {type(source).__name__}")
    local = isinstance(source, Path) or Path(source).exists() or source.startswith((".", "/", "~"))
    if local and not Path(source).expanduser().is_dir():
        raise FileNotFoundError(f"language: {source}: no such folder")
    name = str(Path(source).expanduser()) if local else str(source)
    with random_state(torch.device("cpu")), _without_bar():
        try:
            return AutoModelForCausalLM.from_pretrained(name, local_files_only=local)  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            first = (str(error).splitlines() or [""])[0]
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"language: {source}: cannot be opened as a causal language model: {first}") from error


@contextmanager
def _without_bar() -> Iterator[None]:
    """transformers draws a bar for each file that it reads."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _body(model: nn.Module) -> Any:
    """Without the head."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"language: wanted a folder, a name or a model of transformers, got {type(model).__name__}")
    return model.base_model


def _text(net: Any) -> Any:
    """The part of its configuration that is about text."""
    return net.config.get_text_config()


def _layers_of(net: Any) -> tuple[str, int]:
    """The name of its list of layers, the outermost of as many as the configuration says, and how many there are."""
    wanted = getattr(_text(net), "num_hidden_layers", None)
    lists = [(name, len(m)) for name, m in net.named_modules() if isinstance(m, nn.ModuleList)]
    fitting = [found for found in lists if found[1] == wanted]
    if not fitting:
        said = ", ".join(f"{name} of {length}" for name, length in lists) or "none"
        raise ValueError(
            f"language: wanted a model with a list of {wanted} layers, got {type(net).__name__} with {said}"
        )
    return min(fitting, key=lambda found: found[0].count("."))


def _chosen(layers: slice | Sequence[int] | None, count: int) -> tuple[int, ...]:
    there = f"the model has layers 0 to {count - 1}"
    if isinstance(layers, slice):
        ends = [end for end in (layers.start, layers.stop) if end is not None]
        if any(isinstance(end, bool) or not isinstance(end, int) or not -count <= end <= count for end in ends):
            raise ValueError(f"layers: wanted layers that exist, got {layers!r}: {there}")
    if layers is None or isinstance(layers, slice):
        kept = list(range(count)[layers or slice(None)])
    elif not isinstance(layers, Sequence):
        raise TypeError(f"layers: wanted a slice or a list of numbers, got {layers!r}: {there}")
    else:
        kept = list(layers)
        bad = [i for i in kept if isinstance(i, bool) or not isinstance(i, int) or not -count <= i < count]
        if bad:
            raise ValueError(f"layers: wanted layers that exist, got {bad[0]!r}: {there}")
        kept = [i % count for i in kept]
    if not kept or kept != sorted(set(kept)):
        raise ValueError(f"layers: wanted one at least, each once and in rising order, got {layers!r}: {there}")
    return tuple(kept)


def _reduced(net: Any, name: str, kept: tuple[int, ...]) -> Any:
    """The model itself with fewer layers and no embeddings; what its configuration says of each layer goes along."""
    parent, _, last = name.rpartition(".")
    stack = net.get_submodule(name)
    count = len(stack)
    setattr(net.get_submodule(parent), last, nn.ModuleList([stack[i] for i in kept]))
    net.set_input_embeddings(nn.Identity())
    text = _text(net)
    for key, value in text.to_dict().items():
        if "layer" in key and isinstance(value, list) and len(value) == count:
            setattr(text, key, [value[i] for i in kept])
    text.num_hidden_layers = len(kept)
    return net


def _probe(blocks: LanguageBlocks) -> int:
    """Numbers of a token that comes out; sees to it that tokens see each other where they should.

    An open place of a mask is 1 in some families (others are 0) and 0 in most (others are -inf, the mask is added).
    Ones are right for both: softmax does not see what is added to every place. Some refuse them, which want zeros.
    """
    kind, problem = type(blocks.net).__name__, ""
    tokens = torch.zeros(2, 3, blocks.width)
    tokens[:, 0], tokens[0, 2] = blocks.scale, torch.linspace(-blocks.scale, blocks.scale, blocks.width)
    blocks.eval()
    for seen in (1.0,) if blocks.causal else (1.0, 0.0):
        blocks.seen = seen
        try:
            with torch.no_grad():
                out = blocks(tokens)
        except Exception as error:  # whatever a family makes of what it does not know
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        if not blocks.causal and torch.equal(out[0, 0], out[1, 0]):
            problem = "its layers keep their causal mask"
            continue
        blocks.train()
        return int(out.shape[-1])
    hint = "" if blocks.causal else "; causal=True takes its own mask"
    raise ValueError(f"language: {kind} does not run on tokens of embeddings{hint}: {problem}")
