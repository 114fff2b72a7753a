"""LLM-Morph: deformable registration of two modalities with layers of a language model inside; 2D and 3D.

After the abstract of arXiv 2408.10703: a CNN encoder, a first adapter to tokens, blocks of a pretrained language model
with LoRA, more adapters to features of several scales, fields from coarse to fine. The paper's text and code were not
at hand: every detail beyond the abstract is this project's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_atomic
from .language import LanguageBlocks, Lora, build_language, open_language
from .morph_net import LANGUAGE, LLMMorph, Parameters, count_parameters
from .weights import read_weights

__all__ = ["LLMMorph", "Parameters", "count_parameters", "load", "save"]

ARCHITECTURE = "llm_morph"
_ANSWER = "language_answer"
_APART = 1e-3  # of the size of a language model's answers: other versions' rounding is far below, other numbers above


def save(model: LLMMorph, path: str | Path, *, whole: bool = False) -> None:
    """A .safetensors file, whole or not at all.

    The weights of a language model that was opened from a folder or a name are not in it, but where they are and the
    SHA-256 of those that were kept; unless ``whole``, or some of them need gradients. A language model that came as a
    module is in it. LoRA and adapters always are.

    Raises:
        ValueError: another ending, or a language model in another type than float32, in which `load` opens it.
        OSError: it cannot be written; what was there before still is.
    """
    from safetensors.torch import save as serialise

    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path: wanted a name that ends in .safetensors, got {str(path)!r}")
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    config: dict[str, Any] = {**model.config(), "language": None}
    if isinstance(model.blocks, LanguageBlocks):
        blocks = model.blocks
        own = [p for name, p in blocks.net.named_parameters() if "lora_" not in name]
        kinds = {p.dtype for p in blocks.parameters()}
        if kinds != {torch.float32}:
            came = ", ".join(sorted(map(str, kinds)))
            raise ValueError(f"model: wanted its language model in float32, as `load` opens it, got {came}")
        config["language"] = _described(blocks, whole or blocks.source is None or any(p.requires_grad for p in own))
        state[_ANSWER] = blocks.answer().cpu().contiguous()
        if "source" in config["language"]:
            state = {k: v for k, v in state.items() if not k.startswith(LANGUAGE) or "lora_" in k}
    # One entry: safetensors puts several in an order that changes from file to file.
    metadata = {"config": json.dumps({"architecture": ARCHITECTURE, **config})}
    write_atomic(path, serialise({k: v.clone() for k, v in state.items()}, metadata))


def load(
    path: str | Path, *, language: str | Path | nn.Module | None = None, device: str | torch.device = "cpu"
) -> LLMMorph:
    """What `save` wrote, in eval mode.

    Args:
        path: the file.
        language: where its language model is now, or the model itself; None: where it was.
        device: where to put it.

    Raises:
        FileNotFoundError: no such file. OSError: the language model cannot be opened.
        RuntimeError: transformers or peft is missing; names the extra.
        ValueError: the file is damaged or of another kind, the language model has other weights than the one that it
            was trained with, or gives other answers (another version of transformers may).
    """
    state, metadata = read_weights(path)
    config, told, lora = _description(path, metadata)
    if told is None and language is not None:
        raise ValueError(f"{path}: language: wanted None for a model without one, got {str(language)[:80]!r}")
    inside = None if told is None else _reopened(path, told, language, lora)
    answer = state.pop(_ANSWER, None)
    model = LLMMorph(**config, language=inside)
    wanted = set(model.state_dict())
    if told is not None and "source" in told:
        wanted = {k for k in wanted if not k.startswith(LANGUAGE) or "lora_" in k}
    if wanted != set(state):
        odd = sorted(wanted ^ set(state))
        raise ValueError(f"{path}: not weights of this LLMMorph: {len(odd)} tensors too few or too many, as {odd[0]}")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path}: not weights of this LLMMorph: {str(error).splitlines()[-1].strip()}") from error
    if inside is not None:
        _check_answer(path, inside, answer)
    return model.to(device).eval()


def _described(blocks: LanguageBlocks, whole: bool) -> dict[str, Any]:
    import transformers

    said: dict[str, Any] = {
        **blocks.describe_options(),
        "scale": blocks.scale,
        "transformers": transformers.__version__,
    }
    if whole:
        return {**said, "config": json.loads(json.dumps(blocks.config, default=str))}
    return {**said, "source": blocks.source, "fingerprint": blocks.fingerprint()}


_TYPES: dict[str, Any] = {
    "layers": list, "causal": bool, "scale": (int, float), "source": str, "fingerprint": str, "config": dict,
}  # fmt: skip


def _description(path: Any, metadata: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any] | None, Lora | None]:
    """Options of the net, what is told of its language model, and its LoRA."""
    try:
        config = json.loads(metadata.get("config", "{}"))
        kind = config.pop("architecture", metadata.get("architecture"))
        if kind == ARCHITECTURE:
            told = config.pop("language")
            if config.keys() != LLMMorph.OPTIONS:
                raise ValueError(f"options {', '.join(sorted(config.keys() ^ LLMMorph.OPTIONS))}")
            if told is None:
                return config, None, None
            own = ("source", "fingerprint") if "source" in told else ("config",)
            for name in ("layers", "causal", "scale", *own):
                if not isinstance(told[name], _TYPES[name]):
                    raise TypeError(f"language.{name} is {told[name]!r}")
            return config, told, None if told["lora"] is None else Lora(**_tupled(told["lora"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its description cannot be read: {error}") from error
    raise ValueError(f"{path}: wanted weights of LLMMorph, got {kind or 'no word of what they are'}")


def _tupled(lora: dict[str, Any]) -> dict[str, Any]:
    targets = lora["targets"]
    return {**lora, "targets": None if targets is None else tuple(targets)}


def _reopened(
    path: Any, told: dict[str, Any], language: str | Path | nn.Module | None, lora: Lora | None
) -> LanguageBlocks:
    options: dict[str, Any] = {"layers": told["layers"], "lora": lora, "causal": told["causal"]}
    if "source" not in told:
        if language is not None:
            raise ValueError(f"{path}: language: wanted None, its language model is in the file")
        blocks = open_language(build_language(told["config"]), **options)
        blocks.scale = told["scale"]  # of embeddings that were not kept
        return blocks
    source = told["source"] if language is None else language
    try:
        found = open_language(source, **options)
    except OSError as error:
        raise OSError(f"{path}: {error}; language= says where it is now") from error
    came = found.fingerprint()
    if came != told["fingerprint"]:
        raise ValueError(
            f"{path}: language: wanted the weights that it was trained with (sha256 {told['fingerprint'][:16]}...), "
            f"got others ({came[:16]}...) in {source if isinstance(source, (str, Path)) else type(source).__name__}"
        )
    found.source = found.source or told["source"]
    return found


def _check_answer(path: Any, blocks: LanguageBlocks, answer: Tensor | None) -> None:
    import transformers

    came = blocks.answer().cpu()
    apart = float("inf")
    if answer is not None and answer.shape == came.shape:
        apart = float((answer - came).abs().max() / came.abs().max())
    if not apart <= _APART:  # NaN too
        raise ValueError(
            f"{path}: language: with these weights it gives other answers than when it was saved; transformers "
            f"{transformers.__version__} reads its configuration in another way"
        )
