"""Whole attacks beside the loop that one writes by hand: `python -m bench.attack_table [NAME ...] [--threads 1]`.

Every way takes the same steps from the same start in one process, interleaved A B A B, medians. The loss that a way
reaches must be that of the plain loop to 1e-3 before its time counts. With one thread the time is that thread's own
(time.thread_time): what other jobs take away does not count. In one process the plain loops gain from what ours leaves
in glibc's heap; ``--apart`` gives each way a process of its own, as a user has it, and tells its peak of memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import fastattack as fa
from bench.classifier import resnet18
from fastattack.fast.precision import precision_of

SHARED = Path(__file__).resolve().parents[2] / "shared"
EPS, STEP = 5 / 255, 1 / 255


@dataclass
class Case:
    """One model with its inputs."""

    model: nn.Module
    x: Tensor
    target: Tensor
    objective: Callable[[Any, Any], Tensor]
    steps: int = 10


def crops(folder: Path, channels: int, count: int = 4, side: int = 128) -> Tensor:
    mode = "L" if channels == 1 else "RGB"
    files = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".bmp"))[:count]
    images = [np.asarray(Image.open(p).convert(mode), dtype=np.float32) / 255 for p in files]
    tensors = [torch.from_numpy(i.reshape(*i.shape[:2], channels)).permute(2, 0, 1)[:, :side, :side] for i in images]
    return torch.stack(tensors).contiguous()


def denoiser(shared: Path, name: str) -> Case:
    arch, weights, channels = {
        "dncnn": ("dncnn", "dncnn_gray_sigma25.safetensors", 1),
        "ffdnet": ("ffdnet", "ffdnet_gray.safetensors", 1),
        "ecndnet": ("ecndnet", "ecndnet_gray_sigma25.pth", 1),
        "n2n": ("n2n", "n2n_color_gaussian.pt", 3),
    }[name]
    options = {"sigma": 25} if name == "ffdnet" else {}
    model = fa.models.load(arch, weights=shared / "weights" / weights, **options)
    clean = crops(shared / "data" / ("set12" if channels == 1 else "cbsd68"), channels)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return Case(model, clean + 25 / 255 * noise, clean, fa.objectives.mse)


def classifier() -> Case:
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.rand(16, 3, 32, 32, generator=generator), torch.randint(10, (16,), generator=generator)
    return Case(resnet18(), x, labels, fa.objectives.cross_entropy)


def plain(case: Case, form: torch.memory_format) -> Callable[[], Tensor]:
    """The loop as a careful user writes it: frozen weights, the gradient of the input alone, steps in place."""
    model = copy.deepcopy(case.model).eval().requires_grad_(False).to(memory_format=form)
    origin = case.x.to(memory_format=form)

    def run() -> Tensor:
        adv = origin.clone()
        for _ in range(case.steps):
            adv.requires_grad_(True)
            (grad,) = torch.autograd.grad(case.objective(model(adv), case.target).sum(), adv)
            with torch.no_grad():
                adv = adv.detach().add_(grad.sign_(), alpha=STEP)
                torch.minimum(torch.maximum(adv, origin - EPS, out=adv), origin + EPS, out=adv)
        return adv

    return run


def ways_of(case: Case) -> dict[str, Callable[[], Tensor]]:
    """``keep="last"`` in ours, because the plain loops keep the last iterate too."""
    common: dict[str, Any] = {
        "objective": case.objective, "eps": EPS, "step": STEP, "steps": case.steps, "random_start": False,
        "keep": "last",
    }  # fmt: skip

    def ours(**speed: Any) -> Callable[[], Tensor]:
        attack = fa.PGD(case.model, **common, **speed)
        return lambda: attack(case.x, case.target)

    ways = {
        "plain": plain(case, torch.contiguous_format),
        "plain channels_last": plain(case, torch.channels_last),
        "ours": ours(),
    }
    if precision_of("auto", case.x).reduced:  # else it is ours
        ways["ours auto"] = ours(precision="auto")
    return ways


def worker(pipe: Any, options: argparse.Namespace, name: str, way: str) -> None:
    """One way in a process of its own: runs at each message, answers (seconds, adversarial, MB at the peak)."""
    torch.set_num_threads(options.threads)
    run = ways_of(case_of(name, options))[way]
    while pipe.recv():
        began = clock_of(options)()
        adversarial = run()
        seconds = clock_of(options)() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        pipe.send((seconds, adversarial.contiguous().numpy(), peak))


@contextmanager
def apart(ways: dict[str, Callable[[], Tensor]], options: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    """Each way's answers from its own process; the ways take turns."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    try:
        for way in ways:
            pipes[way], end = context.Pipe()
            processes.append(context.Process(target=worker, args=(end, options, name, way)))
            processes[-1].start()
        yield {way: lambda p=pipe: (p.send(True), p.recv())[1] for way, pipe in pipes.items()}
        for pipe in pipes.values():
            pipe.send(False)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.terminate()


