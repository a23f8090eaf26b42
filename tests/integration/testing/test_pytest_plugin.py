"""The pytest plugin in another project: pytest runs the code of the pages `docs/how-to/test*.md`."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from joblane.local.errors import LocalError
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.testing.databases import Databases
from tests.databases import administer

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.S)
ONE = """
from joblane import Payload, TaskContext, task

class Greet(Payload):
    name: str

@task("hall:greet")
def hall_greet(payload: Greet, ctx: TaskContext) -> str:
    return f"Hello, {payload.name}"

def test_a_greeting(jobs):
    assert jobs.run(hall_greet, Greet(name="Ann")) == "Hello, Ann"
"""
WRONG = (
    ONE
    + """
def test_that_fails(jobs):
    jobs.enqueue(hall_greet, Greet(name="Ann"), task_id="one")
    jobs.assert_enqueued(hall_greet, name="Bob")
"""
)


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """This checkout as an installed distribution, with the entry points that `pyproject.toml` gives it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    site = pytester.mkdir("site")
    info = site / "joblane_here-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: joblane-here\nVersion: 1\n")
    lines = [f"{name} = {module}" for name, module in project["entry-points"]["pytest11"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]))
    (site / "shared").symlink_to(ROOT / "shared")  # and neither tests nor functions, which are the user's own
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), str(site)]))
    for name in ("DATABASE_URL", "AWS_PROFILE", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    return pytester


def run(installed: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return installed.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *arguments)


def test_the_examples_of_the_documentation_run(installed: pytest.Pytester, postgres: Postgres) -> None:
    pages = "".join(path.read_text() for path in sorted((ROOT / "docs" / "how-to").glob("test*.md")))
    blocks = BLOCK.findall(pages)
    assert len(blocks) == pages.count("```python")
    for name, source in blocks:
        path = installed.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("functions/"):
            (path.parent.parent / "__init__.py").touch()
            (path.parent / "__init__.py").touch()
        path.write_text(source)
    result = run(installed, "tests", f"--joblane-database={postgres.url}")
    result.assert_outcomes(passed=21)


def test_the_server_is_found_by_the_environment(
    installed: pytest.Pytester, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)
    installed.makepyfile(ONE)
    run(installed).assert_outcomes(passed=1)


def test_without_a_server_one_is_started_for_the_session(installed: pytest.Pytester) -> None:
    installed.makepyfile(ONE)
    run(installed).assert_outcomes(passed=1)


def test_a_failing_assertion_prints_what_was_enqueued(installed: pytest.Pytester, postgres: Postgres) -> None:
    installed.makepyfile(WRONG)
    result = run(installed, f"--joblane-database={postgres.url}")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * AssertionError: hall:greet: expected at least one enqueued task, not 0, with",
            "E *     payload.name = 'Bob'",
            "E *   enqueued tasks of hall:greet:",
            "E *     one, pending in default",
            "E *       payload.name = 'Ann', not 'Bob'",
        ]
    )
    assert "differences(" not in str(result.stdout)  # the kit's own frames are not shown


def test_a_server_that_cannot_be_reached_is_named(installed: pytest.Pytester) -> None:
    installed.makepyfile(ONE)
    result = run(installed, "--joblane-database=postgresql://joblane@127.0.0.1:1/joblane")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *LocalError: PostgreSQL at 127.0.0.1:1 cannot be reached: *"])


def test_a_test_that_does_not_ask_for_jobs_pays_nothing(installed: pytest.Pytester) -> None:
    installed.makepyfile(
        "import sys\n\n"
        "def test_nothing_is_imported():\n"
        "    assert 'joblane.testing.pytest_plugin' in sys.modules\n"
        "    assert not {'joblane.testing.tester', 'joblane.record.driver.database', 'sqlalchemy', 'pg8000', 'boto3', "
        "'psutil'} & "
        "set(sys.modules)\n"
    )
    run(installed).assert_outcomes(passed=1)


def test_code_of_a_src_layout_is_imported_however_pytest_is_started(
    installed: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed.path / "site"))
    installed.makepyprojecttoml("[tool.joblane]\ncode = ['src/shop']")
    for name, text in {
        "src/shop/__init__.py": "NAME = 'shop'\n",
        "functions/hall/handler.py": "from shop import NAME\n",
        "tests/test_hall.py": "from functions.hall.handler import NAME\n\ndef test_it():\n    assert NAME == 'shop'\n",
    }.items():
        (installed.path / name).parent.mkdir(parents=True, exist_ok=True)
        (installed.path / name).write_text(text)
    run(installed, "tests").assert_outcomes(passed=1)
    bare = installed.run(Path(sys.executable).parent / "pytest", "-p", "no:cacheprovider", "tests")
    bare.assert_outcomes(passed=1)


def test_a_wrong_setting_of_the_project_is_a_usage_error(installed: pytest.Pytester) -> None:
    installed.makepyprojecttoml("[tool.joblane]\ncode = ['gone']")
    result = run(installed)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *tool.joblane.code: a list of existing folders is required"])


def test_databases_are_dropped_and_the_named_one_is_left_alone(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> set[str]:
        database = Database(postgres.url)
        found = {row[0] for row in database.get().run("select datname from pg_database")}
        database.drop()
        return found

    # given migrations that leave a connection open, as the pool of an engine does
    def create(url: str) -> None:
        left_open.append(Database(url))
        left_open[0].get()

    left_open: list[Database] = []
    monkeypatch.setitem(sys.modules, "schema_of_this_test", SimpleNamespace(create=create))
    before = names()
    databases = Databases(postgres.url, migrations="schema_of_this_test:create")
    with databases.clone() as first, databases.clone() as second:
        assert first != second
        assert len(names() - before) == 3
    databases.close()
    databases.close()
    left_open[0].drop()
    assert names() == before


def test_a_user_who_may_not_create_databases_gets_an_error_that_says_so(postgres: Postgres) -> None:
    administer(postgres.url, "create role poor login password 'poor'")
    where = postgres.url.partition("@")[2]
    poor = Databases(f"postgresql://poor:poor@{where}")
    try:
        with pytest.raises(LocalError, match=r"user 'poor' may not create databases.*`alter role poor createdb`"):
            poor.clone().__enter__()
    finally:
        administer(postgres.url, "drop role poor")
