"""Options that take several values in a row: ``--eps 3/255 5/255``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class ManyValues(TyperCommand):
    """A command whose repeatable options may also be given once, with all their values behind them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """``--eps a b`` becomes ``--eps a --eps b``."""
        many = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        spread: list[str] = []
        option = None  # to which values belong, None for an option with one value
        for arg in args:
            if arg.startswith("--"):
                name = arg.partition("=")[0]
                option = name if name in many else None
                spread.append(arg)
            elif option is not None and spread[-1] != option:
                spread += [option, arg]
            else:
                spread.append(arg)
        return super().parse_args(ctx, spread)
