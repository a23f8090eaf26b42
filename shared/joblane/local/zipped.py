"""Places with a container image on the local stack, whose functions run the zip files instead."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from joblane.local.errors import LocalError
from joblane.local.locked import PROVIDED, locked_names
from joblane.project import Project
from joblane.tasks.task import Task


def check_zipped(project: Project, tasks: Iterable[Task[Any, Any]]) -> str | None:
    """Return a line that names the places with an image; None: there are none.

    Raises :class:`LocalError` if their handlers import what is in their images only. It finds imports at the beginning
    of a module, in the handlers and in the project's own modules that they import.
    """
    members = [task for task in tasks if task.place is not None and task.place.image is not None]
    if not members:
        return None
    missing: defaultdict[str, set[str]] = defaultdict(set)
    for task in members:
        for name in _missing(project, f"{project.functions}.{task.folder}.handler"):
            missing[name].add(task.type)
    if missing:
        lacks = "; ".join(f"{name}, for {', '.join(sorted(types))}" for name, types in sorted(missing.items()))
        raise LocalError(
            f"The zip files, which run here instead of images, lack modules that handlers import: {lacks}. Add "
            "packages to the lock, and folders to `code` of [tool.joblane]; or run `joblane dev`, which uses the "
            "packages of this environment."
        )
    names = sorted({task.place.name for task in members if task.place is not None})
    return f"Places with an image run the zip files here: {', '.join(names)}"


def _missing(project: Project, module: str) -> set[str]:
    """Return the first names of the modules that ``module`` imports, directly or by others, and that no zip has."""
    own = {folder.name: folder.parent for folder in project.code_folders}
    locked, installed = {*locked_names(project.lock), *PROVIDED}, packages_distributions()
    waiting, missing, seen = [module], set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        root = name.partition(".")[0]
        if name in seen or root in ("joblane", *sys.stdlib_module_names):
            continue
        seen.add(name)
        if root in own:
            waiting += _imports(own[root], name)
        elif not locked & {canonicalize_name(each) for each in installed.get(root, ())}:
            missing.add(root)
    return missing


def _imports(parent: Path, module: str) -> Iterator[str]:
    """Yield the names that a module of the project imports when it is imported itself, and its packages."""
    base = parent.joinpath(*module.split("."))
    package, files = module, [base / "__init__.py"]
    if (file := base.with_suffix(".py")).is_file():
        package, files = module.rpartition(".")[0], [file]
    if "." in module:
        yield module.rpartition(".")[0]
    for file in filter(Path.is_file, files):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                start = ".".join([*above, *([node.module] if node.module else [])])
                yield start
                yield from (f"{start}.{each.name}" for each in node.names)  # perhaps modules
