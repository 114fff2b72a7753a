"""The rows as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastattack.evaluate.bootstrap import Bootstrap

Row = dict[str, Any]
Words = Callable[..., str]


def markdown(results: dict[str, Any]) -> str:
    """Everything that is there."""
    parts = []
    for name, (title, words) in SECTIONS.items():
        if name in results:
            parts.append(f"### {title}\n\n{section(results[name], words)}")
    return "\n".join(parts)


def section(rows: dict[str, Row], words: Words) -> str:
    """One line a row. Gains are over the same network without a defence, image by image."""
    heads = ("defence", "images", "clean", "blind", "adaptive", "gain blind", "gain adaptive", "strongest", "ms")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, row in rows.items():
        if "clean" not in row:
            continue
        found = {kind: row[kind][worst(row[kind])] for kind in ("blind", "adaptive") if row[kind]}
        told = [cell(scores, words) for scores in found.values()] + [""] * (2 - len(found))
        before = rows.get(f"{network(name)}no defence")
        gains = ["", ""]
        if before is not None and before is not row:
            bare = before["blind"][worst(before["blind"])]
            gains = [cell([a - b for a, b in zip(v, bare, strict=False)], words, "+") for v in found.values()]
        label = f"{name}, t* {row['t_star']} (sigma {row['sigma']:.1f})" if "t_star" in row else name
        cost, strongest = row["milliseconds"], worst(row["adaptive"]) if row["adaptive"] else ""
        gains += [""] * (2 - len(gains))
        cells = [label, str(row["count"]), cell(row["clean"], words), *told, *gains, strongest]
        cells.append(f"{cost:{'.0f' if cost >= 10 else '.2g'}}")
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    for name, row in rows.items():
        if name.endswith("purifier") and row["adaptive"]:
            text += f"\nAttacks on {network(name)}purifier, each alone:\n\n{ways(row, words)}"
    if any(len(row.get("blind", ())) > 1 for row in rows.values()):
        text += f"\nMeans of each attack by itself, blind / adaptive:\n\n{each(rows, words)}"
    return text + (f"\n{selection(rows['levels'], words)}" if "levels" in rows else "")


def each(rows: dict[str, Row], words: Words) -> str:
    """Blind, and by the strongest way in which an attack of that name was made through the defence."""
    names = next(list(row["blind"]) for row in rows.values() if "blind" in row)
    lines = [f"| defence | {' | '.join(names)} |", f"|{' --- |' * (1 + len(names))}"]
    for label, row in rows.items():
        if "blind" in row:
            cells = []
            for name in names:
                through = [np.mean(v) for way, v in row["adaptive"].items() if way.partition(",")[0] == name]
                cells.append(f"{words(np.mean(row['blind'][name]))} / {words(min(through))}" if through else "")
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def network(name: str) -> str:
    """What stands before the last comma of a row's name, with it."""
    head, comma, _ = name.rpartition(", ")
    return head + comma


def worst(scores: dict[str, list[float]]) -> str:
    """The attack with the least mean."""
    return min(scores, key=lambda name: sum(scores[name]))


def ways(row: Row, words: Words) -> str:
    found = row["adaptive"]
    heads = f"| {' | '.join(found)} |\n|{' --- |' * len(found)}\n"
    return f"{heads}| {' | '.join(words(float(np.mean(v))) for v in found.values())} |\n"


def selection(row: Row, words: Words) -> str:
    """The table of `select_noise_level` and what the task makes of each level."""
    heads = [f"{a}: distance" for a in row["attacks"]] + [f"{n}: score" for n in ("clean", *row["attacks"])]
    lines = [f"| t* | sigma | {' | '.join(heads)} |", f"|{' --- |' * (2 + len(heads))}"]
    none = [f"{v:.3g}" for v in row["unpurified"]] + [words(v) for v in row["unpurified_scores"].values()]
    lines.append(f"| none | | {' | '.join(none)} |")
    for k, (level, sigma) in enumerate(zip(row["levels"], row["sigmas"], strict=True)):
        far = [f"{d[k]:.3g} ± {e[k]:.2g}" for d, e in zip(row["distances"], row["errors"], strict=True)]
        far = [f"**{c}**" if row["best"][a] == level else c for c, a in zip(far, row["attacks"], strict=True)]
        told = [words(v) for v in row["scores"][str(level)].values()]
        lines.append(f"| {level} | {sigma:.1f} | {' | '.join(far + told)} |")
    head = (
        f"Levels by UAD-RS: {row['count']} other images, {row['features']} features, shrinkage 0.1; the least distance "
        f"of each attack in bold. Chosen on {row['known']} alone: t* = {row['chosen']}. Attacks are blind.\n\n"
    )
    return head + "\n".join(lines) + "\n"


def cell(values: list[float], words: Words, sign: str = "") -> str:
    """The mean and its interval."""
    found = Bootstrap().means({"m": np.array(values)})["m"]
    mean, low, high = (words(float(v), sign) for v in (found.value, found.low, found.high))
    return f"{mean} ({low} .. {high})"


def percent(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.0f} %"


def fraction(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}"


def decibel(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}"


SECTIONS: dict[str, tuple[str, Words]] = {
    "digits": ("Classification: right answers", percent),
    "segmentation": ("Segmentation: mean IoU", fraction),
    "denoising": ("Denoising: PSNR in dB", decibel),
}
