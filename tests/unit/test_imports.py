"""Circular imports inside a room, imports of functions, the top room, and constants that a module repeats.

The contracts in pyproject.toml cover rooms.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest

import joblane
from joblane.inspector import views
from tests.pages import ROOT

LIBRARY = Path(joblane.__file__).parent
MOST_AT_THE_TOP = 15
PAGE = ROOT / "docs" / "explanation" / "code.md"
OWN_BOUNDS = {
    "BATCH", "CONNECT_SECONDS", "MOST", "PAGE", "PATIENCE", "POLL_SECONDS", "READ_SECONDS", "SECONDS", "SHOWN",
}  # fmt: skip
"""Names for the sizes and time limits of a module's own work."""
COINCIDENCES = {
    "MAX_KEY": "a unique key, and the key of a limit",
    "TRACE_ATTRIBUTE": "the emulator imports no module of the library",
}
"""Constants of two modules with the same name and value, each with the reason why none imports the other's."""
RUNTIME = ("tasks", "sqs", "record", "enqueue", "client", "handler", "worker", "sweep")
TWO_MEANINGS = {
    "Batch": "the tasks of a callback, and the messages of an invocation, as AWS says",
    "Options": "the options of a task, and the arguments of a worker",
}
"""Names that two classes of the runtime have, each with what it means."""
OF_OTHERS = {
    "client._endpoint": "botocore",
    "client._request_signer._credentials": "botocore",
    "functions._functions": "the emulator",
    "row._mapping": "SQLAlchemy",
    "urlsplit(self._url)._replace": "a named tuple",
}
"""Names of another project that look like a private name of the library → the project."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("joblane", cache_dir=None)


def test_the_library_has_no_circular_imports(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # A module that imports no remaining module is not part of a circle.
    while free := {module for module, imported in imports.items() if not imported & imports.keys()}:
        imports = {module: imported for module, imported in imports.items() if module not in free}
    used = set().union(*imports.values())
    assert sorted(imports.keys() & used) == []


@pytest.mark.parametrize("package", ["functions", "worker", "client", "inspector"])
def test_a_function_on_aws_reads_no_project(package: str, graph: grimp.ImportGraph) -> None:
    used = graph.find_upstream_modules(f"joblane.{package}", as_package=True)
    assert used
    assert "joblane.project" not in used


@pytest.mark.parametrize("package", [joblane, views])
def test_a_type_checker_sees_the_public_names_where_a_program_finds_them(package: Any) -> None:
    source = ast.parse(inspect.getsource(package))
    [block] = [node for node in source.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [each for each in ast.walk(block) if isinstance(each, ast.ImportFrom)]
    seen = [(each.module, one.name) for each in imports for one in each.names]
    found = [(home, name) for home, names in package._HOMES.items() for name in names.split()]
    assert sorted(seen) == sorted(found)
    assert set(package.__all__) == {name for _, name in found}
    for home, name in found:
        assert getattr(package, name) is getattr(importlib.import_module(home), name)


def test_a_client_without_a_database_imports_no_driver_of_it() -> None:
    script = "import sys, joblane.client.message_client; sys.exit(str({'pg8000', 'sqlalchemy'} & {*sys.modules}))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True).stderr == "set()\n"
    )


def test_a_new_module_stands_in_a_room_and_not_at_the_top() -> None:
    top = sorted(path.name for path in LIBRARY.glob("*.py"))
    assert len(top) <= MOST_AT_THE_TOP, f"{PAGE.name} shows the rooms; which of these belongs into one? {top}"


def test_the_page_of_the_code_names_each_room_and_each_new_name() -> None:
    tree, _, names = PAGE.read_text().partition("## Old names")
    rooms = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert {room for room in rooms if f" {room}/" not in tree} == set()
    rows = [line.split("|")[1:3] for line in names.splitlines() if line.startswith("| `")]
    new = [
        (LIBRARY / room.strip("` "), pair.split("→")[-1].strip(" `").rpartition(".")[2])
        for room, cell in rows
        for pair in cell.split(",")
    ]
    assert len(new) > 60
    assert [folder / name for folder, name in new if name != "*" and not (folder / f"{name}.py").is_file()] == []


def test_no_constant_is_written_in_two_modules() -> None:
    homes = defaultdict(set)
    for path in LIBRARY.rglob("*.py"):
        for name, value in _constants(ast.parse(path.read_text())):
            homes[name, value].add(str(path.relative_to(ROOT)))
    twice = {name: sorted(paths) for (name, _), paths in homes.items() if len(paths) > 1}
    assert {name: paths for name, paths in twice.items() if name not in COINCIDENCES.keys() | OWN_BOUNDS} == {}
    assert COINCIDENCES.keys() <= twice.keys(), "a coincidence that is gone leaves the list"


def test_no_module_uses_a_private_name_of_another_one() -> None:
    modules = {path: ast.parse(path.read_text()) for path in LIBRARY.rglob("*.py")}
    own = {path: {*_private_names(module)} for path, module in modules.items()}
    every = set[str]().union(*own.values())
    used = {
        f"{path.relative_to(LIBRARY)}:{each.lineno}": ast.unparse(each)
        for path, module in modules.items()
        for each in ast.walk(module)
        if isinstance(each, ast.Attribute)
        and each.attr in every
        and each.attr not in own[path]
        and not (isinstance(each.value, ast.Name) and each.value.id in ("self", "cls"))
    }
    used |= {
        f"{path.relative_to(LIBRARY)}:{each.lineno}": name.name
        for path, module in modules.items()
        for each in ast.walk(module)
        if isinstance(each, ast.ImportFrom)
        for name in each.names
        if _is_private(name.name)
    }
    assert {place: name for place, name in used.items() if name not in OF_OTHERS} == {}
    assert OF_OTHERS.keys() <= {*used.values()}, "an exception that is gone leaves the list"


def test_no_two_classes_of_the_runtime_have_the_same_name() -> None:
    homes = defaultdict(set)
    for path in (each for room in RUNTIME for each in (LIBRARY / room).rglob("*.py")):
        for name in _types(ast.parse(path.read_text())):
            homes[name].add(str(path.relative_to(LIBRARY)))
    twice = {name: sorted(paths) for name, paths in homes.items() if len(paths) > 1}
    assert {name: paths for name, paths in twice.items() if name not in TWO_MEANINGS} == {}


def _types(module: ast.Module) -> Iterator[str]:
    """Yield the names of the classes and type aliases of a module."""
    for each in ast.walk(module):
        match each:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) if name[0].isupper() and not name.isupper():
                yield name


def _private_names(module: ast.Module) -> Iterator[str]:
    """Yield the private names that a module defines: of functions, classes and constants, and of attributes."""
    for each in ast.walk(module):
        match each:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found = name
            case ast.Name(id=name, ctx=ast.Store()):
                found = name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                found = name
            case _:
                continue
        if _is_private(found):
            yield found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _constants(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield name and literal of each constant: a string, a number, a duration, or a collection of them."""
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                pairs = [*zip(names, values, strict=True)]
            case ast.Assign(targets=[name], value=value) | ast.AnnAssign(target=name, value=ast.expr() as value):
                pairs = [(name, value)]
            case _:
                continue
        for name, value in pairs:
            used = {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}
            if isinstance(name, ast.Name) and name.id.isupper() and used <= {"timedelta"}:
                yield name.id, ast.unparse(value)
