"""Long tables, a row for each measurement: columns of NumPy, as CSV and as Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from ..files import write_atomic

Table = dict[str, Any]
"""Column name -> one-dimensional NumPy array; all of one length."""


def table_of(columns: dict[str, list[Any]]) -> Table:
    """Lists become arrays: int64, float64 or str."""
    return {name: np.asarray(values) for name, values in columns.items()}


def joined(tables: Iterable[Table]) -> Table:
    """The rows of several tables, in order. A column that some of them lack is NaN there."""
    parts = [t for t in tables if t and len(next(iter(t.values())))]
    names = list(dict.fromkeys(name for part in parts for name in part))
    blank = [np.full(len(next(iter(part.values()))), np.nan) for part in parts]
    return {n: np.concatenate([p.get(n, empty) for p, empty in zip(parts, blank, strict=True)]) for n in names}


def rows_where(table: Table, **wanted: Any) -> Table:
    """The rows whose columns have these values."""
    keep = np.ones(len(next(iter(table.values()))) if table else 0, dtype=bool)
    for name, value in wanted.items():
        keep &= table[name] == value
    return {name: column[keep] for name, column in table.items()}


def require_pyarrow() -> Any:
    """The package. Raises RuntimeError, which names the extra, where it is missing."""
    for module in ("pyarrow.csv", "pyarrow.parquet"):
        require(module, what="tables", extra="evaluate")
    import pyarrow

    return pyarrow


def write_parquet(path: Path, table: Table, note: dict[str, Any] | None = None) -> None:
    """``note`` goes into the file's metadata.

    Raises:
        RuntimeError: no pyarrow.
        OSError: it cannot be written.
    """
    pyarrow = require_pyarrow()
    content = pyarrow.table(table)
    if note is not None:
        content = content.replace_schema_metadata({b"fastattack": json.dumps(note).encode()})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(content, buffer)
    write_atomic(path, buffer.getvalue())


def write_csv(path: Path, table: Table) -> None:
    """With a header; NaN as "nan". Raises as `write_parquet`."""
    pyarrow = require_pyarrow()
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(pyarrow.table(table), buffer)
    write_atomic(path, buffer.getvalue())


def read_parquet(path: Path) -> tuple[Table, dict[str, Any]]:
    """The table and its note ({} where it has none).

    Raises:
        RuntimeError: no pyarrow.
        FileNotFoundError: no such file.
        ValueError: damaged, or no Parquet; names the file.
    """
    pyarrow = require_pyarrow()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    data = path.read_bytes()
    try:
        content = pyarrow.parquet.read_table(io.BytesIO(data))
        note = json.loads((content.schema.metadata or {}).get(b"fastattack", b"{}"))
    except MemoryError:
        raise
    except Exception as error:  # the reader raises many kinds
        raise ValueError(f"{path}: cannot be read as a Parquet table: {error}") from error
    columns = {name: content[name].to_numpy() for name in content.column_names}
    return {n: c.astype(str) if c.dtype == object else c for n, c in columns.items()}, note
