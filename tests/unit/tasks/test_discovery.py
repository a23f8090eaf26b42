"""Discovery of tasks: all tasks of a package, or a single task, with a clear error if a declaration is wrong."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from joblane import TaskContext, around, on
from joblane.errors import DeclarationError
from joblane.tasks.discovery import discover, load, load_for_person, successor_of

_numbers = itertools.count(1)

HANDLER = """
from joblane import Payload, TaskContext, task

class Body(Payload):
    pass

@task("{type}")
def {function}(payload: Body, ctx: TaskContext) -> None:
    pass
"""
PLAIN = """
def handler(event, context):
    return None
"""


class Package:
    """A package of handlers, written by a test."""

    def __init__(self, root: Path) -> None:
        self.name = f"discovered_{next(_numbers)}"
        self.root = root / self.name
        self.root.mkdir()
        (self.root / "__init__.py").touch()

    def add(self, folder: str, text: str | None) -> None:
        (self.root / folder).mkdir()
        (self.root / folder / "__init__.py").touch()
        if text is not None:
            (self.root / folder / "handler.py").write_text(text)

    def add_all(self, folders: Mapping[str, str | None]) -> None:
        """Add folders with their handlers, in which ``PACKAGE`` is the name of this package."""
        for folder, text in folders.items():
            self.add(folder, text and text.replace("PACKAGE", self.name))

    def add_task(self, type_: str, folder: str | None = None) -> None:
        function = type_.replace(":", "_")
        self.add(folder or function, HANDLER.format(type=type_, function=function))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Package(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] == made.name]:
        del sys.modules[name]


def handler(type_: str, text: str = HANDLER, **values: str) -> str:
    return text.format(type=type_, function=type_.replace(":", "_"), **values)


FOLLOWED = HANDLER.replace('"{type}"', '"{type}", on_archived="system:alert"')
ALERT = HANDLER.replace("import Payload", "import ArchivedTask, Payload").replace(
    "payload: Body", "payload: ArchivedTask"
)
ALIASED = HANDLER.replace('"{type}"', '"{type}", aliases=["data:export"]')
LIMITED = """
from datetime import timedelta

from joblane import Limit, Payload, Rate, TaskContext, task

class Body(Payload):
    pass

@task("{type}", limit=Limit("openai", {values}))
def {function}(payload: Body, ctx: TaskContext) -> None:
    pass
