"""The speed layer: the same attack by faster gradients, nothing stale, and falling back with a reason."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.fast import Speed, fold
from fastattack.fast.graph import StepGraph
from fastattack.fast.memory import Layout


def with_statistics(model: nn.Module, channels: int = 1) -> nn.Module:
    """Eval mode, with batch statistics and affine factors that are far from the identity."""
    g = torch.Generator().manual_seed(3)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.3)
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)
            if m.affine:
                m.weight.data.copy_(torch.rand(m.num_features, generator=g) + 0.5)
                m.bias.data.copy_(torch.randn(m.num_features, generator=g) * 0.2)
    return model.eval()


def normed(**options) -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, **options), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8, affine=False), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 3, padding=1),
        )
    )  # fmt: skip


class Residual(nn.Module):
    """Attributes in an order that only a trace can tell, and forward passes in which some pair is none."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.norm, self.conv, self.last = nn.BatchNorm2d(4), nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.stack = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "branch" and x.sum() > 1e9:
            return x
        raw = self.conv(x)
        out = torch.relu(self.norm(raw))
        if self.how == "seen":
            out = out + raw
        if self.how == "twice":
            out = out + self.conv(x)
        if self.how == "apart":  # a Sequential that is not called as one
            return x - self.last(self.stack(out) + self.stack[0](out))
        return x - self.last(self.stack(out))


def pair(batch: int = 3, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, side, side, generator=g)
    return clean + 0.1 * torch.randn(clean.shape, generator=g), clean


def by_hand(model, y, x, *, eps=0.02, step=0.01, steps=4) -> torch.Tensor:
    adv = y.clone()
    for _ in range(steps):
        probe = adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(((model(probe) - x) ** 2).flatten(1).mean(1).sum(), probe)
        adv = adv + step * grad / grad.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) * 10
        d = adv - y
        adv = y + d * (eps * 10 / d.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)).clamp(max=1)
    return adv


def attack(model, **options) -> fa.PGD:
    """l2: its iterates depend smoothly on the gradient, so that rounding stays rounding."""
    fixed = {"eps": 0.2, "norm": "l2", "step": 0.1, "steps": 4, "random_start": False, "keep": "last"}
    return fa.PGD(model, **(fixed | options))


# -- folding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"padding_mode": "reflect"}])
def test_folding_is_exact(options):
    model, (y, x) = normed(**options), pair()
    result = attack(model).run(y, x)
    assert result.how.endswith("2 batch norms folded")
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)
    wide = copy.deepcopy(model).double()
    twin = fold.folded(wide, fold.pairs_of(wide))
    assert torch.allclose(twin(y.double()), wide(y.double()), rtol=1e-12)


@pytest.mark.parametrize(
    ("how", "count"), [("", 2), ("seen", 1), ("twice", 1), ("branch", 1), ("apart", 1)]
)  # fmt: skip
def test_only_sure_pairs_are_folded(how, count):
    torch.manual_seed(0)
    model, (y, x) = with_statistics(Residual(how)), pair()
    result = attack(model).run(y, x)
    assert f"{count} batch norm" in result.how
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_a_wrong_fold_is_seen_and_not_used(monkeypatch):
    torch.manual_seed(0)
    model, (y, x) = with_statistics(Residual("twice")), pair()
    monkeypatch.setattr(fold, "pairs_of", lambda m, fresh: [("", "conv", "norm")])
    result = attack(model).run(y, x)
    assert "the model as it is" in result.how
    assert "differ" in result.how
    assert "folded" not in result.how
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_parameters_are_shared_where_nothing_changes():
    model = normed()
    twin = fold.folded(model, fold.pairs_of(model))
    assert twin[6].weight is model[6].weight
    assert twin[0].weight is not model[0].weight
    assert isinstance(twin[1], nn.Identity)
    assert isinstance(model[1], nn.BatchNorm2d)


def test_convolutions_are_laid_out_for_channels_last_and_the_model_s_own_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3), nn.Conv2d(3, 3, 3)).eval()
    before = [p.detach().clone() for p in model.parameters()]
    twin = fold.folded(model, [], images=True)
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(twin(x), model(x))
    assert twin(x).is_contiguous(memory_format=torch.channels_last)
    laid = not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    for name in ("0", "1", "2"):
        weight = twin.get_submodule(name).weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is laid
    for now, old in zip(model.parameters(), before, strict=True):
        assert now.is_contiguous()
        assert now.requires_grad
        assert torch.equal(now, old)


