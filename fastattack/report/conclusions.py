"""What the numbers of an evaluation say, in plain words. Everything is of the largest eps."""

from __future__ import annotations

from typing import Any

from .defended import defended_findings, defended_warnings
from .study import NBSP, Estimate, Results, confidence, eps_label, estimate, failure, largest, number, own


def conclude(results: Results) -> list[str]:
    """Sentences, the most important first; only what the numbers support."""
    matrix = largest(results)
    if matrix is None:
        return ["Nothing was measured."]
    rows = [row for row in results["statistics"] if float(row["eps"]) == float(matrix["eps"])]
    found = [
        *_robustness(results, matrix),
        *defended_findings(results, float(matrix["eps"])),
        *_transfer(matrix),
        *_resistant(matrix),
        *_shared(results, matrix),
        *_typicality(rows),
        *_spectrum(rows),
        *_gain(rows),
    ]
    return found or ["No model gave a number."]


def _robustness(results: Results, matrix: dict[str, Any]) -> list[str]:
    drops = {name: drop for name in matrix["sources"] if (drop := own(matrix, "drop", name)) is not None}
    if not drops:
        return []
    at = f"At ε = {eps_label(matrix['eps'])}"
    best, worst = min(drops, key=lambda n: drops[n].mean), max(drops, key=lambda n: drops[n].mean)
    if best == worst:
        return [f"{at} the attack costs {best} {_db(drops[best])}{_from_to(matrix, best)}."]
    apart = "overlap" if drops[best].overlaps(drops[worst]) else "are apart"
    left = {name: after for name in drops if (after := own(matrix, "psnr_after", name)) is not None}
    top = max(left, key=lambda n: left[n].mean, default=best)  # who starts lower has less to lose
    most = "" if top == best else f" Most is left of {top}, {_db(left[top])}."
    return [
        f"{at}, each model under the attack crafted on itself: {best} loses least, {_db(drops[best])}"
        f"{_from_to(matrix, best)}; {worst} loses most, {_db(drops[worst])}{_from_to(matrix, worst)}. "
        f"Their {confidence(results)} intervals {apart}.{most}"
    ]


def _from_to(matrix: dict[str, Any], name: str) -> str:
    before = estimate(matrix["psnr_before"], matrix["targets"].index(name))
    after = own(matrix, "psnr_after", name)
    return "" if before is None or after is None else f" ({number(before.mean, 2)} → {_db(after)})"


def _db(value: Estimate) -> str:
    return f"{number(value.mean, 2)}{NBSP}dB"


def _foreign(matrix: dict[str, Any], key: str, names: list[str]) -> dict[tuple[str, str], float]:
    """(source, target) -> mean, off the diagonal."""
    return {
        (source, target): value.mean
        for i, source in enumerate(matrix["sources"])
        for j, target in enumerate(names)
        if source != target and (value := estimate(matrix[key], i, j)) is not None
    }


def _transfer(matrix: dict[str, Any]) -> list[str]:
    shares = _foreign(matrix, "normalised", matrix["targets"])
    if not shares:
        return []
    mean = sum(shares.values()) / len(shares)
    text = f"An attack costs another model {_percent(mean)} of what that model's own attack costs it, on average"
    if len(shares) > 1:
        low, high = min(shares, key=lambda k: shares[k]), max(shares, key=lambda k: shares[k])
        text += (
            f": from {_percent(shares[low])} ({low[0]} → {low[1]}) to {_percent(shares[high])} ({high[0]} → {high[1]})"
        )
    return [text + "."]


def _resistant(matrix: dict[str, Any]) -> list[str]:
    drops = _foreign(matrix, "drop", matrix["targets"])
    costs: dict[str, float] = {}
    for target in matrix["targets"]:
        here = [drop for (_, name), drop in drops.items() if name == target]
        if here:
            costs[target] = sum(here) / len(here)
    if len(costs) < 2:
        return []
    best, worst = min(costs, key=lambda n: costs[n]), max(costs, key=lambda n: costs[n])
    return [
        f"Under attacks crafted on other models {best} loses least, {number(costs[best], 2)}{NBSP}dB on average, and "
        f"{worst} most, {number(costs[worst], 2)}{NBSP}dB."
    ]


def _shared(results: Results, matrix: dict[str, Any]) -> list[str]:
    rates = _foreign(matrix, "shared", matrix["sources"])
    if not rates:
        return []
    mean = sum(rates.values()) / len(rates)
    limit = f"{float(results['config']['shared_db']):g}{NBSP}dB"
    return [
        f"Two models share an adversarial sample (at least {limit} lost on both) on {_percent(mean)} of the images."
    ]


def _typicality(rows: list[dict[str, Any]]) -> list[str]:
    gaps = {row["source"]: (v.mean, 2 * row["spread"]) for row in rows if (v := estimate(row["typicality_after"]))}
    if not gaps:
        return []
    outside = [name for name, (gap, shell) in gaps.items() if abs(gap) > shell]
    name = max(gaps, key=lambda n: abs(gaps[n][0]))
    extreme = f"{number(gaps[name][0], 4)} nats per pixel against ±{number(gaps[name][1], 4)}"
    if not outside:
        return [f"The attacked noise stays within the typical shell for every source (at most {extreme}, {name})."]
    return [
        f"The attacked noise leaves the typical shell for {len(outside)} of {len(gaps)} sources; furthest for {name}: "
        f"{extreme}."
    ]


def _spectrum(rows: list[dict[str, Any]]) -> list[str]:
    spectra = [row["spectrum"] for row in rows if row["spectrum"] and None not in row["spectrum"]]
    if not spectra:
        return []
    low, high = (sum(spectrum[k] for spectrum in spectra) / len(spectra) for k in (0, -1))
    kind = "low-frequency" if low > 2 * high else "high-frequency" if high > 2 * low else "spread over the frequencies"
    return [
        f"The perturbations are {kind}: {low:.3g} times the power of white noise in the lowest radial band, {high:.3g} "
        "times in the highest."
    ]


def _gain(rows: list[dict[str, Any]]) -> list[str]:
    gains = [value.mean for row in rows if (value := estimate(row["gain"])) is not None]
    if not gains:
        return []
    span = number(gains[0], 2) if len(gains) == 1 else f"{number(min(gains), 2)} to {number(max(gains), 2)}"
    return [f"Of the perturbation, {span} times its norm comes out of the denoiser."]


def _percent(share: float) -> str:
    return f"{number(100 * share, 0)}{NBSP}%"


def warnings(results: Results) -> list[str]:
    """What is missing from the results."""
    broken = [name for name in results["models"] if failure(results, name)]
    texts = (
        [] if results["summary"]["complete"] else ["This run is not complete: the numbers are of a part of the images."]
    )
    if broken:
        texts.append(f"{len(broken)} of {len(results['models'])} models failed: {', '.join(broken)}.")
    if skipped := results["skipped"]:
        texts.append(f"{len(skipped)} image{'s were' if len(skipped) > 1 else ' was'} skipped as broken.")
    return texts + defended_warnings(results)
