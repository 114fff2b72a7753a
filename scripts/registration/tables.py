"""The rows as Markdown."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattack.evaluate.bootstrap import Bootstrap

from .nets import NONE, PLAIN
from .rows import EPS, SIDES

Rows = dict[str, Any]


def markdown(results: dict[str, Rows]) -> str:
    """Everything that is there."""
    parts = {
        "As they are": ("clean", as_they_are), "Nets against plain blocks": ("clean", differences),
        "Under attack": ("attacks", under_attack), "Other objectives": ("attacks", others),
        "Without gradients": ("queries", queries), "Transfer": ("transfer", transfer_of),
        "One perturbation for all pairs": ("universal", for_all), "3D": ("volume", volume),
        "What warping costs": ("cost", cost),
    }  # fmt: skip
    told = [f"### {title}\n\n{make(results[key])}" for title, (key, make) in parts.items() if results.get(key)]
    return "\n".join(told)


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def span(found: list[float], digits: int = 2, times: float = 1, sign: str = "") -> str:
    """mean (low to high)."""
    mean, low, high = (f"{times * v:{sign}.{digits}f}" for v in found)
    return f"{mean} ({low} to {high})"


def mean(found: list[float], digits: int = 2, times: float = 1, sign: str = "") -> str:
    return f"{times * found[0]:{sign}.{digits}f}"


def as_they_are(rows: Rows) -> str:
    heads = [
        "model", "trained / all parameters", "CPU s of training", "TRE, mm", "field error, mm", "Dice", "folded, %",
        "least determinant", "ms a pair", "TRE, learnt slices", "TRE, other head", "TRE without tokens",
    ]  # fmt: skip
    lines = []
    for name, row in rows.items():
        held, took = row["held out"], row["took"]
        sizes = took.get("parameters")
        lines.append([
            name, f"{sizes['trainable'] / 1e6:.2f} / {sizes['total'] / 1e6:.2f} M" if sizes else "",
            f"{took['cpu_seconds']:.0f}" if sizes else "", span(held["tre"]), mean(held["field_error"]),
            span(held["dice"], 3), mean(held["folded"], 3, 100), mean(held["least_determinant"]), f"{held['ms']:.0f}",
            mean(row["learnt"]["tre"]) if "learnt" in row else "", span(row["other head"]["tre"]),
            mean(row["without tokens"]["tre"]) if "without tokens" in row else "",
        ])  # fmt: skip
    first = next(iter(rows.values()))
    note = ", ".join(f"{v['pairs']} {k}" for k, v in first.items() if isinstance(v, dict) and "pairs" in v)
    return f"Pairs: {note}.\n\n{table(heads, lines)}"


def differences(rows: Rows) -> str:
    """TRE less that of the plain blocks, pair by pair."""
    if PLAIN not in rows:
        return ""
    lines = []
    for name, row in rows.items():
        if name in (PLAIN, NONE):
            continue
        cells = []
        for key in ("held out", "other head"):
            apart = np.array(row[key]["each_tre"]) - np.array(rows[PLAIN][key]["each_tre"])
            found = Bootstrap().means({"m": apart})["m"]
            cells.append(span([float(v) for v in (found.value, found.low, found.high)], 3, sign="+"))
        lines.append([name, *cells])
    return table(["TRE less that of plain blocks, mm", "held out", "other head"], lines)


def models_of(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name.partition(": ")[0] for name in rows))


def under_attack(rows: Rows) -> str:
    """TRE, Dice and folds after PGD on the field error, TRE after random signs."""
    heads = ["model", "side"]
    for eps in EPS:
        heads += [f"TRE at {eps}", "random", "Dice", "folded, %"]
    lines = []
    for name in models_of(rows):
        for side in SIDES:
            cells = [name, side]
            for eps in EPS:
                hit, chance = (rows.get(f"{name}: {side}, {eps}, {kind}") for kind in ("PGD", "random signs"))
                cells += [span(hit["after"]["tre"])] if hit else [""]
                cells += [mean(chance["after"]["tre"])] if chance else [""]
                cells += [mean(hit["after"]["dice"], 3), mean(hit["after"]["folded"], 2, 100)] if hit else ["", ""]
            if any(cells[2:]):
                lines.append(cells)
    return table(heads, lines)


def others(rows: Rows) -> str:
    kinds = ("both, 4, PGD", "both, 4, PGD on TRE", "both, 8, PGD", "both, 8, PGD on folding", "moving, 4, PGD")
    kinds = (*kinds, "moving, 4, PGD, noise kept")
    heads = ["model", "attack", "TRE, mm", "field error, mm", "Dice", "folded, %", "least determinant"]
    lines = []
    for name in models_of(rows):
        for kind in kinds:
            row = rows.get(f"{name}: {kind}")
            if row and f"{name}: both, 4, PGD on TRE" in rows:
                after = row["after"]
                lines.append([
                    name, kind, span(after["tre"]), mean(after["field_error"]), mean(after["dice"], 3),
                    mean(after["folded"], 2, 100), mean(after["least_determinant"]),
                ])  # fmt: skip
    return table(heads, lines)


def queries(rows: Rows) -> str:
    heads = ["model", "pairs", "eps", "queries", "rise of TRE, mm", "rise of field error, mm", "CPU s"]
    lines = [
        [
            name, str(row["pairs"]), row["settings"]["eps"], str(row["queries"]), span(row["rise"]["tre"], sign="+"),
            span(row["rise"]["field_error"], sign="+"), f"{row['cpu_seconds']:.0f}",
        ]
        for name, row in rows.items()
    ]  # fmt: skip
    return table(heads, lines)


def transfer_of(rows: Rows) -> str:
    text = ""
    for row in sorted(rows.values(), key=lambda row: row["eps"]):
        rise, before = row["tre"]["rise"], row["tre"]["before"]
        lines = [["(clean TRE)", *(f"{v:.2f}" for v in before)]]
        for i, source in enumerate(row["sources"]):
            ends = zip(*(rise[k][i] for k in ("mean", "low", "high")), strict=True)
            lines.append([source, *(span(list(end), sign="+") for end in ends)])
        text += f"Rise of TRE in mm, both images, eps {row['eps']}/255, {row['pairs']} pairs.\n\n"
        text += table(["crafted on", *row["targets"]], lines) + "\n"
    return text


def for_all(rows: Rows) -> str:
    heads = ["model", "eps", "pairs", "TRE, universal", "rise", "TRE, random signs", "rise", "folded, %"]
    lines = []
    for name, row in rows.items():
        one, chance = row["universal"], row["random signs"]
        lines.append([
            name, str(row["eps"]), str(row["pairs"]), span(one["after"]["tre"]), span(one["rise"]["tre"], sign="+"),
            mean(chance["after"]["tre"]), span(chance["rise"]["tre"], sign="+"), mean(one["after"]["folded"], 2, 100),
        ])  # fmt: skip
    return table(heads, lines)


def volume(rows: Rows) -> str:
    heads = ["model", "pairs", "TRE, mm", "field error, mm", "Dice", "folded, %", "ms a pair", "CPU s of training"]
    lines = []
    for name, row in rows.items():
        held = row["held out"]
        lines.append([
            name, str(held["pairs"]), span(held["tre"]), mean(held["field_error"]), span(held["dice"], 3),
            mean(held["folded"], 3, 100), f"{held['ms']:.0f}", f"{row['took'].get('cpu_seconds', 0):.0f}",
        ])  # fmt: skip
    return table(heads, lines)


def cost(rows: Rows) -> str:
    heads = ["model", "step", "ms", "grid_sample, % of it", "all warps with what is around, ms", "warps"]
    lines = []
    for name, row in rows.items():
        for kind in ("training", "attack"):
            one = row[kind]
            share = f"{100 * one['grid_sample_share']:.1f}"
            lines.append([name, kind, f"{one['ms']:.0f}", share, f"{one['warps_ms']:.0f}", str(one["warps"])])
    return table(heads, lines)