def in_place(model):
    with torch.no_grad():
        model[0].weight.mul_(1.5)
        model[1].running_mean.add_(0.3)


def optimised(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model(pair()[0]).square().sum().backward()
    optimiser.step()


def replaced_parameter(model):
    model[3].weight = nn.Parameter(model[3].weight.detach() * -0.7)


def replaced_module(model):
    model[1] = with_statistics(nn.Sequential(nn.BatchNorm2d(8, eps=0.1)))[0]


def removed_norm(model):
    model[1] = nn.Sigmoid()


def loaded(model):
    model.load_state_dict({k: v * 1.2 if v.is_floating_point() else v for k, v in model.state_dict().items()})


@pytest.mark.parametrize("change", [in_place, optimised, replaced_parameter, replaced_module, removed_norm, loaded])
def test_no_weight_is_ever_stale(change):
    model, (y, x) = normed(), pair()
    one = attack(model)
    before = one(y, x)
    change(model)
    after = one(y, x)
    assert torch.allclose(after, by_hand(model.eval(), y, x), atol=2e-6)
    assert not torch.allclose(after, before, atol=1e-3)


def test_hooks_fire_on_the_model_itself():
    model, (y, x) = normed(), pair()
    seen: list[int] = []
    model[1].register_forward_hook(lambda m, i, o: seen.append(1))
    result = attack(model).run(y, x)
    assert "nothing folded: the model has hooks or is scripted" in result.how
    assert len(seen) >= 4
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_train_mode_is_attacked_as_it_is():
    model, (y, x) = normed().train(), pair()
    result = attack(model, eval_mode=False).run(y, x)
    assert "folded" not in result.how
    assert torch.allclose(result.adversarial, by_hand(copy.deepcopy(model), y, x), atol=2e-6)


def test_a_trace_leaves_nothing_in_the_model():
    class Noting(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.notes: list[object] = []

        def forward(self, x):
            self.notes.append(x)
            self.last_seen = x
            return super().forward(x)

    model = with_statistics(Noting())
    names = set(vars(model))
    fold.pairs_of(model)
    assert model.notes == []
    assert set(vars(model)) == names


def test_no_model_is_kept_alive():
    model, (y, x) = normed(), pair()
    attack(model)(y, x)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# -- memory format and parts -------------------------------------------------------------------------------------------


def test_the_format_reaches_the_convolutions_and_the_result_keeps_its_own():
    seen: list[bool] = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(x.stride(1) == 1)
            return x

    model, (y, x) = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Look(), nn.Conv2d(8, 1, 3, padding=1)), pair()
    result = attack(model, channels_last=True).run(y, x)
    assert "channels_last" in result.how
    assert all(seen[1:])  # the first look is the check's, at the model as it is
    assert result.adversarial.stride() == y.stride()
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_a_model_that_cannot_take_the_format_is_attacked_without():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(x).view(len(x), -1)[:, :144].reshape(x.shape)

    model, (y, x) = Flat(), pair()
    result = attack(model, channels_last=True).run(y, x)
    assert "the model as it is, whole batches: RuntimeError" in result.how
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_wide_convolutions_leave_the_format(monkeypatch):
    torch.manual_seed(0)
    convs = [nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
    model, (y, x) = with_statistics(nn.Sequential(*convs, nn.BatchNorm2d(64), nn.Conv2d(64, 1, 1))), pair(2, 4)
    seen: list[tuple[int, bool]] = []
    forward = nn.Conv2d.forward
    watched = lambda self, v: seen.append((self.out_channels, v.is_contiguous())) or forward(self, v)  # noqa: E731
    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    result = attack(model, channels_last=True).run(y, x)
    assert "channels_last, 2 batch norms folded" in result.how
    assert (64, True) in seen
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_the_last_iterate_is_judged_only_for_a_loss():
    calls: list[int] = []

    def model(v):
        calls.append(1)
        return v * 2

    y, x = pair()
    one = attack(model)
    result = one.run(y, x)
    assert len(calls) == 5
    assert torch.equal(one(y, x), result.adversarial)
    assert len(calls) == 9
    assert torch.allclose(result.loss, ((result.adversarial * 2 - x) ** 2).flatten(1).mean(1).double(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 3, 5), (2, 3, 4, 4), (1, 1, 1, 1)])
def test_layout_keeps_every_value(shape):
    x = torch.rand(shape)
    laid = Layout()(x)
    assert torch.equal(laid, x)
    assert laid.stride(1) == 1


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_parts_of_a_batch_change_nothing(chunk):
    model, (y, x) = normed(), pair(5)
    result = attack(model, chunk=chunk).run(y, x)
    assert ("at a time" in result.how) == (chunk < 5)
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)
    assert torch.allclose(result.loss, ((model(result.adversarial) - x) ** 2).flatten(1).mean(1).double(), rtol=1e-5)


