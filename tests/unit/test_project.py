"""The settings of the user's project in its `pyproject.toml`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from joblane.cli.main import main
from joblane.locked import check_lock
from joblane.project import LOCKS, Project, ProjectError


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


# --- The lock of the functions' packages ---------------------------------------------------------------------------


def without(text: str, *names: str) -> str:
    return re.sub(rf"^({'|'.join(names)})==.*(\n +.*)*", "", text, flags=re.MULTILINE)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock as the library has it, of a project in the same folder."""
    (tmp_path / "pyproject.toml").write_text("[tool.joblane]\nlock = 'functions.txt'")
    lock = tmp_path / "functions.txt"
    lock.write_text((LOCKS / "runtime.txt").read_text())
    return lock


def test_a_lock_with_other_packages_and_names_as_uv_accepts_them_is_no_error(lock: Path) -> None:
    text = lock.read_text().replace("pydantic-core==", "Pydantic_Core==")
    more = "--only-binary :all:\nhttpx @ https://example.com/httpx.whl\nrich==1.0\nboto3==1.0\n"
    lock.write_text(f"{more}sqlalchemy==1.4 ; python_version < '3.12' \\\n    --hash=sha256:aa\n{text}")
    check_lock(lock)


def test_a_lock_without_the_library_s_requirements_is_refused(lock: Path) -> None:
    lock.write_text(without(lock.read_text(), "pg8000", "alembic", "boto3", "scramp"))
    with pytest.raises(
        ProjectError,
        match=r"functions\.txt does not fit .*: alembic>=[\d.]+ is missing; pg8000>=[\d.]+ is missing; scramp is "
        r"missing\. .*uv pip compile --upgrade --generate-hashes requirements\.in -o functions\.txt",
    ):
        check_lock(lock)


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("sqlalchemy==2.0.30", r"sqlalchemy is 2\.0\.30, and joblane needs sqlalchemy>=2\.0\.44"),
        ("asyncpg==0.29.0", r"asyncpg is 0\.29\.0, and joblane needs asyncpg>=0\.30"),
        ("SQLAlchemy == 2.0.30 ; sys_platform == 'linux'", r"sqlalchemy is 2\.0\.30"),
    ],
)
def test_a_lock_with_a_version_below_the_library_s_is_refused(version: str, why: str, lock: Path) -> None:
    lock.write_text(without(lock.read_text(), "sqlalchemy") + f"{version} \\\n    --hash=sha256:aa\n")
    with pytest.raises(ProjectError, match=why):
        check_lock(lock)


def test_dev_does_not_start_with_a_lock_that_no_deploy_accepts(
    lock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock.write_text(without(lock.read_text(), "pg8000"))
    monkeypatch.chdir(lock.parent)
    with pytest.raises(SystemExit) as ended:
        main(["dev", "--no-page"])
    assert ended.value.code == 1
    assert re.search(
        r"functions\.txt does not fit this version of joblane: pg8000>=[\d.]+ is missing", capsys.readouterr().err
    )
    assert not (lock.parent / ".joblane").exists()
