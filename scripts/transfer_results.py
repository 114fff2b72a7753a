"""The tables of docs/results/transfer.md from folders of `fastattack evaluate`.

    python scripts/transfer_results.py out/gray_kept out/gray_free ... --json docs/results/transfer.json > tables.md

Prints, for each folder, what each model has without an attack, the drop with its interval, the robustness similitude
and the share of common adversarial samples; the JSON file holds the matrices and statistics of all of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fastattack.files import write_atomic


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join([line(head), line(["---"] * len(head)), *(line(row) for row in rows)])


def cell(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def interval(estimate: dict[str, Any], i: int, j: int) -> str:
    mean, low, high = (estimate[end][i][j] for end in ("mean", "low", "high"))
    return "" if mean is None else f"{mean:.2f} ({low:.2f}-{high:.2f})"


def tables(matrix: dict[str, Any], statistics: list[dict[str, Any]]) -> str:
    sources, targets = matrix["sources"], matrix["targets"]
    before = [cell(value) for value in matrix["psnr_before"]["mean"]]
    drop = [[name, *(interval(matrix["drop"], i, j) for j in range(len(targets)))] for i, name in enumerate(sources)]
    parts = [
        "Without an attack, and lost (dB, 95 % interval over images); crafted on (down), restored by (across):",
        table(["", *targets], [["PSNR, dB", *before], *drop]),
    ]
    for name, told in (
        ("similitude", "Robustness similitude"),
        ("shared", f"Share of images on which the attack costs both models at least {matrix['shared_db']:g} dB"),
    ):
        across = targets[: len(matrix[name]["mean"][0])]
        rows = [[s, *(cell(v) for v in row)] for s, row in zip(sources, matrix[name]["mean"], strict=True)]
        parts += [f"{told}:", table(["", *across], rows)]
    names = ("typicality_before", "typicality_after", "correlation_noise", "correlation_error", "gain")
    rows = [
        [row["source"], *(cell(row[n]["mean"], 3) for n in names)] for row in statistics if row["eps"] == matrix["eps"]
    ]
    parts += ["The perturbations, means over images:", table(["", *(n.replace("_", " ") for n in names)], rows)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kept: dict[str, Any] = {}
    for folder in options.folders:
        results = json.loads((folder / "results.json").read_text())
        kept[folder.name] = {k: results[k] for k in ("config", "summary", "models", "matrices", "statistics")}
        for matrix in results["matrices"]:
            print(f"### {folder.name}: eps {matrix['eps'] * 255:g}/255, {matrix['images']} images\n")
            print(tables(matrix, results["statistics"]), end="\n\n")
    if options.json is not None:
        write_atomic(options.json, json.dumps(kept, indent=1).encode())


if __name__ == "__main__":
    main()
