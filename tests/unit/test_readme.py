"""The programs of the README, and the tests that the page of promises names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from joblane import Queue
from joblane.tasks.discovery import discover
from tests.pages import MYPY, ROOT, TYPED, table

SHOWN = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.S)
TEST = re.compile(r"^def (test_\w+)", re.M)
PROMISES = ROOT / "docs" / "explanation" / "promises.md"


def test_the_job_of_the_readme_is_found_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given the README's handler in a folder of that name, and nothing else
    [source] = [text for path, text in SHOWN.findall((ROOT / "README.md").read_text()) if path.endswith("handler.py")]
    folder = tmp_path / "readme_functions" / "invoice_remind"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "handler.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    # when the tasks are discovered
    found = discover("readme_functions")
    # then its task is found, in addition to the library's own
    assert list(found) == ["invoice:remind", "jobs:bulk", "jobs:sweep"]
    assert (found["invoice:remind"].queue, found["invoice:remind"].max_retry) == (Queue.DEFAULT, 3)
    sys.modules.pop("readme_functions")


@pytest.mark.parametrize(("page", "files"), [("README.md", "*.py"), ("docs/how-to/test.md", "*/handler.py")])
def test_the_programs_of_a_page_pass_format_lint_and_types(page: str, files: str, tmp_path: Path) -> None:
    # given the files of a page
    paths = []
    for name, source in SHOWN.findall((ROOT / page).read_text()):
        if not fnmatch(name, files):
            continue
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        paths.append(str(path))
    assert paths
    # then format, lint and types find no problem
    settings = str(ROOT / "pyproject.toml")
    ruff = ["--config", settings, "--config", 'lint.isort.known-first-party = ["app", "functions", "joblane"]']
    for tool, folder in (
        (["ruff", "format", "--check", *ruff], ROOT),
        (["ruff", "check", "--no-cache", *ruff], ROOT),
        (MYPY, tmp_path),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *tool, *paths],
            check=False,
            cwd=folder,
            env={**os.environ, "MYPYPATH": TYPED},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_test_that_the_page_of_promises_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)`", PROMISES.read_text())
    existing = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert named
    assert set(named) <= existing


def test_the_promises_of_waits_name_their_tests() -> None:
    named = {name for _, tested in table(PROMISES, "What waits promise") for name in re.findall(r"test_\w+", tested)}
    tests = {
        name: {test for path in (ROOT / "tests" / "integration").rglob(name) for test in TEST.findall(path.read_text())}
        for name in ("test_waits.py", "test_wait_races.py", "test_signals.py", "test_waits_field.py")
    }
    assert named <= set().union(*tests.values())
    assert tests["test_waits_field.py"] <= named


def test_the_promises_of_limits_are_the_tests_of_failures_in_the_field() -> None:
    named = [tested.strip("`") for _, _, tested in table(PROMISES, "What limits promise")]
    tests = (ROOT / "tests" / "integration" / "record" / "test_limits_field.py").read_text()
    assert named == re.findall(r"^def (test_\w+)", tests, re.M)


@pytest.mark.parametrize("heading", ["What is promised", "What limits promise"])
def test_every_promise_names_how_it_is_kept_and_a_test(heading: str) -> None:
    rows = table(PROMISES, heading)
    assert rows
    assert [promise for promise, how, tested in rows if not (promise and how and "`" in tested)] == []
