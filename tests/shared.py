"""Where the published checkpoints and image sets lie beside a development checkout; tests that need them skip else."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir() or not (SHARED / "data").is_dir(),
    reason=f"needs the published weights and images in {SHARED}",
)
