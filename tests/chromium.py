"""A real browser without a window and without a network."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (scripts/get_chromium.sh)")


def with_script(page: Path, copy: Path, script: str) -> Path:
    """A copy of the page that runs ``script`` after its own; its content security policy gets the hash of this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8")
    assert text.count("script-src ") == 1
    assert text.count("</body>") == 1
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return copy


def load(
    page: Path, profile: Path, *, width: int, height: int = 900, dark: bool = False, shot: Path | None = None
) -> str:
    """The page's DOM after its scripts ran, or "" where a screenshot is taken. Fails on any message in the console."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}",
        f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=5000", f"--screenshot={shot}" if shot else "--dump-dom", page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    return done.stdout
