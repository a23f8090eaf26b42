"""The settings, the owners and the lock of the user's project."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from joblane.cli.main import main
from joblane.local.locked import check_lock
from joblane.project import LOCKS, SAFE_FOLDER, Project, ProjectError
from joblane.testing import pytest_plugin
from tests.owners import ME, OTHER, own


def refused(folder: Path, why: str) -> None:
    with pytest.raises(ProjectError, match=why):
        Project.here(folder)


def exit_status(arguments: list[str]) -> int:
    """Run the command line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


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
        ("[tool.joblane]\nmigrations = 'schema:create'", "'schema' is not in `code`, so it would not be deployed"),
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
    (tmp_path / "schema.py").touch()
    refused(tmp_path, why)


@pytest.mark.parametrize("functions", ["src/shop/jobs", "shop.jobs", "my-jobs", "../up", "/abs", "class"])
def test_functions_must_be_a_package_in_the_root(functions: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.joblane]\nfunctions = '{functions}'")
    refused(tmp_path, f"tool.joblane.functions: '{functions}' is not a package name; .* a src layout in `code`")


# --- Folders of other users ------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose files all belong to this process, which has the id :data:`ME`."""
    root = tmp_path / "shop"
    for folder in ("functions", ".joblane", "shared", "deep/er"):
        (root / folder).mkdir(parents=True)
    (root / "pyproject.toml").write_text("[tool.joblane]\ncode = ['shared']")
    (root / "cdk.json").write_text("{}")
    monkeypatch.delenv(SAFE_FOLDER, raising=False)
    own(monkeypatch)
    return root


def test_a_project_of_one_s_own_is_found_from_its_subfolders(project: Path) -> None:
    assert Project.here(project / "deep" / "er") == Project.at(project)
    assert Project.here(project / "deep").code == ("shared",)


@pytest.mark.parametrize("name", ["shop", "cdk.json", "pyproject.toml", "functions", ".joblane", "shared"])
@pytest.mark.parametrize("owner", [OTHER, 0])
def test_a_file_of_another_user_in_a_project_is_refused(
    name: str, owner: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(monkeypatch, **{name: owner})
    with pytest.raises(ProjectError) as caught:
        Project.here(project / "deep" / "er")
    path = project if name == "shop" else project / name
    user = "root" if owner == 0 else f"with id {OTHER}"
    assert str(caught.value).startswith(f"{path} belongs to the user {user}, and you are the user with id {ME}. ")
    assert f" set {SAFE_FOLDER}={project}. `joblane init` makes" in str(caught.value)


def test_settings_of_another_user_are_not_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "pyproject.toml").write_text("[tool")
    own(monkeypatch, **{"pyproject.toml": OTHER})
    refused(project, f"belongs to the user with id {OTHER}")


def test_a_folder_of_another_user_is_not_skipped(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "deep" / "cdk.json").touch()
    own(monkeypatch, deep=OTHER)
    refused(project / "deep" / "er", "deep belongs to the user")


