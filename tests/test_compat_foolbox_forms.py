"""The foolbox layer without foolbox: closed forms, sweeps, what is left as it was, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import fastattack.compat.foolbox as fb
from fastattack.engine import NonFiniteError

STEPWISE = {
    "linf": ("LinfPGD", "LinfBasicIterativeAttack", "MIFGSM", "FGSM"),
    "l2": ("L2PGD", "L2BasicIterativeAttack", "L2MomentumIterativeFastGradientMethod", "FGM"),
    "l1": ("L1PGD", "L1BasicIterativeAttack", "L1MomentumIterativeFastGradientMethod", "L1FastGradientAttack"),
}
NORMS = [(norm, name) for norm, names in STEPWISE.items() for name in names]


class Plane(nn.Module):
    """Two classes on either side of a plane: logits (0, <w, x> + b)."""

    def __init__(self, count: int = 48, offset: float = -0.2) -> None:
        super().__init__()
        w = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.w = nn.Parameter(w)
        self.offset = offset
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        score = x.flatten(1) @ self.w.to(x.dtype) + self.offset
        return torch.stack([torch.zeros_like(score), score], 1)


def plane(bounds: tuple[float, float] = (-9, 9), **options) -> fb.PyTorchModel:
    return fb.PyTorchModel(Plane(**options).eval(), bounds, device="cpu")


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def network_of(model: fb.PyTorchModel) -> Plane:
    return model._model.__closure__[0].cell_contents


def label_of(model: fb.PyTorchModel, x: Tensor) -> Tensor:
    return model(x).argmax(1)


def steepest(norm: str, w: Tensor, eps: float) -> Tensor:
    """The step of length eps along the gradient: signs, the unit vector, or signs of the largest 5 %."""
    if norm == "linf":
        return eps * w.sign()
    if norm == "l2":
        return eps * w / w.norm()
    largest = w.abs() >= w.abs().sort().values[-3]  # ceil(0.05 * 48)
    return torch.where(largest, eps / 3 * w.sign(), 0.0)


@pytest.mark.parametrize(("norm", "name"), NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_a_plane_is_crossed_along_its_normal(norm, name, targeted):
    """No random start: every attack ends eps away in the one direction that there is, on either criterion."""
    model, x = plane(), images()
    labels = label_of(model, x)
    if targeted and name in ("FGSM", "FGM", "L1FastGradientAttack"):
        pytest.skip("one step takes no target")
    single = "F" in name and "Momentum" not in name and "MIFGSM" not in name
    attack = getattr(fb.attacks, name)(**({} if single else {"random_start": False}))
    criterion = fb.TargetedMisclassification(1 - labels) if targeted else labels
    away = torch.where(labels == 0, 1.0, -1.0)[:, None]
    for eps in (0.1, 0.7):
        raw, clipped, success = attack(model, x, criterion, epsilons=eps)
        want = x.flatten(1) + away * steepest(norm, network_of(model).w.detach(), eps)
        assert torch.allclose(raw.flatten(1), want, atol=1e-6)
        assert torch.equal(raw, clipped)
        assert raw.data_ptr() != clipped.data_ptr()
        assert torch.equal(success, model(want.reshape(x.shape)).argmax(1) != labels)


@pytest.mark.parametrize("name", ["L2CarliniWagnerAttack", "DDNAttack"])
@pytest.mark.parametrize("confidence", [0.0, 0.4])
def test_the_smallest_perturbation_leads_to_the_plane(name, confidence):
    model, x = plane(), images()
    if confidence and name == "DDNAttack":
        pytest.skip("DDN knows no confidence")
    options = {
        "steps": 300,
        "stepsize": 0.002,
        "confidence": confidence,
        "initial_const": 0.1,
        "binary_search_steps": 5,
    }
    attack = (
        fb.attacks.DDNAttack(init_epsilon=0.2) if name == "DDNAttack" else fb.attacks.L2CarliniWagnerAttack(**options)
    )
    w, logits = network_of(model).w.detach(), model(x)
    gap = ((logits[:, 1] - logits[:, 0]).abs() + confidence) / w.norm()
    near, far = float(gap.min()) * 1.05, float(gap.max()) * 1.2
    raw, clipped, success = attack(model, x, logits.argmax(1), epsilons=[None, near, far])
    for one in raw:
        assert torch.allclose((one - x).flatten(1).norm(dim=1), gap, rtol=0.04)
        assert torch.equal(one, raw[0])
    assert torch.equal(clipped[0], raw[0])
    assert success[0].all()
    assert success[2].all()
    assert torch.equal(success[1], (clipped[1] - x).flatten(1).norm(dim=1) > gap - confidence / w.norm())
    assert ((clipped[1] - x).flatten(1).norm(dim=1) <= near * (1 + 1e-12)).all()


@pytest.mark.parametrize(("norm", "name"), NORMS)
def test_one_sweep_over_all_epsilons_is_as_many_runs(norm, name):
    model, x = plane((0, 1)), images()
    labels, epsilons = torch.tensor([0, 1, 1]), [0.0, 0.05, 0.3, 2.0]
    attack = getattr(fb.attacks, name)()
    torch.manual_seed(0)
    raw, clipped, success = attack(model, x, labels, epsilons=epsilons)
    torch.manual_seed(0)
    for k, eps in enumerate(epsilons):
        one = attack(model, x, labels, epsilons=eps)
        assert torch.allclose(one[0], raw[k], atol=1e-12)
        assert torch.allclose(one[1], clipped[k], atol=1e-12)
        assert torch.equal(one[2], success[k])
        assert (fb.distances.LpDistance(attack.distance.p)(x, clipped[k]) <= eps * (1 + 1e-12)).all()
    assert success.shape == (4, 3)


def test_the_sweep_is_one_batch_and_training_mode_is_not():
    """What a batch norm in training mode says of a sample depends on the others."""
    model, x = plane((0, 1)), images()
    net, labels = network_of(model), label_of(model, x)
    net.sizes.clear()
    fb.attacks.PGD(steps=2)(model, x, labels, epsilons=[0.1, 0.2, 0.3])
    assert net.sizes.count(9) == 2
    net.sizes.clear()
    fb.attacks.FGSM()(model, x, labels, epsilons=[0.1, 0.2, 0.3])
    assert net.sizes == [3] * 4, "one gradient, and three verdicts"
    net.sizes.clear()
    net.train()
    fb.attacks.PGD(steps=2)(model, x, labels, epsilons=[0.1, 0.2, 0.3])
    assert set(net.sizes) == {3}
    assert net.training


def test_what_a_model_of_ones_own_does_counts():
    """Not the network behind it: a subclass may do anything; each epsilon comes alone."""
    sizes = []

    class Turned(fb.PyTorchModel):
        def __call__(self, inputs):
            sizes.append(len(inputs))
            return -super().__call__(inputs)

    net, x = Plane().eval(), images()
    turned, plain = Turned(net, (-9, 9), device="cpu"), fb.PyTorchModel(net, (-9, 9), device="cpu")
    attack = fb.attacks.LinfPGD(random_start=False, steps=3)
    found = attack(turned, x, label_of(turned, x), epsilons=[0.1, 0.2])[0]
    assert torch.allclose(found[0], attack(plain, x, label_of(plain, x), epsilons=0.1)[0])
    assert set(sizes) == {3}


def test_bounds_and_preprocessing_change_nothing_but_the_scale():
    """The same net seen through (0, 255), a flipped channel axis, mean and std: the same attack, 255 times as large."""
    net, x = Plane().eval(), images()
    mean, std = torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([0.5, 0.4, 0.8]).double()

    class Plain(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return net((v.flip(1) - mean[:, None, None]) / std[:, None, None])

    plain = fb.PyTorchModel(Plain().eval(), (0, 1), device="cpu")
    seen = fb.PyTorchModel(
        net, (0, 255), device="cpu",
        preprocessing={"mean": (255 * mean).numpy(), "std": 255 * std, "axis": -3, "flip_axis": -3},
    )  # fmt: skip
    labels = label_of(plain, x)
    for name, eps in (("LinfPGD", 0.1), ("L2PGD", 0.5), ("L1PGD", 3.0)):
        attack = getattr(fb.attacks, name)(random_start=False, steps=5)
        want = attack(plain, x, labels, epsilons=eps)
        for model in (seen, plain.transform_bounds((0, 255)), plain.transform_bounds((0, 255), wrapper=True)):
            got = attack(model, 255 * x, labels, epsilons=255 * eps)
            assert torch.allclose(got[0] / 255, want[0], atol=1e-9)
            assert torch.equal(got[2], want[2])


class Curved(Plane):
    """Its gradient turns where a pixel, less the mean, changes sign."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.square())


