"""AutoAttack under the names of the authors' package: robust accuracy, states, checks and what it refuses."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastattack.compat.autoattack import AutoAttack
from fastattack.compat.autoattack.stages import Stage
from fastattack.objectives import cross_entropy, dlr
from fastattack.objectives.wrong import until_wrong
from tests.digits import digits

EPS = {"Linf": 0.12, "L2": 0.7, "L1": 2.5}
ORDERS = {"Linf": float("inf"), "L2": 2, "L1": 1}
ALL = ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]


def quick(model, norm: str = "Linf", attacks: list[str] | None = None, **options) -> AutoAttack:
    """AutoAttack with few steps."""
    own = {"version": "custom", "attacks_to_run": attacks or ["apgd-ce", "apgd-t", "fab-t", "square"], "seed": 1}
    adversary = AutoAttack(model, norm, eps=EPS[norm], **{"verbose": False, **own, **options})
    for stage in (adversary.apgd, adversary.apgd_targeted, adversary.fab):
        stage.n_iter, stage.n_restarts = 6, 1
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = 3
    adversary.square.n_queries = 40
    return adversary


def sizes(delta: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1).double(), ORDERS[norm], dim=1)


# -- what it gives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("attack", ALL)
def test_each_attack_stays_inside_and_finds_something(norm, attack):
    model, x, y = digits()
    before = x.clone()
    adversary = quick(model, norm, [attack])
    adversary.apgd.use_largereps = adversary.apgd_targeted.use_largereps = norm == "L1"
    adv, labels = adversary.run_standard_evaluation(x, y, bs=24, return_labels=True)
    fooled = labels != y
    assert fooled.float().mean() > (0.02 if attack == "square" else 0.25)
    with torch.no_grad():
        assert torch.equal(model(adv).argmax(1), labels)
    assert torch.equal(adv[~fooled], x[~fooled])
    assert (sizes(adv - x, norm) <= EPS[norm] * (1 + 1e-6)).all()
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_robust_accuracy_is_not_above_that_of_torchattacks(norm):
    """The four attacks of the standard version, as many steps, queries and targets for both."""
    peer = pytest.importorskip("torchattacks")
    model, x, y = digits()
    options = {"eps": EPS[norm], "norm": norm, "seed": 1}
    attacks = [
        peer.APGD(model, steps=10, loss="ce", n_restarts=1, **options),
        peer.APGDT(model, steps=10, n_classes=10, n_restarts=1, **options),
        peer.FAB(model, steps=10, multi_targeted=True, n_classes=10, n_restarts=1, **options),
        peer.Square(model, n_queries=100, n_restarts=1, **options),
    ]
    theirs, left = x.clone(), torch.arange(len(x))
    for attack in attacks:
        if left.numel():
            theirs[left] = attack(x[left], y[left])
            with torch.no_grad():
                left = left[model(theirs[left]).argmax(1) == y[left]]
    adversary = AutoAttack(model, norm, eps=EPS[norm], seed=1, verbose=False)
    for stage in (adversary.apgd, adversary.apgd_targeted, adversary.fab):
        stage.n_iter = 10
    adversary.square.n_queries = 100
    _, labels = adversary.run_standard_evaluation(x, y, return_labels=True)
    assert 0 < len(left) < len(x)
    assert int((labels == y).sum()) <= len(left)


def test_an_attack_gets_only_what_the_ones_before_it_left(monkeypatch):
    model, x, y = digits()
    adversary = quick(model, attacks=["apgd-ce", "fab-t", "square"])
    seen: dict[str, Tensor] = {}
    for name, stage in (("apgd-ce", adversary.apgd), ("fab-t", adversary.fab), ("square", adversary.square)):

        def perturb(self, images, labels, *, ids, name=name):
            seen[name] = torch.cat([seen.get(name, ids[:0]), ids])
            return Stage.perturb(self, images, labels, ids=ids)

        monkeypatch.setattr(type(stage), "perturb", perturb)
    _, labels = adversary.run_standard_evaluation(x, y, bs=20, return_labels=True)
    assert len(seen["apgd-ce"]) == len(x)
    assert 0 < len(seen["square"]) <= len(seen["fab-t"]) < len(x)
    assert set((labels == y).nonzero()[:, 0].tolist()) <= set(seen["square"].tolist())


def test_what_is_misclassified_is_left_alone_and_counts():
    model, x, y = digits()
    wrong = torch.where(torch.arange(len(y)) % 2 == 0, y, (y + 1) % 10)
    adv = quick(model).run_standard_evaluation(x, wrong)
    assert torch.equal(adv[1::2], x[1::2])
    assert not torch.equal(adv[::2], x[::2])
    nothing, labels = quick(model).run_standard_evaluation(x, (y + 1) % 10, return_labels=True)
    assert torch.equal(nothing, x)
    assert torch.equal(labels, y)


def test_seed_and_batches():
    model, x, y = digits()
    one, labels = quick(model).run_standard_evaluation(x, y, return_labels=True)
    again = quick(model).run_standard_evaluation(x, y)
    parts, others = quick(model).run_standard_evaluation(x, y, bs=13, return_labels=True)
    other = quick(model, seed=2).run_standard_evaluation(x, y)
    assert torch.equal(one, again)
    assert torch.equal(labels, others)
    assert torch.allclose(one, parts, atol=1e-4)
    assert not torch.equal(one, other)
    torch.manual_seed(5)
    drawn = [quick(model, seed=None).run_standard_evaluation(x, y) for _ in range(2)]
    torch.manual_seed(5)
    assert torch.equal(quick(model, seed=None).run_standard_evaluation(x, y), drawn[0])
    assert not torch.equal(*drawn)


def test_each_alone():
    model, x, y = digits()
    adversary = quick(model, attacks=["apgd-ce", "square"])
    found = adversary.run_standard_evaluation_individual(x, y, return_labels=True)
    assert list(found) == ["apgd-ce", "square"]
    for name, (adv, labels) in found.items():
        want = quick(model, attacks=[name]).run_standard_evaluation(x, y)
        assert torch.equal(adv, want)
        assert (labels != y).any()
    assert adversary.attacks_to_run == ["apgd-ce", "square"]
    images = adversary.run_standard_evaluation_individual(x, y)
    assert torch.equal(images["square"], found["square"][0])


def test_reduced_precision_is_judged_by_the_model_as_it_is():
    model, x, y = digits()
    adversary = quick(model)
    assert adversary.set_speed(precision="bf16") is adversary
    adv, labels = adversary.run_standard_evaluation(x, y, return_labels=True)
    with torch.no_grad():
        assert torch.equal(model(adv).argmax(1), labels)
    assert (labels != y).float().mean() > 0.25


class Noisy(nn.Module):
    """A model that draws numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.05 * torch.randn_like(x))


