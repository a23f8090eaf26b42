"""Imports of handlers that run in a container image, compared with the zip files of the other functions.

The library's own functions run from the zip files and import every handler, and so do all functions of the local stack.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from joblane.local.errors import LocalError
from joblane.local.locked import PROVIDED, locked_names
from joblane.project import Project
from joblane.tasks.task import Task

ADD = "add packages to the lock, and folders to `code` of [tool.joblane]"
WITH_BODIES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.With, ast.AsyncWith, ast.For, ast.While)


def check_zipped(project: Project, tasks: Iterable[Task[Any, Any]]) -> str | None:
    """Return a line that names the places with an image, which run the zip files on the local stack; None: there are
    none. Raises :class:`LocalError` if the zip files lack what their handlers import."""
    members = with_image(tasks)
    if missing := missing_modules(project, members, inside=True):
        raise LocalError(
            "The zip files, which run here instead of images, lack modules that handlers import: "
            f"{shown(missing)}. To run them here, {ADD}; or run `joblane dev`, which uses the packages of this "
            "environment."
        )
    names = sorted({task.place.name for task in members if task.place})
    return f"Places with an image run the zip files here: {', '.join(names)}" if names else None


def with_image(tasks: Iterable[Task[Any, Any]]) -> list[Task[Any, Any]]:
    """Return the tasks that run in a container image."""
    return [task for task in tasks if task.place is not None and task.place.image is not None]


def missing_modules(
    project: Project, tasks: Sequence[Task[Any, Any]], *, inside: bool = False
) -> Mapping[str, Sequence[str]]:
    """Return the first name of each module that the zip files lack → the types of ``tasks`` whose handlers import it,
    directly or by other modules of the project.

    Imports at the top of a module count; ``inside``: imports in its functions count, too. An import below an ``if`` or
    ``try`` does not.
    """
    if not tasks:
        return {}
    own, locked = _Own(project), {*locked_names(project.lock), *PROVIDED}
    installed, found = packages_distributions(), defaultdict[str, list[str]](list)
    for task in tasks:
        for root in sorted(own.others(f"{project.functions}.{task.folder}.handler", inside=inside)):
            if not locked & {canonicalize_name(each) for each in installed.get(root, ())}:
                found[root].append(task.type)
    return found


def shown(missing: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name}, for {', '.join(types)}" for name, types in sorted(missing.items()))


class _Own:
    """The modules of a project that are in the zip files."""

    def __init__(self, project: Project) -> None:
        self._functions = project.functions
        self._parents = {folder.name: folder.parent for folder in project.code_folders}
        self._parents[project.functions] = project.root

    def others(self, module: str, *, inside: bool) -> set[str]:
        """Return the first names of other modules that ``module`` imports, without Python's own and the library."""
        waiting, seen, others = [module], set[str](), set[str]()
        while waiting:
            name = waiting.pop()
            root = name.partition(".")[0]
            if name in seen or root in ("joblane", *sys.stdlib_module_names) or self._functions.startswith(f"{name}."):
                continue
            seen.add(name)
            if (parent := self._parent(name)) is not None:
                waiting += _imports(parent, name, inside=inside)
            else:
                others.add(root)
        return others

    def _parent(self, module: str) -> Path | None:
        """Return the folder with the package of ``module``; None: no zip has it."""
        return next((parent for name, parent in self._parents.items() if f"{module}.".startswith(f"{name}.")), None)


def _imports(parent: Path, module: str, *, inside: bool) -> Iterator[str]:
    """Yield the package of a module, and the names that it imports. Some are not modules."""
    base = parent.joinpath(*module.split("."))
    package, file = module, base / "__init__.py"
    if base.with_suffix(".py").is_file():
        package, file = module.rpartition(".")[0], base.with_suffix(".py")
    if "." in module:
        yield module.rpartition(".")[0]
    for node in _statements(ast.parse(file.read_bytes()).body, inside=inside) if file.is_file() else ():
        match node:
            case ast.Import():
                yield from (each.name for each in node.names)
            case ast.ImportFrom():
                parts = package.split(".")
                above = parts[: len(parts) - node.level + 1] if node.level else []
                start = ".".join([*above, *([node.module] if node.module else [])])
                yield from (start, *(f"{start}.{each.name}" for each in node.names))


def _statements(body: Iterable[ast.stmt], *, inside: bool) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if inside and isinstance(node, WITH_BODIES):
            yield from _statements(node.body, inside=inside)
