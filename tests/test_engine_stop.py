"""Samples that end before the others: what is found for them, for those that go on, and for every kind of walk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack import engine
from fastattack.engine import Job, Schedule, Walk
from fastattack.threat import Threat


def near(output: Tensor, target: Tensor) -> Tensor:
    """Highest where the mean of the output is the target, (B,)."""
    return -(output.flatten(1).mean(1) - target).abs()


class Sizes:
    """The identity, which writes down the batches that it sees."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x * 1.0


PEAKS = torch.tensor([0.1, 9.0, 0.1, 0.1, 9.0, 0.2])
HILL = {"objective": near, "eps": 10.0, "step": 0.05, "random_start": False, "steps": 12, "patience": 3}


def test_a_sample_that_has_converged_leaves_the_batch():
    x, model = torch.zeros(6, 4), Sizes()
    whole = fa.PGD(Sizes(), **HILL).run(x, PEAKS)
    found = fa.PGD(model, stop="converged", tolerance=0.0, **HILL).run(x, PEAKS)
    assert torch.equal(found.adversarial, whole.adversarial)
    assert torch.equal(found.loss, whole.loss)
    assert found.best_step.tolist() == [2, 12, 2, 2, 12, 4]
    # 0.1 is reached at step 2 and missed at 3, 4 and 5: six gradients. 0.2 is reached at 4, and goes on for nothing.
    assert found.steps_used.tolist() == [6, 12, 6, 6, 12, 8]
    assert model.seen == [6] * 6 + [3] * 7
    assert whole.steps_used.tolist() == [12] * 6


def test_a_sample_that_is_fooled_ends_for_good():
    x, model = torch.zeros(6, 4), Sizes()
    options = HILL | {"restarts": 2, "random_start": True, "eps": 0.6}
    found = fa.PGD(model, stop="success", threshold=-0.06, **options).run(x, PEAKS)
    whole = fa.PGD(Sizes(), threshold=-0.06, **options).run(x, PEAKS)
    assert found.success.tolist() == [True, False, True, True, False, True]
    assert torch.equal(whole.success, found.success)
    going = ~found.success
    assert torch.equal(found.adversarial[going], whole.adversarial[going])
    assert torch.equal(found.loss[going], whole.loss[going])
    assert torch.allclose(near(found.adversarial, PEAKS).double(), found.loss, atol=1e-6)
    assert found.steps_used[going].tolist() == [24, 24]
    assert (found.steps_used[found.success] <= 12).all()
    assert 2 in model.seen
    assert model.seen[-13:] == [2] * 13  # no sample that was fooled comes back in the second restart


def test_all_fooled_is_the_end():
    model = Sizes()
    result = fa.PGD(model, stop="success", threshold=-0.06, **HILL).run(torch.zeros(2, 4), torch.tensor([0.1, 0.1]))
    assert result.steps_used.tolist() == [2, 2]  # the second gradient came with the success; asked at the third
    assert model.seen == [2, 2, 2]
    assert result.success.all()


def test_going_down_stops_below_the_threshold():
    def far(output: Tensor, target: Tensor) -> Tensor:
        return -near(output, target)

    options = HILL | {"objective": far}
    result = fa.PGD(Sizes(), stop="success", threshold=0.06, targeted=True, **options).run(
        torch.zeros(2, 4), torch.tensor([0.1, 0.1])
    )
    assert result.success.all()
    assert result.steps_used.tolist() == [2, 2]  # the second gradient came with the success; asked at the third


class Scripted(Walk):
    """Goes where the script says: SCRIPT[restart][step] is the value of every pixel."""

    SCRIPT: tuple[tuple[float, ...], ...] = ()
    restart = 0

    def start(self, restart: int) -> None:
        self.restart = restart

    def point(self, step: int) -> Tensor:
        return self.adv.fill_(self.SCRIPT[self.restart][step])

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        pass


def scripted(walk: type[Walk], **options: object) -> engine.Outcome:
    schedule = Schedule(step=0.1, random_start=False, **options)
    return engine.attack(
        Sizes(), torch.zeros(2, 3), None, objective=lambda o, t: o.flatten(1).mean(1), threat=Threat(eps=5.0),
        schedule=schedule, rule=walk,
    )  # fmt: skip


