"""The README's program is a program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from joblane import Queue
from joblane.discovery import discover

ROOT = Path(__file__).resolve().parents[2]


def test_the_job_in_the_readme_is_found_by_its_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given the README's handler in a folder of that name, and nothing else
    source = re.search(
        r"```python\n# functions/invoice_remind/handler.py\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert source is not None
    folder = tmp_path / "readme_functions" / "invoice_remind"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "handler.py").write_text(source[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    # when the tasks are looked for
    found = discover("readme_functions")
    # then it is one of them
    assert list(found) == ["invoice:remind", "jobs:bulk", "jobs:sweep"]
    assert (found["invoice:remind"].queue, found["invoice:remind"].max_retry) == (Queue.DEFAULT, 3)
    sys.modules.pop("readme_functions")


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/test.md"])
def test_the_jobs_that_are_shown_pass_the_projects_own_gate(page: str, tmp_path: Path) -> None:
    # given the handlers of a page
    shown = re.findall(r"```python\n# (functions/\S+/handler\.py)\n(.*?)```", (ROOT / page).read_text(), re.S)
    paths = []
    for name, source in shown:
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(source)
        paths.append(str(path))
    assert paths
    # then format, lint and types find nothing to say
    settings = str(ROOT / "pyproject.toml")
    mypy = ["mypy", "--config-file", settings, "--cache-dir", str(ROOT / ".mypy_cache"), "--follow-imports=silent"]
    for tool, folder in (
        (["ruff", "format", "--check", "--config", settings], ROOT),
        (["ruff", "check", "--no-cache", "--config", settings], ROOT),
        (mypy, tmp_path),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *tool, *paths],
            check=False,
            cwd=folder,
            env={**os.environ, "MYPYPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_test_that_the_promise_table_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)`", (ROOT / "README.md").read_text())
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert named
    assert set(named) <= there
