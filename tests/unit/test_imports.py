"""Circular imports inside a package. The import contract in pyproject.toml covers those between packages."""

from __future__ import annotations

import grimp


def test_the_library_has_no_circular_imports() -> None:
    graph = grimp.build_graph("joblane", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # A module that imports no remaining module is not part of a circle.
    while free := {module for module, imported in imports.items() if not imported & imports.keys()}:
        imports = {module: imported for module, imported in imports.items() if module not in free}
    used = set().union(*imports.values())
    assert sorted(imports.keys() & used) == []
