"""The tables of docs/results/miga.md, from the rows of miga.json alone."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]
QUALITY = ("output_psnr", "output_ms_ssim", "input_psnr", "input_ms_ssim", "clean_psnr")
HEAD = ("output PSNR", "output MS-SSIM", "input PSNR", "input MS-SSIM", "PSNR to clean")
NAMES = {"denoising-PGD": "denoising-PGD, noise kept", "PGD": "denoising-PGD, free"}


def markdown(results: dict[str, Any]) -> str:
    """Everything below the heading "Tables"."""
    parts = [networks(results["networks"])]
    makers = {
        "main": main, "ablation": ablation, "trade_off": trade_off, "transfer": transfer, "unaware": unaware,
        "aware": aware, "natural": natural,
    }  # fmt: skip
    parts += [make(results[name]) for name, make in makers.items() if results.get(name)]
    return "\n\n".join(parts) + "\n"


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f"### {title}", "", _line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


def share(triple: list[float | None]) -> str:
    """A share in percent with its interval."""
    mean, low, high = triple
    return "" if None in triple else f"{percent(mean)} ({percent(low)}-{percent(high)})"


def quality(means: dict[str, Any]) -> list[str]:
    return [number(means[name][0], 3 if "ssim" in name else 2) for name in QUALITY]


def attack(plan: dict[str, Any]) -> str:
    return NAMES.get(plan["attack"], plan["attack"])


def networks(found: dict[str, Any]) -> str:
    rows = [[name, "", percent(value), "", ""] for name, value in found["classifiers"].items()]
    for name, row in found["denoisers"].items():
        cells = [f"{percent(row['accuracy_noisy'][k])} -> {percent(row['accuracy'][k])}" for k in found["classifiers"]]
        rows.append([name, f"{row['psnr_noisy']:.2f} -> {row['psnr']:.2f}", "", *cells])
    head = [
        "network",
        "PSNR, noisy -> denoised",
        "accuracy, clean",
        *(f"{k}, noisy -> denoised" for k in ("cnn", "mlp")),
    ]
    return table("The networks on the 360 test digits", head, rows)


def _changed(row: dict[str, Any]) -> list[str]:
    return [number(row["changed"]["output_psnr"]), number(row["changed"]["output_ms_ssim"], 3)]


def main(rows: Rows) -> str:
    head = ["denoiser", "eps", "attack", "cnn, %", "mlp, %", *HEAD, "output PSNR, changed", "MS-SSIM, changed", "CPU s"]
    found, seen = [], set()
    for row in rows:
        plan, means = row["plan"], row["means"]
        place = (plan["denoiser"], plan["eps"])
        if place not in seen:
            seen.add(place)
            found.append([plan["denoiser"], number(plan["eps"], 0), "none", *_before(means), *[""] * 8])
        cells = [share(means["after_cnn"]), share(means["after_mlp"]), *quality(means)]
        found.append(["", "", attack(plan), *cells, *_changed(row), number(row["seconds"], 0)])
    return table("Accuracy after denoising, and how clean input and output stay", head, found)


def _before(means: dict[str, Any]) -> list[str]:
    return [share(means["before_cnn"]), share(means["before_mlp"])]


def ablation(rows: Rows) -> str:
    head = ["losses", "lambda mi, rec, com", "cnn, %", "mlp, %", *HEAD]
    found = []
    for row in rows:
        weights = ", ".join(f"{w:g}" for w in row["lambdas"])
        means = row["means"]
        found.append([row["name"], weights, share(means["after_cnn"]), share(means["after_mlp"]), *quality(means)])
    return table(f"Ablation ({_where(rows[0])})", head, found)


def trade_off(rows: Rows) -> str:
    head = ["attack", "eps", "lambda rec", "cnn, %", "mlp, %", *HEAD, "output PSNR, changed", "MS-SSIM, changed"]
    found = []
    for row in rows:
        plan, means = row["plan"], row["means"]
        rec = f"{row['lambdas'][1]:g}" if row["lambdas"] else ""
        cells = [share(means["after_cnn"]), share(means["after_mlp"]), *quality(means), *_changed(row)]
        found.append([attack(plan), number(plan["eps"], 0), rec, *cells])
    return table(f"Trade-off ({rows[0]['plan']['denoiser']}, classifier cnn)", head, found)


def transfer(rows: Rows) -> str:
    """Crafted on (down), scored on (across)."""
    across = list(dict.fromkeys(row["scored"] for row in rows))
    head = ["attack", "crafted on", *(f"{name}, {task}" for name in across for task in ("cnn", "mlp"))]
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        plan = row["plan"]
        told = plan["denoiser"] + (f", {plan['task']}" if plan["attack"] != "MIGA-surrogate" else "")
        cells = found.setdefault((plan["attack"], told), [])
        cells += [share(row["means"]["after_cnn"]), share(row["means"]["after_mlp"])]
    return table(
        "Transfer: accuracy in % on other denoisers and classifiers", head, [[*k, *v] for k, v in found.items()]
    )


def unaware(rows: Rows) -> str:
    head = [
        "defence",
        "attack",
        "cnn before, %",
        "cnn after, %",
        "mlp before, %",
        "mlp after, %",
        "output PSNR",
        "MS-SSIM",
    ]
    found = []
    for row in sorted(rows, key=lambda r: [r["defence"] != "", r["defence"]]):
        means = row["means"]
        shares = [share(means[f"{when}_{task}"]) for task in ("cnn", "mlp") for when in ("before", "after")]
        look = [number(means["output_psnr"][0]), number(means["output_ms_ssim"][0], 3)]
        found.append([row["defence"] or "none", attack(row["plan"]), *shares, *look])
    return table(f"Defences that the attack does not know of ({rows[0]['plan']['denoiser']})", head, found)


def aware(rows: Rows) -> str:
    head = ["denoiser", "defence", "attack", "cnn before, %", "cnn after, %", "mlp after, %", *HEAD]
    found = []
    for row in rows:
        plan, means = row["plan"], row["means"]
        shares = [share(means["before_cnn"]), share(means["after_cnn"]), share(means["after_mlp"])]
        found.append([plan["denoiser"], row["defence"] or "none", attack(plan), *shares, *quality(means)])
    return table("Defences that the attack climbs through, and denoisers of TS training", head, found)


def natural(rows: Rows) -> str:
    head = [
        "denoiser, images",
        "eps",
        "attack",
        "similarity",
        "of the encoder seen",
        "own image nearest before, %",
        "after, %",
        *HEAD[:4],
        "CPU s",
    ]
    found = []
    for row in rows:
        means = row["means"]
        look = [number(means[name][0], 3 if "ssim" in name else 2) for name in QUALITY[:4]]
        cells = [number(means[k][0], 3) for k in ("similarity", "similarity_seen")]
        cells += [percent(means["own_before"][0]), percent(means["own"][0])]
        told = [f"{row['scene']} ({row['images']})", number(row["eps"], 0), NAMES.get(row["attack"], row["attack"])]
        found.append([*told, *cells, *look, number(row["seconds"], 0)])
    return table("Photographs, an unknown task: an encoder that no attack saw", head, found)


def _where(row: dict[str, Any]) -> str:
    plan = row["plan"]
    return f"{plan['denoiser']}, classifier {plan['task']}, eps {plan['eps']:g}"
