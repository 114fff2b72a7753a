"""Is a robustness figure worth anything? A set of attacks whose results tell a robust model from a hidden gradient."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .attacks import FGSM, PGD, Attack, SimBA, Square
from .defenses import AdaptiveReport, Purified, adaptive_check
from .defenses.purifier import GRADIENTS
from .engine import Job, Models, Schedule, Walk
from .engine.combine import losses
from .findings import Finding, Names, Results, Run, Seen, mean, of_fresh, of_look, of_no_limit, of_runs, of_variants
from .guard import rows_of
from .objectives import Objective, mse

EOT = 4  # draws for each gradient, where a purified model is attacked with one by the caller's own choice


@dataclass(frozen=True)
class StrengthReport:
    """What `strength_check` found; ``print(report)`` shows it.

    Attributes:
        findings: one for each check.
        rises: for each attack by name, (B,) float64 on the CPU: how far the objective rose over that of the input
            (fell, for targeted attacks), at least 0, as the input itself is allowed.
        fooled: for each attack the share of samples past ``threshold``; empty without one.
        seconds: wall-clock time.
        adaptive: in front of a purified model the blind and the adaptive attacks side by side, with the strongest.
    """

    findings: tuple[Finding, ...]
    rises: Mapping[str, Tensor]
    fooled: Mapping[str, float]
    seconds: float
    adaptive: AdaptiveReport | None = None

    @property
    def warnings(self) -> list[str]:
        """The texts of the findings that warn."""
        return [f"{f.name}: {f.text}" for f in self.findings if f.warns]

    def __str__(self) -> str:
        count = len(next(iter(self.rises.values())))
        wide = max(map(len, self.rises))
        lines = [
            f"Strength check on {count} samples, {self.seconds:.1f} s",
            "",
            f"{'attack':{wide}}  median rise  lowest rise",
        ]
        for name, rise in self.rises.items():
            fooled = f"  fooled {self.fooled[name]:4.0%}" if name in self.fooled else ""
            lines.append(f"{name:{wide}}  {rise.median().item():11.4g}  {rise.min().item():11.4g}{fooled}")
        lines += ["", *(f"{'WARNING' if f.warns else 'ok':7}  {f.name}: {f.text}" for f in self.findings), ""]
        if self.adaptive is not None:
            lines += [str(self.adaptive), ""]
        signs = len(self.warnings)
        lines.append(f"{signs} sign{'s' * (signs != 1)} of a weak attack." if signs else "No sign of a weak attack.")
        return "\n".join(lines)


def strength_check(
    model: Models,
    x: Tensor,
    target: Any,
    *,
    eps: float | Tensor,
    objective: Objective = mse,
    norm: str = "linf",
    bounds: tuple[float, float] | None = None,
    threshold: float | None = None,
    targeted: bool = False,
    mask: Tensor | None = None,
    steps: int = 40,
    restarts: int = 5,
    queries: int = 1000,
    eot: int = 1,
    seed: int = 0,
    max_batch: int | None = None,
) -> StrengthReport:
    """Attack a few samples in several ways and compare, to find masked gradients and attacks that are too short.

    The signs are those of Athalye et al. (arXiv 1802.00420) and Carlini et al. (arXiv 1902.06705): a one-step or
    black-box attack that beats a long one with gradients, gradients that are zero, a loss that rises neither with steps
    nor with eps, a large eps that does not fool every sample, restarts that matter, a model that gives two answers. No
    warning is no proof: an attack made for the defence may still break it.

    In front of a purified model (`fastattack.Purifier`) perturbations are also made blind, on the model alone, by each
    backward pass (full, BPDA, a surrogate process) and with EOT, and judged by the purified model: ``report.adaptive``
    has them side by side, and ``report.adaptive.strongest`` is what counts.

    Cost: about steps (restarts + 2.5) gradients, times eot, and ``queries`` forward passes; 16 samples are enough. A
    purified model costs 8 steps more (3 eot + 1 with eot).

    Args:
        model, x, target, eps, objective, norm, bounds, targeted, mask, eot, seed, max_batch: as for `PGD`; norm is
            "linf" or "l2".
        threshold: a sample is fooled where its loss is past it: 0 with the objective cw_margin. With it, larger rises
            on samples that are fooled anyway do not count, and a large eps must fool every sample.
        steps, restarts: of the long attacks; a quarter of the steps makes the short one.
        queries: of the black-box attack: `Square` for images (B, C, H, W), `SimBA` for others.

    Raises:
        TypeError, ValueError: an argument, the model or the objective do not fit; a model without any gradient has
            nothing to check. NonFiniteError: NaN or infinity on the way.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"input: wanted a tensor, got {type(x).__name__}")
    for name, value, least in (("steps", steps, 4), ("restarts", restarts, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm: wanted 'linf' or 'l2', got {norm!r}")
    began = time.perf_counter()
    common: dict[str, Any] = {
        "objective": objective, "norm": norm, "bounds": bounds, "targeted": targeted, "eot": eot, "seed": seed,
        "max_batch": max_batch, "threshold": threshold,
    }  # fmt: skip
    trial = _Trial(model, x, target, mask, eps, common)
    found = of_look(trial.look(), eot) + of_runs(trial.results, trial.run_all(steps, restarts, queries))
    adaptive = trial.adapt(steps) if isinstance(model, Purified) else None
    if adaptive is not None:
        found += trial.of_adaptive(adaptive, f"{steps} steps")
    if threshold is not None:
        trial.run("no limit", PGD(model, eps=_everything(x, bounds, norm), steps=steps, **common))
        found.append(of_no_limit(trial.results))
    runs = trial.results.runs
    fooled = {} if threshold is None else {name: mean(run.fooled) for name, run in runs.items()}
    rises = {name: run.rise for name, run in runs.items()}
    return StrengthReport(tuple(found), rises, fooled, time.perf_counter() - began, adaptive)


class _Look(Walk):
    """Looks at the input, at the input again, and at a random point; writes what it saw into ``notes`` by sample id."""

    last_look = False

    def __init__(self, job: Job, *, notes: Tensor) -> None:
        super().__init__(job)
        self.notes = {"of all samples": notes}  # in a dictionary: not to be cut with the batch

    def start(self, restart: int) -> None:
        self.adv.copy_(self.job.origin)

    def point(self, step: int) -> Tensor:
        if step == 2:
            self.job.start(self.adv, 0)
        return self.adv

    def learn(self, step: int, loss: Tensor, grad: Tensor | None) -> None:
        assert grad is not None, "a walk that needs gradients gets them"
        zero = ~grad.flatten(1).any(1)
        self.notes["of all samples"][:, step, self.job.ids] = torch.stack([loss.double(), zero.double()])


@dataclass
class _Trial:
    """The attacks on one batch, and the losses they reached."""

    model: Models
    x: Tensor
    target: Any
    mask: Tensor | None
    eps: float | Tensor
    common: dict[str, Any]
    results: Results = field(default_factory=lambda: Results(torch.zeros(0)))

    def look(self) -> Seen:
        notes = torch.zeros(2, 3, self.x.shape[0], dtype=torch.float64, device=self.x.device)
        attack = PGD(self.model, eps=self.eps, steps=3, **self.common)
        attack.rule = partial(_Look, notes=notes)
        attack(self.x, self.target, mask=self.mask)
        loss, zero = notes.cpu()
        self.results.clean = loss[0]
        return Seen(loss[0], loss[1], zero[2] > 0)

    def run(self, name: str, attack: Attack, beside: str | None = None) -> None:
        """Note the attack's result; ``beside``: the better of it and an earlier one."""
        result = attack.run(self.x, self.target, mask=self.mask)
        rise = (result.loss.double().cpu() - self.results.clean) * (-1.0 if self.common["targeted"] else 1.0)
        fooled = torch.zeros_like(rise, dtype=torch.bool) if result.success is None else result.success.cpu()
        rise = rise.clamp(min=0.0)
        if beside is not None:
            other = self.results.runs[beside]
            rise, fooled = torch.maximum(rise, other.rise), fooled | other.fooled
        self.results.runs[name] = Run(rise, fooled)

    def run_all(self, steps: int, restarts: int, queries: int) -> Names:
        """Every attack within eps, and one beyond."""
        few = steps // 4
        black = Square if self.x.dim() == 4 else SimBA
        names = Names(f"{few} steps", f"{steps} steps", f"{restarts} restarts", f"{black.__name__} {queries}")
        pgd = partial(PGD, self.model, **self.common)
        again = {"restarts": restarts - 1, "seed": (self.common["seed"] + 1) % 2**64}
        self.run(names.one, FGSM(self.model, eps=self.eps, **self.common))
        self.run(names.few, pgd(eps=self.eps, steps=few))
        self.run(names.many, pgd(eps=self.eps, steps=steps))
        self.run(names.restarts, pgd(eps=self.eps, steps=steps, **again), beside=names.many)
        self.run(names.black, black(self.model, eps=self.eps, queries=queries, **self.common))
        self.run(names.larger, pgd(eps=self.eps * 4, steps=steps))
        return names

    def adapt(self, steps: int) -> AdaptiveReport:
        """The attacks that know of a purifier, or know nothing of it; what they reach is noted under their names."""
        assert isinstance(self.model, Purified)
        kind, eot = self.model.purifier.options.gradient, self.common["eot"]
        ways = ["blind", *(f"{k}+eot" for k in GRADIENTS)] if eot > 1 else ["blind", *GRADIENTS, f"{kind}+eot"]
        found = adaptive_check(
            self.model, self.x, self.target, eps=self.eps, mask=self.mask, steps=steps, ways=ways,
            **self.common | {"eot": eot if eot > 1 else EOT},
        )  # fmt: skip
        for row in found.rows:
            self.judge(row.name, row.adversarial)
        return found

    def of_adaptive(self, report: AdaptiveReport, many: str) -> list[Finding]:
        """Whether another backward pass does better, and in noise that no attack has seen an average over draws."""
        kind, averaged = self.model.purifier.options.gradient, self.common["eot"] > 1  # type: ignore[union-attr]
        found = [of_variants(self.results, many, [f"{k}+eot" if averaged else k for k in GRADIENTS if k != kind])]
        if not averaged:
            fresh = Results(report.clean.fresh)
            for row in report.rows:
                past = torch.zeros(len(row.fresh)) if row.fooled is None else row.fooled
                fresh.runs[row.name] = Run(report.rise(row).clamp(min=0.0), past == 1)
            found.append(of_fresh(fresh, kind, f"{kind}+eot", EOT))
        return found

    def judge(self, name: str, adversarial: Tensor) -> None:
        """Note what the perturbation of an attack on another model does to this one."""
        schedule = Schedule(steps=1, **{k: self.common[k] for k in ("eot", "seed")})
        size = self.common["max_batch"] or len(adversarial)
        parts = [(adversarial[k : k + size], slice(k, k + size)) for k in range(0, len(adversarial), size)]
        batches = [(part, rows_of(self.target, rows, len(adversarial))) for part, rows in parts]
        loss = losses(self.model, batches, objective=self.common["objective"], schedule=schedule)
        sign, threshold = -1.0 if self.common["targeted"] else 1.0, self.common["threshold"]
        past = torch.zeros(len(loss), dtype=torch.bool) if threshold is None else (loss.cpu() - threshold) * sign > 0
        self.results.runs[name] = Run(((loss.cpu() - self.results.clean) * sign).clamp(min=0.0), past)


def _everything(x: Tensor, bounds: tuple[float, float] | None, norm: str) -> float:
    """A radius that reaches every image, or without bounds every image of the batch's range."""
    low, high = bounds if bounds is not None else (v.item() for v in torch.aminmax(x))
    span = max(float(high - low), 1e-3)
    return span if norm == "linf" else span * float(x[0].numel()) ** 0.5
