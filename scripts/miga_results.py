"""The figures of docs/results/miga.md: `python scripts/miga_results.py --markdown docs/results/miga.md`.

Wants the networks of scripts/miga_networks.py. Attacks the digits (main comparison, ablation, trade-off, transfer,
defences) and, where ../shared is, crops of photographs; writes every row to the JSON file and puts the tables below
the heading "## Tables" of the Markdown file, whose text above it stays. Each attack is kept in --out, so that an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from miga import experiments, natural, tables
from miga.craft import Bench
from miga.data import load_digits
from miga.experiments import KINDS
from miga.measure import Row, row

from fastattack.bench.machine import describe
from fastattack.files import write_atomic

HEADING = "## Tables\n"


def rows_of(bench: Bench) -> dict[str, Callable[[], list[Row]]]:
    """How the rows of each table are made."""
    return {
        "main": lambda: [row(bench, plan) for plan in experiments.main_plans()],
        "ablation": lambda: [{"name": name, **row(bench, plan)} for name, plan in experiments.ablation().items()],
        "trade_off": lambda: [row(bench, plan) for plan in experiments.trade_off()],
        "transfer": lambda: [
            row(bench, plan, denoiser=f"{kind}-25-plain") for plan in experiments.transfer() for kind in KINDS
        ],
        "unaware": lambda: [row(bench, plan, defence=name) for plan, name in experiments.unaware()],
        "aware": lambda: [row(bench, plan, defence=name) for plan, name in experiments.aware()],
    }


def put_tables(path: Path, text: str) -> None:
    """Replace what is below the heading; the text above stays."""
    above = path.read_text().partition(HEADING)[0] if path.is_file() else "# MIGA on real data\n\n"
    write_atomic(path, f"{above}{HEADING}\n{text}".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, default=Path("out/miga_networks"))
    parser.add_argument("--out", type=Path, default=Path("out/miga_results"), help="where attacked digits are kept")
    parser.add_argument("--count", type=int, default=100, help="test digits")
    parser.add_argument("--eps", type=float, nargs="+", default=[8.0], help="of the photographs, 0-255 scale")
    parser.add_argument("--json", type=Path, default=Path("docs/results/miga.json"))
    parser.add_argument("--markdown", type=Path, help="put the tables there; default: print them")
    parser.add_argument("--only", nargs="+", metavar="TABLE", help="main, ablation, ...: the others stay as they are")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(load_digits(), options.networks, options.out, count=options.count)
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.only and options.json.is_file() else {}
    results |= {
        "machine": describe("cpu"),
        "networks": json.loads((options.networks / "networks.json").read_text()),
    }
    makers = rows_of(bench)
    if natural.available():
        makers["natural"] = lambda: natural.rows(options.networks, options.out, radii=options.eps, steps=20)
    for name, make in makers.items():
        if not options.only or name in options.only:
            results[name] = make()
            print(f"{name}: {len(results[name])} rows", flush=True)
    write_atomic(options.json, (json.dumps(results, indent=1) + "\n").encode())
    text = tables.markdown(results)
    if options.markdown:
        put_tables(options.markdown, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
