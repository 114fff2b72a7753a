"""`fastattack info`."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table


def info() -> None:
    """Versions, the backends that work here, and for the rest why not."""
    from ..info import describe

    table = Table("", "", show_header=False, box=None)
    for key, value in describe().items():
        table.add_row(key, value)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
