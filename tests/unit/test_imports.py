"""Circular imports inside a package, and imports of functions. The contract in pyproject.toml covers packages."""

from __future__ import annotations

import grimp
import pytest


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