def test_root_may_use_the_project_of_the_user_who_called_sudo(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refused(project, "and you are the user root")
    monkeypatch.setenv("SUDO_UID", str(ME))
    assert Project.here(project).root == project
    # and only root
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    refused(project, "belongs to")


def test_the_variable_accepts_one_folder_by_its_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(monkeypatch, shop=OTHER, functions=OTHER, **{".joblane": OTHER})
    monkeypatch.setenv(SAFE_FOLDER, str(project))
    assert Project.here(project / "deep").root == project
    monkeypatch.chdir(project)
    for other in (".", "*", str(project.parent), f"{project}/*", str(project / "deep"), "/", ""):
        monkeypatch.setenv(SAFE_FOLDER, other)
        refused(project / "deep", "belongs to")


@pytest.mark.parametrize("name", ["pyproject.toml", "functions", "cdk.json"])
def test_a_link_to_a_file_of_another_user_is_refused(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = project.parent / "theirs"
    (project / name).rename(target)
    (project / name).symlink_to(target)
    assert Project.here(project).root == project
    own(monkeypatch, theirs=OTHER)
    refused(project, f"theirs belongs to the user with id {OTHER}")
    monkeypatch.setenv(SAFE_FOLDER, str(project))
    assert Project.here(project).root == project


@pytest.mark.parametrize("name", ["src", "locks.txt"])
def test_a_folder_above_code_and_a_lock_of_another_user_are_refused(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pyproject.toml").write_text("[tool.joblane]\ncode = ['src/shop', '../shop/deep']\nlock = 'locks.txt'")
    (project / "src" / "shop").mkdir(parents=True)
    (project / "locks.txt").touch()
    own(monkeypatch, **{project.parent.name: OTHER})
    assert Project.here(project).lock == project / "locks.txt"
    own(monkeypatch, **{name: OTHER})
    refused(project, f"{name} belongs to the user")


@pytest.mark.parametrize("safe", [True, False])
def test_a_data_folder_that_is_a_link_is_refused(safe: bool, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = project.parent / "target"
    target.mkdir(mode=0o755)
    (project / ".joblane").rmdir()
    (project / ".joblane").symlink_to(target)
    if safe:
        monkeypatch.setenv(SAFE_FOLDER, str(project))
    refused(project, rf"shop/\.joblane is a link to {target}, .* Remove the link; {SAFE_FOLDER}")
    assert (target.stat().st_mode & 0o777, list(target.iterdir())) == (0o755, [])


def test_a_folder_for_code_in_which_all_users_may_write_is_refused(project: Path) -> None:
    (project / "shared").chmod(0o1777)
    refused(project, "shared is not used, because every user may create files in it")


def test_a_folder_in_which_all_users_may_write_is_no_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.chmod(0o1777)
    refused(project / "deep", "shop is not used, because every user may create files in it")
    monkeypatch.setenv(SAFE_FOLDER, str(project))
    assert Project.here(project / "deep").root == project
    # and other modes, which containers and other file systems set, are no reason
    monkeypatch.delenv(SAFE_FOLDER)
    project.chmod(0o777)
    assert Project.here(project).root == project


def test_without_a_project_no_code_of_the_folder_is_imported(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    own(monkeypatch, tmp=0)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Project.here(shared).add_to_path()
    assert str(shared) not in sys.path
    # and data of another user is refused
    (shared / ".joblane").mkdir()
    own(monkeypatch, **{"tmp": 0, ".joblane": OTHER})
    refused(shared, r"tmp/\.joblane belongs to")


def test_a_system_without_user_ids_has_no_owners(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(monkeypatch, shop=OTHER)
    monkeypatch.delattr(os, "geteuid")
    assert Project.here(project).root == project


def test_pytest_runs_in_a_folder_of_another_user_but_uses_none_above(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure(folder: Path) -> None:
        pytest_plugin.pytest_configure(cast(Any, SimpleNamespace(rootpath=folder)))

    own(monkeypatch, shop=OTHER)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(pytest.UsageError, match="shop belongs to"):
        configure(project / "deep")
    assert str(project) not in sys.path
    configure(project)
    assert sys.path[0] == str(project)


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
        r"missing\. .*`joblane lock` writes it again",
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
    assert exit_status(["dev", "--no-page"]) == 1
    assert re.search(
        r"functions\.txt does not fit this version of joblane: pg8000>=[\d.]+ is missing", capsys.readouterr().err
    )
    assert not (lock.parent / ".joblane").exists()


@pytest.mark.parametrize("command", ["--help", "init --help", "schema --help", "limits set --help", "schema --no", ""])
def test_help_and_usage_errors_need_no_project(
    command: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own(monkeypatch, functions=OTHER)
    monkeypatch.chdir(project / "deep")
    status = exit_status(command.split())
    printed = capsys.readouterr()
    assert status == (0 if command.endswith("--help") else 2)
    assert "Usage: joblane" in printed.out + printed.err
    # and a command that reads it is refused
    assert exit_status(["schema"]) == 1
    assert f"joblane: {project}/functions belongs to the user" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "offered"), [("joblane sch", "schema"), ("joblane schema ", "")])
def test_completion_in_a_project_of_another_user_offers_commands_but_no_types(
    arguments: str, offered: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own(monkeypatch, functions=OTHER)
    monkeypatch.chdir(project / "deep")
    for name, value in {"_JOBLANE_COMPLETE": "complete_bash", "COMP_WORDS": arguments, "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value if name != "COMP_CWORD" else str(arguments.count(" ")))
    status = exit_status([])
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    assert offered in printed.out.split() if offered else printed.out.strip() == ""


@pytest.mark.parametrize("arguments", [["init"], ["--region", "eu-west-1", "init"]])
def test_init_below_a_project_of_another_user_makes_a_project(
    arguments: list[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(monkeypatch, functions=OTHER)
    mine = project / "deep"
    monkeypatch.chdir(mine)
    assert exit_status(arguments) == 0
    assert (mine / "functions" / "hello_world" / "handler.py").is_file()
