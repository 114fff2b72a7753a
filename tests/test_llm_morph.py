"""LLM-Morph: what it computes, files, and that attacks work on it; with a tiny language model and without one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("peft")

import fastattack as fa
from fastattack.models.language import Lora, open_language
from fastattack.models.llm_morph import LLMMorph, count_parameters, load, save
from tests.tiny_language import WIDTH, tiny

SMALL = {"width": 4, "levels": 2, "blocks": 1, "heads": 2}
SIZES = {2: (13, 18), 3: (6, 9, 7)}


def pairs(dims: int, batch: int = 2, size: tuple[int, ...] | None = None) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.rand(batch, 2, *(size or SIZES[dims]), generator=g)


def awake(model: LLMMorph, std: float = 0.2) -> LLMMorph:
    """Heads begin with 0 and would hide all that is before them; LoRA's B does, too."""
    g = torch.Generator().manual_seed(3)
    for key, p in model.named_parameters():
        if key.startswith("heads") or "lora_B" in key:
            p.data.normal_(std=std, generator=g)
    return model.eval()


def made(dims: int = 2, kind: str = "", **options) -> LLMMorph:
    return awake(LLMMorph(dims=dims, language=tiny(kind, layers=2) if kind else None, **{**SMALL, **options}))


# -- what it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", "llama"])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_untrained_one_moves_nothing(dims, kind):
    language = tiny(kind, layers=1) if kind else None
    model = LLMMorph(dims=dims, language=language, **SMALL)
    for size in (SIZES[dims], (1,) * dims):
        x = pairs(dims, size=size)
        assert torch.equal(model(x), torch.zeros(2, dims, *size))
    model(pairs(dims)).sum().backward()
    assert all(bool(head.last.weight.grad.any()) for head in model.heads)


@pytest.mark.parametrize("diffeomorphic", [True, False])
@pytest.mark.parametrize(("dims", "finest"), [(2, 1), (2, 2), (3, 4)])
def test_heads_count_in_voxels_of_their_scale_and_fields_are_composed(dims, finest, diffeomorphic):
    """Translations compose by adding: finest 2^k t_k of scale k, channel by axis."""
    model = LLMMorph(dims=dims, finest=finest, diffeomorphic=diffeomorphic, **{**SMALL, "levels": 3})
    want = torch.zeros(dims)
    for k, head in enumerate(model.heads):
        t = torch.tensor([0.3, -0.7, 0.25][:dims]) * (k + 1)
        head.last.bias.data.copy_(t)
        want += finest * 2**k * t
    field = model(pairs(dims))
    expected = want.reshape(1, dims, *[1] * dims).expand_as(field)
    torch.testing.assert_close(field, expected, rtol=1e-5, atol=1e-5)


class Said(nn.Module):
    """A head that says what it is told, and keeps what it saw."""

    def __init__(self, field: torch.Tensor) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return self.field.expand(x.shape[0], *self.field.shape)


def test_a_finer_field_acts_on_what_the_coarser_one_has_warped():
    """Linear fields A p and B p, which do not commute: moving(q + A q) at q = p + B p, so u = B p + A (p + B p)."""
    a, b = torch.tensor([[0.0, 0.1], [0.0, 0.05]]), torch.tensor([[0.05, 0.0], [-0.1, 0.0]])
    model = LLMMorph(finest=1, diffeomorphic=False, **SMALL)
    fine = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij"))
    coarse = torch.stack(torch.meshgrid(*[2 * torch.arange(12.0) + 0.5] * 2, indexing="ij"))  # in fine voxels
    model.heads[1] = Said(torch.einsum("ik,khw->ihw", a, coarse) / 2)
    model.heads[0] = Said(torch.einsum("ik,khw->ihw", b, fine))
    moved = fine + torch.einsum("ik,khw->ihw", b, fine)
    want = moved - fine + torch.einsum("ik,khw->ihw", a, moved)
    inside = (slice(None), slice(None), slice(3, 20), slice(3, 20))
    torch.testing.assert_close(model(pairs(2, size=(24, 24)))[inside], want.expand(2, -1, -1, -1)[inside])


