"""torchattacks' names on our engine: the same images as the installed torchattacks, closed forms, modes, files."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastattack.compat.torchattacks as ours

CLASSES = 5
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Net(nn.Module):
    """Convolutions, a batch norm and a dropout, so that modes matter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8 * 64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(self.first(x)).tanh()).flatten(1))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Net()
        model.norm.running_mean.uniform_(-0.2, 0.2)
        model.norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


def batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 8, 8, generator=g)
    images[0] = images[0].round()  # on the edge of the box
    return images, torch.randint(0, CLASSES, (count,), generator=g)


@pytest.fixture
def theirs() -> Any:
    return pytest.importorskip("torchattacks", reason="not here: pip install --no-deps torchattacks")


CASES: dict[str, Callable[[Any, nn.Module], Any]] = {
    "FGSM": lambda lib, m: lib.FGSM(m, 0.05),
    "BIM": lambda lib, m: lib.BIM(m, 0.05, 0.02, 4),
    "BIM steps of the paper": lambda lib, m: lib.BIM(m, 4 / 255, 1 / 255, 0),
    "PGD": lambda lib, m: lib.PGD(m, 0.05, 0.02, 4),
    "PGD from the images": lambda lib, m: lib.PGD(m, eps=0.05, alpha=0.02, steps=4, random_start=False),
    "PGDL2": lambda lib, m: lib.PGDL2(m, 0.6, 0.2, 4),
    "PGDL2 from the images": lambda lib, m: lib.PGDL2(m, 0.6, 0.2, 4, False),
    "RFGSM": lambda lib, m: lib.RFGSM(m, 0.05, 0.02, 3),
    "FFGSM": lambda lib, m: lib.FFGSM(m, 0.05, 0.06),
    "EOTPGD": lambda lib, m: lib.EOTPGD(m, 0.05, 0.02, 3, 2, False),
    "MIFGSM": lambda lib, m: lib.MIFGSM(m, 0.05, 0.02, 4, 0.7),
    "UPGD": lambda lib, m: lib.UPGD(m, 0.05, 0.02, 4, True, "ce", 0.5, 1),
    "UPGD dlr": lambda lib, m: lib.UPGD(m, 0.05, 0.02, 4, loss="dlr"),
    "DIFGSM without diversity": lambda lib, m: lib.DIFGSM(m, 0.05, 0.02, 3, diversity_prob=0.0, random_start=True),
    "TIFGSM without diversity": lambda lib, m: lib.TIFGSM(m, 0.05, 0.02, 3, 0.5, "gaussian", 5, 2, diversity_prob=0),
    "TIFGSM linear": lambda lib, m: lib.TIFGSM(m, 0.05, 0.02, 3, 0, "linear", 3, diversity_prob=0.0),
    "TPGD": lambda lib, m: lib.TPGD(m, 0.05, 0.02, 3),
    "GN": lambda lib, m: lib.GN(m, 0.2),
    "VANILA": lambda lib, m: lib.VANILA(m),
}  # fmt: skip