def test_the_version_for_random_models():
    model, x, y = digits()
    x, y = x[:24], y[:24]
    adversary = AutoAttack(Noisy(model), eps=0.12, seed=1, version="rand", verbose=False)
    assert (adversary.attacks_to_run, adversary.apgd.eot_iter) == (["apgd-ce", "apgd-dlr"], 20)
    adversary.apgd.eot_iter, adversary.apgd.n_iter = 3, 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adv, labels = adversary.run_standard_evaluation(x, y, return_labels=True)
    assert (labels != y).float().mean() > 0.25
    assert torch.equal(adv, adversary.run_standard_evaluation(x, y))


def test_the_loss_tells_success_and_keeps_its_gradient():
    logits = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.5]], requires_grad=True)
    labels = torch.tensor([0, 0])
    for loss in (cross_entropy, dlr):
        plain, marked = loss(logits, labels), until_wrong(loss)(logits, labels)
        assert marked[0] == plain[0]
        assert marked[1] == 100
        grads = [torch.autograd.grad(t.sum(), logits)[0] for t in (plain, marked)]
        assert torch.equal(*grads)


# -- versions ----------------------------------------------------------------------------------------------------------


def test_the_versions_are_those_of_the_authors():
    def told(norm, version):
        a = AutoAttack(lambda v: v, norm, version=version, verbose=False)
        return (
            a.attacks_to_run, a.apgd.n_restarts, a.apgd.use_largereps, a.apgd_targeted.n_restarts,
            a.apgd_targeted.n_target_classes, a.fab.n_restarts, a.fab.n_target_classes, a.square.n_queries,
        )  # fmt: skip

    standard = ["apgd-ce", "apgd-t", "fab-t", "square"]
    plus = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    for norm in ("Linf", "L2"):
        assert told(norm, "standard") == (standard, 1, False, 1, 9, 1, 9, 5000)
        assert told(norm, "plus") == (plus, 5, False, 1, 9, 5, 9, 5000)
    assert told("L1", "standard") == (standard, 5, True, 1, 5, 1, 9, 5000)
    a = AutoAttack(lambda v: v, verbose=False, version="rand")
    assert (a.attacks_to_run, a.apgd.n_restarts, a.apgd.eot_iter, a.apgd.n_iter) == (
        ["apgd-ce", "apgd-dlr"],
        1,
        20,
        100,
    )
    a.set_version("standard")
    assert a.attacks_to_run == standard