def test_a_head_sees_the_moving_features_where_the_coarser_field_says():
    """One coarse voxel along the rows is two fine ones."""
    model, x = LLMMorph(finest=1, **SMALL), pairs(2, size=(12, 16))
    model.heads[1] = Said(torch.tensor([1.0, 0.0])[:, None, None].expand(2, 6, 8))
    model.heads[0] = Said(torch.zeros(2, 12, 16))
    model(x)
    moving, fixed = model.encoders[0](x[:, :1])[0], model.encoders[1](x[:, 1:])[0]
    seen = model.heads[0].seen
    torch.testing.assert_close(seen[:, :4, :-2], moving[:, :, 2:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[:, 4:8], fixed)


def test_odd_sizes_go_on_in_their_mirror_image():
    model, x = made(), pairs(2)  # 13 x 18, multiples of 4
    longer = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 3), (0, 2)), mode="reflect"))
    assert model.multiple == 4
    torch.testing.assert_close(model(x), model(longer)[..., :13, :18], rtol=0, atol=0)


def test_a_finer_grid_lies_in_the_middle_of_the_coarse_voxels():
    """A coarse field that is linear in the place stays linear: fine voxel p lies at (p + 1/2) / 2 - 1/2."""
    from fastattack.models.morph_parts import finer_field

    coarse = torch.arange(6.0)[None, None, :, None].expand(1, 2, 6, 3)
    fine = finer_field(coarse, 2)[0, 0, 1:-1, 0]
    torch.testing.assert_close(fine, 2 * ((torch.arange(1.0, 11.0) + 0.5) / 2 - 0.5))


