"""`fastattack bench`: how quick the ops and attacks are here, beside plain PyTorch and the peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import device_name

if TYPE_CHECKING:
    from ..bench.result import Result

_OPTION = typer.Option


def bench(
    suite: Annotated[str, _OPTION(help="ops, attacks, layers (drop-in), growth (of cost with size) or all")] = "all",
    device: Annotated[str, _OPTION(help="cpu or cuda; auto is the GPU where there is one")] = "cpu",
    quick: Annotated[bool, _OPTION("--quick", help="some minutes: all works; its times say little")] = False,
    out: Annotated[Path | None, _OPTION(help="folder for bench.json, table.txt, figures and report.html")] = None,
    compare: Annotated[
        Path | None, _OPTION(help="bench.json of an earlier run, or its folder: what changed beyond the noise")
    ] = None,
    only: Annotated[list[str] | None, _OPTION(help="parts of the names of cases, such as pgd_step; repeatable")] = None,
    dtype: Annotated[
        list[str] | None, _OPTION(help="float32, bfloat16 or float16 for the ops; repeatable; default: all three")
    ] = None,
    shape: Annotated[
        list[str] | None, _OPTION(help="BxCxHxW of the ops' images; repeatable; default: 1x1x64x64 to 64x3x512x512")
    ] = None,
    threads: Annotated[int | None, _OPTION(help="default: those that torch takes; 1 is timed by its own clock")] = None,
    rounds: Annotated[int | None, _OPTION(help="of A B A B; default 11, quick 3")] = None,
    compile: Annotated[
        bool | None,
        _OPTION(
            "--compile/--no-compile",
            help="time torch.compile too (10 s and more for each way); unless quick",
        ),
    ] = None,
    shared: Annotated[
        Path | None, _OPTION(help="folder with published weights and data; default: random ones that cost the same")
    ] = None,
    figures: Annotated[bool, _OPTION("--figures/--no-figures", help="draw figures and write report.html")] = True,
    overwrite: Annotated[bool, _OPTION("--overwrite", help="replace an earlier run in --out")] = False,
) -> None:
    """Time ops and attacks beside plain PyTorch and the peers, interleaved. What gives a wrong result has no time.

    Exit code 1 where a way of ours is wrong or raises. For times to trust, leave the machine alone meanwhile.
    """
    from ..bench import folder, table
    from ..bench import suite as suites
    from ..bench.compare import compare as compared
    from ..bench.compared import print_comparison
    from ..bench.ops import DTYPES

    where = device_name(device)
    settings = suites.Settings(
        suite=suite, device=where, quick=quick, only=tuple(only or ()), dtypes=tuple(dtype or DTYPES),
        shapes=tuple(map(shape_of, shape or ())), threads=threads, rounds=rounds,
        compile=not quick if compile is None else compile, shared=shared,
    )  # fmt: skip
    old = None if compare is None else folder.result_of(compare)
    console = table.stdout()
    lacking = folder.check(out, figures=figures, overwrite=overwrite)
    if lacking is not None:
        console.print(lacking)
    found = suites.run(
        settings,
        on_ceilings=lambda ceilings: table.print_ceilings(console, ceilings),
        on_row=lambda row: table.print_row(console, row),
    )
    try:
        table.print_end(console, found)
    finally:  # also after a second Ctrl-C, or where nobody reads the table any more
        if out is not None:
            folder.write(out, found, figures=figures, overwrite=overwrite)
    if old is not None:
        print_comparison(console, compared(old, found))
    end(found)


def shape_of(text: str) -> tuple[int, ...]:
    """ "4x3x64x64" as numbers."""
    try:
        return tuple(int(part) for part in text.split("x"))
    except ValueError:
        raise ValueError(f"shape: wanted BxCxHxW such as 4x3x64x64, got {text!r}") from None


def end(found: Result) -> None:
    """What the run says to the shell."""
    if "interrupted" in found.errors:
        raise KeyboardInterrupt
    if not found.rows and not found.extra:
        raise ValueError("; ".join(found.errors) or "nothing was measured")
    if found.wrong or found.errors:
        raise typer.Exit(1)
