"""The browser of this machine."""

from __future__ import annotations

import os
import shutil

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
"""The first has no windows, and needs the least of the processor."""


def chromium() -> str:
    """The executable. Without it, these tests are skipped, or fail on a CI machine."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    advice = f"these tests need a browser: none of {', '.join(NAMES)} is on PATH (Debian: apt install chromium)"
    if os.environ.get("CI"):
        pytest.fail(advice)
    pytest.skip(advice)