def same_seed(attack: Any, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return attack(*inputs)


@pytest.mark.parametrize("normalised", [False, True], ids=["pixels", "normalised"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_images_as_torchattacks(net, theirs, name, normalised, dtype):
    """float64 leaves no gradient whose sign rounding could turn; float32 is what users run."""
    if dtype is torch.float64 and "TIFGSM" in name:
        pytest.skip("torchattacks' kernel is float32")
    images, labels = batch()
    images, net = images.to(dtype), net.to(dtype)
    attacks = [CASES[name](lib, net) for lib in (theirs, ours)]
    if normalised:
        images = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        for attack in attacks:
            attack.set_normalization_used(mean=MEAN, std=STD)
    want, got = (same_seed(attack, images, labels) for attack in attacks)
    assert got.shape == images.shape
    assert not got.requires_grad
    if name != "VANILA":
        assert (want - images).abs().max() > 0.01
    gap = (got - want).abs()
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5 if normalised else 1e-6
    tolerance = max(tolerance, 1e-6) if "L2" in name else tolerance  # theirs adds 1e-10 to the gradient's norm
    if name == "UPGD dlr" and dtype is torch.float32:  # the order of two logits decides, and rounding the order
        assert (gap > tolerance).float().mean() < 0.05
    else:
        assert gap.max() <= tolerance
    assert repr(attacks[0]).startswith(repr(attacks[1])[:-1])  # theirs prints a kernel too
    assert attacks[1].supported_mode == attacks[0].supported_mode


@pytest.mark.parametrize("mode", ["label", "least likely", "second least likely", "random", "function"])
@pytest.mark.parametrize("name", ["FGSM", "PGD", "PGDL2", "MIFGSM", "UPGD dlr"])
def test_the_same_images_in_targeted_modes(net, theirs, name, mode, capsys):
    images, labels = batch()
    modes: dict[str, Callable[[Any], Any]] = {
        "label": lambda a: a.set_mode_targeted_by_label(),
        "least likely": lambda a: a.set_mode_targeted_least_likely(),
        "second least likely": lambda a: a.set_mode_targeted_least_likely(2, quiet=True),
        "random": lambda a: a.set_mode_targeted_random(),
        "function": lambda a: a.set_mode_targeted_by_function(lambda x, y: (y + 1) % CLASSES),
    }
    found, told = [], []
    for lib in (theirs, ours):
        attack = CASES[name](lib, net)
        modes[mode](attack)
        told.append(capsys.readouterr().out)
        assert attack.targeted
        assert attack.get_mode().startswith("targeted")
        found.append(same_seed(attack, images, labels))
        attack.set_mode_default()
        assert not attack.targeted
        assert attack.get_mode() == "default"
        capsys.readouterr()
    assert told[0] == told[1]
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)


def test_constructors_have_the_same_arguments(theirs):
    import inspect

    for name in ours.__all__:
        want, got = (inspect.signature(getattr(lib, name).__init__).parameters for lib in (theirs, ours))
        assert [(p.name, p.default) for p in got.values()] == [(p.name, p.default) for p in want.values()], name


def test_a_linear_model_is_attacked_in_closed_form():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    weights = torch.randn(2, 12, generator=torch.Generator().manual_seed(2))
    model[1].weight.data = weights
    images = torch.full((3, 3, 2, 2), 0.5)
    slope = (weights[1] - weights[0]).reshape(3, 2, 2)
    labels = torch.zeros(3, dtype=torch.long)
    linf = ours.PGD(model, 0.1, 0.02, 20)(images, labels)
    torch.testing.assert_close(linf, images + 0.1 * slope.sign())
    l2 = ours.PGDL2(model, 0.1, 0.02, 90)(images, labels)
    torch.testing.assert_close(l2, images + 0.1 * slope / slope.norm())


def test_the_model_is_left_as_it_was_also_after_an_exception(net):
    images, labels = batch()
    net.train()
    net.first.eval()
    modes = [m.training for m in net.modules()]
    buffers = [b.clone() for b in net.buffers()]
    attack = ours.PGD(net, steps=2)
    attack.set_model_training_mode(True, True, False)
    attack(images, labels)
    with pytest.raises(IndexError, match="labels from 0 to 4"):
        attack(images, labels + CLASSES)
    assert [m.training for m in net.modules()] == modes
    for now, before in zip(net.buffers(), buffers, strict=True):
        assert torch.equal(now, before)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_training_mode_during_the_attack_is_as_asked(net):
    seen: list[list[bool]] = []
    net.first.register_forward_hook(lambda *_: seen.append([net.training, net.norm.training, net.drop.training]))
    images, labels = batch()
    attack = ours.FGSM(net)
    for options, wanted in (
        ((), [False, False, False]),
        ((True,), [True, False, False]),
        ((True, True), [True, True, False]),
        ((True, False, True), [True, False, True]),
    ):
        attack.set_model_training_mode(*options)
        seen.clear()
        attack(images, labels)
        assert seen
        assert all(modes == wanted for modes in seen)


def test_a_subclass_with_logits_of_its_own(net):
    class Inverted(ours.PGD):
        def get_logits(self, inputs, labels=None, *args, **kwargs):
            return -self.model(inputs)

    class Own(ours.Attack):
        def forward(self, inputs, labels=None):
            return inputs + 1

    images, labels = batch()
    plain = ours.PGD(net, steps=3, random_start=False)
    plain.set_mode_targeted_by_label(quiet=True)
    negative = Inverted(net, steps=3, random_start=False)(images, labels)
    logits = lambda x: torch.log_softmax(net(x), 1).gather(1, labels[:, None]).sum()  # noqa: E731
    assert logits(negative) > logits(images) + 0.1
    own = Own("Own", net)
    own.set_normalization_used(MEAN, STD)
    torch.testing.assert_close(own(images), images + (1 / torch.tensor(STD)).view(1, 3, 1, 1))


def test_random_diversity_repeats_with_the_seed_and_stays_in_the_ball(net):
    images, labels = batch()
    for make in (
        lambda: ours.DIFGSM(net, steps=4, resize_rate=0.7, diversity_prob=0.9),
        lambda: ours.TIFGSM(net, steps=4, resize_rate=0.7),
        lambda: ours.NIFGSM(net, steps=4),
        lambda: ours.VMIFGSM(net, steps=4, N=2),
        lambda: ours.VNIFGSM(net, steps=4, N=2),
    ):
        first, again = same_seed(make(), images, labels), same_seed(make(), images, labels)
        assert torch.equal(first, again)
        assert (first - images).abs().max() <= 8 / 255 + 1e-6
        assert first.min() >= 0
        assert first.max() <= 1
    plain = ours.DIFGSM(net, steps=4, diversity_prob=0.0)(images, labels)
    assert not torch.equal(same_seed(ours.DIFGSM(net, steps=4, diversity_prob=1.0), images, labels), plain)


@pytest.mark.parametrize("name", ["NIFGSM", "SINIFGSM", "VMIFGSM", "VNIFGSM"])
def test_attacks_that_look_elsewhere_climb_as_far_as_torchattacks(net, theirs, name):
    images, labels = batch()
    loss = [
        nn.functional.cross_entropy(
            net(same_seed(getattr(lib, name)(net, 0.03, 0.01, 8), images, labels)), labels
        ).item()
        for lib in (theirs, ours)
    ]
    assert loss[1] >= loss[0] * 0.98


def test_cw_finds_smaller_or_equal_perturbations(net, theirs):
    images, _ = batch()
    labels = net(images).argmax(1)
    found = [lib.CW(net, c=2, steps=60)(images, labels) for lib in (theirs, ours)]
    sizes = [(f - images).flatten(1).norm(dim=1) for f in found]
    fooled = [net(f).argmax(1) != labels for f in found]
    assert fooled[1].sum() >= fooled[0].sum() > 0
    both = fooled[0] & fooled[1]
    assert bool((sizes[1][both] <= sizes[0][both] * 1.05 + 1e-3).all())
    assert torch.equal(found[1][~fooled[1]], images[~fooled[1]])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_square_fools_no_fewer(net, theirs, norm):
    images, _ = batch()
    labels = net(images).argmax(1)
    eps = 0.05 if norm == "Linf" else 0.8
    count = []
    for lib in (theirs, ours):
        found = lib.Square(net, norm=norm, eps=eps, n_queries=200)(images, labels)
        size = (found - images).flatten(1).norm(dim=1, p=float("inf") if norm == "Linf" else 2)
        assert size.max() <= eps * (1 + 1e-5)
        count.append(int((net(found).argmax(1) != labels).sum()))
    assert count[1] >= count[0] > 0


ENSEMBLES: dict[str, Callable[[Any, nn.Module], Any]] = {
    "APGD": lambda lib, m: lib.APGD(m, eps=0.02, steps=8, n_restarts=2),
    "APGD L2 dlr": lambda lib, m: lib.APGD(m, norm="L2", eps=0.25, steps=8, loss="dlr"),
    "APGDT": lambda lib, m: lib.APGDT(m, eps=0.02, steps=8, n_classes=CLASSES),
    "FAB": lambda lib, m: lib.FAB(m, eps=0.02, steps=8, n_classes=CLASSES),
    "FAB L2 towards each": lambda lib, m: lib.FAB(m, "L2", 0.25, 8, multi_targeted=True, n_classes=CLASSES),
    "AutoAttack": lambda lib, m: lib.AutoAttack(m, eps=0.03, n_classes=CLASSES, seed=1),
    "AutoAttack rand L2": lambda lib, m: lib.AutoAttack(m, "L2", 0.2, "rand", CLASSES, 1),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_fool_no_fewer(net, theirs, name):
    images, _ = batch(12)
    labels = net(images).argmax(1)
    eps, order = (0.03, float("inf")) if "L2" not in name else (0.25, 2)
    count = []
    for lib in (theirs, ours):
        found = same_seed(ENSEMBLES[name](lib, net), images, labels)
        assert (found - images).flatten(1).norm(dim=1, p=order).max() <= eps * (1 + 1e-5)
        fooled = net(found).argmax(1) != labels
        assert torch.equal(found[~fooled], images[~fooled])
        count.append(int(fooled.sum()))
    assert count[1] >= count[0]
    assert count[1] > 0


def test_multiattack_attacks_what_is_left(net, theirs, capsys):
    images, _ = batch()
    labels = net(images).argmax(1)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    told = []
    for lib in (theirs, ours):
        attack = lib.MultiAttack([lib.FGSM(net, 0.01), lib.PGD(net, 0.05, 0.02, 6, False)], verbose=True)
        found = attack(images, labels)
        told.append((found, capsys.readouterr().out, attack.save(loader, None, False, True)[:2]))
        capsys.readouterr()
    torch.testing.assert_close(told[1][0], told[0][0], atol=1e-6, rtol=0)
    assert told[1][1] == told[0][1]
    assert told[1][2][0] == pytest.approx(told[0][2][0])
    assert told[1][2][1] == pytest.approx(told[0][2][1])
    with pytest.raises(ValueError, match="More than two attacks"):
        ours.MultiAttack([ours.FGSM(net)])
    with pytest.raises(ValueError, match="different model"):
        ours.MultiAttack([ours.FGSM(net), ours.FGSM(Net())])
    with pytest.raises(ValueError, match=re.escape("Targeted mode is not supported")):
        ours.MultiAttack([ours.FGSM(net), ours.FGSM(net)]).set_mode_targeted_random()


@pytest.mark.parametrize("save_type", ["float", "int"])
def test_files_go_both_ways(net, theirs, tmp_path, save_type):
    images, labels = batch()
    normal = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    loader = DataLoader(TensorDataset(normal, labels), batch_size=4)
    files = []
    for lib in (theirs, ours):
        attack = lib.PGD(net, 0.05, 0.02, 4, False)
        attack.set_normalization_used(MEAN, STD)
        file = tmp_path / f"{lib.__name__}.pt"
        rate, distance, _ = attack.save(
            loader, file, verbose=False, return_verbose=True, save_predictions=True, save_clean_inputs=True,
            save_type=save_type,
        )  # fmt: skip
        assert 0 <= rate <= 100
        assert distance > 0
        files.append(torch.load(file, weights_only=True))
    assert list(files[1]) == ["adv_inputs", "labels", "preds", "clean_inputs", "save_type"]
    assert set(files[0]) == set(files[1])
    for key in ("labels", "preds", "save_type"):
        assert torch.equal(files[0][key], files[1][key]) if key != "save_type" else files[0][key] == files[1][key]
    for key in ("adv_inputs", "clean_inputs"):
        assert files[0][key].dtype == files[1][key].dtype
        gap = (files[1][key].double() - files[0][key].double()).abs().max()
        assert gap <= (1 if save_type == "int" else 1e-5), "torchattacks rounds down"
    if save_type == "int":
        assert torch.equal(files[1]["clean_inputs"], (images * 255).round().to(torch.uint8))
    for lib, file in ((theirs, "fastattack.compat.torchattacks.pt"), (ours, "torchattacks.pt")):
        read = lib.Attack.load if lib is ours else lib.PGD.load
        first = next(iter(read(tmp_path / file, batch_size=4, load_predictions=True, load_clean_inputs=True)))
        assert [len(part) for part in first] == [4] * 4
        assert first[0].dtype is torch.float32
        assert first[0].max() <= 1


def test_a_failed_save_leaves_the_old_file(net, tmp_path):
    images, labels = batch()
    file = tmp_path / "adv.pt"
    file.write_bytes(b"old")
    attack = ours.PGD(net, steps=1)
    with pytest.raises(IndexError):
        attack.save(DataLoader(TensorDataset(images, labels + CLASSES), batch_size=4), file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_place_that_cannot_be_written_is_told_before_the_first_batch(net, tmp_path):
    images, labels = batch()
    (tmp_path / "file").write_bytes(b"")
    asked: list[int] = []
    net.register_forward_hook(lambda *_: asked.append(1))
    for place in (tmp_path, tmp_path / "file" / "adv.pt"):
        with pytest.raises(OSError, match=f"{place}: cannot be written"):
            ours.PGD(net, steps=1).save([(images, labels)], place)
    assert not asked


def test_numbers_change_after_the_constructor(net):
    images, labels = batch()
    attack = ours.PGD(net, random_start=False)
    attack.eps, attack.alpha, attack.steps = 0.02, 0.02, 1
    assert torch.equal(attack(images, labels), ours.PGD(net, 0.02, 0.02, 1, False)(images, labels))


def test_the_start_comes_from_torch_s_generator_alone(net):
    images, labels = batch()
    attack = ours.PGD(net, steps=1)
    assert torch.equal(same_seed(attack, images, labels), same_seed(attack, images, labels))
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        first, second = attack(images, labels), attack(images, labels)
    assert not torch.equal(first, second)


def test_speed_is_asked_for_by_name(net):
    images, labels = batch()
    attack = ours.MultiAttack([ours.FGSM(net), ours.PGD(net, steps=2)])
    assert attack.set_speed(precision="bf16") is attack
    assert attack.attacks[1]._speed == {"precision": "bf16"}
    assert attack(images, labels).dtype is torch.float32
    with pytest.raises(ValueError, match="precision: wanted"):
        attack.set_speed(precision="int8")
    with pytest.raises(TypeError, match="set_speed: unknown option 'precison'; did you mean 'precision'"):
        attack.set_speed(precison="bf16")


BAD: list[tuple[Callable[[nn.Module, torch.Tensor, torch.Tensor], Any], type[Exception], str]] = [
    (lambda m, x, y: ours.PGD(m)(x, y.float()), RuntimeError, "labels: wanted whole numbers"),
    (lambda m, x, y: ours.PGD(m)(x, y[:2]), ValueError, "labels: wanted 6 of them"),
    (lambda m, x, y: ours.PGD(m)(x, torch.rand_like(x)), ValueError, "labels: .*DenoisingPGD"),
    (lambda m, x, y: ours.PGD(m)((x * 255).byte(), y), RuntimeError, "inputs: wanted floating"),
    (lambda m, x, y: ours.PGD(m)(x * 2 - 1, y), ValueError, "inputs: wanted images in.*set_normalization_used"),
    (lambda m, x, y: ours.PGD(m)(x * float("nan"), y), ValueError, "inputs: wanted images in"),
    (lambda m, x, y: ours.PGD(m)(x, y + 5), IndexError, "labels from 0 to 4, got"),
    (lambda m, x, y: ours.PGD(m, eps=-1.0)(x, y), ValueError, "eps: wanted"),
    (lambda m, x, y: ours.PGD(m, eps="8/255")(x, y), TypeError, "eps: wanted a number"),
    (lambda m, x, y: ours.PGD(m, alpha=0.0)(x, y), ValueError, "alpha: wanted"),
    (lambda m, x, y: ours.PGD(m, steps=1.5)(x, y), TypeError, "steps: wanted a whole number"),
    (lambda m, x, y: ours.PGD(m, step=3), TypeError, "step"),
    (lambda m, x, y: ours.VMIFGSM(m, N=0)(x, y), ValueError, "^N: wanted a whole number >= 1, got 0"),
    (lambda m, x, y: ours.VNIFGSM(m, beta=0.0)(x, y), ValueError, "^beta: wanted a finite number > 0"),
    (lambda m, x, y: ours.SINIFGSM(m, m=0)(x, y), ValueError, "^m: wanted a whole number >= 1, got 0"),
    (lambda m, x, y: ours.MIFGSM(m, decay=-1)(x, y), ValueError, "^decay: wanted a finite number >= 0"),
    (lambda m, x, y: ours.TIFGSM(m, nsig=0), ValueError, "^nsig: wanted a finite number > 0"),
    (lambda m, x, y: ours.TIFGSM(m, len_kernel=4), ValueError, "^len_kernel: wanted an odd whole number"),
    (lambda m, x, y: ours.Square(m, p_init=2.0)(x, y), ValueError, "^p_init: wanted a share in"),
    (lambda m, x, y: ours.TIFGSM(m, kernel_name="box"), NotImplementedError, "kernel_name: wanted"),
    (lambda m, x, y: ours.UPGD(m, loss="mse")(x, y), ValueError, "loss: wanted one of 'ce'"),
    (lambda m, x, y: ours.Square(m, norm="L1")(x, y), AssertionError, "norm: wanted one of 'Linf', 'L2'"),
    (lambda m, x, y: ours.CW(m, c=-1)(x, y), ValueError, "c: wanted"),
    (lambda m, x, y: ours.APGD(m, rho=0.5)(x, y), ValueError, "rho: wanted 0.75"),
    (lambda m, x, y: ours.APGD(m, norm="L1")(x, y), AssertionError, "norm: wanted"),
    (lambda m, x, y: ours.APGD(m, loss="mse")(x, y), ValueError, "loss: wanted 'ce' or 'dlr'"),
    (lambda m, x, y: ours.AutoAttack(m, version="fast"), ValueError, "version: wanted one of"),
    (lambda m, x, y: ours.TPGD(m).set_mode_targeted_by_label(), ValueError, "Targeted mode is not supported"),
    (lambda m, x, y: ours.PGD(m).set_mode_targeted_least_likely(0), AssertionError, "kth_min"),
    (lambda m, x, y: ours.PGD(m).set_normalization_used([0.5], [0.0]), ValueError, "std not 0"),
    (lambda m, x, y: ours.PGD(3), TypeError, "model: wanted something callable"),
    (lambda m, x, y: ours.PGD(m).save([(x, y)], save_type="half"), ValueError, "save_type: wanted"),
    (lambda m, x, y: ours.DeepFool, AttributeError, "docs/compat.md"),
    (lambda m, x, y: ours.Nothing, AttributeError, "has no attribute 'Nothing'"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_input_is_named(net, number):
    call, kind, words = BAD[number]
    with pytest.raises(kind, match=words):
        call(net, *batch())


def test_torchattacks_itself_is_not_needed():
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torchattacks'] = None\n"
        "import torch, fastattack.compat.torchattacks as t\n"
        "m = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))\n"
        "t.PGD(m, steps=1)(torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
