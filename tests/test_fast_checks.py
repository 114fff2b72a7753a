"""The speed layer's copies: never used where they differ, never trusted from an earlier call, and said as it was."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

import fastattack as fa
from fastattack.fast import Prepared, fold
from fastattack.fast.graph import StepGraph
from tests.test_fast import Tape, attack, by_hand, normed, pair, with_statistics


class Alone(nn.Module):
    """The parent uses a Sequential's convolution alone too, and fx cannot trace it."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body or nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1)
        )

    def forward(self, x):
        if bool(x.isnan().any()):
            raise ValueError
        return self.body(x) + self.body[0](x).mean(1, keepdim=True)


class Opaque(nn.Module):
    def forward(self, x):
        return x if bool(x.sum() > 1e9) else x * 1.5


def exact(model, result, x):
    return ((model(result.adversarial) - x) ** 2).flatten(1).mean(1).double()


def body_with_opaque():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), Opaque(), nn.Conv2d(8, 1, 1))


@pytest.mark.parametrize("body", [lambda: None, body_with_opaque])
def test_a_part_is_folded_in_its_own_calls_alone(body):
    model, (y, x) = Alone(body()).eval(), pair()
    for _ in range(2):  # fresh statistics, which hide a wrong fold, and others
        result = attack(model, keep="best").run(y, x)
        assert "1 batch norm folded" in result.how
        assert torch.allclose(attack(model)(y, x), by_hand(model, y, x), atol=2e-6)
        assert torch.allclose(result.loss, exact(model, result, x), rtol=1e-5)
        with_statistics(model)
    twin = fold.folded(model, fold.pairs_of(model))
    assert torch.allclose(twin(y), model(y), atol=1e-5)
    assert torch.allclose(twin.body[0](y), model.body[0](y))
    assert isinstance(twin.body.forward[1], nn.Identity)


def test_a_part_that_leaves_something_for_its_parent_is_not_folded():
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.kept = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), {"skip": None}

        def forward(self, x):
            out = self.norm(self.conv(x))
            self.kept["skip"] = out
            return out

    class Reader(Alone):
        def forward(self, x):
            return x if bool(x.sum() > 1e9) else (self.body(x).tanh() + self.body.kept["skip"]).mean(1, keepdim=True)

    model, (y, x) = with_statistics(Reader(Part())), pair()
    assert fold.pairs_of(model) == []
    for _ in range(2):
        result = attack(model).run(y, x)
        assert "folded" not in result.how
        assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_parts_without_a_fold_are_one_module_inside_and_outside():
    """What an untraceable part notes in itself is there for its parent."""
    model = Alone(body_with_opaque()).eval()
    twin = fold.folded(model, fold.pairs_of(model))
    assert twin.body[2] is twin.body.forward[2]
    assert twin.body[0] is not twin.body.forward[0]


def test_a_forward_method_of_an_instance_is_not_traced_as_its_class():
    model = with_statistics(Configured())
    assert len(fold.pairs_of(model)) == 1
    model.forward = lambda v: model.last(model.norm(model.conv(v)) + model.conv(v))
    assert fold.pairs_of(model, fresh=True) == []


def test_a_known_structure_that_mixes_samples_now_is_not_cut():
    class Mixing(nn.Module):
        config = {"mix": False}  # noqa: RUF012

        def forward(self, x):
            return x * 2 - (x.mean(0, keepdim=True) if self.config["mix"] else 0)

    model, (y, x) = Mixing(), pair(6)
    assert "2 samples at a time" in attack(model, chunk=2).run(y, x).how
    model.config["mix"] = True
    result = attack(model, chunk=2).run(y, x)
    assert "whole batches" in result.how
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)
        self.config = {"norm": True}

    def forward(self, x):
        out = self.conv(x)
        return self.last((self.norm(out) if self.config["norm"] else out).relu())


def test_what_no_fingerprint_sees_is_seen_by_the_check():
    model, (y, x) = with_statistics(Configured()), pair()
    assert "1 batch norm folded" in attack(model).run(y, x).how
    model.config["norm"] = False
    for _ in range(2):
        result = attack(model).run(y, x)
        assert "folded" not in result.how
        assert "the model as it is" not in result.how  # traced again, and sound
        assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


