"""Take pictures of the page with all incidents, at four widths, light and dark: ``python -m tests.incidents``.

``python -m tests.incidents docs/images/page.png`` takes the picture of the documentation.
"""

from __future__ import annotations

import os
import sys

import pytest

if sys.argv[1:2] and sys.argv[1].endswith(".png"):
    os.environ["JOBLANE_PICTURE"] = sys.argv[1]
    sys.exit(pytest.main(["-q", "tests/browser/picture.py"]))
os.environ["JOBLANE_SCREENSHOTS"] = "1"
sys.exit(pytest.main(["-q", "tests/browser/test_incidents.py", *sys.argv[1:]]))