def test_settings_that_are_none():
    adversary = quick(lambda v: v)
    for stage in (adversary.apgd, adversary.apgd_targeted, adversary.fab, adversary.square):
        with pytest.raises(AttributeError, match="n_iters"):
            stage.n_iters = 3


def test_a_stage_by_itself():
    model, x, y = digits()
    adversary = quick(model)
    adversary.apgd.seed = 4
    adv = adversary.apgd.perturb(x, y)
    with torch.no_grad():
        assert (model(adv).argmax(1) != y).float().mean() > 0.25
    assert torch.equal(adv, adversary.apgd.perturb(x, y))


# -- states ------------------------------------------------------------------------------------------------------------


class Killed(nn.Module):
    """A model that is interrupted at its n-th call."""

    def __init__(self, inner: nn.Module, calls: int) -> None:
        super().__init__()
        self.inner, self.calls = inner, calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt
        return self.inner(x)


@pytest.mark.parametrize("seed", [1, None])
def test_a_killed_run_goes_on(tmp_path, seed):
    _, x, y = digits()

    def run(model, seed, path=None):
        adversary = quick(model, seed=seed)
        adversary.fab.n_iter, adversary.square.n_queries = 3, 10
        return adversary.run_standard_evaluation(x, y, bs=16, return_labels=True, state_path=path)

    model, counter, path = digits()[0], Killed(digits()[0], 0), tmp_path / "state.json"
    run(counter, 1)
    robust, adv, labels = [], None, None
    while adv is None:
        try:
            adv, labels = run(Killed(model, -counter.calls // 4), seed, path)
        except KeyboardInterrupt:
            told = json.loads(path.read_text())
            robust.append(told["robust"].count("1"))
        assert len(robust) < 10
    assert len(robust) > 1
    assert robust[-1] < robust[0]
    want, answers = run(model, told["seed"])
    assert torch.equal(labels, answers)
    assert torch.allclose(adv, want, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(model(adv).argmax(1), labels)
    assert not list(tmp_path.rglob("*.tmp"))
    calls = Killed(model, 0)
    assert torch.equal(run(calls, seed, str(path))[0], adv)
    assert -calls.calls < 10  # the checks alone


def test_a_state_of_another_evaluation_is_refused(tmp_path):
    model, x, y = digits()
    path = tmp_path / "state.json"
    quick(model).run_standard_evaluation(x, y, state_path=path)
    before = path.read_bytes()
    cases = [
        (quick(model), x.flip(0), y, "inputs"),
        (quick(model), x, (y + 1) % 10, "inputs"),
        (quick(model, "L2"), x, y, "norm: wanted L2, got Linf"),
        (quick(model, seed=2), x, y, "seed: wanted 2, got 1"),
        (quick(model, attacks=["square"]), x, y, "attacks_to_run"),
        (quick(model).set_speed(precision="bf16"), x, y, "speed.precision"),
    ]
    longer = quick(model)
    longer.fab.n_iter = 7
    cases.append((longer, x, y, "fab.n_iter: wanted 7, got 6"))
    for adversary, images, labels, message in cases:
        with pytest.raises(ValueError, match=message):
            adversary.run_standard_evaluation(images, labels, state_path=path)
    assert path.read_bytes() == before
    for content in (b"", b"{}", b"[1]", b"\xff", json.dumps({"_attacks_to_run": "{'fab'}"}).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="state_path: wanted a state of this AutoAttack"):
            quick(model).run_standard_evaluation(x, y, state_path=path)
        assert path.read_bytes() == content


def test_a_damaged_part_is_named(tmp_path):
    model, x, y = digits()
    path = tmp_path / "state.json"
    quick(model).run_standard_evaluation(x, y, state_path=path)
    part = next(Path(f"{path}.parts").iterdir())
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=f"{part.name} is damaged or missing"):
        quick(model).run_standard_evaluation(x, y, state_path=path)
    part.unlink()
    with pytest.raises(ValueError, match=f"{part.name} is damaged or missing"):
        quick(model).run_standard_evaluation(x, y, state_path=path)


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_lines_are_those_of_the_authors(tmp_path, capsys):
    model, x, y = digits()
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    adversary = quick(model, attacks=["apgd-ce", "fab-t"], verbose=True, log_path=log)
    adv = adversary.run_standard_evaluation(x, y, bs=40)
    lines = log.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines[1:]
    with torch.no_grad():
        accuracy = float((model(adv).argmax(1) == y).float().mean())
    wanted = [
        "before",
        r"using custom version including apgd-ce, fab-t\.",
        r"initial accuracy: 100\.00%",
        r"apgd-ce - 1/2 - \d+ out of 40 successfully perturbed",
        r"apgd-ce - 2/2 - \d+ out of 24 successfully perturbed",
        r"robust accuracy after APGD-CE: \d+\.\d\d% \(total time \d+\.\d s\)",
        r"fab-t - 1/\d - \d+ out of \d+ successfully perturbed",
        r"robust accuracy after FAB-T: \d+\.\d\d% \(total time \d+\.\d s\)",
        r"max Linf perturbation: 0\.\d{5}, nan in tensor: 0, max: \d\.\d{5}, min: \d\.\d{5}",
        re.escape(f"robust accuracy: {accuracy:.2%}"),
    ]
    assert len(lines) == len(wanted)
    for line, pattern in zip(lines, wanted, strict=True):
        assert re.fullmatch(pattern, line), line
    assert adversary.clean_accuracy(x, y) == 1.0
    assert capsys.readouterr().out == "clean accuracy: 100.00%\n"
    quick(model, attacks=["square"], verbose=False).run_standard_evaluation(x, y)
    assert capsys.readouterr().out == ""


class Adapting(nn.Module):
    """A model that makes gradients in its forward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.inner(at).sum(), at)
        return self.inner(x + 0.0 * slope)


class Flat(nn.Module):
    """Logits so far apart that their differences swallow what the images do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) * 8).round().detach() + 0.0 * self.inner(x)


