"""Layers of a language model as blocks: which, how tokens see each other, LoRA, and what is refused."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("peft")

from fastattack.models.language import Lora, build_language, open_language
from tests.tiny_language import WIDTH, tiny


def tokens(count: int = 5, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, count, WIDTH, generator=torch.Generator().manual_seed(1))


LISTS = {"llama": "model.layers.", "qwen2": "model.layers.", "gpt2": "transformer.h."}


@pytest.mark.parametrize(("kind", "layers", "kept"), [
    ("llama", [1, 3], (1, 3)), ("llama", slice(-2, None), (2, 3)), ("qwen2", [0, -1], (0, 3)),
    ("gpt2", slice(1, 3), (1, 2)),
])  # fmt: skip
def test_chosen_layers_are_those_of_a_model_that_has_no_others(kind, layers, kept):
    """The oracle is transformers' own model with as many layers, which gets their weights by hand."""
    model, small = tiny(kind), tiny(kind, layers=2, seed=5)
    name, state = LISTS[kind], {}
    for key, value in model.state_dict().items():
        if not key.startswith(name):
            state[key] = value
    for place, number in enumerate(kept):
        there = f"{name}{number}."
        state |= {f"{name}{place}.{k[len(there) :]}": v for k, v in model.state_dict().items() if k.startswith(there)}
    small.load_state_dict(state)
    blocks = open_language(model, layers=layers, causal=True)
    assert blocks.layers == kept
    want = small.base_model(inputs_embeds=tokens(), use_cache=False).last_hidden_state
    torch.testing.assert_close(blocks(tokens()), want, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_tokens_see_each_other_or_only_those_before(kind):
    model, other = tiny(kind), tokens()
    other[:, -1] += 1
    both, before = open_language(model), open_language(model, causal=True)
    assert not torch.equal(both(tokens())[:, 0], both(other)[:, 0])
    assert torch.equal(before(tokens())[:, :-1], before(other)[:, :-1])
    assert not torch.equal(before(tokens())[:, -1], before(other)[:, -1])


def test_a_token_that_sees_all_is_the_last_one_of_a_causal_model():
    """In one layer without positions, where the order of the others does not matter."""
    model, x = tiny("gpt2", layers=1), tokens()
    model.transformer.wpe.weight.data.zero_()
    both, before = open_language(model), open_language(model, causal=True)
    for i in range(x.shape[1]):
        order = [k for k in range(x.shape[1]) if k != i] + [i]
        torch.testing.assert_close(both(x)[:, i], before(x[:, order])[:, -1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_lora_adds_its_product_to_the_weights(kind):
    """By hand: W + alpha / rank B A in a copy of the model; GPT-2's Conv1D holds W transposed."""
    model = tiny(kind)
    state = torch.random.get_rng_state()
    blocks = open_language(model, lora=Lora(rank=3, alpha=6), seed=7)
    again = open_language(model, lora=Lora(rank=3, alpha=6), seed=7)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(blocks(tokens()), open_language(model)(tokens()))  # B = 0
    merged, count = copy.deepcopy(model).base_model, 0
    assert all(torch.equal(a, b) for a, b in zip(blocks.parameters(), again.parameters(), strict=True))
    for key, a in blocks.net.named_parameters():
        assert a.requires_grad == ("lora_" in key)
        if "lora_A" in key:
            b = blocks.net.get_parameter(key.replace("lora_A", "lora_B"))
            b.data.normal_(generator=torch.Generator().manual_seed(count))
            weight = merged.get_parameter(key.partition(".lora_A")[0] + ".weight")
            more = 2 * b @ a
            weight.data += (more.T if kind == "gpt2" else more).detach()
            count += 1
    assert count == 4 * (7 if kind == "llama" else 4)
    torch.testing.assert_close(blocks(tokens()), open_language(merged)(tokens()), rtol=1e-4, atol=1e-5)
    blocks(tokens()).square().sum().backward()
    learnt = {k for k, p in blocks.net.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert learnt == {k for k, p in blocks.net.named_parameters() if "lora_" in k}


def test_lora_of_named_layers_alone():
    blocks = open_language(tiny("llama"), layers=[0], lora=Lora(targets=("q_proj", "v_proj")))
    assert sum("lora_A" in k for k, _ in blocks.net.named_parameters()) == 2
    with pytest.raises(ValueError, match=r"lora: wanted linear layers .* got \('c_attn',\)"):
        open_language(tiny("llama"), lora=Lora(targets=("c_attn",)))


def test_the_user_s_model_stays():
    model = tiny("qwen2")
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    blocks = open_language(model, layers=[2], lora=Lora())
    assert all(p.requires_grad for p in model.parameters())
    assert model.config.to_dict() == config
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    there = {p.data_ptr() for p in model.parameters()}
    assert not there & {p.data_ptr() for p in blocks.parameters()}
    assert not any(isinstance(m, nn.Embedding) for m in blocks.modules())


def test_training_mode_draws_nothing_but_lora_s_dropout():
    blocks = open_language(tiny("gpt2"), lora=Lora()).train()  # GPT-2's own dropout is 0.1
    assert torch.equal(blocks(tokens()), blocks(tokens()))
    blocks = open_language(tiny("gpt2"), lora=Lora(dropout=0.5))
    for key, p in blocks.net.named_parameters():
        if "lora_B" in key:
            p.data.fill_(1)
    assert not torch.equal(blocks.train()(tokens()), blocks(tokens()))
    assert torch.equal(blocks.eval()(tokens()), blocks(tokens()))


def test_scale_and_positions_that_it_knows():
    model = tiny("gpt2")
    blocks = open_language(model)
    weight = model.transformer.wte.weight.detach().double().numpy()
    assert blocks.scale == pytest.approx((weight**2).mean() ** 0.5)
    assert blocks(tokens(64)).shape == (2, 64, WIDTH)
    with pytest.raises(ValueError, match=r"tokens: wanted 64 at most.*got 65"):
        blocks(tokens(65))


def test_a_folder(tmp_path):
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    blocks = open_language(tmp_path, layers=[1])
    assert blocks.source == str(tmp_path)
    assert torch.equal(blocks(tokens()), open_language(model, layers=[1])(tokens()))
    assert blocks.fingerprint() == open_language(model, layers=[1], lora=Lora()).fingerprint()
    assert blocks.fingerprint() != open_language(model, layers=[2]).fingerprint()
    with pytest.raises(FileNotFoundError, match="no-such: no such folder"):
        open_language(tmp_path / "no-such")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"language: .* cannot be opened as a causal language model"):
        open_language(str(tmp_path))


def test_a_model_from_its_description():
    model = tiny("qwen2")
    state = torch.random.get_rng_state()
    twin = build_language(open_language(model, layers=[3]).config)
    assert torch.equal(state, torch.random.get_rng_state())
    twin.load_state_dict(model.state_dict())
    assert torch.equal(open_language(model)(tokens()), open_language(twin)(tokens()))


@pytest.mark.parametrize("layers", [[4], [-5], [True], ["1"], [2, 1], [1, 1], [], slice(9, None), slice(0, 5)])
def test_layers_that_do_not_exist(layers):
    with pytest.raises(ValueError, match=r"layers: wanted .*the model has layers 0 to 3"):
        open_language(tiny("llama"), layers=layers)


def test_what_is_no_language_model():
    with pytest.raises(TypeError, match="language: wanted a folder, a name or a model of transformers, got Linear"):
        open_language(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="BloomModel does not run on tokens of embeddings; causal=True"):
        open_language(tiny("bloom"))
    assert open_language(tiny("bloom"), causal=True)(tokens()).shape == (2, 5, WIDTH)


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 1.5}, {"alpha": 0.0}, {"dropout": 1.0}])
def test_bad_lora(options):
    with pytest.raises(ValueError, match="lora: wanted"):
        Lora(**options)


@pytest.mark.parametrize("module", ["transformers", "peft"])
def test_a_missing_package_names_the_extra(monkeypatch, module):
    model = tiny("llama")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match=rf"wanted {module}, .*fastattack\[registration\]"):
        open_language(model, lora=Lora())
