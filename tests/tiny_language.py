"""Language models of a few thousand weights, made from their configurations; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch

WIDTH = 32
_COMMON: dict[str, Any] = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None}


def tiny(kind: str, *, layers: int = 4, seed: int = 0) -> Any:
    """Llama (two heads a key), Qwen 2 (a window in the upper half), GPT-2 (learnt positions, Conv1D), BLOOM."""
    import transformers as t

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": 4}
    window = {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": layers // 2}
    grouped = {**sizes, "intermediate_size": 48, "num_key_value_heads": 2, **_COMMON}
    configs = {
        "llama": lambda: t.LlamaConfig(**grouped),
        "qwen2": lambda: t.Qwen2Config(**grouped, **window),
        "gpt2": lambda: t.GPT2Config(n_embd=WIDTH, n_layer=layers, n_head=4, n_positions=64, **_COMMON),
        "bloom": lambda: t.BloomConfig(hidden_size=WIDTH, n_layer=layers, n_head=4, **_COMMON),
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = t.AutoModelForCausalLM.from_config(configs[kind]())
        for p in model.parameters():  # norms and biases begin as ones and zeros, which would hide that they are lost
            p.data.add_(torch.randn(p.shape), alpha=0.1)
    return model.eval()
