"""The ops suite: every way passes its gate, and a wrong one has no time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastattack as fa
from fastattack.bench import suite, table
from fastattack.bench.ceilings import ceilings, stream
from fastattack.bench.ops import DTYPES, STEMS, op_trials
from fastattack.bench.ops.inputs import LAYOUTS, tensors
from fastattack.bench.ops.l1 import newton, project
from fastattack.bench.ops.trials import Subject, cases_of, op_trial, with_graphs
from fastattack.bench.result import Result, read
from fastattack.bench.timing import Pace, interleaved, measure, repeat_of
from fastattack.bench.trial import Way, Wrong
from fastattack.commands.bench import bench
from tests.command import run

QUICK = Pace(rounds=2, least=1e-4)
SHAPE = (2, 3, 33, 40)
CASES = [case.label for case in cases_of(SHAPE)]


def case_of(label: str, shape: tuple[int, ...] = SHAPE):
    return next(case for case in cases_of(shape) if case.label == label)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label", CASES)
def test_gates(label: str, dtype: str, layout: str) -> None:
    """Every way but the compiled ones, of every case, type and layout."""
    if label.startswith("quantise") and dtype != "float32":
        pytest.skip("quantise_ has a grid in float32 alone")
    trial = op_trial(case_of(label), SHAPE, dtype, layout=layout, compile=False)
    for way in trial.ways:
        judge = way.judge or trial.judge
        assert judge(way.make()) >= 0, way.name


def test_gates_of_compiled_ways() -> None:
    """One case in the tests, for each way compiles for seconds; `fastattack bench` has them all."""
    row = measure(op_trial(case_of("pgd_step_ linf"), SHAPE, "float32"), QUICK)
    compiled = [way for way in row.ways if way.name.startswith("compiled")]
    assert compiled
    for way in compiled:
        assert way.refused is None
        assert way.first > 3 * way.median, "the compilation is told apart"


@pytest.mark.parametrize("label", CASES)
def test_what_does_nothing_is_wrong(label: str) -> None:
    """Leaving the tensors as they are fails every gate; so does a result that is one NaN."""
    subject = Subject(case_of(label), tensors(case_of(label).names, SHAPE, dtype=torch.float32, device="cpu"))
    size = 6 if label == "noise_stats" else 4 if label == "distances" else 1
    still: Any = (torch.zeros(2),) * size if size > 1 else subject.x[subject.case.names[0]]
    for side in ("ours", "plain"):
        with pytest.raises(Wrong):
            subject.judge(lambda: still, side=side)
        with pytest.raises(Wrong):
            subject.judge(lambda: torch.where(torch.rand(SHAPE) < 1e-3, torch.nan, subject.x["clean"])
                          if "clean" in subject.x else torch.full(SHAPE, torch.nan), side=side)  # fmt: skip


@pytest.mark.parametrize("label", ["pgd_step_ linf", "pgd_step_ l2", "project_ linf", "momentum_step_ linf"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_sample_is_wrong(label: str, dtype: str) -> None:
    """The gate looks at the last sample too, and a tenth of a step is far in every type."""
    shape = (9, 3, 16, 17)
    case = case_of(label, shape)
    subject = Subject(case, tensors(case.names, shape, dtype=getattr(torch, dtype), device="cpu"))

    def nearly() -> Any:
        case.ours(*(subject.x[name] for name in case.names), backend="cpu")
        subject.x["adv"][-1, 0, 3, 5] += 0.1

    with pytest.raises(Wrong):
        subject.judge(nearly, side="ours")
    assert subject.judge(lambda: case.ours(*(subject.x[n] for n in case.names), backend="cpu"), side="ours") < 1e-2


def test_ways_that_are_wrong_raise_or_are_missing_have_no_time() -> None:
    trial = op_trial(case_of("pgd_step_ linf"), SHAPE, "float32", compile=False)

    def raises() -> Callable[[], Any]:
        raise RuntimeError("out of\nmemory")

    def missing() -> Callable[[], Any]:
        import no_such_package  # noqa: F401

        return lambda: None

    more = [Way("wrong", "peer", lambda: lambda: None), Way("raises", "peer", raises), Way("missing", "peer", missing)]
    row = measure(replace(trial, ways=[*trial.ways, *more]), QUICK)
    found = {way.name: way for way in row.ways}
    assert found["wrong"].refused.startswith("wrong: off by")
    assert found["raises"].refused == "raised RuntimeError: out of memory"
    assert found["missing"].refused.startswith("not installed: No module named")
    assert all(found[name].seconds == () for name in ("wrong", "raises", "missing"))
    assert len(found["cpu"].seconds) == len(row.floor) == 2
    assert row.best("ours").name == "cpu"
    assert row.best("peer") is None


def test_a_case_for_every_op() -> None:
    """The public ops that write or measure images, but for those that another case's kernel does."""
    stems = {"pgd_step_", "project_", "preserve_noise_", "noise_stats", "distances", "random_start_", "typical_noise",
             "momentum_step_", "accumulate_", "apgd_step_", "zero_mean_step_", "quantise_", "l1_step_",
             "diffusion_step_"}  # fmt: skip
    labels = {case.label.split()[0] for case in cases_of(SHAPE)}
    assert labels == stems
    public = {name for name in fa.ops.__all__ if callable(getattr(fa.ops, name)) and name.islower()}
    assert public - stems == {"available", "grid_gap", "project_zero_mean_", "use_backend"}
    assert len(STEMS) == len({case.stem for case in cases_of(SHAPE)})


