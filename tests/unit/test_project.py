"""The settings of the user's project in its `pyproject.toml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from joblane.project import Project, ProjectError


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("", {}),
        ('[project]\nname = "shop"', {"JOBLANE_PROJECT": "shop"}),
        (
            '[project]\nname = "shop"\n[tool.joblane]\nmigrations = "shop.migrations:upgrade"',
            {"JOBLANE_PROJECT": "shop", "JOBLANE_MIGRATIONS": "shop.migrations:upgrade"},
        ),
    ],
)
def test_a_migration_gets_the_settings_of_the_project(text: str, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    project = Project.here(tmp_path)
    assert project.migration_environment == environment
    assert project.environment == {"JOBLANE_FUNCTIONS": "functions", **environment}


def test_a_project_without_a_pyproject_file_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    assert Project.here(tmp_path / "functions").name is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[tool.joblane]\nmigration = 'x'", "unknown key 'migration'; the keys are functions, code, lock, migrations"),
        ("[tool.joblane]\nmigrations = 1", "tool.joblane.migrations: a string is required"),
        ("[tool.joblane]\ncode = ['gone']", "tool.joblane.code: a list of existing folders is required"),
        ("[tool.joblane]\nlock = 'gone.txt'", "tool.joblane.lock: the file 'gone.txt' does not exist"),
        ("[tool", "pyproject.toml: "),
        ("tool = 3", "pyproject.toml: tool: a table is required"),
        ("[tool]\njoblane = 'x'", "pyproject.toml: tool.joblane: a table is required"),
        ("project = 'x'", "pyproject.toml: project: a table is required"),
        ("[project]\nname = 3", "pyproject.toml: project.name: a string is required"),
    ],
)
def test_an_invalid_setting_is_named(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ProjectError, match=why):
        Project.here(tmp_path)


@pytest.mark.parametrize("functions", ["src/shop/jobs", "shop.jobs", "my-jobs", "../up", "/abs", "class"])
def test_functions_must_be_a_package_in_the_root(functions: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.joblane]\nfunctions = '{functions}'")
    with pytest.raises(
        ProjectError, match=f"tool.joblane.functions: '{functions}' is not a package name; .* a src layout in `code`"
    ):
        Project.here(tmp_path)
