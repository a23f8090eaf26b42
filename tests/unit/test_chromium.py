"""The browser in which the tests of the page run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.chromium import chromium


def test_a_missing_browser_skips_the_tests_on_a_laptop_and_fails_them_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install chromium"):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install chromium"):
        chromium()
