"""The command line: attack, evaluate, purify, certify, distill, ... An error is one line and exit code 2."""

from __future__ import annotations

import signal
import sys

import typer
from rich.console import Console

from .commands.attack import attack
from .commands.bench import bench
from .commands.certify import certify
from .commands.compare import compare
from .commands.distill import distill
from .commands.evaluate import evaluate
from .commands.info import info
from .commands.many import ManyValues
from .commands.purify import purify
from .commands.register import register
from .commands.sample import sample
from .commands.train import train
from .commands.train_registration import train_registration

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)

for command in (attack, certify, compare, train, distill, register, train_registration, sample, bench, info):
    app.command()(command)
app.command(cls=ManyValues)(evaluate)
app.command(cls=ManyValues)(purify)


def main() -> None:
    """Entry point of the `fastattack` script."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the unfinished output folder is removed
    try:
        app()
    except SystemExit as stop:
        if stop.code == 130:  # typer's, for Ctrl-C
            errors.print("fastattack: interrupted")
        raise
    except (ValueError, TypeError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        errors.print(f"fastattack: {line}")
        sys.exit(2)


if __name__ == "__main__":
    main()
