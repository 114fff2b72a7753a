"""A whole study: models, images, shards, processes, and at the end the folder with its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..distributed import Team
from ..report.folder import finite
from ..report.html import write_report
from .examples import save_examples
from .folder import EvaluationFolder
from .matrix import TransferMatrix
from .measure import Batch, Quality, measure
from .panel import Panel, check_sizes, open_panel, qualities
from .pictures import Pictures, load_batch, look_through
from .results import describe_attacks, describe_models, gather_rows, matrices
from .shards import Shards
from .study import Study, identity
from .table import Table, require_pyarrow, write_csv, write_parquet


@dataclass(frozen=True)
class Progress:
    """Said after each batch: ``done`` of ``images``, by all processes where they share a disk.

    ``psnr``: (before, after) each source's attack on itself at the largest radius, dB; mean over this process's images.
    """

    done: int
    images: int
    psnr: dict[str, tuple[float, float]]


def run_study(
    study: Study,
    *,
    out: Path,
    device: str | torch.device = "cpu",
    team: Team | None = None,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    report: bool = True,
    show: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Attack, score, and write ``out``: results.json, tables, figures, report.html, and the shards behind them.

    Args:
        team: the processes that share the work; each takes every ``size``-th batch. The numbers do not depend on them.
        resume: go on with a run that was killed, or try again what failed in a finished one, or begin.
        overwrite: begin anew where ``out`` is there; it stays until the new one is complete.
        skip_bad: leave out images that cannot be read, and list them.
        report: also draw the figures and write report.html.
        show: called after each batch of this process.

    Returns:
        What results.json holds, in every process.

    Raises:
        TypeError, ValueError, OSError, RuntimeError: see the parts; nothing in ``out`` has changed.
    """
    team = team or Team.alone()
    require_pyarrow()
    quality = qualities(study)
    folder = EvaluationFolder(out, resume=resume, overwrite=overwrite)
    panel = open_panel(study, device)
    pictures = look_through(
        study.data, channels=panel.channels, crop=study.crop, limit=study.limit, skip_bad=skip_bad,
        share=(team.rank, team.size), gather=team.gather,
    )  # fmt: skip
    check_sizes(panel, pictures, study)
    own = identity(study, pictures.named(), panel.checksums(), torch.device(device).type, panel.defense_checksums())
    team.first(lambda: folder.begin(own))
    folder.join(own)
    run = _Run(study, panel, pictures, folder, team, torch.device(device), quality)
    began = time.perf_counter()
    run.work(team.first(run.missing), show)
    run.collect()
    results: dict[str, Any] = team.first(lambda: run.finish(time.perf_counter() - began, report))
    if team.rank > 0:
        shutil.rmtree(folder.work, ignore_errors=True)  # still there on a disk of its own: rank 0 has all of it
    return results