@pytest.mark.parametrize("change", ["data", "statistics"])
def test_changes_without_a_version_are_seen(change, monkeypatch):
    model, (y, x) = Alone().eval(), pair()
    monkeypatch.setattr(fold, "pairs_of", lambda m, fresh: [("", "body.0", "body.1")])  # wrong
    assert "1 batch norm folded" in attack(model).run(y, x).how  # nothing shows yet, and nothing is wrong yet
    if change == "data":
        model.body[1].weight.data.mul_(3)
    else:
        model.train()(y * 5 + 2)
        model.eval()
    result = attack(model).run(y, x)
    assert "the model as it is" in result.how
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_the_returned_loss_is_that_of_the_model_as_it_is(monkeypatch):
    """A copy that is wrong where no check looks: at all but the first samples of a known structure."""
    model, (y, x) = normed(), pair(4)
    attack(model)(y, x)
    original = fold.folded

    def wrong(*args, **options):
        twin = original(*args, **options)
        later = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(-1, 1, 1, 1)
        vars(twin)["forward"] = lambda v: nn.Sequential.forward(twin, v) + later[: len(v)]
        return twin

    monkeypatch.setattr(fold, "folded", wrong)
    result = attack(model, keep="best").run(y, x)
    assert "folded" in result.how
    assert torch.allclose(result.loss, exact(model, result, x), rtol=1e-5)


def checked(monkeypatch) -> list[int]:
    """Samples of each check."""
    seen: list[int] = []
    original = Prepared._difference
    monkeypatch.setattr(Prepared, "_difference", lambda s, plan, x: seen.append(len(x)) or original(s, plan, x))
    return seen


def test_the_whole_batch_is_checked_once_for_a_structure_and_a_few_samples_each_time(monkeypatch):
    seen = checked(monkeypatch)
    model, (y, x) = normed(), pair()
    for _ in range(3):
        attack(model)(y, x)
    assert seen == [3, 2, 2]
    attack(model)(*pair(side=14))
    model[2] = nn.Tanh()
    attack(model)(y, x)
    assert seen == [3, 2, 2, 3, 3]


def test_a_model_of_one_batch_size_is_checked_with_it(monkeypatch):
    class Three(Alone):
        def forward(self, x):
            return self.body(x.reshape(3, 1, 12, 12))

    seen = checked(monkeypatch)
    model, (y, x) = with_statistics(Three()), pair(3)
    for _ in range(2):
        assert "1 batch norm folded" in attack(model).run(y, x).how
    assert seen == [3, 2, 3]