def test_a_model_seen_anew_after_its_bounds_change_in_place():
    model, x = fb.PyTorchModel(Curved().eval(), (0, 1), device="cpu", preprocessing={"mean": 0.5}), images()
    attack, labels = fb.attacks.LinfPGD(random_start=False, steps=2), label_of(model, x)
    want = attack(model, x, labels, epsilons=0.1)[0]
    model.transform_bounds((0, 10), inplace=True)
    assert torch.allclose(attack(model, 10 * x, labels, epsilons=1.0)[0], 10 * want, atol=1e-9)


def test_the_model_and_the_random_state_are_left_as_they_were():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 5))
    net[0].weight.requires_grad_(False)
    net.train()
    net[4].weight.grad = torch.ones_like(net[4].weight)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.warns(UserWarning, match="training mode"):
        model = fb.PyTorchModel(net, (0, 1), device="cpu")
    x, state = images(torch.float32), torch.get_rng_state()
    for attack in (fb.attacks.PGD(random_start=False, steps=2), fb.attacks.DDNAttack(steps=2)):
        attack(model, x, torch.tensor([0, 1, 2]), epsilons=0.1)
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(m.training for m in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert torch.equal(net[4].weight.grad, torch.ones_like(net[4].weight))
    assert all(p.grad is None for p in (net[0].weight, net[1].weight))


def test_repeats_keep_the_first_success_and_the_nearest():
    model, x = plane((0, 1)), images()
    labels = label_of(model, x)

    class Told(fb.attacks.base.MinimizationAttack):
        """Success in the second and third run, nearer in the third; a failure that is nearer yet in the fourth."""

        distance = fb.distances.l2
        runs = 0

        def run(self, model, inputs, criterion, *, early_stop=None, **kwargs):
            self.runs += 1
            w = network_of(model).w.detach().reshape(inputs[0].shape)
            away = torch.where(labels == 0, 1.0, -1.0)[:, None, None, None] * w
            return inputs + (0, 1.0, 0.9, 0.001)[self.runs - 1] * away

    base = plane((-9, 9))
    raw, _, success = Told().repeat(2).repeat(2)(base, x, labels, epsilons=[None, 100.0])
    w = network_of(base).w.detach()
    assert success.all()
    assert torch.allclose((raw[0] - x).flatten(1).norm(dim=1), 0.9 * w.norm())
    assert torch.allclose((raw[1] - x).flatten(1).norm(dim=1), w.norm())
    attack = fb.attacks.LinfPGD(steps=1).repeat(3)
    one = attack(model, x, labels, epsilons=0.05)
    assert one[0].shape == one[1].shape == x.shape
    assert one[2].shape == (3,)


def test_criteria_agree_with_predictions():
    outputs, labels = torch.eye(4), torch.tensor([0, 1, 3, 2])
    wrong = fb.Misclassification(labels)
    assert wrong(outputs, outputs).tolist() == [False, False, True, True]
    reached = fb.TargetedMisclassification(torch.tensor([0, 2, 2, 2]))
    assert reached(outputs, outputs).tolist() == [True, False, True, False]
    assert (wrong & reached)(outputs, outputs).tolist() == [False, False, True, False]
    assert repr(wrong & reached) == f"Misclassification({labels!r}) & {reached!r}"


def test_a_criterion_of_ones_own_judges_what_a_search_found():
    class Sure(fb.Criterion):
        def __init__(self, target_classes: Tensor) -> None:
            self.target_classes = target_classes

        def __repr__(self) -> str:
            return "Sure()"

        def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
            return outputs.softmax(1).gather(1, self.target_classes[:, None])[:, 0] > 0.9

    model, x = plane(), images()
    wanted = 1 - label_of(model, x)
    raw, _, success = fb.attacks.L2PGD()(model, x, Sure(wanted), epsilons=[0.3, 5.0])
    for k in (0, 1):
        assert torch.equal(success[k], Sure(wanted)(raw[k], model(raw[k])))
    assert success[1].all()
    with pytest.raises(ValueError, match="criterion: wanted labels"):
        fb.attacks.DDNAttack()(model, x, Sure(wanted), epsilons=None)


def test_gradients_in_half_precision_stay_in_the_ball():
    model, x = plane((0, 1)), images(torch.float32)
    attack = fb.attacks.LinfPGD(random_start=False).set_speed(precision="bf16")
    assert isinstance(attack, fb.attacks.PGD)
    raw, clipped, _ = attack(model, x, label_of(model, x), epsilons=[0.1, 0.2])
    assert (raw[1] - x).abs().max() <= 0.2
    assert torch.equal(raw[0], clipped[0])
    with pytest.raises(TypeError, match="speed"):
        attack.set_speed(speed=2)


class Broken(nn.Module):
    """NaN for images with a pixel above 0.95."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] + torch.where(x.amax() > 0.95, torch.nan, 0.0)


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda m, x, y: fb.attacks.PGD(steps=0)(m, x, y, epsilons=0.1), ValueError, "steps"),
        (lambda m, x, y: fb.attacks.PGD()(m, x, y, epsilons=-0.1), ValueError, "eps"),
        (lambda m, x, y: fb.attacks.PGD()(m, x, y, epsilons=float("nan")), ValueError, "eps"),
        (lambda m, x, y: fb.attacks.PGD()(m, x, y, epsilons=[]), ValueError, "epsilons"),
        (
            lambda m, x, y: fb.attacks.PGD()(m, x, x, epsilons=0.1),
            ValueError,
            "an image as target wants fastattack.PGD",
        ),
        (lambda m, x, y: fb.attacks.PGD()(m, x, y + 2, epsilons=0.1), IndexError, "classes from 0 to 1"),
        (lambda m, x, y: fb.attacks.PGD()(m, x, y * 0 - 100, epsilons=0.1), IndexError, "labels"),
        (lambda m, x, y: fb.attacks.DDNAttack()(m, x, y + 2, epsilons=None), IndexError, "classes from 0 to 1"),
        (lambda m, x, y: fb.attacks.PGD()(m, x + 9, y, epsilons=0.1), AssertionError, "bounds"),
        (lambda m, x, y: fb.attacks.PGD()(m, x[:0], y[:0], epsilons=0.1), ValueError, "inputs"),
        (lambda m, x, y: fb.PyTorchModel(Plane().eval(), (1, 1)), ValueError, "bounds"),
        (lambda m, x, y: fb.samples(m), AttributeError, "docs/compat.md"),
        (lambda m, x, y: fb.attacks.BoundaryAttack(), AttributeError, "docs/compat.md"),
        (lambda m, x, y: fb.models.JAXModel, AttributeError, "docs/compat.md"),
    ],
)
def test_what_cannot_be_is_refused(call, error, told):
    model, x = plane((0, 1)), images()
    with pytest.raises(error, match=told):
        call(model, x, label_of(model, x))


def test_nan_from_the_model_is_no_success():
    model = fb.PyTorchModel(Broken().eval(), (0, 1), device="cpu")
    x = images() * 0.9
    with pytest.raises(NonFiniteError, match="perturbed"):
        fb.attacks.FGSM()(model, x, torch.zeros(3, dtype=torch.long), epsilons=0.5)


@pytest.mark.parametrize("hook", ["get_loss_fn", "get_optimizer", "value_and_grad", "normalize", "project"])
def test_a_subclass_with_a_loop_of_its_own_is_refused(hook):
    with pytest.raises(TypeError, match=hook):
        type("Mine", (fb.attacks.LinfPGD,), {hook: lambda self: None})


def test_a_random_start_of_ones_own_is_taken():
    class Corner(fb.attacks.LinfPGD):
        def get_random_start(self, x0: Tensor, epsilon: float) -> Tensor:
            return x0 + 2 * epsilon

    model, x = plane(), images()
    labels = label_of(model, x)
    got = Corner(steps=1, abs_stepsize=0.1)(model, x, labels, epsilons=0.1)[0]
    away = torch.where(labels == 0, 1.0, -1.0)[:, None] * network_of(model).w.detach().sign()
    assert torch.allclose(got.flatten(1), x.flatten(1) + (0.1 + 0.1 * away).clamp(max=0.1), atol=1e-9)


def test_neither_foolbox_nor_eagerpy_is_needed():
    program = """
import sys
sys.modules["foolbox"] = sys.modules["eagerpy"] = None  # an import of either raises
import torch
import fastattack.compat.foolbox as fb
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
model = fb.PyTorchModel(net, (0, 1), device="cpu", preprocessing={"mean": [0.5] * 3, "axis": -3})
x, y = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
for name in fb.attacks.__all__:
    if name != "Attack":
        attack = getattr(fb.attacks, name)()
        if name == "L2CarliniWagnerAttack":
            attack = fb.attacks.L2CarliniWagnerAttack(steps=3)
        raw, clipped, is_adv = attack(model, x, fb.Misclassification(y), epsilons=[0.1, 0.2])
        assert raw[0].shape == x.shape and is_adv.shape == (2, 2)
assert model.dummy.shape == (0,) and 0 <= fb.accuracy(model, x, y) <= 1
print("ran")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "ran", done.stderr