def test_the_encoder_s_grid_lies_where_the_field_s_does():
    """Averaging steps and blocks that pass their input: a feature is the mean of the voxels below it."""
    from fastattack.models.morph_parts import Encoder

    encoder = Encoder(2, (1, 1), 2)
    for conv in encoder.down:
        nn.init.constant_(conv.weight, 0.25)
        nn.init.zeros_(conv.bias)
    for block in encoder.blocks:
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
    places = torch.arange(8.0)[None, None, :, None].expand(1, 1, 8, 8)
    fine, coarse = encoder(places)
    torch.testing.assert_close(fine[0, 0, :, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    torch.testing.assert_close(coarse[0, 0, :, 0], torch.tensor([1.5, 5.5]))


@pytest.mark.parametrize("kind", ["", "gpt2"])
def test_each_pair_by_itself_and_both_images_count(kind):
    model, x = made(kind=kind), pairs(2, batch=3)
    whole = model(x)
    torch.testing.assert_close(torch.cat([model(one[None]) for one in x]), whole, rtol=1e-4, atol=1e-5)
    for channel in (0, 1):
        probe = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(probe).square().sum(), probe)
        assert bool(grad[:, channel].any())


@pytest.mark.parametrize("kind", ["", "llama"])
def test_tokens_reach_every_scale(kind):
    """Heads that see the blocks' features alone: without them the field of each scale is another."""
    model = made(kind=kind)
    before = model(pairs(2))
    for leave in model.leaves:
        weight = leave.values.weight.data.clone()
        leave.values.weight.data.zero_()
        assert not torch.allclose(model(pairs(2)), before, atol=1e-4)
        leave.values.weight.data.copy_(weight)
    torch.testing.assert_close(model(pairs(2)), before)


def test_places_tell_tokens_apart():
    from fastattack.models.morph_parts import places

    found = places((5, 6, 7), like=torch.zeros(1))
    apart = torch.cdist(found, found) + 9 * torch.eye(len(found))
    assert found.shape[0] == 210
    assert float(apart.min()) > 0.1


def test_a_seed_names_the_weights_and_no_numbers_are_drawn_from_torch():
    state = torch.random.get_rng_state()
    a, b, c = (LLMMorph(seed=seed, language=tiny("llama", layers=1), **SMALL) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not torch.equal(a.encoders[0].down[0].weight, c.encoders[0].down[0].weight)
    assert any(not torch.equal(v, c.state_dict()[k]) for k, v in a.state_dict().items() if "lora_A" in k)


def test_parameters_are_counted():
    """Llama of width 32: q and o 32 x 32, k and v 16 x 32, three of 32 x 48, two norms; a final norm."""
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48
    lora = 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    for wanted, count in ((Lora(rank=3), 2 * lora), (False, 0)):
        model = LLMMorph(language=tiny("llama"), layers=[0, 2], lora=wanted, **SMALL)
        found = count_parameters(model)
        assert (found.language, found.lora) == (2 * (layer + 2 * 32) + 32, count)
        assert found.trainable == found.total - found.language
        assert found.total == sum(p.numel() for p in model.parameters())
    plain = count_parameters(LLMMorph(**SMALL))
    assert (plain.language, plain.lora, plain.trainable) == (0, 0, plain.total)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_pairs_that_do_not_fit():
    flat, deep = LLMMorph(**SMALL), LLMMorph(dims=3, **SMALL)
    for model, x in ((flat, pairs(3)), (deep, pairs(2)), (flat, pairs(2)[:, :1]), (flat, pairs(2)[..., :0])):
        with pytest.raises(ValueError, match=rf"pair: wanted \(B, 2, .*of {model.dims} dimensions, got \("):
            model(x)
    for x in ((pairs(2) * 255).byte(), None):
        with pytest.raises(TypeError, match="pair: wanted a floating tensor"):
            flat(x)
    with pytest.raises(TypeError, match=r"pair: wanted torch.float32 as the weights are, got torch.float64"):
        flat(pairs(2).double())
    assert flat.double()(pairs(2).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dims": 4}, "wanted dims 2 or 3"),
        ({"finest": 3}, "finest 1, 2 or 4"),
        ({"finest": True}, "finest 1, 2 or 4, got 2 and True"),
        ({"dims": 2.0}, "dims 2 or 3 and finest 1, 2 or 4, got 2.0"),
        ({"width": 0}, "width: wanted a whole number >= 1, got 0"),
        ({"levels": True}, "levels: wanted a whole number"),
        ({"heads": 5}, "heads: wanted a divisor of the tokens' 128 numbers, got 5"),
        ({"layers": [0]}, "layers: wanted None without a language model"),
    ],
)
def test_options_that_do_not_fit(options, said):
    with pytest.raises(ValueError, match=said):
        LLMMorph(**options)
    with pytest.raises(TypeError, match="lora: wanted True, False or Lora"):
        LLMMorph(language=tiny("llama", layers=1), lora=3)
    with pytest.raises(TypeError, match="layers: wanted a slice or a list of numbers, got 2: the model has layers 0 "):
        LLMMorph(language=tiny("llama"), layers=2)


def test_blocks_have_been_chosen():
    blocks = open_language(tiny("llama"), layers=[0, 1], lora=Lora(rank=2))
    assert LLMMorph(language=blocks, lora=Lora(rank=2), **SMALL).blocks is blocks
    for name, value in (("layers", [0]), ("lora", False), ("lora", True), ("lora", Lora(rank=3)), ("causal", True)):
        with pytest.raises(ValueError, match=f"{name}: wanted none beside blocks, which have been chosen"):
            LLMMorph(language=blocks, **{name: value}, **SMALL)


def test_a_language_model_in_half_precision_is_not_saved(tmp_path):
    model = LLMMorph(language=folder(tmp_path / "lm"), **SMALL).half()
    for whole in (False, True):
        with pytest.raises(ValueError, match=r"wanted its language model in float32, .*, got torch\.float16"):
            save(model, tmp_path / "a.safetensors", whole=whole)
    assert not (tmp_path / "a.safetensors").exists()


def test_equal_nets_have_equal_files(tmp_path):
    files = [tmp_path / f"{k}.safetensors" for k in range(6)]
    for file in files:
        save(LLMMorph(**SMALL), file)
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", None), ("extra", 1), ("language.layers", 3), ("language.causal", None), ("language.lora", {"a": 1}),
     ("language.config", None), ("language", [])],
)  # fmt: skip
def test_a_damaged_description_is_told(tmp_path, name, value):
    file = tmp_path / "a.safetensors"
    save(made(kind="llama"), file)
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    part, _, last = name.rpartition(".")
    inner = config[part] if part else config
    inner.pop(last, None)
    if value is not None:
        inner[last] = value
    save_file(load_file(file), file, {"config": json.dumps(config)})
    with pytest.raises(ValueError, match="its description cannot be read"):
        load(file)