@pytest.mark.parametrize(
    ("wrap", "attack", "message"),
    [
        (Noisy, "apgd-ce", "randomized defense"),
        (lambda m: nn.Sequential(m, nn.Softmax(1)), "apgd-ce", "probability distribution"),
        (Adapting, "apgd-ce", "dynamic defense"),
        (Flat, "apgd-dlr", r"there are \d+ points with zero gradient"),
    ],
)
def test_the_signs_that_mislead_are_told(wrap, attack, message, tmp_path):
    model, x, y = digits()
    log = tmp_path / "log.txt"
    with pytest.warns(UserWarning, match=message):
        quick(wrap(model), attacks=[attack], log_path=log).run_standard_evaluation(x[:8], y[:8])
    assert re.search(f"^Warning: .*{message}", log.read_text(), re.MULTILINE)


def test_a_square_that_finds_more_than_gradients_is_told():
    model, x, y = digits()
    adversary = quick(Flat(model), attacks=["apgd-ce", "square"])
    adversary.square.n_queries = 150
    with pytest.warns(UserWarning, match=r"Square Attack has decreased the robust accuracy"):
        adversary.run_standard_evaluation(x, y)


def test_a_plain_model_is_not_warned_of():
    model, x, y = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(model).run_standard_evaluation(x, y)


