"""`joblane check` and `joblane lock`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from joblane.cli.main import main
from joblane.local.errors import LocalError, MisuseError
from joblane.local.own_lock import write_lock
from joblane.project import Project

TASK = "from joblane import *\nclass P(Payload): ...\n@task('{type}'{more})\ndef {name}(p: P, ctx): ...\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Project:
    name = f"jobs_of_{abs(hash(request.node.name))}"  # of its own: Python keeps a package that it has imported
    (tmp_path / "pyproject.toml").write_text(f'[tool.joblane]\nfunctions = "{name}"\n')
    add(tmp_path / name, "order:mail")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOBLANE_FUNCTIONS", name)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Project.at(tmp_path)


def add(package: Path, type_: str, more: str = "", text: str | None = None) -> None:
    name = type_.replace(":", "_")
    (package / name).mkdir(parents=True)
    for folder in (package, package / name):
        (folder / "__init__.py").touch()
    (package / name / "handler.py").write_text(text or TASK.format(type=type_, name=name, more=more))


def checked(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["check", *options])
    output, errors = capsys.readouterr()
    return int(ended.value.code or 0), output + errors


def test_a_correct_project_passes(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(capsys) == (0, "1 task type is declared correctly.\n")


def test_all_problems_are_reported_at_once(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    add(project.handlers, "order:pay", text="def order_pay(:")
    add(project.handlers, "order:ship", ", retries=3")
    code, output = checked(capsys)
    assert code == 1
    assert f"{project.functions}/order_pay/handler.py, line 1: SyntaxError" in output
    assert "Fix it and run this again" in output
    assert "task 'order:ship': retries: there is no such option; did you mean max_retry?" in output
    # and as JSON
    code, output = checked(capsys, "--json")
    found = json.loads(output)
    assert (code, found["ok"], found["types"]) == (1, False, ["order:mail"])
    assert [problem["folder"] for problem in found["problems"]] == ["order_pay", "order_ship"]


def test_a_grant_for_an_unknown_type_is_a_problem(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    add(project.handlers, "order:pay", ", grants=Grants(enqueue=('order:mial',))")
    code, output = checked(capsys)
    assert code == 1
    assert "grants: enqueue: there is no task 'order:mial'; did you mean 'order:mail'?" in output


def test_a_problem_of_several_types_has_no_folder(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for type_, total in (("order:pay", 1), ("order:ship", 2)):
        add(project.handlers, type_, f", limit=Limit('mail', total={total})")
    code, output = checked(capsys, "--json")
    [problem] = json.loads(output)["problems"]
    assert (code, problem["folder"]) == (1, None)
    assert "order:ship" in problem["problem"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("own.tables:upgrade", None),
        (
            "no_such_tables:upgrade",
            "'module:function' is required: ModuleNotFoundError: No module named 'no_such_tables'",
        ),
        ("own.tables:up", "AttributeError: module 'own.tables' has no attribute 'up'"),
        ("own.tables", "AttributeError: module 'own.tables' has no attribute ''"),
        ("own.tables:LEVEL", "a function is required, not int"),
        ("own.broken_tables:upgrade", "ZeroDivisionError: division by zero"),
    ],
)
def test_migrations_that_cannot_be_called_are_a_problem(
    project: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    problem: str | None,
) -> None:
    own = project.root / "own"
    own.mkdir()
    (own / "tables.py").write_text("LEVEL = 1\ndef upgrade(url): raise AssertionError\n")
    (own / "broken_tables.py").write_text("1 / 0\n")
    for module in ("own", "own.tables", "own.broken_tables"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (project.root / "pyproject.toml").write_text(
        f'[tool.joblane]\nfunctions = "{project.functions}"\ncode = ["own"]\nmigrations = "{name}"\n'
    )
    monkeypatch.setenv("JOBLANE_MIGRATIONS", "")  # the command sets it
    code, output = checked(capsys)
    assert code == (0 if problem is None else 1)
    assert problem is None or f"migrations: {name!r}: " in output
    assert problem is None or problem in output


UV = """#!/bin/sh
{fails}
cat > "$PWD/stdin"; echo "$@" > "$PWD/arguments"; echo "$UV_CACHE_DIR $UV_DEFAULT_INDEX" > "$PWD/variables"
while [ "$1" != --output-file ]; do shift; done; echo "httpx==0.28.1" > "$2"
"""


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "uv"
    path.write_text(UV.format(fails=""))
    path.chmod(0o755)
    monkeypatch.setenv("UV", str(path))
    return path


def test_a_package_is_added_to_the_list_and_the_lock(
    project: Project, uv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HOME": "/proc/nope", "PIP_INDEX_URL": "https://pypi.example/simple"}.items():
        monkeypatch.setenv(name, value)
    for name in ("UV_CACHE_DIR", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    (project.root / "functions.in").write_text("-r /home/ann/site-packages/joblane/locks/runtime.txt\nrich\nhttpx\n")
    lock, is_new = write_lock(project, ["httpx>=0.28"])
    assert (lock, is_new) == (project.root / "functions.txt", True)
    assert (project.root / "functions.in").read_text() == "rich\nhttpx>=0.28\n"
    assert (project.root / "stdin").read_text() == "rich\nhttpx>=0.28\n"
    arguments = (project.root / "arguments").read_text()
    assert "--generate-hashes --universal --no-annotate --python-version 3.13" in arguments
    assert "locks/runtime.txt -" in arguments
    # uv caches in the project if the home folder cannot be written, and uses the index of pip
    cache = project.folder / "cache" / "uv"
    assert (project.root / "variables").read_text() == f"{cache} https://pypi.example/simple\n"


def test_a_failed_lock_leaves_the_list_as_it_is(project: Project, uv: Path) -> None:
    uv.write_text(UV.format(fails="printf 'dns error \\377' >&2; exit 1"))
    with pytest.raises(
        LocalError, match=r"uv cannot write the lock: the package index cannot be reached.*:\ndns error \ufffd"
    ):
        write_lock(project, ["httpx"])
    with pytest.raises(MisuseError, match="'http x' is not a package"):
        write_lock(project, ["http x"])
    assert not (project.root / "functions.in").exists()
