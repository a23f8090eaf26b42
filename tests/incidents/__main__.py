"""Take pictures of the page with all incidents, at four widths, light and dark: ``python -m tests.incidents``."""

from __future__ import annotations

import os
import sys

import pytest

os.environ["JOBLANE_SCREENSHOTS"] = "1"
sys.exit(pytest.main(["-q", "tests/browser/test_incidents.py", *sys.argv[1:]]))
