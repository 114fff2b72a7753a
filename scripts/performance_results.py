"""Writes the tables of docs/performance.md: `python scripts/performance_results.py RUN ... --name CPU`.

The text between the markers of docs/performance.md is replaced; the run itself goes to docs/results/bench-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fastattack.bench import view
from fastattack.bench.folder import result_of
from fastattack.bench.ops.trials import cases_of
from fastattack.bench.result import Measured, Result, Row
from fastattack.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- tables of scripts/performance_results.py: begin -->", "<!-- end -->"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def against(row: Row, way: Measured, side: str) -> str:
    times, best = row.times_of(side, way), row.best(side)
    return "-" if times is None or best is None else f"{times:.2f} ({best.name})"


def ops_table(rows: list[Row]) -> str:
    found = []
    for row in rows:
        ours = row.best("ours")
        if ours is None or row.bytes is None:
            continue
        rate = f"{row.bytes / ours.median / 1e9:.3g}"
        share = f"{row.share(ours):.2f}"
        name = row.case if row.layout == "contiguous" else f"{row.case}, {row.layout}"
        found.append(
            [name, view.shape(row), row.dtype, view.seconds(ours.median), rate, share, against(row, ours, "plain")]
        )
    return table(["case", "shape", "type", "ours", "GB/s", "of the ceiling", "best plain / ours"], found)


def attacks_table(rows: list[Row]) -> str:
    found = []
    for row in rows:
        for way in row.ways:
            if way.refused is not None:
                found.append([row.case, view.shape(row), way.name, way.side, way.refused.split(":")[0], "-", "-"])
                continue
            share = f"{row.share(way):.2f}"
            found.append(
                [
                    row.case,
                    view.shape(row),
                    way.name,
                    way.side,
                    view.seconds(way.median),
                    share,
                    against(row, way, "plain"),
                ]
            )
    return table(["case", "shape", "way", "side", "time", "passes / time", "best plain / this"], found)


def layers_table(rows: list[Row]) -> str:
    found = []
    for row in rows:
        ours, theirs = row.best("ours"), row.best("peer")
        for way in (one for one in row.ways if one.refused is not None):
            found.append([row.case, view.shape(row), way.name, way.refused or "", "-"])
        if ours is not None and theirs is not None:
            times = row.times_of("peer", ours)
            found.append(
                [row.case, view.shape(row), view.seconds(theirs.median), view.seconds(ours.median), f"{times:.2f}"]
            )
    return table(["class, network", "shape", "original", "ours", "original / ours"], found)


def growth_table(result: Result) -> str:
    rows = [
        [one["what"], ", ".join(f"{x:g}" for x in one["x"]), ", ".join(map(view.seconds, one["seconds"])),
         f"{one['exponent']:.2f} ({one['low']:.2f} .. {one['high']:.2f})"]
        for one in result.extra.get("growth", [])
    ]  # fmt: skip
    return table(["what", "sizes", "times", "exponent (95 %)"], rows)


def work_table() -> str:
    rows = [
        [case.label, f"{case.streams:g}", f"{4 * case.streams:g}", f"{2 * case.streams:g}", f"{case.operations:g}"]
        for case in cases_of((1, 3, 64, 64))
    ]
    return table(["case", "passes over a tensor", "bytes a pixel, float32", "16 bits", "operations a pixel"], rows)


def tables(result: Result, name: str) -> str:
    machine, settings = result.machine, result.settings
    about = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['instruction set']} kernels, torch {machine['versions']['torch']}, commit {machine['commit']}, "
        f"{settings['rounds']} rounds, clock {settings['clock']}, {result.seconds:.0f} s in all "
        f"([results/{name}](results/{name}))."
    )
    ceilings = table(["ceiling", "rate", ""], ([c.name, view.ceiling(c), c.detail] for c in result.ceilings))
    ops = [row for row in result.rows if row.suite == "ops"]
    attacks = [row for row in result.rows if row.suite == "attacks"]
    parts = ["### What must be done", work_table(), "### The run", about, ceilings]
    parts += ["### Ops", ops_table(ops)] if ops else []
    parts += ["### Attacks", attacks_table(attacks)] if attacks else []
    layers = [row for row in result.rows if row.suite == "layers"]
    parts += ["### Drop-in layers", layers_table(layers)] if layers else []
    parts += ["### Growth", growth_table(result)] if result.extra.get("growth") else []
    return "\n\n".join(parts)


def together(results: Sequence[Result]) -> Result:
    """Runs on one machine as one; the first one's settings and ceilings, the last one's row of each case."""
    first = results[0]
    if any(one.machine["cpu"] != first.machine["cpu"] for one in results):
        raise SystemExit("runs: wanted those of one machine")
    extra = {key: value for one in results for key, value in one.extra.items()}
    rows = {(r.suite, r.case, r.dtype, r.shape, r.layout): r for one in results for r in one.rows}
    return replace(first, rows=tuple(rows.values()), extra=extra, seconds=sum(one.seconds for one in results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `fastattack bench --out` on one machine")
    parser.add_argument("--name", required=True, help="of the machine, for the file's name")
    options = parser.parse_args()
    result = together([result_of(run) for run in options.runs])
    name = f"bench-{re.sub(r'[^a-z0-9]+', '-', options.name.lower()).strip('-')}.json"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest:
        raise SystemExit(f"{PAGE}: the marker {BEGIN!r} is not there")
    text = f"{before}{BEGIN}\n\n{tables(result, name)}\n\n{END}{after}"
    compact = json.dumps(json.loads(result.as_json()), separators=(",", ":")) + "\n"
    write_atomic(ROOT / "docs" / "results" / name, compact.encode())
    write_atomic(PAGE, text.encode())


if __name__ == "__main__":
    main()