class Counting(nn.Module):
    """A module that writes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


def test_the_model_and_the_random_numbers_are_left_as_found():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.2), Counting()).train()
    before = [p.clone() for p in (*model.parameters(), *model.buffers())]
    _, x, y = digits()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quick(model).run_standard_evaluation(x[:12], y[:12])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *model.buffers()), strict=True))


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "L0"}, "norm: wanted 'Linf', 'L2' or 'L1'"),
        ({"eps": 0.0}, "eps: wanted a finite number > 0"),
        ({"eps": "8/255"}, "eps: wanted a finite number > 0"),
        ({"seed": 1.5}, "seed: wanted a whole number"),
        ({"version": "fast"}, "version: wanted one of"),
        ({"attacks_to_run": ["fab"]}, "attacks_to_run: wanted none beside version='standard'"),
        ({"is_tf_model": True}, "is_tf_model: wanted False"),
    ],
)
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(lambda v: v, verbose=False, **options)
    with pytest.raises(TypeError, match="model: wanted something callable"):
        AutoAttack(None, verbose=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x * 255, y), r"x_orig: wanted values in \[0, 1\]"),
        (lambda x, y: (x * float("nan"), y), r"x_orig: wanted values in \[0, 1\]"),
        (lambda x, y: ((x * 255).byte(), y), "x_orig: wanted floating images"),
        (lambda x, y: (x.numpy(), y), "x_orig: wanted floating images"),
        (lambda x, y: (x, y.float()), "y_orig: wanted integer labels"),
        (lambda x, y: (x, y[:-1]), "y_orig: wanted integer labels"),
        (lambda x, y: (x, nn.functional.one_hot(y, 10)), "y_orig: wanted integer labels"),
        (lambda x, y: (x, y + 5), "y_orig: wanted labels from 0 to 9"),
        (lambda x, y: (x[:0], y[:0]), "x_orig: wanted floating images"),
    ],
)
def test_data_that_cannot_be(change, message):
    model, x, y = digits()
    with pytest.raises(ValueError, match=message):
        quick(model).run_standard_evaluation(*change(x, y))


def test_attacks_and_classes_that_cannot_be():
    model, x, y = digits()
    for attacks, message in ((["pgd"], "attacks_to_run: wanted some of"), ([], "attacks_to_run: wanted at least one")):
        adversary = quick(model)
        adversary.attacks_to_run = attacks
        with pytest.raises(ValueError, match=message):
            adversary.run_standard_evaluation(x, y)
        with pytest.raises(ValueError, match=message):
            adversary.run_standard_evaluation_individual(x, y)

    def first(count):
        return lambda v: model(v)[:, :count]

    few = y < 3
    for count, attack in ((3, "apgd-t"), (2, "apgd-dlr")):
        rows = y < count
        with pytest.raises(ValueError, match=f"'{attack}' needs {count + 1} classes at least, the model has {count}"):
            quick(first(count), attacks=["apgd-ce", attack]).run_standard_evaluation(x[rows], y[rows])
    with pytest.warns(UserWarning, match="fab-t: 3 target classes are wanted, and there are 2"):
        _, labels = quick(first(3), attacks=["apgd-ce", "apgd-dlr", "fab", "fab-t"]).run_standard_evaluation(
            x[few], y[few], return_labels=True
        )
    assert (labels != y[few]).any()
    with pytest.raises(ValueError, match="model: wanted logits"):
        quick(lambda v: v).run_standard_evaluation(x, y)
    with pytest.raises(ValueError, match="bs: wanted a whole number"):
        quick(model).run_standard_evaluation(x, y, bs=0)
    adversary = quick(model)
    adversary.apgd.n_restarts = 0
    with pytest.raises(ValueError, match="n_restarts: wanted a whole number"):
        adversary.run_standard_evaluation(x, y)