def check(case: Case, ways: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The loss that each way reaches; also warms up."""
    found = {}
    for name, way in ways.items():
        reached = way()
        with torch.no_grad():
            found[name] = case.objective(case.model.eval()(reached), case.target).mean().item()
        gap = abs(found[name] / found["plain"] - 1)
        assert gap <= 1e-3, f"{name}: reached {found[name]}, the plain loop {found['plain']}"
    return found


def interleaved(
    ways: dict[str, Callable[[], Tensor]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = clock()
            way()
            times[name].append(clock() - began)
    return times


def measured_apart(case: Case, options: argparse.Namespace, name: str) -> tuple[dict[str, Any], ...]:
    """Losses, seconds of each round, and MB at the peak."""
    with apart(ways_of(case), options, name) as ask:
        reached = {way: (lambda a=answer: torch.from_numpy(a()[1])) for way, answer in ask.items()}
        losses = check(case, reached)
        rounds = [{way: answer() for way, answer in ask.items()} for _ in range(options.rounds)]
    times = {way: [one[way][0] for one in rounds] for way in ask}
    return losses, times, {way: rounds[-1][way][2] for way in ask}


def case_of(name: str, options: argparse.Namespace) -> Case:
    case = classifier() if name == "resnet18" else denoiser(options.shared, name)
    case.steps = options.steps
    return case


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    return time.thread_time if options.threads == 1 else time.perf_counter


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, printed."""
    case = case_of(name, options)
    peaks: dict[str, Any] = {}
    if options.apart:
        losses, rounds, peaks = measured_apart(case, options, name)
    else:
        ways = ways_of(case)
        losses, rounds = check(case, ways), interleaved(ways, options.rounds, clock_of(options))
    times = {way: statistics.median(values) for way, values in rounds.items()}
    best = min(times["plain"], times["plain channels_last"])
    short = fa.PGD(case.model, eps=EPS, objective=case.objective, steps=1, precision="auto")
    how = short.run(case.x, case.target).how
    print(f"\n{name} {tuple(case.x.shape)}, loss {losses['plain']:.5f}; auto: {how}", flush=True)
    for way, spent in times.items():
        ratio = statistics.median(p / s for p, s in zip(rounds["plain"], rounds[way], strict=True))
        memory = f"  {peaks[way]:5d} MB at the peak" if peaks else ""
        print(
            f"  {way:<20} {spent:8.3f} s  {times['plain'] / spent:5.2f} x plain (of a round: {ratio:.2f})  "
            f"{best / spent:5.2f} x best plain{memory}"
        )
    return {"case": name, "seconds": times, "rounds": rounds, "loss": losses, "how": how, "peak": peaks}


def main() -> None:
    names = ["dncnn", "ffdnet", "n2n", "ecndnet", "resnet18"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all of them by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--apart", action="store_true", help="each way in a process of its own")
    parser.add_argument("--shared", type=Path, default=SHARED, help="where the published weights and images lie")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.threads} threads, torch {torch.__version__}, {options.steps} steps, medians of {options.rounds}"
        + (", processes apart" if options.apart else ""),
        flush=True,
    )
    rows = [measured(name, options) for name in options.cases or names]
    out = Path("out") / f"attack_table_{options.threads}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"torch": torch.__version__, "apart": options.apart, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