def test_a_model_of_whole_batches_is_not_cut():
    class Centred(nn.Module):
        def forward(self, x):
            return x * 2 - x.mean(0, keepdim=True)

    y, x = pair(4)
    result = attack(Centred(), chunk=1).run(y, x)
    assert "whole batches" in result.how
    assert torch.allclose(result.adversarial, by_hand(Centred(), y, x), atol=2e-6)


def test_an_objective_that_may_need_the_batch_gets_it():
    weights = torch.arange(1.0, 5)
    sizes: list[int] = []

    def weighted(output, target):
        sizes.append(len(output))
        return (output - target).square().flatten(1).mean(1) * weights

    y, x = pair(4)
    attack(normed(), chunk=1, objective=weighted)(y, x)
    assert set(sizes) == {4}


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_for_the_gradient_alone(precision):
    model, (y, x) = normed(), pair()
    want = attack(model).run(y, x)
    for keep in ("best", "last"):
        got = attack(model, precision=precision, keep=keep).run(y, x)
        exact = ((model(got.adversarial) - x) ** 2).flatten(1).mean(1).double()
        assert got.how.startswith(precision)
        assert got.adversarial.dtype == torch.float32
        assert torch.allclose(got.loss, exact, rtol=1e-5)
        assert torch.allclose(got.loss, want.loss, rtol=2e-2)
        assert not torch.equal(got.adversarial, want.adversarial)


@pytest.mark.parametrize("stop", [{"stop": "success", "threshold": 1e-4}, {"stop": "converged", "patience": 1}])
def test_samples_that_end_early_are_judged_in_full_precision(stop):
    model, (y, x) = normed(), pair(4)
    got = attack(model, precision="bf16", keep="best", steps=8, **stop).run(y, x)
    assert torch.allclose(got.loss, ((model(got.adversarial) - x) ** 2).flatten(1).mean(1).double(), rtol=1e-5)


def test_the_callers_autocast_is_no_reason_to_fall_back():
    model, (y, x) = normed(), pair()
    with torch.autocast("cpu", torch.bfloat16):
        result = attack(model, channels_last=True).run(y, x)
    assert result.how == "fp32, channels_last, 2 batch norms folded"


def test_fp16_scales_small_gradients():
    model, (y, x) = normed(), pair()

    def tiny(output, target):
        return fa.objectives.mse(output, target) * 2.0**-20

    got = attack(model, precision="fp16", objective=tiny).run(y, x)
    want = by_hand(model, y, x) - y
    assert (got.adversarial - y - want).norm() < 0.1 * want.norm()  # 1 without the scale


def test_auto_says_what_it_chose(monkeypatch):
    from fastattack.fast import precision

    x = torch.zeros(1)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert str(precision.precision_of("auto", x)) == "fp32 (auto: this CPU has neither AMX nor AVX512-BF16)"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    for gain, name in ((3.0, "bf16"), (0.5, "fp32")):
        monkeypatch.setattr(precision, "_bf16_gain", lambda threads, gain=gain: gain)
        assert str(precision.precision_of("auto", x)).startswith(f"{name} (auto: AMX, bf16 measured {gain:.2f}")
    assert [precision._auto_cuda(c).name for c in ((9, 0), (7, 5), (6, 1))] == ["bf16", "fp16", "fp32"]
    assert precision.precision_of("auto", x.double()).name == "fp32"


