"""The loop: closed forms, best so far, micro-batches, errors, and a model left as it was found."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastattack as fa
from fastattack import engine


class Linear(nn.Module):
    """output = W x for each sample: the optimum of a linear loss over a ball is known."""

    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, d, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.t()


def total(output: torch.Tensor, target: object) -> torch.Tensor:
    return output.flatten(1).sum(1)


@pytest.fixture
def denoiser() -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), last)


def pair(batch: int = 3, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, side, side, generator=g)
    return clean + 0.1 * torch.randn(clean.shape, generator=g), clean


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_is_attacked_in_closed_form(norm, targeted):
    model, x = Linear(), torch.rand(4, 12)
    w = model.weight.detach()[0]
    best = 0.1 * (w.sign() if norm == "linf" else w / w.norm())
    adv = fa.PGD(model, objective=total, eps=0.1, norm=norm, steps=30, random_start=False, targeted=targeted)(x, None)
    assert torch.allclose(adv - x, (-best if targeted else best).expand_as(x), atol=1e-5)


def test_fgsm_is_one_full_step():
    model, x = Linear(), torch.rand(4, 12)
    result = fa.FGSM(model, objective=total, eps=0.1).run(x, None)
    assert torch.allclose(result.adversarial, x + 0.1 * model.weight.detach().sign(), atol=1e-6)
    assert torch.allclose(result.loss, total(model(result.adversarial), None).double(), atol=1e-5)
    assert torch.equal(fa.fgsm(model, x, None, objective=total, eps=0.1), result.adversarial)


def test_the_engine_matches_a_loop_written_by_hand(denoiser):
    y, x = pair()
    denoiser.eval()
    adv = y.clone()
    fa.ops.random_start_(adv, y, norm="linf", eps=0.02, seed=5, backend="reference")
    for _ in range(4):
        probe = adv.clone().requires_grad_()
        loss = ((denoiser(probe) - x) ** 2).flatten(1).mean(1).sum()
        (grad,) = torch.autograd.grad(loss, probe)
        adv = (adv + 0.01 * grad.sign()).clamp(y - 0.02, y + 0.02)
    got = fa.PGD(denoiser, eps=0.02, step=0.01, steps=4, seed=5, keep="last")(y, x)
    assert torch.allclose(got, adv, atol=1e-6)


def test_the_best_iterate_is_kept_for_each_sample():
    """A loss that falls again after its peak: the last iterate is not the best."""
    peak = torch.tensor([0.03, 0.07, 0.2])

    def hill(output, target):
        return -(output.flatten(1).mean(1) - peak).abs()

    x = torch.zeros(3, 4)
    attack = fa.PGD(lambda v: v, objective=hill, eps=1.0, step=0.05, steps=5, random_start=False)
    attack_last = fa.PGD(lambda v: v, objective=hill, eps=1.0, step=0.05, steps=2, random_start=False, keep="last")
    result = attack.run(x, None)
    assert torch.allclose(result.adversarial.mean(1), torch.tensor([0.05, 0.05, 0.2]), atol=1e-6)
    assert torch.allclose(result.loss.float(), hill(result.adversarial, None), atol=1e-6)
    assert result.best_step.tolist()[2] == 4
    assert (attack_last.run(x, None).best_step == 2).all()


def test_restarts_never_lose(denoiser):
    y, x = pair()
    one = fa.PGD(denoiser, eps=0.05, steps=2, seed=3).run(y, x)
    many = fa.PGD(denoiser, eps=0.05, steps=2, seed=3, restarts=5).run(y, x)
    assert (many.loss >= one.loss).all()
    assert (many.best_restart > 0).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_micro_batches_give_the_same_result(denoiser, norm):
    y, x = pair(5)
    eps = torch.linspace(0.02, 0.1, 5)
    mask = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0)) > 0.3
    options = {"eps": eps, "steps": 3, "norm": norm, "seed": 11}
    whole = fa.PGD(denoiser, **options).run(y, x, mask=mask)
    parts = fa.PGD(denoiser, **options, max_batch=2).run(y, x, mask=mask)
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=1e-6)
    assert torch.allclose(whole.loss, parts.loss, rtol=1e-5)
    assert torch.equal(whole.adversarial[~mask], y[~mask])


def test_channels_last_and_contiguous_agree(denoiser):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 8, 8, generator=g)
    model = nn.Conv2d(3, 3, 3, padding=1)
    a = fa.PGD(model, eps=0.05, steps=3)(x + 0.1, x)
    last = (x + 0.1).to(memory_format=torch.channels_last)
    b = fa.PGD(model, eps=0.05, steps=3)(last, x)
    assert b.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(a, b, atol=1e-6)


def test_results_are_reproducible_and_seeded(denoiser):
    y, x = pair()
    first, again = (fa.denoising_pgd(denoiser, y, x, seed=1, steps=2) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, fa.denoising_pgd(denoiser, y, x, seed=2, steps=2))


def snapshot(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [b.clone() for b in model.buffers()],
        torch.get_rng_state(),
    )


def same(a, b) -> bool:
    return (
        a[0] == b[0] and a[1] == b[1] and all(x is y for x, y in zip(a[2], b[2], strict=True))
        and all(torch.equal(x, y) for x, y in zip(a[3], b[3], strict=True)) and torch.equal(a[4], b[4])
    )  # fmt: skip


@pytest.mark.parametrize("eval_mode", [True, False])
@pytest.mark.parametrize("failure", [None, ValueError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was_found(denoiser, eval_mode, failure):
    y, x = pair()
    denoiser.train()
    denoiser[1].eval()
    denoiser[4].weight.requires_grad_(False)
    denoiser[0].weight.grad = torch.ones_like(denoiser[0].weight)
    before = snapshot(denoiser)
    calls = []

    def objective(output, target):
        calls.append(1)
        if failure is not None and len(calls) == 3:
            raise failure
        return fa.objectives.mse(output, target)

    attack = fa.PGD(denoiser, objective=objective, eps=0.05, steps=5, eval_mode=eval_mode)
    if failure is None:
        attack(y, x)
    else:
        with pytest.raises(failure):
            attack(y, x)
    assert same(before, snapshot(denoiser))


def test_batch_norm_statistics_survive_training_mode(denoiser):
    y, x = pair()
    denoiser.train()
    before = [b.clone() for b in denoiser.buffers()]
    fa.PGD(denoiser, eps=0.05, steps=2, eval_mode=False)(y, x)
    assert all(torch.equal(a, b) for a, b in zip(before, denoiser.buffers(), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("eval_mode", [True, False])
def test_a_graph_of_the_caller_lives_on(training, eval_mode):
    """A forward pass before the attack, its backward pass after: the buffers that autograd saved are unchanged."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).train(training)
    x = torch.rand(3, 1, 8, 8)
    target = torch.rand(3, 4, 6, 6)
    model(x).square().mean().backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    out = model(x).square().mean()
    before = [b.clone() for b in model.buffers()]
    fa.PGD(model, eps=0.05, steps=2, eval_mode=eval_mode)(x, target)
    out.backward()
    assert all(torch.equal(p.grad, w) for p, w in zip(model.parameters(), want, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_buffers_that_the_model_replaces_are_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return x * 2

    model = Counting()
    before = model.calls
    fa.PGD(model, eps=0.1, steps=2)(torch.rand(2, 3), torch.zeros(2, 3))
    assert model.calls is before
    assert before == 0
    method = Counting()
    method.train()
    fa.PGD(method.forward, eps=0.1, steps=2)(torch.rand(2, 3), torch.zeros(2, 3))
    assert method.calls == 0


def test_a_model_made_in_inference_mode_is_refused_untouched():
    with torch.inference_mode():
        model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"model: .*inference_mode"):
        fa.PGD(model, eps=0.1)(torch.rand(2, 3), torch.zeros(2, 3))
    assert model.training


def test_inputs_are_not_written_and_modes_do_not_matter(denoiser):
    y, x = pair()
    copies = y.clone(), x.clone()
    want = fa.PGD(denoiser, eps=0.05, steps=2)(y, x)
    assert torch.equal(y, copies[0])
    assert torch.equal(x, copies[1])
    with torch.no_grad():
        assert torch.equal(fa.PGD(denoiser, eps=0.05, steps=2)(y, x), want)
    with torch.inference_mode():
        assert torch.equal(fa.PGD(denoiser, eps=0.05, steps=2)(y.clone(), x.clone()), want)
    assert not want.requires_grad


def test_parameter_gradients_are_never_computed(denoiser):
    y, x = pair()
    seen = []
    denoiser[0].register_full_backward_hook(lambda m, i, o: seen.append(m.weight.requires_grad))
    fa.PGD(denoiser, eps=0.05, steps=1)(y, x)
    assert seen == [False]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_non_finite_numbers_are_found_with_step_and_sample(where):
    class Bad(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            scale = torch.ones(3, 1)
            if self.calls == 3:
                scale[1] = float("nan") if where == "loss" else 0.0
            # sqrt at 0 has an infinite slope while its value is finite
            return x * scale if where == "loss" else torch.sqrt(x.abs() * scale)

    with pytest.raises(fa.NonFiniteError, match="NaN or infinity at step 2 for sample 1"):
        fa.PGD(Bad(), eps=0.01, steps=4)(torch.rand(3, 6) + 1, torch.zeros(3, 6))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda v: v[:, :2], "model: wanted an output of the target's shape"),
        (lambda v: torch.zeros_like(v), "no gradient"),
        (lambda v: (v, v), "model: wanted a tensor"),
        (lambda v: v.detach() * torch.ones(3, 6, requires_grad=True), "no gradient"),
    ],
)
def test_models_that_do_not_fit(model, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fa.PGD(model, eps=0.01)(torch.rand(3, 6), torch.zeros(3, 6))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.tensor([[1.0, float("nan")]]), {}, "input: wanted finite"),
        (torch.tensor([[1.0, float("inf")]]), {}, "input: wanted finite"),
        (torch.zeros(0, 3), {}, "at least one sample"),
        (torch.tensor(1.0), {}, "without dimensions"),
        (torch.ones(2, 3, dtype=torch.int64), {}, "divide integer images"),
        (torch.ones(1, 2) * 1.5, {"bounds": (0, 1)}, "inside bounds"),
        (torch.ones(1, 2), {"eps": -1}, "eps: wanted"),
        (torch.ones(1, 2), {"steps": 0}, "steps: wanted"),
        (torch.ones(1, 2), {"steps": 2.5}, "steps: wanted"),
        (torch.ones(1, 2), {"restarts": 2, "random_start": False}, "restarts"),
        (torch.ones(1, 2), {"keep": "all"}, "keep"),
        (torch.ones(1, 2), {"max_batch": 0}, "max_batch"),
        (torch.ones(1, 2), {"norm": "l7"}, "norm"),
        (torch.ones(1, 2), {"objective": lambda o, t: o.sum()}, "objective: wanted one loss for each sample"),
        ("text", {}, "input: wanted a tensor"),
        (torch.ones(3), {}, "input: wanted a batch"),
        (torch.ones(1, 2), {"eps": float("inf")}, "eps: wanted a finite"),
        (torch.ones(1, 2), {"backend": "cdua"}, "backend: wanted"),
        (torch.ones(1, 2), {"bounds": "01"}, "bounds: wanted"),
        (torch.ones(1, 2), {"objective": "mse"}, "objective: wanted"),
    ],
)
def test_bad_input_is_named(x, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fa.PGD(lambda v: v * 2, **({"eps": 0.1} | options))(x, x)


def test_progress_sees_every_step():
    seen: list[engine.Progress] = []
    fa.PGD(Linear(), objective=total, eps=0.1, steps=3, restarts=2, max_batch=2).run(
        torch.rand(3, 12), None, progress=seen.append
    )
    assert [(p.first_sample, p.restart, p.step) for p in seen] == [
        (f, r, s) for f in (0, 2) for r in (0, 1) for s in (0, 1, 2)
    ]
    assert seen[-1].loss.shape == (1,)


class ImageAllocations(TorchDispatchMode):
    """Records the ops that made a new tensor of at least ``size`` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.numel() >= self.size and t.untyped_storage().data_ptr() not in known:
                self.found.append(str(func))
        return out


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_step_makes_no_temporary_of_image_size(denoiser, monkeypatch, preserve, form):
    """Outside the model: the step, the projection, the watch for NaN and the best so far work in what is there."""
    y, x = (t.expand(-1, 3, -1, -1).to(memory_format=form) for t in pair())
    y, x = y.clone(memory_format=torch.preserve_format), x.clone(memory_format=torch.preserve_format)
    denoiser = nn.Conv2d(3, 3, 3, padding=1)
    seen = ImageAllocations(y.numel())
    for name in ("move", "watch", "take", "keep_noise"):
        original = getattr(engine.Job, name)

        def watched(*args, original=original, **kwargs):
            with seen:
                return original(*args, **kwargs)

        monkeypatch.setattr(engine.Job, name, watched)
    fa.DenoisingPGD(denoiser, eps=0.05, steps=3, preserve_noise=preserve)(y, x)
    assert seen.found == []
    with seen:
        y + x
    assert seen.found == ["aten.add.Tensor"]  # the check can fail