def test_a_later_restart_converges_by_what_it_reached_itself():
    class Slow(Scripted):
        SCRIPT = ((1.0,) * 9, (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2))

    found = scripted(Slow, steps=8, restarts=2, stop="converged", patience=2)
    assert found.loss.tolist() == pytest.approx([1.2, 1.2])
    assert found.best_restart.tolist() == [1, 1]
    assert found.steps_used.tolist() == [3 + 8] * 2  # the first: best at step 0, nothing at 1 and 2


def test_rises_within_the_tolerance_add_up():
    class Creeping(Scripted):
        SCRIPT = ((1.0, 1.06, 1.12, 1.18, 1.24, 1.30, 1.36, 1.42, 1.48),)

    assert scripted(Creeping, steps=8, stop="converged", patience=2, tolerance=0.1).steps_used.tolist() == [7, 7]
    assert scripted(Creeping, steps=8, stop="converged", patience=2, tolerance=0.5).steps_used.tolist() == [3, 3]


def test_a_first_success_is_progress_whatever_its_value():
    """Values of successes and of failures are not comparable: -9 after 1.2 is news."""

    class Smallest(Scripted):
        SCRIPT = ((1.0, 1.1, 1.2, 1.3, 2.1, 2.0, 1.9, 2.0, 2.2),)

        def score(self, x: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
            success = loss > 1.95
            return success, torch.where(success, -9 * loss.double(), loss.double())

    found = scripted(Smallest, steps=8, stop="converged", patience=2, tolerance=0.0)
    assert found.loss.tolist() == pytest.approx([2.0, 2.0])
    assert found.best_step.tolist() == [5, 5]
    assert found.steps_used.tolist() == [8, 8]


class Counter:
    """State in an object of its own, with one row for each sample."""

    per_sample = True

    def __init__(self, batch: int) -> None:
        self.total = torch.zeros(batch, dtype=torch.float64)


HANDED_ON: list[tuple[Tensor, Tensor]] = []


class Remembering(Walk):
    """State of every shape that a walk may have: tensors, lists, an object, and what restarts hand on."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.momentum = torch.zeros_like(self.adv)
        self.pair = [torch.zeros(job.batch), "words"]
        self.counter = Counter(job.batch)
        self.scale = torch.ones(job.batch, dtype=torch.float64)

    def start(self, restart: int) -> None:
        super().start(restart)
        self.momentum = torch.zeros_like(self.adv)
        self.scale = 1 + 0.1 * self.counter.total.tanh()
        HANDED_ON.append((self.counter.total, self.pair[0]))

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None
        self.momentum = 0.9 * self.momentum + grad
        self.pair[0] = self.pair[0] + 1
        self.counter.total = self.counter.total + loss.double() * self.pair[0]
        self.job.move(self.adv, self.momentum, self.job.step * self.scale)


class RememberingPGD(fa.PGD):
    def __init__(self, model: object, *, eps: float, **options: object) -> None:
        self.compose(model, options, rule=Remembering, eps=eps)


WALKS = {
    "PGD": lambda model, **o: fa.PGD(model, eps=0.05, **o),
    "PGD-l2": lambda model, **o: fa.PGD(model, eps=0.5, norm="l2", **o),
    "DenoisingPGD": lambda model, **o: fa.DenoisingPGD(model, eps=0.05, **o),
    "remembering": lambda model, **o: RememberingPGD(model, eps=0.05, **o),
    "APGD": lambda model, **o: fa.APGD(model, eps=0.05, **o),
    "APGD-l2": lambda model, **o: fa.APGD(model, eps=0.5, norm="l2", **o),
    "APGD-l1": lambda model, **o: fa.APGD(model, eps=2.0, norm="l1", **o),
    "CW": lambda model, **o: fa.CW(model, **o),
    "CW-box": lambda model, **o: fa.CW(model, bounds=(-1.0, 2.0), **o),
    "FMN": lambda model, **o: fa.FMN(model, **o | {"restarts": 1}),
}


@pytest.fixture
def denoiser() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)).eval()


def pair(batch: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, 1, 9, 7, generator=g)
    return clean + 0.1 * torch.randn(clean.shape, generator=g), clean


@pytest.mark.parametrize("name", WALKS)
def test_those_that_go_on_notice_nothing(denoiser, monkeypatch, name):
    """Samples 0, 2, 3, 6 end at step 2 of each restart, 4 and 5 at step 4; 1 sees what it would have seen alone."""
    y, x = (
        t.double() for t in pair(7)
    )  # steps that depend on whether a loss rose would hang on the last bit of a float
    denoiser = denoiser.double()
    HANDED_ON.clear()
    eps = {"sample_ids": torch.tensor([50, 1, 52, 53, 54, 55, 56])}
    options = {"steps": 8, "seed": 3, "restarts": 2, "patience": 2}
    threshold = 1e9 if name not in ("CW", "CW-box", "FMN") else 0.5
    whole = WALKS[name](denoiser, threshold=threshold, **options).run(y, x, **eps)
    started: dict[int, int] = {}

    def finished(job: Job) -> Tensor:
        since = torch.tensor([started[i] for i in job.ids.tolist()])
        late = torch.where((job.ids == 54) | (job.ids == 55), 4, 2)
        return (job.ids > 10) & (job.used - since >= late)

    def fresh_start(job: Job) -> None:
        started.update(zip(job.ids.tolist(), job.used.tolist(), strict=True))

    monkeypatch.setattr(Job, "finished", finished)
    monkeypatch.setattr(Job, "fresh_start", fresh_start)
    found = WALKS[name](denoiser, threshold=threshold, stop="converged", **options).run(y, x, **eps)
    restarts = 1 if name == "FMN" else 2
    assert found.steps_used.tolist() == [n * restarts for n in (2, 8, 2, 2, 4, 4, 2)]
    assert torch.allclose(found.adversarial[1], whole.adversarial[1], atol=1e-9)
    assert torch.allclose(found.loss[1], whole.loss[1], rtol=1e-9)
    assert found.best_step[1] == whole.best_step[1]
    assert found.best_restart[1] == whole.best_restart[1]
    if name == "remembering":
        (total, count), (total_seen, count_seen) = HANDED_ON[1], HANDED_ON[3]
        assert torch.allclose(total[1], total_seen[1])
        assert count.tolist() == [8] * 7
        assert count_seen.tolist() == [2, 8, 2, 2, 4, 4, 2]  # each as far as it came
    at_best = fa.objectives.mse(denoiser(found.adversarial), x).double()
    assert torch.allclose(at_best, found.loss, rtol=1e-5)


@pytest.mark.parametrize("stop", ["converged", "success"])
@pytest.mark.parametrize("name", ["PGD", "remembering", "APGD", "CW", "FMN"])
def test_micro_batches_stop_alike(denoiser, stop, name):
    """What is found for a sample, and in how many steps, does not hang on how long its neighbours go on."""
    if stop == "success" and name in ("CW", "FMN"):
        pytest.skip("no first success there")
    y, model = pair(7)[0].double(), denoiser.double()
    mask = torch.rand(7, 1, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.2

    def hill(output: Tensor, peak: Tensor) -> Tensor:
        return -(output.flatten(1).square().mean(1) - peak).abs()

    with torch.no_grad():
        x = model(y).flatten(1).square().mean(1) + torch.linspace(0, 0.05, 7)
    restarts = 1 if name in ("FMN", "remembering") else 3  # the latter hands on how far its batch came
    options = {"steps": 24, "stop": stop, "patience": 2, "threshold": -0.004, "restarts": restarts, "objective": hill}
    whole = WALKS[name](model, **options).run(y, x, mask=mask)
    assert len(set(whole.steps_used.tolist())) > 1
    for size in (1, 4):
        parts = WALKS[name](model, max_batch=size, **options).run(y, x, mask=mask)
        assert torch.equal(parts.success, whole.success)
        assert torch.equal(parts.steps_used, whole.steps_used)
        assert torch.equal(parts.best_step, whole.best_step)
        assert torch.equal(parts.best_restart, whole.best_restart)
        assert torch.allclose(parts.adversarial, whole.adversarial, atol=1e-9)
        assert torch.allclose(parts.loss, whole.loss, rtol=1e-9)


def test_rows_of_channels_last_images_stay_channels_last():
    x = torch.rand(6, 3, 8, 8).to(memory_format=torch.channels_last)
    seen = []

    def model(v: Tensor) -> Tensor:
        seen.append((len(v), v.is_contiguous(memory_format=torch.channels_last)))
        return v * 1.0

    fa.PGD(model, stop="converged", tolerance=0.0, **HILL).run(x * 0, PEAKS)
    assert (3, True) in seen
    assert all(last for _, last in seen)