def test_tf32_flags_are_put_back():
    from fastattack.fast.precision import Precision

    flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)  # noqa: E731
    before = flags()
    seen = []

    def inside():
        with Precision("tf32").region():
            seen.append(flags())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        inside()
    assert seen == [(True, True)]
    assert flags() == before


# -- CUDA graphs, with a recorder that stands for CUDA -----------------------------------------------------------------


class Tape:
    """Replays by calling again: what a CUDA graph does to its static buffers."""

    def __init__(self, fails: bool = False) -> None:
        self.log: list[str] = []
        self.fails = fails

    def aside(self, function):
        self.log.append("aside")
        return function()

    def record(self, function):
        self.log.append("record")
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        out = tuple(torch.zeros_like(t) for t in function())

        def replay() -> None:
            self.log.append("replay")
            for static, new in zip(out, function(), strict=True):
                static.copy_(new)

        return replay, out


def graph_of(tape, weight, *, strict=True):
    return StepGraph(tape, lambda: [weight], strict=strict)


def test_a_graph_is_warmed_up_recorded_and_replayed():
    tape, weight = Tape(), torch.tensor([2.0])
    graph = graph_of(tape, weight)
    step = lambda v, t: ((v * weight).sum(1) + t, v * weight)  # noqa: E731
    kept = []
    for k in range(5):
        x, t = torch.full((2, 3), float(k)), torch.tensor([1.0, float(k)])
        weight.fill_(k + 1.0)  # in place: the graph reads what is there
        loss, grad = graph(step, x, t, None)
        kept.append((loss, grad, step(x, t)))
    assert tape.log == ["aside", "aside", "record", "replay", "replay", "replay"]
    for loss, grad, (want_loss, want_grad) in kept[2:]:
        assert torch.equal(loss, want_loss)
        assert torch.equal(grad, want_grad)


@pytest.mark.parametrize("change", ["shape", "weights", "objective", "target"])
def test_a_change_of_what_was_recorded_records_again(change):
    tape, holder = Tape(), [torch.ones(1)]
    graph = StepGraph(tape, lambda: holder, strict=True)
    step = lambda v, t: (v.sum(1) * holder[0], v * holder[0])  # noqa: E731
    x, kind, target = torch.ones(2, 3), object(), torch.ones(2)
    for _ in range(3):
        graph(step, x, target, kind)
    tape.log.clear()
    if change == "shape":
        x = torch.ones(1, 3)
    elif change == "weights":
        holder[0] = torch.full((1,), 5.0)
    elif change == "objective":
        kind = object()
    else:
        target = torch.ones(3)
    for _ in range(3):
        _, grad = graph(step, x, target, kind)
        assert torch.equal(grad, x * holder[0])
    assert tape.log == ["aside", "aside", "record", "replay"]


def test_what_cannot_be_recorded_is_said_or_raised():
    step = lambda v, t: (v.sum(1), v * 2)  # noqa: E731
    x = torch.ones(2, 3)
    quiet, strict = graph_of(Tape(True), x, strict=False), graph_of(Tape(True), x)
    for _ in range(4):
        assert torch.equal(quiet(step, x, None, None)[1], x * 2)
    assert quiet.reason == "operation not permitted when stream is capturing"
    assert quiet.recorder.log == ["aside", "aside", "record"]
    for _ in range(2):
        strict(step, x, None, None)
    with pytest.raises(RuntimeError, match=r"graph: .*cannot be recorded.*not permitted"):
        strict(step, x, None, None)


def test_a_graph_gives_up_where_everything_changes():
    graph, step = graph_of(Tape(), torch.ones(1), strict=False), lambda v, t: (v.sum(1), v)
    for _ in range(graph.MOST + 1):
        kind = object()
        for _ in range(3):
            graph(step, torch.ones(1, 2), None, kind)
    assert "changed 8 times" in graph.reason


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision: wanted"),
        ({"precision": "tf32"}, "precision: wanted .* on cpu"),
        ({"graph": "always"}, "graph: wanted 'never' or 'auto' on cpu"),
        ({"graph": "yes"}, "graph: wanted"),
        ({"graph": "always", "compile": True}, "graph: wanted"),
        ({"fold": 1}, "fold: wanted True or False"),
        ({"chunk": 0}, "chunk: wanted"),
    ],
)
def test_options_that_cannot_be(options, message):
    y, x = pair()
    with pytest.raises((ValueError, TypeError), match=message):
        attack(normed(), **options)(y, x)


