"""`joblane new`: what it writes works at once, and is in this project's own form."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from joblane.cli.scaffold import write
from joblane.local.errors import LocalError
from joblane.local.postgres import Postgres
from tests.pages import ROOT

KINDS: dict[str, dict[str, Any]] = {
    "order:pay": {},
    "order:bill_all": {"queue": "low", "resumable": True},
    "order:remind": {"queue": "critical", "schedule": "0 2 * * *"},
    "order:sum_up": {"schedule": "@hourly", "resumable": True},
}


def written(folder: Path, type_: str, options: Mapping[str, Any]) -> list[Path]:
    return write(folder, type_, **{"queue": "default", "schedule": None, "resumable": False, **options})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of somebody's, with one job of each kind."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "functions").mkdir()
    (folder / "functions" / "__init__.py").touch()
    settings = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(f'{settings}\n[tool.ruff.lint.isort]\nknown-first-party = ["shared"]\n')
    for type_, options in KINDS.items():
        written(folder, type_, options)
    return folder


def run(project: Path, *arguments: str) -> None:
    ran = subprocess.run([sys.executable, "-m", *arguments], cwd=project, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_it_writes_passes_its_tests_at_once(project: Path, postgres: Postgres) -> None:
    run(project, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests", f"--joblane-database={postgres.url}")


def test_what_it_writes_is_formatted_and_without_remarks(project: Path) -> None:
    run(project, "ruff", "format", "--check", "functions", "tests")
    run(project, "ruff", "check", "functions", "tests")


@pytest.mark.parametrize(
    ("type_", "options", "said"),
    [
        ("order:pay", {}, "functions/order_pay is there already; nothing was written"),
        ("order_pay", {}, "'category:action' is required"),
        ("Order:Pay", {}, "lower-case letters"),
        ("../x:y", {}, "'category:action' is required"),
        ("order:new", {"queue": "fast"}, "'fast' is not one of critical, default, low"),
        ("order:new", {"schedule": "often"}, "fields where Unix cron has five"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    project: Path, type_: str, options: dict[str, str], said: str
) -> None:
    before = sorted(project.rglob("*"))
    with pytest.raises(LocalError) as caught:
        written(project, type_, options)
    assert said in str(caught.value)
    assert sorted(project.rglob("*")) == before


def test_outside_of_a_project_it_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="run this in the folder of a project"):
        write(tmp_path, "order:pay", queue="default", schedule=None, resumable=False)