"""
ONE = handler("data:export")
TWO_LIMITS = (
    "^task 'data:read': limit: 'openai' is 5 at a time and 100 a minute, burst 50, and in task 'data:export' it is "
    "5 at a time; declare the limit once, and import it into both$"
)


@pytest.mark.parametrize(
    ("folders", "types"),
    [
        ({}, []),
        (
            {"zoo_feed": handler("zoo:feed"), "data_export": ONE, "system_user_expiry": handler("system_user:expiry")},
            ["data:export", "system_user:expiry", "zoo:feed"],
        ),
        ({"data_export": ONE, "notes": None, "router": PLAIN}, ["data:export"]),
        ({"data_export": f"{ONE}export = data_export\n"}, ["data:export"]),
        (
            {
                "data_export": ONE,
                "data_copy": f"from PACKAGE.data_export.handler import data_export\n{handler('data:copy')}",
            },
            ["data:copy", "data:export"],
        ),
        (
            {
                "data_export": handler("data:export", LIMITED, values="total=5"),
                "data_read": handler("data:read", LIMITED, values="total=5"),
            },
            ["data:export", "data:read"],
        ),
    ],
    ids=[
        "empty",
        "in the order of types",
        "others are ignored",
        "a second name",
        "an import",
        "one limit of two types",
    ],
)
def test_the_tasks_of_a_package_are_discovered(
    folders: dict[str, str | None], types: list[str], package: Package
) -> None:
    package.add_all(folders)
    found = {type_: one for type_, one in discover(package.name).items() if not type_.startswith("jobs:")}
    assert [*found] == [one.type for one in found.values()] == types


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ({"data_export": "x = 1\n"}, r"data_export/handler\.py: declares no task; put @task on its function"),
        (
            {"export": ONE},
            r"export/handler\.py: declares 'data:export', which belongs in PACKAGE/data_export",
        ),
        (
            {"data_export": ONE + handler("data:other")},
            "declares data:export, data:other; a folder may declare only one task",
        ),
        (
            {"data_export": f"{ONE}first = data_export\n{ONE}"},
            "declares data:export, data:export; a folder may declare only one task",
        ),
        (
            {"data_export": HANDLER.format(type="data:export", function="other_name")},
            "the function is called 'other_name', not 'data_export'",
        ),
        (
            {"data_export": "from PACKAGE.notes.handler import x\n", "notes": "x = 1\ny = zero\n"},
            r"^\w+/notes/handler\.py, line 2: NameError: name 'zero' is not defined\n",
        ),
        (
            {"data_export": "from PACKAGE.notes.handler import x\n", "notes": "x = 1\n\nx = (1\n"},
            r"^\w+/notes/handler\.py, line 3: SyntaxError: '\(' was never closed\n",
        ),
        (
            {"data_export": handler("data:export", FOLLOWED)},
            r"^task 'data:export': on_archived: there is no task 'system:alert'$",
        ),
        (
            {"data_export": handler("data:export", FOLLOWED), "system_alert": handler("system:alert")},
            r"on_archived: 'system:alert' takes Body, not ArchivedTask$",
        ),
        (
            {"data_export": ONE, "data_copy": handler("data:copy", ALIASED)},
            "task 'data:copy': aliases: 'data:export' belongs to another task",
        ),
        (
            {
                "data_export": handler("data:export", LIMITED, values="total=5"),
                "data_read": handler(
                    "data:read", LIMITED, values="total=5, rate=Rate(100, per=timedelta(minutes=1), burst=50)"
                ),
            },
            TWO_LIMITS,
        ),
    ],
    ids=[
        *("no task", "another folder", "two tasks", "one type twice", "another function", "a name of an import"),
        *("the syntax of an import", "no successor", "a wrong successor", "an alias", "two values of a limit"),
    ],
)
def test_a_wrong_package_is_refused_with_the_reason(folders: dict[str, str], says: str, package: Package) -> None:
    package.add_all(folders)
    with pytest.raises(DeclarationError, match=says.replace("PACKAGE", package.name)):
        discover(package.name)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n\ndef f()\n    pass\n", "line 3: SyntaxError: expected ':'"),
        ("if True:\nx = 1\n", "line 2: IndentationError: expected an indented block"),
        ("def f():\n    return 1 / 0\nx = f()\n", "line 2: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')\n", "line 2: JSONDecodeError: Expecting property name"),
        ("import sys\nsys.exit('not here')\n", "line 2: SystemExit: not here"),
    ],
)
def test_a_failed_import_of_a_handler_is_reported_with_file_line_reason_and_advice(
    text: str, error: str, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.add("data_export", text)
    with pytest.raises(DeclarationError) as caught:
        discover(package.name)
    monkeypatch.setenv("JOBLANE_FUNCTIONS", package.name)
    with pytest.raises(DeclarationError, match=f"^{re.escape(str(caught.value))}$"):
        load_for_person("data:export")
    message = str(caught.value)
    assert message.startswith(f"{package.name}/data_export/handler.py, {error}")
    assert message.endswith(
        f"\nFix it and run this again; `python -m {package.name}.data_export.handler` shows the whole traceback."
    )


def on_archived_of(type_: str) -> None:
    on("archived", task=type_)(lambda event: None)


def around_of(type_: str) -> None:
    @around("order:ship", type_)
    def binds(ctx: TaskContext) -> Iterator[None]:
        yield


@pytest.mark.parametrize(("declares", "what"), [(around_of, "around"), (on_archived_of, "on")])
def test_a_hook_that_names_an_unknown_type_is_refused(
    package: Package, declares: Callable[[str], None], what: str
) -> None:
    package.add_task("order:ship")
    declares("order:ship")
    declares("jobs:sweep")
    discover(package.name)
    declares("order:shp")
    with pytest.raises(
        DeclarationError,
        match=rf"^{what}: {__name__}\.{declares.__name__}\S+ names 'order:shp', and there is no task of this type; "
        r"did you mean 'order:ship'\?$",
    ):
        discover(package.name)


def test_a_task_finds_its_successor_by_type(package: Package) -> None:
    package.add("data_export", handler("data:export", FOLLOWED))
    package.add("system_alert", handler("system:alert", ALERT))
    successor = successor_of(discover(package.name)["data:export"])
    assert successor == {"type": "system:alert", "queue": "default", "max_attempts": 6, "retention_seconds": 86400}


def test_a_single_task_is_loaded_without_the_other_folders(package: Package) -> None:
    package.add_task("data:export")
    package.add("broken", "import no_such_module\n")
    assert load("data:export", package.name).type == "data:export"


def test_a_missing_task_is_a_clear_error(package: Package) -> None:
    package.add("router", PLAIN)
    package.add("empty", None)
    for type_ in ("data:export", "no_such:task"):
        with pytest.raises(DeclarationError, match=f"there is no task '{type_}': .*handler.py does not declare it"):
            load(type_, package.name)
    with pytest.raises(DeclarationError, match="'category:action' is required"):
        load("../router", package.name)


def test_a_type_with_the_folder_of_another_type_is_not_confused_with_it(package: Package) -> None:
    package.add_task("data_export:full")
    assert load("data_export:full", package.name).type == "data_export:full"
    with pytest.raises(DeclarationError, match="no task 'data:export_full'"):
        load("data:export_full", package.name)


def test_a_broken_import_is_not_reported_as_a_missing_task(package: Package) -> None:
    package.add("data_export", "import no_such_module\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load("data:export", package.name)


def test_the_tasks_of_this_project_are_discovered() -> None:
    assert {"jobs:sweep", "data:export", "user:invitation"} <= set(discover())


def test_discovery_opens_no_connection_and_reads_no_environment() -> None:
    script = (
        "import os, socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "from joblane.tasks.discovery import discover\n"
        "assert discover()\n"
        "assert not {'boto3', 'sqlalchemy.orm'} & set(sys.modules), 'imported early'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PATH": ""}, cwd=Path(__file__).parents[3])


def test_a_package_that_hides_the_project_is_refused_with_both_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    hiding = Package(tmp_path / "elsewhere")
    mine = tmp_path / "project" / hiding.name
    (mine / "data_export").mkdir(parents=True)
    (mine / "data_export" / "handler.py").write_text(HANDLER.format(type="data:export", function="data_export"))
    monkeypatch.syspath_prepend(str(tmp_path / "project"))
    with pytest.raises(DeclarationError, match=rf"from {hiding.root}, not from {mine}\. Add the file"):
        discover(hiding.name)
    with pytest.raises(DeclarationError, match="Python imports the package"):
        load("data:export", hiding.name)


def test_the_error_of_a_missing_package_points_to_the_lock_file(package: Package) -> None:
    package.add("data_export", "import no_such_module.part\n")
    with pytest.raises(DeclarationError, match=r"\nAdd its package with joblane lock PACKAGE"):
        discover(package.name)
    package.add("data_copy", "import json.no_such_part\n")
    with pytest.raises(DeclarationError) as caught:
        discover(package.name)
    assert "lock" not in str(caught.value)
