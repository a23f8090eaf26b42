"""Circular imports inside a room, imports of functions, the top room. The contracts in pyproject.toml cover rooms."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

import joblane
from tests.pages import ROOT

LIBRARY = Path(joblane.__file__).parent
MOST_AT_THE_TOP = 15
PAGE = ROOT / "docs" / "explanation" / "code.md"


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