def test_the_inputs_are_the_same_in_every_layout() -> None:
    names = ("adv", "grad", "origin", "clean", "momentum", "previous")
    want = tensors(names, SHAPE, dtype=torch.float32, device="cpu")
    for layout in LAYOUTS[1:]:
        got = tensors(names, SHAPE, dtype=torch.float32, device="cpu", layout=layout)
        assert all(torch.equal(got[name], want[name]) for name in names)
        assert not all(t.is_contiguous() for t in got.values())
    with pytest.raises(ValueError, match=r"layout: wanted one of .*, got 'upside down'"):
        tensors(names, SHAPE, dtype=torch.float32, device="cpu", layout="upside down")


def test_bytes_and_floor() -> None:
    """A step moves four tensors; its floor is as many bytes of a triad."""
    trial = op_trial(case_of("pgd_step_ linf"), SHAPE, "bfloat16", compile=False)
    pixels = 2 * 3 * 33 * 40
    assert trial.bytes == 4 * 2 * pixels
    assert trial.floor_scale == pytest.approx(1)
    assert stream(2 * pixels, "cpu").bytes == 4 * 2 * pixels
    again = op_trial(case_of("accumulate_"), SHAPE, "float32", compile=False)
    assert again.bytes == (3 + 2) * 4 * pixels, "starting again reads and writes once more"


def test_rounds_are_interleaved_and_turn_round() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = interleaved(calls, Pace(rounds=4, least=1e-9))
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4}
    assert "".join(order).endswith("abbaabba")


def test_quick_calls_are_repeated() -> None:
    counted = []
    repeat = repeat_of(lambda: counted.append(1), Pace(least=0.01))
    assert 10 < repeat < len(counted) * 8


def test_ceilings() -> None:
    found = {one.name: one for one in ceilings(QUICK, quick=True)}
    assert {"copy, memory", "triad, cache", "torch normal_", "NumPy SFC64 normals", "matrix product"} <= set(found)
    assert all(one.rate > 0 for one in found.values())
    assert found["NumPy SFC64 normals"].rate < 3 * torch.get_num_threads(), "a core makes no three numbers a nanosecond"


def test_settings() -> None:
    for options, words in (
        ({"suite": "kernels"}, "suite: wanted one of ops, attacks, layers, growth, all, got 'kernels'"),
        ({"device": "tpu"}, "device: wanted cpu or cuda, got 'tpu'"),
        ({"threads": 0}, "threads: wanted 1 or more, got 0"),
        ({"dtypes": ("int8",)}, "dtypes: wanted some of float32, bfloat16, float16, got int8"),
        ({"shapes": ((1, 0, 3, 3),)}, r"shapes: wanted \(B, C, H, W\) of positive numbers, got \(1, 0, 3, 3\)"),
        ({"shared": suite.Path("/no/such")}, "shared: /no/such is not a folder"),
    ):
        with pytest.raises(ValueError, match=words):
            suite.Settings(**options)


def test_a_trial_that_cannot_be_made_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    good = next(op_trials(shapes=[(1, 1, 8, 8)], dtypes=["float32"], only=["accumulate"], compile=False))

    def bad(*words: object) -> Any:
        raise MemoryError("no room for 64x3x512x512")

    case = case_of("accumulate_")
    monkeypatch.setattr(suite, "makers", lambda settings: iter([partial(bad, case, (1, 3, 8, 8), "float32"), good]))
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    rows = []
    found = suite.run(suite.Settings(quick=True, only=("x",), compile=False, threads=1), on_row=rows.append)
    assert found.errors == ("accumulate_ 1x3x8x8 float32: raised MemoryError: no room for 64x3x512x512",)
    assert [row.case for row in found.rows] == [row.case for row in rows] == ["accumulate_"]
    assert found.machine["threads"] == 1
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_growth_that_fails_is_named_and_the_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    good = next(op_trials(shapes=[(1, 1, 8, 8)], dtypes=["float32"], only=["accumulate"], compile=False))

    def bad(settings: object) -> Any:
        raise OSError("no such image")

    monkeypatch.setattr(suite, "makers", lambda settings: iter([good]))
    monkeypatch.setattr(suite, "growth_of", bad)
    found = suite.run(suite.Settings(quick=True, compile=False))
    assert len(found.rows) == 1
    assert found.errors == ("growth: raised OSError: no such image",)


def test_nothing_is_compiled_before_and_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch.compile sets a variable for itself, as it does for Triton."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "/old")
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    before = dict(os.environ)
    with suite.surroundings(suite.Settings(compile=False)):
        inside = {name: os.environ[name] for name in suite.CACHES}
        os.environ["CUPY_CACHE_DIR"] = "/elsewhere"
    assert len(set(inside.values())) == 3
    assert not any(Path(folder).exists() for folder in inside.values())
    assert dict(os.environ) == before


