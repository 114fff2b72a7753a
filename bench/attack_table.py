"""Whole attacks beside the loop that one writes by hand, and the peers': `python -m bench.attack_table [NAME ...]`.

Every way takes the same steps from the same start in one process, interleaved A B A B, medians. The loss that a way
reaches must be that of the plain loop to 1e-3 before its time counts; a way that is wrong, raises or is not installed
is listed with its reason, and the rest goes on. With one thread the time is that thread's own (time.thread_time): what
other jobs take away does not count. In one process the plain loops gain from what ours leaves in glibc's heap;
``--apart`` gives each way a process of its own, as a user has it, and tells its peak of memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastattack as fa
from bench.cases import NAMES, SHARED, Case, case_of
from bench.peers import PEERS, Way, peers_of
from fastattack.fast.precision import precision_of

Makers = dict[str, Callable[[], Way]]


def plain(case: Case, form: torch.memory_format) -> Way:
    """The loop as a careful user writes it: frozen weights, the gradient of the input alone, steps in place."""
    model = copy.deepcopy(case.model).eval().requires_grad_(False).to(memory_format=form)
    origin = case.x.to(memory_format=form)

    def run() -> Tensor:
        adv = origin.clone()
        for _ in range(case.steps):
            adv.requires_grad_(True)
            (grad,) = torch.autograd.grad(case.objective(model(adv), case.target).sum(), adv)
            with torch.no_grad():
                adv = adv.detach().add_(grad.sign_(), alpha=case.step)
                torch.minimum(torch.maximum(adv, origin - case.eps, out=adv), origin + case.eps, out=adv)
                if case.bounds is not None:
                    adv.clamp_(*case.bounds)
        return adv

    return run


def ours(case: Case, **speed: Any) -> Way:
    """``keep="last"``, because the plain loops and the peers keep the last iterate too."""
    attack = fa.PGD(
        case.model, objective=case.objective, eps=case.eps, step=case.step, steps=case.steps, bounds=case.bounds,
        random_start=False, keep="last", **speed,
    )  # fmt: skip
    return lambda: attack(case.x, case.target)


def makers_of(case: Case) -> Makers:
    """What makes each way; the first is what all are compared with."""
    makers: Makers = {
        "plain": lambda: plain(case, torch.contiguous_format),
        "plain channels_last": lambda: plain(case, torch.channels_last),
        "ours": lambda: ours(case),
    }
    if case.x.is_cuda:
        makers["ours graph"] = lambda: ours(case, graph="always")
    if precision_of("auto", case.x).reduced:  # else it is ours
        makers["ours auto"] = lambda: ours(case, precision="auto")
        if case.x.is_cuda:
            makers["ours auto graph"] = lambda: ours(case, precision="auto", graph="always")
    return makers | peers_of(case)


def reason_of(error: Exception) -> str:
    kind = "not installed" if isinstance(error, ImportError) else f"raised {type(error).__name__}"
    return f"{kind}: {error}"


def made(makers: Makers) -> tuple[dict[str, Way], dict[str, str]]:
    """The ways, and why others are none."""
    ways, refused = {}, {}
    for name, make in makers.items():
        try:
            ways[name] = make()
        except Exception as error:  # whatever a peer raises
            refused[name] = reason_of(error)
    return ways, refused


def worker(pipe: Any, options: argparse.Namespace, name: str, way: str) -> None:
    """One way in a process of its own: runs at each message, answers (seconds, adversarial, MB at the peak) or why not.

    It imports no other way's packages.
    """
    torch.set_num_threads(options.threads)
    clock, run = clock_of(options), None
    while pipe.recv():
        try:
            run = run or makers_of(case_from(name, options))[way]()
            began = clock()
            adversarial = run()
            seconds = clock() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            pipe.send((seconds, adversarial.contiguous().numpy(), peak))
        except Exception as error:
            pipe.send(reason_of(error))


@contextmanager
def apart(makers: Makers, options: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    """Each way's answers from its own process; the ways take turns."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    try:
        for way in makers:
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


def check(case: Case, ways: dict[str, Way]) -> tuple[dict[str, float], dict[str, str]]:
    """The loss that each way reaches, and why the others have no speed; also warms up.

    Raises:
        Exception: what the plain loop raises, without which nothing can be judged.
    """
    found: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, way in ways.items():
        try:
            reached = way()
            with torch.no_grad():
                loss = case.objective(case.model.eval()(reached), case.target).mean().item()
            far = (reached - case.x).abs().max().item()
        except Exception as error:
            if name == "plain":
                raise
            refused[name] = reason_of(error)
            continue
        want = found.get("plain", loss)
        if not abs(loss / want - 1) <= 1e-3:
            refused[name] = f"wrong: reached a loss of {loss:.6g}, the plain loop {want:.6g}"
        elif not far <= case.eps * (1 + 1e-4):
            refused[name] = f"wrong: {far:.6g} from the input, eps is {case.eps:.6g}"
        else:
            found[name] = loss
    return found, refused


