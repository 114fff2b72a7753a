"""`fastattack compare`: two evaluations side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def compare(
    a: Annotated[Path, typer.Argument(help="folder of `fastattack evaluate`")],
    b: Annotated[Path, typer.Argument(help="another one, of the same images")],
    confidence: Annotated[float, typer.Option(help="of the intervals")] = 0.95,
    seed: Annotated[int, typer.Option(help="of the bootstrap and the permutations")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the comparison; must not be there")] = None,
) -> None:
    """What changed between two evaluations, and whether that is more than chance (paired over images)."""
    from ..evaluate.bootstrap import Bootstrap
    from ..evaluate.compare import compare as compared
    from ..files import write_atomic
    from ..report.folder import finite

    if out is not None and out.exists():
        raise FileExistsError(f"out: {out} is there already; name another file")
    found = compared(a, b, bootstrap=Bootstrap(confidence=confidence, seed=seed))
    if out is not None:
        write_atomic(out, json.dumps(finite(found.as_dict()), indent=2, allow_nan=False).encode())
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name, (mine, theirs) in found.config.items():
        console.print(f"{name}: {mine} | {theirs}", markup=False, highlight=False)
    columns = ("eps", "crafted on", "restored by", "images", "A dB", "B dB", "B - A", "interval", "p", "p (Holm)")
    table = Table(*columns, title=escape(f"PSNR after restoring: A = {a}, B = {b}"))
    for row in found.differences:
        table.add_row(
            "-" if row.eps is None else f"{row.eps * 255:.3g}/255", escape(row.source or "not attacked"),
            escape(row.target),
            str(row.images), f"{row.a:.2f}", f"{row.b:.2f}", f"{row.difference:+.3f}",
            f"{row.low:+.3f} .. {row.high:+.3f}", f"{row.p:.2g}",
            f"{row.p_holm:.2g}" + (" *" if row.p_holm < 1 - confidence else ""),
        )  # fmt: skip
    console.print(table)
    for name, only in (("A", found.only_a), ("B", found.only_b)):
        for words in only:
            console.print(f"only in {name}: {words}", markup=False, highlight=False)
