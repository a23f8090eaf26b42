"""Each place that `docs/explanation/security-review.md` points to exists: files, and tests by name."""

from __future__ import annotations

import re

from tests.pages import ROOT

PAGE = ROOT / "docs" / "explanation" / "security-review.md"
NAMES = set(re.findall(r"`([^`\s]+)`", PAGE.read_text()))
TESTS = {name for name in NAMES if re.fullmatch(r"test_\w+", name)} - {
    "test_rules",
    "test_checks",
    "test_least_privilege",
}
FILES = {name for name in NAMES if "/" in name}


def test_every_file_that_the_page_names_exists() -> None:
    assert len(FILES) > 20
    assert [name for name in FILES if not any((ROOT / part / name).exists() for part in ("", "shared/joblane"))] == []


def test_every_test_that_the_page_names_exists() -> None:
    assert len(TESTS) > 10
    found = "\n".join(path.read_text() for path in (ROOT / "tests" / "infra").glob("test_*.py"))
    assert [name for name in TESTS if f"def {name}(" not in found] == []