def interleaved(ways: dict[str, Way], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = clock()
            way()
            times[name].append(clock() - began)
    return times


def tensor_of(answer: Any) -> Tensor:
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return torch.from_numpy(answer[1])


def measured_apart(case: Case, options: argparse.Namespace, name: str) -> tuple[dict[str, Any], ...]:
    """Losses, seconds of each round, why some have none, and MB at the peak."""
    with apart(makers_of(case), options, name) as ask:
        losses, refused = check(case, {way: (lambda a=answer: tensor_of(a())) for way, answer in ask.items()})
        rounds = [{way: ask[way]() for way in losses} for _ in range(options.rounds)]
    times = {way: [one[way][0] for one in rounds] for way in losses}
    return losses, times, refused, {way: rounds[-1][way][2] for way in losses}


def measured_together(case: Case, options: argparse.Namespace) -> tuple[dict[str, Any], ...]:
    ways, missing = made(makers_of(case))
    losses, refused = check(case, ways)
    return losses, interleaved({way: ways[way] for way in losses}, options.rounds, clock_of(options)), missing | refused


def case_from(name: str, options: argparse.Namespace) -> Case:
    shared = None if options.untrained else options.shared
    return case_of(name, shared=shared, steps=options.steps, device=options.device)


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    if options.device == "cuda":
        return lambda: (torch.cuda.synchronize(), time.perf_counter())[1]
    return time.thread_time if options.threads == 1 else time.perf_counter


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, printed."""
    case = case_from(name, options)
    peaks: dict[str, Any] = {}
    if options.apart:
        losses, rounds, refused, peaks = measured_apart(case, options, name)
    else:
        losses, rounds, refused = measured_together(case, options)
    times = {way: statistics.median(values) for way, values in rounds.items()}
    short = fa.PGD(case.model, eps=case.eps, objective=case.objective, steps=1, precision="auto")
    how = short.run(case.x, case.target).how
    print(f"\n{name} {tuple(case.x.shape)}, loss {losses['plain']:.5f}; auto: {how}", flush=True)
    print_times(times, rounds, peaks)
    for way, reason in refused.items():
        print(f"  {way:<20} no time: {reason}")
    return {
        "case": name, "seconds": times, "rounds": rounds, "loss": losses, "refused": refused, "how": how, "peak": peaks,
    }  # fmt: skip


def print_times(times: dict[str, float], rounds: dict[str, list[float]], peaks: dict[str, int]) -> None:
    best = min(times[way] for way in times if way.startswith("plain"))
    peer = min((times[way] for way in times if way in PEERS), default=None)
    for way, spent in times.items():
        ratio = statistics.median(p / s for p, s in zip(rounds["plain"], rounds[way], strict=True))
        beside = "" if peer is None else f"  {peer / spent:5.2f} x best peer"
        memory = f"  {peaks[way]:5d} MB at the peak" if peaks else ""
        print(
            f"  {way:<20} {spent:8.3f} s  {times['plain'] / spent:5.2f} x plain (of a round: {ratio:.2f})  "
            f"{best / spent:5.2f} x best plain{beside}{memory}"
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--apart", action="store_true", help="each way in a process of its own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--untrained", action="store_true", help="random weights and images, where there are no others")
    parser.add_argument("--shared", type=Path, default=SHARED, help="where the published weights and images lie")
    parser.add_argument("--out", type=Path, help="the JSON; out/attack_table_THREADS.json by default")
    options = parser.parse_args()
    unknown = [name for name in options.cases if name not in NAMES]
    if unknown:
        parser.error(f"NAME: wanted some of {', '.join(NAMES)}, got {', '.join(unknown)}")
    if options.device == "cuda" and (options.apart or not torch.cuda.is_available()):
        parser.error("--device cuda: " + ("wanted without --apart" if options.apart else "torch sees no GPU here"))
    return options


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    print(
        f"{options.threads} threads, torch {torch.__version__}, {options.steps} steps, medians of {options.rounds}"
        + (", processes apart" if options.apart else ""),
        flush=True,
    )
    out = options.out or Path("out") / f"attack_table_{options.threads}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.cases or NAMES:
        rows.append(measured(name, options))
        out.write_text(json.dumps({"torch": torch.__version__, "apart": options.apart, "rows": rows}, indent=1))
    if any(way not in PEERS for row in rows for way in row["refused"]):
        sys.exit("a way of ours is wrong")


if __name__ == "__main__":
    main()
