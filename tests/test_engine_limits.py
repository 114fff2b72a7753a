"""What ends a run from outside: memory that does not suffice, and Ctrl-C."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

import fastattack as fa
from fastattack.engine import Job, Progress, loop

EPS = {"eps": 0.05, "steps": 4, "seed": 3}


class Small(nn.Module):
    """A linear model with room for ``most`` samples."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        super().__init__()
        self.most = most
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 PiB.")
        self.seen: list[int] = []
        self.inner = nn.Linear(6, 6, bias=False)
        with torch.no_grad():
            self.inner.weight.copy_(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise type(self.error)(*self.error.args)  # a new one: an error holds the frames that it passed
        return self.inner(x).sin()


def pair(batch: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(batch, 6, generator=g), torch.rand(batch, 6, generator=g)


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."


@pytest.mark.parametrize(
    "error",
    [None, RuntimeError(ALLOCATOR), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")],
    ids=["cuda", "cpu", "cudnn"],
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(error):
    x, target = pair(7)
    model = Small(2, error)
    want = fa.PGD(Small(7), restarts=2, **EPS).run(x, target)
    with pytest.warns(UserWarning, match="do not fit in memory") as told:
        found = fa.PGD(model, restarts=2, **EPS).run(x, target)
    assert [str(w.message).split()[0] for w in told] == ["7", "4", "3"]
    assert "max_batch=4" in str(told[0].message)
    assert torch.allclose(found.adversarial, want.adversarial, atol=1e-6)
    assert torch.allclose(found.loss, want.loss, rtol=1e-5)
    assert found.steps_used.tolist() == [8] * 7
    assert model.seen[0] == 7
    assert max(model.seen[2:]) <= 3


def test_halves_stay_in_order_and_finish_where_memory_ends_late():
    """The error comes in the third step: nothing of the half-made batch is kept."""
    x, target = pair(4)
    want = fa.PGD(Small(9), **EPS).run(x, target)
    model = Small(9)

    def objective(output: Tensor, goal: Tensor) -> Tensor:
        if len(output) == 4 and len(model.seen) == 3:
            raise torch.OutOfMemoryError
        return fa.objectives.mse(output, goal)

    with pytest.warns(UserWarning, match="going on with 2"):
        found = fa.PGD(model, objective=objective, **EPS).run(x, target)
    assert torch.allclose(found.adversarial, want.adversarial, atol=1e-6)
    assert found.steps_used.tolist() == [4] * 4


def test_a_given_batch_size_is_not_changed_but_a_better_one_named():
    x, target = pair(7)
    with pytest.raises(MemoryError, match=r"max_batch: 6 samples at a time do not fit in memory; try max_batch=3"):
        fa.PGD(Small(2), max_batch=6, **EPS).run(x, target)
    with pytest.raises(MemoryError, match=r"max_batch: 1 samples at a time do not fit .* smaller image or model"):
        fa.PGD(Small(0), max_batch=1, **EPS).run(x, target)
    with pytest.warns(UserWarning, match="memory"), pytest.raises(MemoryError, match="smaller image or model"):
        fa.PGD(Small(0), **EPS).run(x, target)


def test_other_errors_of_the_model_pass():
    x, target = pair(3)
    model = Small(2, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        fa.PGD(model, **EPS).run(x, target)
    assert model.seen == [3]


def test_what_did_not_fit_is_given_back_before_its_halves_are_tried(monkeypatch):
    alive: list[weakref.ref[Job]] = []
    held = []

    class Watched(Job):
        def __post_init__(self) -> None:
            held.append(sum(ref() is not None for ref in alive))
            super().__post_init__()
            alive.append(weakref.ref(self))

    monkeypatch.setattr(loop, "Job", Watched)
    x, target = pair(4)
    with pytest.warns(UserWarning, match="memory"):
        fa.PGD(Small(2), **EPS).run(x, target)
    assert held == [0, 0, 1]  # the whole; the first half, alone; the second, beside the result of the first


def test_memory_that_ends_before_the_first_step(monkeypatch):
    class Large(Job):
        def __post_init__(self) -> None:
            if len(self.origin) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            super().__post_init__()

    monkeypatch.setattr(loop, "Job", Large)
    x, target = pair(4)
    with pytest.warns(UserWarning, match="going on with 2"):
        found = fa.PGD(Small(9), **EPS).run(x, target)
    monkeypatch.undo()
    assert torch.allclose(found.adversarial, fa.PGD(Small(9), **EPS)(x, target), atol=1e-6)


def interrupt_at(first: int, restart: int, step: int):
    def progress(seen: Progress) -> None:
        if (seen.first_sample, seen.restart, seen.step) == (first, restart, step):
            raise KeyboardInterrupt

    return progress


def test_an_interrupt_gives_back_the_best_so_far():
    x, target = pair(5)
    model = Small(9)
    model.train()
    attack = fa.PGD(model, on_interrupt="return", max_batch=2, restarts=2, **EPS)
    found = attack.run(x, target, progress=interrupt_at(2, 1, 1))
    whole = fa.PGD(Small(9), restarts=2, **EPS).run(x, target)
    first = fa.PGD(Small(9), **EPS).run(x, target)
    assert not found.complete
    assert whole.complete
    assert torch.allclose(found.adversarial[:2], whole.adversarial[:2], atol=1e-6)
    assert (found.loss[2:4] >= first.loss[2:4] - 1e-6).all()
    assert found.steps_used.tolist() == [8, 8, 6, 6, 0]
    assert torch.allclose(fa.objectives.mse(model(found.adversarial), target)[:4].double(), found.loss[:4], rtol=1e-5)
    assert torch.equal(found.adversarial[4], x[4])
    assert found.loss[4].isnan()
    assert found.best_step[4] == -1
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_an_interrupt_ends_the_run_by_default():
    x, target = pair(2)
    with pytest.raises(KeyboardInterrupt):
        fa.PGD(Small(9), **EPS).run(x, target, progress=interrupt_at(0, 0, 1))


def test_an_interrupt_before_the_first_step_returns_the_input(monkeypatch):
    class Interrupted(Job):
        made = 0

        def __post_init__(self) -> None:
            Interrupted.made += 1
            if Interrupted.made == 2:
                raise KeyboardInterrupt
            super().__post_init__()

    monkeypatch.setattr(loop, "Job", Interrupted)
    x, target = pair(4)
    found = fa.PGD(Small(9), on_interrupt="return", max_batch=2, **EPS).run(x, target)
    assert found.steps_used.tolist() == [4, 4, 0, 0]
    assert torch.equal(found.adversarial[2:], x[2:])
    assert found.loss.isnan().tolist() == [False, False, True, True]


def test_an_interrupt_among_fewer_samples_loses_nothing():
    """Two of five go on when it comes; what they and the others found is all there."""
    x = torch.zeros(5, 4)
    peaks = torch.tensor([0.1, 9.0, 0.1, 0.1, 9.0])

    def near(output: Tensor, target: Tensor) -> Tensor:
        return -(output.mean(1) - target).abs()

    attack = fa.PGD(
        lambda v: v * 1.0, objective=near, eps=10.0, step=0.05, random_start=False, steps=20, stop="converged",
        patience=2, on_interrupt="return",
    )  # fmt: skip
    found = attack.run(x, peaks, progress=interrupt_at(0, 0, 10))
    assert not found.complete
    assert torch.allclose(found.adversarial.mean(1), torch.tensor([0.1, 0.5, 0.1, 0.1, 0.5]), atol=1e-6)
    assert found.best_step.tolist() == [2, 10, 2, 2, 10]
    assert found.steps_used.tolist() == [5, 11, 5, 5, 11]


KEEP_LAST = {
    "PGD": lambda model, **o: fa.PGD(model, eps=0.05, keep="last", random_start=False, **o),
    "NIFGSM": lambda model, **o: fa.NIFGSM(model, eps=0.05, **o),
    "PGD-l1": lambda model, **o: fa.PGD(model, eps=0.3, norm="l1", keep="last", random_start=False, **o),
    "grid": lambda model, **o: fa.MIFGSM(model, eps=0.05, grid=8, bounds=(0, 1), **o),
}


@pytest.mark.parametrize("name", KEEP_LAST)
def test_an_interrupt_returns_the_last_iterate(name):
    x, target = pair(4)
    x = (x * 255).round() / 255
    attack = KEEP_LAST[name](Small(9), steps=9, step=0.004, max_batch=3, on_interrupt="return")
    want = KEEP_LAST[name](Small(9), steps=5, step=0.004).run(x, target)
    found = attack.run(x, target, progress=interrupt_at(0, 0, 5))
    assert not found.complete
    assert (want.adversarial != x).flatten(1).any(1).all()
    assert torch.allclose(found.adversarial[:3], want.adversarial[:3], atol=1e-6)
    assert torch.allclose(found.loss[:3], want.loss[:3], rtol=1e-5)
    assert found.best_step.tolist() == [5, 5, 5, -1]
    assert torch.equal(found.adversarial[3], x[3])
    assert found.loss[3].isnan()
    alone = attack(x[:3], target[:3])
    assert torch.equal(alone, KEEP_LAST[name](Small(9), steps=9, step=0.004)(x[:3], target[:3]))


def test_an_interrupt_in_a_later_restart_keeps_what_the_first_found():
    x, target = pair(3)
    options = {"eps": 0.05, "steps": 4, "keep": "last"}
    want = fa.PGD(Small(9), **options).run(x, target)
    found = fa.PGD(Small(9), restarts=3, on_interrupt="return", **options).run(
        x, target, progress=interrupt_at(0, 1, 2)
    )
    assert torch.equal(found.adversarial, want.adversarial)
    assert torch.equal(found.loss, want.loss)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_an_interrupt_hides_no_nan(keep):
    x, target = pair(3)
    calls = []

    def objective(output: Tensor, goal: Tensor) -> Tensor:
        calls.append(1)
        loss = fa.objectives.mse(output, goal)
        return loss * torch.tensor([1.0, float("nan"), 1.0]) if len(calls) == 2 else loss

    attack = fa.PGD(Small(9), objective=objective, eps=0.05, steps=9, keep=keep, on_interrupt="return")
    with pytest.raises(fa.NonFiniteError, match="step 1 for sample 1"):
        attack.run(x, target, progress=interrupt_at(0, 0, 4))