def looks(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes that an nn.Sequential, or a copy of one, is called with."""
    seen: list[tuple[int, ...]] = []
    forward = nn.Sequential.forward
    monkeypatch.setattr(nn.Sequential, "forward", lambda self, v: seen.append(tuple(v.shape)) or forward(self, v))
    return seen


@pytest.mark.parametrize(("norms", "again"), [(False, 0), (True, 1)])
def test_forward_passes_are_made_only_for_what_is_not_known(norms, again, monkeypatch):
    """Four gradients and the last look; the best again where a folded copy made its loss; a small check."""
    model, (y, x) = normed() if norms else nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 3, padding=2)), pair(3, 70)
    run = attack(model, keep="best", channels_last=True).run
    run(y, x)
    seen = looks(monkeypatch)
    result = run(y, x)
    assert result.how.startswith("fp32, channels_last")
    assert seen == [(2, 1, 32, 32)] * 2 + [(3, 1, 70, 70)] * (5 + again)
    assert torch.allclose(result.loss, exact(model, result, x), rtol=1e-5)


def test_a_model_of_one_image_size_is_checked_with_it(monkeypatch):
    class Square(Alone):
        def forward(self, x):
            return self.body(x.reshape(-1, 1, 40, 40))

    seen = checked(monkeypatch)
    model, (y, x) = with_statistics(Square()), pair(3, 40)
    for _ in range(2):
        assert "1 batch norm folded" in attack(model).run(y, x).how
    assert seen == [3, 2, 2]
    model.body[1].running_mean.add_(1.0)
    result = attack(model).run(y, x)
    assert torch.allclose(result.adversarial, by_hand(model, y, x), atol=2e-6)


def test_what_no_fingerprint_sees_is_seen_in_the_middle_too():
    model, (y, x) = with_statistics(Configured()), pair(3, 48)
    assert "1 batch norm folded" in attack(model).run(y, x).how
    model.config["norm"] = False
    result = attack(model).run(y, x)
    assert "folded" not in result.how
    assert torch.allclose(result.adversarial, by_hand(model, y, x, eps=0.02, step=0.01), atol=2e-6)


def test_one_check_is_remembered_for_a_model_that_counts():
    from fastattack.fast import prepare

    class Counting(Alone):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model, (y, x) = Counting().eval(), pair()
    keys = []
    for _ in range(3):
        attack(model)(y, x)
        keys.append(prepare._sound[model])
    assert len(set(keys)) == 3
    assert isinstance(prepare._sound[model], tuple)


@pytest.mark.parametrize("where", ["model", "copy"])
def test_a_check_without_memory_decides_nothing(where):
    class Small(Alone):
        def forward(self, x):
            inside = isinstance(self.body[1], nn.Identity) or "forward" in vars(self.body)
            if len(x) > 2 and (where == "model" or inside):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    (y, x), hits = pair(4), []
    model = with_statistics(Small())
    wrong = lambda m, fresh: hits.append(1) or [("", "body.0", "body.1")]  # noqa: E731
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(fold, "pairs_of", wrong)
        warnings.simplefilter("ignore")
        result = attack(model).run(y, x)
    assert len(hits) >= 2
    assert "differ" in result.how
    assert result.how.count("the model as it is") == 1
    plain = Alone().eval()
    plain.load_state_dict(model.state_dict())
    assert torch.allclose(result.adversarial, by_hand(plain, y, x), atol=2e-6)


# -- fp16 --------------------------------------------------------------------------------------------------------------


def test_a_scale_that_did_not_fit_in_memory_is_not_kept():
    net = normed()
    calls = itertools.count()

    def model(v):
        if len(v) > 2 and torch.is_grad_enabled() and next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return net(v)

    y, x = pair(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        big = lambda o, t: 1e4 * ((o - t) ** 2).flatten(1).sum(1)  # noqa: E731
        result = attack(model, precision="fp16", objective=big).run(y, x)
    want = by_hand(net, y, x) - y
    assert (result.adversarial - y - want).norm() < 0.1 * want.norm()


def test_an_overflow_later_in_the_walk_lowers_the_scale():
    net, steps = normed(), itertools.count()

    def growing(output, target):
        loss = fa.objectives.mse(output, target)
        return loss * (1e-3 if next(steps) == 0 else 1e6)

    y, x = pair()
    result = attack(net, precision="fp16", objective=growing).run(y, x)
    want = by_hand(net, y, x) - y
    assert (result.adversarial - y - want).norm() < 0.1 * want.norm()


def test_what_fp16_cannot_hold_is_said():
    model, (y, x) = nn.Sequential(nn.Conv2d(1, 1, 1)), pair()
    nn.init.constant_(model[0].weight, 1e5)
    with pytest.raises(fa.NonFiniteError, match="fp16 ends at 65504, precision='bf16' or 'fp32'"):
        attack(model, precision="fp16", keep="best").run(y, x)
    assert attack(model).run(y, x).loss.isfinite().all()


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_an_objective_that_changes_at_each_step_is_refused():
    step = lambda v, t: (v.sum(1), v * 2)  # noqa: E731
    scheduled, x = fa.objectives.segpgd(), torch.ones(2, 3)
    quiet = StepGraph(Tape(), lambda: [], strict=False)
    for k in range(10):
        assert torch.equal(quiet(step, x, None, scheduled.at(k, 10))[1], x * 2)
    assert str(quiet) == "no CUDA graph: the objective is another one at each step"
    strict = StepGraph(Tape(), lambda: [], strict=True)
    for k in range(2):
        strict(step, x, None, scheduled.at(k, 10))
    with pytest.raises(RuntimeError, match=r"graph: .* the objective is another one at each step"):
        strict(step, x, None, scheduled.at(2, 10))


def test_a_graph_is_named_only_where_one_was_recorded():
    step = lambda v, t: (v.sum(1), v * 2)  # noqa: E731
    graph = StepGraph(Tape(), lambda: [], strict=True)
    for said in ("no CUDA graph: too few gradients of one kind",) * 2 + ("CUDA graph",) * 2:
        graph(step, torch.ones(2, 3), None, None)
        assert str(graph) == said


# -- what is said, and attacks without gradients -----------------------------------------------------------------------


def test_samples_at_a_time_are_named_only_where_it_was_so():
    y, x = pair(4)
    assert "at a time" in attack(normed(), chunk=2).run(y, x).how
    own = lambda o, t: ((o - t) ** 2).flatten(1).mean(1)  # noqa: E731
    assert "at a time" not in attack(normed(), chunk=2, objective=own).run(y, x).how


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_attack_without_gradients_spends_its_queries_alone(precision, monkeypatch):
    seen, model, (y, x) = checked(monkeypatch), normed(), pair(4)
    sizes: list[int] = []
    forward = nn.Sequential.forward
    monkeypatch.setattr(nn.Sequential, "forward", lambda self, v: sizes.append(len(v)) or forward(self, v))
    result = fa.Square(model, eps=0.1, queries=7, precision=precision, chunk=2, channels_last=True).run(y, x)
    assert seen == []
    assert sizes == [4] * 7
    assert result.how == "no gradients"


def test_a_compiled_model_stays_whole():
    """Setting an attribute of what torch.compile returns sets it in the user's module."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    model.eval()
    x = torch.rand(2, 1, 64, 64)
    names = list(model.state_dict())
    want = fa.PGD(model, eps=0.02, steps=2).run(x, x * 0.9)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        got = fa.PGD(compiled, eps=0.02, steps=2).run(x, x * 0.9)
    assert list(model.state_dict()) == names
    assert [type(m) for m in model] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    assert torch.allclose(got.loss, want.loss, rtol=1e-4)
