"""The rows as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastattack.evaluate.bootstrap import Bootstrap

Row = dict[str, Any]
Words = Callable[[float], str]


def markdown(results: dict[str, Any]) -> str:
    """Everything that is there."""
    parts = []
    for name, (title, words) in SECTIONS.items():
        if name in results:
            parts.append(f"### {title}\n\n{section(results[name], words)}")
    return "\n".join(parts)


def section(rows: dict[str, Row], words: Words) -> str:
    lines = [
        "| defence | images | clean | blind | adaptive | strongest attack | ms an image |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if "clean" not in row:
            continue
        found = {kind: worst(row[kind]) for kind in ("blind", "adaptive") if row[kind]}
        label = f"{name}, t* {row['t_star']} (sigma {row['sigma']:.1f})" if "t_star" in row else name
        told = [cell(row[kind][name], words) for kind, name in found.items()] + [""] * (2 - len(found))
        cells = [label, str(row["count"]), cell(row["clean"], words), *told, found.get("adaptive", ""),
                 f"{row['milliseconds']:{'.0f' if row['milliseconds'] >= 10 else '.2g'}}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    if "purifier" in rows:
        text += f"\nAdaptive attacks on the purified model, each alone:\n\n{ways(rows['purifier'], words)}"
    return text + (f"\n{selection(rows['levels'], words)}" if "levels" in rows else "")


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


def cell(values: list[float], words: Words) -> str:
    found = Bootstrap().means({"m": np.array(values)})["m"]
    return f"{words(float(found.value))} ({words(float(found.low))} .. {words(float(found.high))})"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def fraction(value: float) -> str:
    return f"{value:.3f}"


def decibel(value: float) -> str:
    return f"{value:.2f}"


SECTIONS: dict[str, tuple[str, Words]] = {
    "digits": ("Classification: right answers", percent),
    "segmentation": ("Segmentation: mean IoU", fraction),
    "denoising": ("Denoising: PSNR in dB", decibel),
}