class _Run:
    """The steps of `run_study` that follow its checks."""

    def __init__(
        self,
        study: Study,
        panel: Panel,
        pictures: Pictures,
        folder: EvaluationFolder,
        team: Team,
        device: torch.device,
        quality: Quality,
    ) -> None:
        self.study, self.panel, self.pictures, self.folder = study, panel, pictures, folder
        self.team, self.device, self.quality = team, device, quality
        self.batches = pictures.batches(study.max_batch)
        self.shards = Shards(folder.shards, study.save_attacked)

    def load(self, number: int) -> Batch:
        study = self.study
        batch = load_batch(
            self.batches[number], channels=self.panel.channels, crop=study.crop, sigma=study.sigma, seed=study.seed
        )
        return replace(batch, clean=batch.clean.to(self.device), noisy=batch.noisy.to(self.device))

    def missing(self) -> list[int]:
        """Batches that are to be made; what stands in their places is taken away."""
        found = [number for number in range(len(self.batches)) if not self.shards.is_done(number)]
        for number in found:
            self.shards.remove(number)
        return found

    def work(self, missing: list[int], show: Callable[[Progress], None] | None) -> None:
        """This process's share of the missing batches."""
        panel, study = self.panel, self.study
        sources, targets = panel.models(panel.sources), panel.models(panel.targets)
        told = _Told(self, show)
        for number in missing:
            self.team.check()
            if number % self.team.size != self.team.rank or self.shards.is_done(number):
                continue  # done: on a disk of its own, before a kill
            measured = measure(
                self.load(number), sources, targets, study.crafts, sigma=study.sigma / 255, quality=self.quality,
                go_on=True,
            )  # fmt: skip
            with self.folder.named():
                self.shards.write(number, measured)
            told.tell(measured.scores)

    def collect(self) -> None:
        """Shards that rank 0 does not see, since it shares no disk with the process that wrote them, come over."""
        missing = self.team.tell([n for n in range(len(self.batches)) if not self.shards.is_there(n)])
        for number in missing:
            found = self.team.gather(self.shards.files(number) if self.shards.is_there(number) else {})
            if self.team.rank == 0:
                self.shards.take(next((files for files in found if files), {}))

    def finish(self, seconds: float, report: bool) -> dict[str, Any]:
        """Read all shards, write everything else, and put the folder in its place."""
        study, panel, folder = self.study, self.panel, self.folder
        shards = list(self.shards.all(len(self.batches)))
        scores, attacks, failed = gather_rows(shards, [len(batch) for batch in self.batches])
        reasons = {name: why for name, (why, _) in failed.items()}
        found = matrices(study, scores, attacks, panel.sources, list(panel.opened), reasons)
        if not found:
            raise RuntimeError(f"models: every attack failed: {'; '.join(f'{n}: {w}' for n, w in reasons.items())}")
        with folder.named():
            folder.clear()
            versions = {"fastattack": __version__, "torch": torch.__version__, "kind": "evaluation"}
            results: dict[str, Any] = {
                "config": {**versions, **study.as_dict()},
                "summary": {
                    "images": len(self.pictures.good), "seconds": seconds, "channels": panel.channels,
                    "complete": not failed, "processes": self.team.size,
                },
                "models": describe_models(panel, failed),
                "skipped": [{"path": path, "why": why} for path, why in self.pictures.broken],
                "matrices": [matrix.as_dict() for matrix in found],
                "statistics": [row for matrix in found for row in describe_attacks(matrix, study.bootstrap)],
                "examples": self.examples(found[-1]),
            }  # fmt: skip
            results = finite(results)
            for name, table in (("scores", scores), ("attacks", attacks)):
                self.write_table(name, table)
            folder.write_record(results)
            if report:
                write_report(folder.work, results)
            folder.place()
        return results

    def write_table(self, name: str, table: Table) -> None:
        write_csv(self.folder.work / f"{name}.csv", table)
        write_parquet(self.folder.work / f"{name}.parquet", table)

    def examples(self, matrix: TransferMatrix) -> list[dict[str, Any]]:
        place = self.study.eps.index(matrix.eps or 0.0)

        def find(sample: int, source: str) -> tuple[Batch, torch.Tensor | None]:
            number = next(n for n, batch in enumerate(self.batches) if any(p.number == sample for p in batch))
            attacked = self.shards.attacked(number, place, source)
            return self.load(number), None if attacked is None else attacked.to(self.device)

        models = self.panel.models(self.panel.sources)
        purify = {name: one.defense.purify for name, one in self.panel.defended.items()}
        return save_examples(self.folder.work, matrix, models, find, self.study.crafts[place], purify)


class _Told:
    """Progress with running means. Shards of all processes are counted on the disk, at most once a second."""

    def __init__(self, run: _Run, show: Callable[[Progress], None] | None) -> None:
        self.run, self.show, self.last = run, show, 0.0
        self.sums: dict[str, tuple[float, float, int]] = {}

    def tell(self, scores: Table) -> None:
        if self.show is None:
            return
        place = len(self.run.study.eps) - 1
        columns = (scores.get(name, []) for name in ("attack", "source", "target", "psnr_before", "psnr_after"))
        for attack, source, target, before, after in zip(*columns, strict=True):
            if attack == place and source == target:
                b, a, n = self.sums.get(str(source), (0.0, 0.0, 0))
                self.sums[str(source)] = b + float(before), a + float(after), n + 1
        if time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            batches = self.run.batches
            done = sum(len(batches[number]) for number in self.run.shards.numbers())
            means = {name: (b / n, a / n) for name, (b, a, n) in self.sums.items()}
            self.show(Progress(done, sum(map(len, batches)), means))
