"""The import contract in pyproject.toml checks the order of the packages; this test checks the modules inside them."""

from __future__ import annotations

import grimp


def test_no_modules_of_the_library_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("joblane", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # Modules that import nothing that is left are no part of a circle.
    while free := {module for module, imported in imports.items() if not imported & imports.keys()}:
        imports = {module: imported for module, imported in imports.items() if module not in free}
    used = set().union(*imports.values())
    assert sorted(imports.keys() & used) == []
