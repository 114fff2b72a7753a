"""The figures of docs/results/purification.md: `python scripts/purification_results.py`.

Three tasks (digits, segmentation, denoising) clean, under blind and under adaptive attacks, behind a purifier and
behind what it has to beat. Every row is written to the JSON file as soon as it is made, and made again only where its
settings or the purifier's weights have changed, so an interrupted run goes on. The tables go below the heading
"## Tables" of the Markdown file, whose text above stays. One thread. Denoising and segmentation want ../shared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from miga_results import put_tables
from purification import denoising, digits, segmentation, tables
from purification.bench import Effort
from purification.store import Store

import fastattack as fa
from fastattack.bench.machine import describe
from fastattack.files import write_atomic

STEPS = 2  # of the reverse process
COUNTS = {"digits": 40, "segmentation": 12, "denoising": 6}


def run(
    path: Path, *, sections: list[str], counts: dict[str, int], effort: Effort, weights: str | None,
    folder: Path, **options: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Make what the file lacks; all results. ``options``: of a section's rows, by its name."""
    purifier = None if weights is None else fa.Purifier(weights, t_star=40, steps=STEPS, surrogate_steps=1)
    makers = {"digits": digits.rows, "segmentation": segmentation.rows, "denoising": denoising.rows}
    for name in sections:
        more = options.get(name, {}) | ({} if name == "digits" else {"folder": folder})
        settings = {"count": counts[name], **vars(effort)}
        store = Store(path, name, settings, weights or "")
        for row in makers[name](purifier, counts[name], effort, store, **more):
            print(f"{name}, {row}: {store.rows[row].get('cpu_seconds', '')}", flush=True)
    results: dict[str, Any] = json.loads(path.read_text()) | {"machine": describe("cpu")}
    write_atomic(path, (json.dumps(results, indent=1) + "\n").encode())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COUNTS, default=list(COUNTS), metavar="SECTION")
    for name, count in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N", help="images of this section")
    parser.add_argument("--through", type=int, default=Effort.through, help="gradients of an attack through a purifier")
    parser.add_argument("--averaged", type=int, default=Effort.averaged, help="of one with EOT")
    parser.add_argument("--simple", action="store_true", help="leave the rows with a purifier as they are")
    parser.add_argument("--weights", default="embedded", help="of the purifier's model, or a file")
    parser.add_argument("--folder", type=Path, default=Path("out/purification"), help="where trained networks are kept")
    parser.add_argument("--json", type=Path, default=Path("docs/results/purification.json"))
    parser.add_argument("--markdown", type=Path, default=Path("docs/results/purification.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = run(
        options.json, sections=options.only, counts={name: getattr(options, name) for name in COUNTS},
        effort=Effort(through=options.through, averaged=options.averaged),
        weights=None if options.simple else options.weights, folder=options.folder,
    )  # fmt: skip
    put_tables(options.markdown, tables.markdown(results))


if __name__ == "__main__":
    main()
