"""Runs the command line inside the test's process."""

from __future__ import annotations

import sys

import pytest

from fastattack import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `fastattack ...`."""
    before = sys.argv
    sys.argv = ["fastattack", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = before
    out = capsys.readouterr()
    code = stop.value.code
    return (0 if code is None else int(code)), out.out, out.err
