"""The browser of this machine."""

from __future__ import annotations

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def chromium() -> str:
    """Its executable. Without one a laptop goes without these tests, and a CI machine fails."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    told = f"these tests need a browser: none of {', '.join(NAMES)} is on PATH (Debian: apt install chromium)"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)