def test_first_calls_are_timed_by_the_wall() -> None:
    """Compilers run in other processes, whose time is not this thread's."""
    trial = op_trial(case_of("accumulate_"), SHAPE, "float32", compile=False)

    def make() -> Callable[[], Any]:
        times = iter([0.05])
        call = trial.ways[0].make()
        return lambda: (time.sleep(next(times, 0)), call())[1]

    way = Way("slow at first", "plain", make, compiles=True)
    row = measure(replace(trial, ways=[way]), Pace(2, 1e-4, own_time=True))
    assert row.ways[0].first >= 0.05


def test_a_replay_of_a_graph_is_no_compilation() -> None:
    ways = with_graphs(
        [Way("compiled", "plain", lambda: lambda: None, True), Way("eager", "plain", lambda: lambda: None)]
    )
    assert [(way.name, way.compiles) for way in ways] == [
        ("compiled", True), ("compiled, graph", False), ("eager", False), ("eager, graph", False)
    ]  # fmt: skip


@pytest.mark.parametrize("eps", [1e-3, 0.5, 30.0, 1e6])
def test_newton_is_the_projection_of_the_sort(eps: float) -> None:
    g = torch.Generator().manual_seed(0)
    origin = torch.rand(3, 3, 32, 32, generator=g)
    adv: Tensor = origin + 0.3 * torch.randn(origin.shape, generator=g) * torch.tensor([0.1, 1, 9]).reshape(3, 1, 1, 1)
    want = project(adv.double(), origin.double(), eps)
    newton(adv, origin, eps, rounds=30)
    assert (adv - want).abs().max() < 1e-4


def test_what_was_measured_before_an_interrupt_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    good = next(op_trials(shapes=[(1, 1, 8, 8)], dtypes=["float32"], only=["accumulate"], compile=False))

    def stopped() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "makers", lambda settings: iter([good, stopped, good]))
    found = suite.run(suite.Settings(quick=True, only=("x",), compile=False))
    assert len(found.rows) == 1
    assert found.errors == ("interrupted",)


def test_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: measured, printed, written, and compared with itself."""
    options = ["bench", "--suite", "ops", "--quick", "--only", "noise_stats", "--no-compile", "--shape", "2x1x16x16",
               "--dtype", "float32"]  # fmt: skip
    code, out, err = run(capsys, *options, "--out", tmp_path / "a", "--no-figures")
    assert (code, err) == (0, "")
    assert "noise_stats" in out
    assert (tmp_path / "a" / "bench.json").is_file()
    code, out, err = run(capsys, *options, "--compare", tmp_path / "a")
    assert (code, err) == (0, "")


def test_a_second_interrupt_costs_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the table is printed."""

    printed = table.print_end

    def stopped(*given: Any) -> None:
        monkeypatch.setattr(table, "print_end", printed)  # table.txt is printed too
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "print_end", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench(suite="ops", quick=True, only=["noise_stats"], compile=False, shape=["2x1x16x16"], dtype=["float32"],
              figures=False, out=tmp_path / "a")  # fmt: skip
    assert len(read(tmp_path / "a" / "bench.json").rows) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "kernels"], "suite: wanted one of ops, attacks, layers, growth, all"),
        (["--shape", "4x4"], "shapes: wanted (B, C, H, W)"),
        (["--shape", "many"], "shape: wanted BxCxHxW such as 4x3x64x64, got 'many'"),
        (["--suite", "ops", "--only", "teapot", "--quick"], "only: no case of the suite 'ops' has such a name: teapot"),
        (["--compare", "/no/such.json"], "/no/such.json"),
        (["--out", "/proc/none/here", "--suite", "ops", "--only", "accumulate"], "/proc/none"),
    ],
)
def test_bad_options(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "bench", *options, "--no-compile")
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_a_wrong_way_of_ours_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trial = op_trial(case_of("accumulate_", (1, 1, 8, 8)), (1, 1, 8, 8), "float32", compile=False)
    bad = replace(trial, ways=[*trial.ways, Way("cpu, broken", "ours", lambda: lambda: None)])
    monkeypatch.setattr(suite, "makers", lambda settings: iter([lambda: bad]))
    code, out, _ = run(capsys, "bench", "--quick", "--only", "x", "--no-compile")
    assert code == 1
    assert "cpu, broken" in out


def test_a_backend_that_is_not_here_is_listed_and_fails_nothing() -> None:
    def absent() -> Any:
        raise fa.BackendUnavailable("cupy is not installed")

    trial = op_trial(case_of("accumulate_", (1, 1, 8, 8)), (1, 1, 8, 8), "float32", compile=False)
    row = measure(replace(trial, ways=[*trial.ways, Way("cupy", "ours", absent)]), QUICK)
    assert row.ways[-1].refused == "not installed: cupy is not installed"
    assert Result({}, {}, rows=(row,)).wrong == []