def test_options_that_do_not_fit_the_input():
    with pytest.raises(ValueError, match="channels_last: wanted"):
        attack(nn.Linear(4, 4), channels_last=True)(torch.rand(2, 4), torch.rand(2, 4))
    with pytest.raises(ValueError, match="precision: wanted 'fp32' or 'auto' for float64"):
        attack(nn.Linear(4, 4).double(), precision="bf16")(torch.rand(2, 4).double(), torch.rand(2, 4).double())
    with pytest.raises(ValueError, match="precision: wanted 'fp32' with ensemble='logits'"):
        attack([normed(), normed()], ensemble="logits", precision="bf16")(*pair())


def test_graph_auto_means_none_on_the_cpu():
    assert "graph" not in attack(normed(), graph="auto").run(*pair()).how


def test_the_process_is_left_as_found():
    model, (y, x) = normed(), pair()
    state, flags = (
        torch.get_rng_state(),
        [(p.requires_grad, m.training) for m in model.modules() for p in m.parameters()],
    )
    versions = [p._version for p in model.parameters()]
    attack(model, chunk=1, channels_last=True)(y, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert flags == [(p.requires_grad, m.training) for m in model.modules() for p in m.parameters()]
    assert versions == [p._version for p in model.parameters()]


def test_speed_is_plain_data():
    assert Speed() == Speed(precision="fp32", graph="never")


def test_a_single_gradient_is_made_by_the_model_itself():
    """The check would cost more than the copy gains."""
    model, (y, x) = normed(), pair()
    calls: list[int] = []
    norm, forward = model[1], model[1].forward
    norm.forward = lambda v: (calls.append(len(v)), forward(v))[1]
    once = fa.FGSM(model, eps=0.1).run(y, x)
    assert "folded" not in once.how
    assert calls[0] == len(y)
    asked = fa.FGSM(model, eps=0.1, chunk=1).run(y, x)
    assert torch.allclose(asked.adversarial, once.adversarial, atol=1e-6)
    del norm.forward
    assert "batch norm" in fa.PGD(model, eps=0.1, steps=2).run(y, x).how


@pytest.mark.parametrize("kind", [fa.DDN, fa.FMN])
def test_a_search_for_a_success_takes_one_forward_pass_a_step(kind):
    """A folded copy would have to be judged again by the model as it is."""
    model, (y, x) = normed(), pair()
    calls: list[int] = []
    forward = model[1].forward
    model[1].forward = lambda v: (calls.append(len(v)), forward(v))[1]
    threshold = float((model(y) - x).square().mean()) * 4
    calls.clear()
    found = kind(model, threshold=threshold, steps=8).run(y, x)
    assert "folded" not in found.how
    assert sum(n == len(y) for n in calls) <= 8 + 1 + 2  # the steps, the last look, and the check of the copy
    stopped = fa.PGD(model, eps=0.1, steps=8, threshold=1e9, stop="success")
    calls.clear()
    stopped.run(y, x)
    assert sum(n == len(y) for n in calls) <= 8 + 1 + 2


def test_a_model_with_more_weights_than_pixels_sees_more_samples_at_a_time():
    """Each chunk reads all weights anew: one sample of 256 x 256 pixels alone would do so for every sample."""
    x = torch.rand(4, 1, 256, 256)
    light, heavy = nn.Conv2d(1, 1, 3, padding=1).eval(), nn.Conv2d(1, 1, 3, padding=1).eval()
    heavy.register_parameter("more", nn.Parameter(torch.zeros(3 * 64 * 256 * 256 - 20)))
    told = [fa.PGD(model, eps=0.1, steps=2).run(x, x).how for model in (light, heavy)]
    assert "1 sample at a time" in told[0]
    assert "3 samples at a time" in told[1]
