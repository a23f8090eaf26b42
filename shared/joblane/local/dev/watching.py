"""Noticing saved files."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.project import Project

if TYPE_CHECKING:
    from watchfiles import Change

START_SECONDS = 0.05
"""The watchers have started."""
STEP_MS, DEBOUNCE_MS = 30, 400
"""Changes that follow each other within 30 ms belong together, for 400 ms at most."""
SETTINGS = ("pyproject.toml", "cdk.json")
"""Files of the project's root whose change is a reload, too."""


async def saves(project: Project) -> AsyncGenerator[list[Path]]:
    """Yield the files that were saved together: those in the folders of the code, and :data:`SETTINGS`.

    A folder of the code that is created or removed is one of them, too. The first yield is empty: from then on no save
    is missed.
    """
    from watchfiles import DefaultFilter, awatch

    folders = [folder.resolve() for folder in project.code_folders]
    root = project.root.resolve()
    ignored = DefaultFilter()

    def path_of(name: str) -> Path:
        return Path(os.fsdecode(name.encode()))  # the watcher uses UTF-8 in any locale

    def is_code(change: Change, path: str) -> bool:
        file = path_of(path)
        if file.parent == root:
            return file.name in SETTINGS or file in folders
        return any(file.is_relative_to(folder) for folder in folders) and ignored(change, path)

    async def watch(paths: Iterable[Path], *, recursive: bool) -> None:
        options: dict[str, Any] = {"step": STEP_MS, "debounce": DEBOUNCE_MS, "recursive": recursive}
        names = [os.fsencode(path).decode() for path in paths]
        async for changes in awatch(*names, watch_filter=is_code, **options):
            await found.put({path_of(name) for _, name in changes})

    found: asyncio.Queue[set[Path]] = asyncio.Queue()
    # the root without its subfolders needs a watcher of its own
    running = [asyncio.create_task(watch((folder for folder in folders if folder.is_dir()), recursive=True))]
    running.append(asyncio.create_task(watch([root], recursive=False)))
    try:
        await asyncio.sleep(START_SECONDS)
        yield []
        while True:
            yield sorted(await found.get())
    finally:
        for task in running:
            task.cancel()


def code_of(project: Project) -> frozenset[tuple[str, int]]:
    """Return the files of the code with their times, to compare."""
    files = (path for folder in project.code_folders for path in folder.rglob("*.py"))
    found = set()
    for path in files:
        with suppress(OSError):
            found.add((str(path), path.stat().st_mtime_ns))
    return frozenset(found)


def forget_compiled(paths: Iterable[Path]) -> None:
    """Remove the compiled form of changed modules: Python does not notice two saves of the same size in one second."""
    for path in paths:
        if path.suffix == ".py":
            with suppress(OSError, NotImplementedError):
                Path(importlib.util.cache_from_source(str(path))).unlink()


def names_of(root: Path, paths: Sequence[Path]) -> str:
    """Return the names of saved files, without the temporary ones of an editor."""
    kept = [path for path in paths if path.is_file()] or list(paths)
    names = [str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in kept]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
