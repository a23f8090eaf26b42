"""The browser for the tests of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.chromium import chromium


def test_without_a_browser_a_laptop_goes_without_its_tests_and_a_ci_machine_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install chromium"):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install chromium"):
        chromium()