def test_more_tokens_than_the_language_model_has_places_for():
    model = LLMMorph(language=tiny("gpt2", layers=1), **SMALL)  # 64 places, tokens of 4 x 4
    assert model(pairs(2, size=(32, 32))).shape == (2, 2, 32, 32)
    with pytest.raises(ValueError, match=r"tokens: wanted 64 at most, .* got 72"):
        model(pairs(2, size=(33, 32)))


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("kind", "lora"), [("", True), ("llama", False), ("qwen2", Lora(rank=2, targets=("q_proj",)))])
def test_a_file_brings_it_back_to_the_bit(tmp_path, dims, kind, lora):
    model = made(dims, kind, lora=lora, finest=1, diffeomorphic=dims == 2, causal=kind == "qwen2")
    state = torch.random.get_rng_state()
    save(model, tmp_path / "a.safetensors")
    twin = load(tmp_path / "a.safetensors")
    assert torch.equal(state, torch.random.get_rng_state())
    assert not twin.training
    assert count_parameters(twin) == count_parameters(model)
    assert torch.equal(twin(pairs(dims)), model(pairs(dims)))
    save(twin, tmp_path / "b.safetensors")
    first, second = (load_file(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def folder(path, kind: str = "llama", **options):
    tiny(kind, layers=3, **options).save_pretrained(path)
    return path


def test_a_language_model_s_own_weights_stay_in_its_folder(tmp_path):
    model = awake(LLMMorph(language=folder(tmp_path / "lm"), layers=[0, 2], **SMALL))
    file, field = tmp_path / "a.safetensors", model(pairs(2))
    save(model, file)
    inside = {k for k in load_file(file) if k.startswith("blocks.net.")}
    assert inside
    assert all("lora_" in k for k in inside)
    assert torch.equal(load(file)(pairs(2)), field)

    shutil.move(tmp_path / "lm", tmp_path / "moved")
    with pytest.raises(OSError, match=r"lm: no such folder; language= says where it is now"):
        load(file)
    assert torch.equal(load(file, language=tmp_path / "moved")(pairs(2)), field)
    assert torch.equal(load(file, language=tiny("llama", layers=3))(pairs(2)), field)
    with pytest.raises(ValueError, match="wanted the weights that it was trained with"):
        load(file, language=tiny("llama", layers=3, seed=1))

    save(load(file, language=tmp_path / "moved"), tmp_path / "whole.safetensors", whole=True)
    shutil.rmtree(tmp_path / "moved")
    assert torch.equal(load(tmp_path / "whole.safetensors")(pairs(2)), field)
    with pytest.raises(ValueError, match="its language model is in the file"):
        load(tmp_path / "whole.safetensors", language=tiny("llama"))


def test_weights_that_are_to_be_trained_are_in_the_file(tmp_path):
    model = LLMMorph(language=folder(tmp_path / "lm"), **SMALL)
    model.blocks.requires_grad_(True)
    next(model.blocks.net.parameters()).data.add_(1)
    save(awake(model), tmp_path / "a.safetensors")
    assert torch.equal(load(tmp_path / "a.safetensors")(pairs(2)), model(pairs(2)))


def test_the_same_weights_in_another_use_are_seen(tmp_path):
    """As where another version of transformers reads a configuration in another way."""
    save(LLMMorph(language=folder(tmp_path / "lm"), **SMALL), tmp_path / "a.safetensors")
    path = tmp_path / "lm" / "config.json"
    config = json.loads(path.read_text())
    config["hidden_act"] = "relu"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="gives other answers than when it was saved"):
        load(tmp_path / "a.safetensors")


def test_answers_that_are_no_numbers_are_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    save(made(kind="llama"), file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    state = load_file(file)
    save_file({**state, "language_answer": torch.full_like(state["language_answer"], torch.nan)}, file, metadata)
    with pytest.raises(ValueError, match="gives other answers than when it was saved"):
        load(file)


def test_it_tells_what_shapes_do_not():
    """What training compares before it goes on."""
    first, second = (
        LLMMorph(language=tiny("llama"), layers=[i], causal=i > 0, lora=Lora(alpha=i + 1, rank=2), **SMALL)
        for i in (0, 1)
    )
    assert first.describe_options() == {
        **first.config(),
        "language": {
            "layers": [0], "causal": False, "lora": {"rank": 2, "alpha": 1, "dropout": 0.0, "targets": None},
        },
    }  # fmt: skip
    inside = second.describe_options()["language"]
    assert (inside["layers"], inside["causal"], inside["lora"]["alpha"]) == ([1], True, 2)
    assert LLMMorph(**SMALL).describe_options() == {**LLMMorph(**SMALL).config(), "language": None}


def test_files_that_are_no_weights_of_it(tmp_path):
    file = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=r"wanted a name that ends in \.safetensors"):
        save(LLMMorph(**SMALL), tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        load(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="wanted weights of LLMMorph, got no word of what they are"):
        load(file)
    save_file({"a": torch.zeros(1)}, file, {"architecture": "llm_morph", "config": "{"})
    with pytest.raises(ValueError, match="its description cannot be read"):
        load(file)
    model = LLMMorph(**SMALL)
    said = {"architecture": "llm_morph", "config": json.dumps({**model.config(), "language": None})}
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file({k: v for k, v in state.items() if k != "enter.norm.bias"}, file, said)
    with pytest.raises(ValueError, match=r"1 tensors too few or too many, as enter\.norm\.bias"):
        load(file)
    save_file({**state, "enter.norm.bias": torch.zeros(3)}, file, said)
    with pytest.raises(ValueError, match=r"size mismatch for enter\.norm\.bias"):
        load(file)
    save(model, file)
    with pytest.raises(ValueError, match="language: wanted None for a model without one"):
        load(file, language="somewhere")


# -- under attack ------------------------------------------------------------------------------------------------------


def by_hand(model: nn.Module, pair: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Three l2 steps of length 0.5 in a ball of radius 1 around the pair."""
    adv, form = pair.clone(), (-1, *[1] * (pair.dim() - 1))
    for _ in range(3):
        probe = adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad((model(probe) - target).square().flatten(1).mean(1).sum(), probe)
        adv = adv + 0.5 * grad / grad.flatten(1).norm(dim=1).reshape(form)
        d = adv - pair
        adv = pair + d / d.flatten(1).norm(dim=1).reshape(form).clamp(min=1)
    return adv


@pytest.mark.parametrize("kind", ["", "llama", "gpt2"])
@pytest.mark.parametrize("dims", [2, 3])
def test_attacks_give_what_a_plain_loop_gives(dims, kind):
    model = made(dims, kind, levels=3).train()
    x = pairs(dims, size=(64, 64) if dims == 2 else (8, 12, 8))
    target = torch.zeros_like(x[:, :1]).expand(-1, dims, *[-1] * dims).contiguous()
    flags = [(k, p.requires_grad) for k, p in model.named_parameters()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    options = {"norm": "l2", "step": 0.5, "steps": 3, "random_start": False, "keep": "last", "bounds": None}
    result = fa.PGD(model, eps=1.0, objective=fa.objectives.mse, **options).run(x, target)
    assert "the model as it is" not in result.how
    assert ("channels_last" in result.how) == (dims == 2 and torch.backends.cpu.get_cpu_capability().startswith("AVX"))
    assert all(m.training for name, m in model.named_modules() if not name.startswith("blocks.net"))
    assert flags == [(k, p.requires_grad) for k, p in model.named_parameters()]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    want = by_hand(model.eval(), x, target)
    torch.testing.assert_close(result.adversarial, want, rtol=1e-3, atol=1e-4)
    loss = (model(result.adversarial) - target).square().flatten(1).mean(1)
    torch.testing.assert_close(result.loss.float(), loss.detach(), rtol=1e-4, atol=1e-6)
    assert bool((loss > (model(x) - target).square().flatten(1).mean(1)).all())


@pytest.mark.parametrize("kind", ["", "llama"])
def test_bf16_changes_little_and_fields_stay_in_float32(kind):
    model, x = made(kind=kind), pairs(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        field = model(x)
    assert field.dtype == torch.float32
    want = model(x)
    assert float((field - want).detach().norm() / want.detach().norm()) < 0.05


def test_it_is_a_public_name():
    assert fa.models.LLMMorph is LLMMorph
    assert LLMMorph(language=tiny("llama", layers=1), **SMALL).blocks.out_width == WIDTH


def test_the_modules_are_there_in_a_new_process():
    """As the docs write it, with nothing touched before."""
    code = "import fastattack as fa; fa.models.language.Lora(rank=2), fa.models.llm_morph.load"
    subprocess.run([sys.executable, "-c", code], check=True)
