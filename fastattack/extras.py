"""Packages that an extra brings."""

from __future__ import annotations

import importlib


def require(module: str, *, what: str, extra: str) -> None:
    """Raises RuntimeError where ``module`` cannot be imported; names what wants it and the extra that brings it."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise RuntimeError(
            f"{what}: wanted {package}, which is not here ({error}); pip install 'fastattack[{extra}]'"
        ) from error
