"""The folder of `fastattack bench`: bench.json, table.txt, and with the extra "evaluate" report.html and figures."""

from __future__ import annotations

from pathlib import Path

from ..extras import require
from ..files import write_atomic
from ..report.folder import OutputFolder
from .result import Result, read

RECORD = "bench.json"


class BenchFolder(OutputFolder):
    """As `OutputFolder`: whole or as it was before."""

    kind = "bench"
    record = RECORD
    files = frozenset({"report.html", "table.txt"})
    folders = frozenset({"figures"})
    endings = frozenset({".png", ".svg"})


def check(out: Path | None, *, figures: bool, overwrite: bool = False) -> str | None:
    """Before a run: what would keep its results from being written.

    Args:
        out: the folder, None where nothing is to be written.
        figures: whether report.html and the figures are wanted.

    Returns:
        What will not be written and which extra is missing, in words; None where all is there.

    Raises:
        FileExistsError: ``out`` holds something else, or an earlier run and ``overwrite`` is False.
        OSError: it cannot be written.
    """
    if out is None:
        return None
    folder = BenchFolder(out, overwrite=overwrite)
    with folder.named(), folder:
        pass  # made beside its place, and removed again
    return missing() if figures else None


def missing() -> str | None:
    """Why there can be no report.html and no figures here; None where there can."""
    try:
        for package in ("matplotlib.figure", "jinja2"):
            require(package, what="report.html and figures", extra="evaluate")
    except RuntimeError as error:
        return str(error)
    return None


def write(out: Path, result: Result, *, overwrite: bool = False, figures: bool = True) -> None:
    """Write bench.json, table.txt and, where `missing` finds nothing, figures/ and report.html.

    Raises:
        FileExistsError: as `check`.
        OSError: it cannot be written. What was in ``out`` is still there.
    """
    from .table import text

    with BenchFolder(out, overwrite=overwrite) as folder, folder.named():
        (folder.work / RECORD).write_text(result.as_json(), encoding="utf-8")
        (folder.work / "table.txt").write_text(text(result), encoding="utf-8")
        if figures and missing() is None:
            from .figures import write_figures
            from .page import page

            inline = write_figures(folder.work / "figures", result)
            write_atomic(folder.work / "report.html", page(result, inline).encode())
        folder.place()


def result_of(path: Path) -> Result:
    """Of a folder that `write` made, or of the JSON file in it.

    Raises:
        ValueError: it is not one; names the file and what is wrong in it.
        OSError: it cannot be read.
    """
    return read(path / RECORD if path.is_dir() else path)
