"""`fastattack attack --task registration`: what an attack on one image of a pair, or both, does to the field."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .attacking import deliver, packaged_images, with_bar
from .common import device_of, versions

if TYPE_CHECKING:
    from ..job_attack_registration import PairResult
    from ..registration.cases import Case

REGISTRATION = "registration"
OPTIONS = ("moving", "fixed", "labels_moving", "labels_fixed", "side", "objective", "language")
"""Those of the command that are for this task alone."""
_TITLES = {
    "field_error": ("field error, {unit}", ".3f"), "tre": ("landmarks off, {unit}", ".3f"), "dice": ("Dice", ".4f"),
    "folded": ("folded, %", ".3f"), "least_determinant": ("least det.", ".3f"),
}  # fmt: skip


def attack_on_registration(
    model: str,
    weights: Path | None,
    data: list[Path] | None,
    common: dict[str, Any],
    own: dict[str, Any],
    *,
    out: Path | None,
    overwrite: bool,
) -> None:
    """``common``: options of every attack, sigma None where none was given; ``own``: those of OPTIONS that were."""
    from ..job_attack_registration import RegistrationConfig, check_gradient, check_objective, run_registration
    from ..registration.opening import open_registration

    if weights is not None:
        raise ValueError(f"weights: wanted none with task registration (the model names its file), got {weights}")
    language = own.pop("language", None)
    files = {name: own.pop(name, None) for name in ("moving", "fixed", "labels_moving", "labels_fixed")}
    config = RegistrationConfig(**common, **own)
    folder = None
    if out is not None:
        from ..report.attacked_registration import AttackedRegistrationFolder

        folder = AttackedRegistrationFolder(out, overwrite=overwrite)
    cases = _cases(files, data, config.seed)
    dims = cases[0].pair.dim() - 1
    opened = open_registration(model, dims=dims, language=language, device=device_of(config.device))
    check_gradient(opened, config)
    check_objective(config, cases)
    parts = vars(cases[0].truth)
    known = [name for name in ("field", "landmarks", "labels_fixed") if parts[name] is not None]
    unit = cases[0].unit
    described = {
        "task": REGISTRATION, "model": model, "model_sha256": opened.sha256,
        "language": None if language is None else str(language),
        **{name: None if path is None else str(path) for name, path in files.items()},
        "data": _said(files, data), "unit": unit,
        "truth": known or "the model's own field", **asdict(config), **versions(),
    }  # fmt: skip
    assert config.steps is not None
    total = len(cases) * config.steps * config.restarts
    results = with_bar(lambda watch: run_registration(opened.model, cases, config, watch), total, _loss)
    deliver(results, folder, described, lambda found: _show(found, bool(known), unit), out)


def _said(files: dict[str, Path | None], data: list[Path] | None) -> str | list[str]:
    if files["moving"] is not None:
        return "two images"
    return [str(path) for path in data] if data else "synthetic pairs of the packaged images"


def _cases(files: dict[str, Path | None], data: list[Path] | None, seed: int) -> list[Case]:
    """The two images, or synthetic pairs of the others."""
    from ..registration.cases import case_of_files, synthetic_cases

    moving, fixed = files["moving"], files["fixed"]
    if moving is not None and fixed is not None:
        if data:
            raise ValueError(f"data: wanted none beside moving and fixed, got {', '.join(map(str, data))}")
        return [case_of_files(moving, fixed, labels_moving=files["labels_moving"], labels_fixed=files["labels_fixed"])]
    for name, path in files.items():
        if path is not None:
            other = {"moving": "fixed", "fixed": "moving"}.get(name, "moving and fixed")
            raise ValueError(f"{other}: wanted a file beside {name.replace('_', '-')} ({path}), got none")
    with packaged_images() as packaged:
        return synthetic_cases(data or [packaged], seed=seed)


def _loss(loss: Any) -> str:
    return f"objective {loss.mean().item():.4g}"


def _show(results: list[PairResult], known: bool, unit: str) -> None:
    from ..job_attack_registration import summarise_registration

    rows = [result.row for result in results]
    summary = summarise_registration(rows)
    measures = [name for name in _TITLES if f"{name}_after" in rows[0]]
    title = "Field" if known else "Field beside the model's own"
    table = Table(title=f"{title}, before and after the attack, over {len(rows)} pair{'s' * (len(rows) != 1)}")
    table.add_column("pair")
    for name in measures:
        table.add_column(_TITLES[name][0].format(unit=unit), justify="right")
    for side in ("moving", "fixed"):
        table.add_column(f"{side}, linf x255", justify="right")
    for row in [*rows, {"name": "mean", **summary}]:
        cells = [f"{_figure(row, name, 'before')} -> {_figure(row, name, 'after')}" for name in measures]
        changes = [f"{255 * row[f'linf_{side}']:.3f}" for side in ("moving", "fixed")]
        table.add_row(escape(str(row["name"])), *cells, *changes)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    folds = [sum(row[f"folded_{when}"] > 0 for row in rows) for when in ("before", "after")]
    print(f"fields that fold somewhere: {folds[0]} before, {folds[1]} after the attack, of {len(rows)}")


def _figure(row: dict[str, Any], name: str, when: str) -> str:
    value = row[f"{name}_{when}"] * (100 if name == "folded" else 1)
    return "none" if value != value else f"{value:{_TITLES[name][1]}}"
