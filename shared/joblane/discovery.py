"""Finds tasks and Lambdas: one folder under ``functions/`` is one task, or one Lambda with a handler of its own."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from joblane import schedule_overrides as schedules
from joblane import settings
from joblane.declaration import Task, check_type
from joblane.errors import DeclarationError, JobError, UnknownTypeError
from joblane.function import Function
from joblane.payload import ArchivedTask
from joblane.queues import folder_of
from joblane.schedule_overrides import Times

LIBRARY = "joblane.functions"
"""The package of the library's own tasks and functions: the sweep, bulk actions, the control API."""


def discover(package: str | None = None, *, times: Times | None = None) -> dict[str, Task[Any, Any]]:
    """Every task under ``package`` (default: the project's) and the library's own, by type, in order of type.

    ``times``: in place of those that schedules declare, see :mod:`~joblane.schedule_overrides`. None: those of the
    environment; ``{}``: as declared.

    A folder without ``handler.py``, or whose handler declares a Lambda of its own (``handler(event, context)``) and
    no task, is passed over. Raises :class:`DeclarationError`, for a handler that cannot be imported with the place.
    """
    tasks: dict[str, Task[Any, Any]] = {}
    for where, folder, module in _handlers(package):
        item = _task_of(module, where, folder)
        if item is not None and tasks.setdefault(item.type, item) is not item:
            raise DeclarationError(f"{where}: {item.type!r} is a task of the library; give this one another type")
    tasks = dict(sorted(tasks.items()))
    for item in tasks.values():
        _check_others(item, tasks)
    times = schedules.of_environment() if times is None else times
    return {type_: schedules.apply(item, times) for type_, item in tasks.items()}


def discover_functions(package: str | None = None) -> dict[str, Function]:
    """Every Lambda that declares a ``FUNCTION``, the library's own included, by its folder's name with hyphens.

    Raises :class:`DeclarationError` for a declaration without a handler.
    """
    found: dict[str, Function] = {}
    for where, folder, module in _handlers(package):
        declared = vars(module).get("FUNCTION")
        if declared is None:
            continue
        if not isinstance(declared, Function) or not callable(vars(module).get("handler")):
            raise DeclarationError(
                f"{where}: a FUNCTION of joblane.function and a handler(event, context) are required"
            )
        name = folder.replace("_", "-")
        if name in found:
            raise DeclarationError(f"{where}: {name!r} is a function of the library; give the folder another name")
        found[name] = replace(declared, handler=f"{module.__name__}.handler")
    return dict(sorted(found.items()))


def _handlers(package: str | None) -> Iterator[tuple[str, str, ModuleType]]:
    """Place, folder and module of every ``handler.py``: the library's, then those of ``package``."""
    for each in (LIBRARY, package or settings.functions()):
        root = _folder_of(each)
        for path in sorted(root.glob("*/handler.py")):
            folder = path.parent.name
            try:
                module = importlib.import_module(f"{each}.{folder}.handler")
            except JobError:
                raise
            except (Exception, SystemExit) as error:
                raise DeclarationError(
                    f"{_origin(error, path, root.parents[each.count('.')])}\n{_hint(error)}Mend it and run this again; "
                    f"`python -m {each}.{folder}.handler` shows the whole traceback."
                ) from error
            yield f"{each}/{folder}/handler.py", folder, module


def _folder_of(package: str) -> Path:
    try:
        found = Path(next(iter(importlib.import_module(package).__path__)))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise DeclarationError(
            f"there is no package {package!r}, in which tasks are found: one folder with a handler.py each. "
            f"`joblane init` makes a first one; another place is set by `functions` under [tool.joblane]"
        ) from None
    if package != LIBRARY:
        _check_place(package, found)
    return found


def _check_place(package: str, found: Path) -> None:
    """Refuse a package that hides the folder of handlers that is first on ``sys.path``: the project's.

    Python prefers a package with ``__init__.py`` to a folder without, wherever the two are.
    """
    folders = (Path(path, *package.split(".")) for path in sys.path)
    first = next((folder for folder in folders if any(folder.glob("*/handler.py"))), found)
    if first.resolve() != found.resolve():
        raise DeclarationError(
            f"the package {package!r} is found in {found}, and not in {first}. Add the file {first / '__init__.py'}, "
            f"or take the other off the path; `functions` under [tool.joblane] gives the package another name"
        )


def _check_others(task: Task[Any, Any], tasks: Mapping[str, Task[Any, Any]]) -> None:
    """What a declaration says of other tasks."""
    what = f"task {task.type!r}"
    if (type_ := task.follower) is not None:
        if type_ not in tasks:
            raise DeclarationError(f"{what}: on_archived: there is no task {type_!r}")
        if (takes := tasks[type_].payload) is not ArchivedTask:
            raise DeclarationError(f"{what}: on_archived: {type_!r} takes {takes.__name__}, not ArchivedTask")
    for alias in task.aliases:
        if any(alias in other.types for other in tasks.values() if other is not task):
            raise DeclarationError(f"{what}: aliases: {alias!r} is another task's")


def load(type_: str, package: str | None = None, *, times: Times | None = None) -> Task[Any, Any]:
    """One task by its type, importing its handler alone. ``times``: as for :func:`discover`.

    Raises :class:`DeclarationError`.
    """
    check_type(type_)
    package = package or settings.functions()
    found = _load_if_there(package, folder_of(type_)) or _load_if_there(LIBRARY, folder_of(type_))
    if found is None and package in sys.modules:
        _folder_of(package)
    if found is None or found.type != type_:  # 'a_b:c' and 'a:b_c' have the same folder
        raise UnknownTypeError(f"no task {type_!r}: {package}/{folder_of(type_)}/handler.py declares none")
    return schedules.apply(found, schedules.of_environment() if times is None else times)


@cache
def follower_of(task: Task[Any, Any]) -> Mapping[str, Any] | None:
    """What a row keeps of the task that ``on_archived`` names, to enqueue it; None where there is none.

    Raises :class:`DeclarationError` where it cannot be loaded.
    """
    other = task.archived_to
    if isinstance(other, str):
        other = load(other, task.function.__module__.rpartition(f".{task.folder}.")[0])
    if other is None:
        return None
    return {
        "type": other.type,
        "queue": other.queue,
        "max_attempts": other.max_retry + 1,
        "retention_seconds": int(other.retention.total_seconds()),
    }


def _load_if_there(package: str, folder: str) -> Task[Any, Any] | None:
    try:
        module = importlib.import_module(f"{package}.{folder}.handler")
    except ModuleNotFoundError as error:
        if error.name not in (package, f"{package}.{folder}", f"{package}.{folder}.handler"):
            raise
        return None
    return _task_of(module, f"{package}/{folder}/handler.py", folder)


def _origin(error: BaseException, handler: Path, root: Path) -> str:
    """File, line and text of an error in importing ``handler``: its last step in the code under ``root``."""
    steps = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    text = str(error)
    if isinstance(error, SyntaxError):
        steps.append((error.filename or str(handler), error.lineno or 1))
        text = error.msg
    ours = [(path, line) for file, line in steps if file != __file__ and (path := Path(file)).is_relative_to(root)]
    path, line = next((step for step in reversed(ours) if "site-packages" not in step[0].parts), (handler, 1))
    return f"{path.relative_to(root)}, line {line}: {type(error).__name__}: {text}"


def _hint(error: BaseException) -> str:
    """A sentence about a package that is not installed; empty for any other error."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    name = error.name.partition(".")[0]
    if name in sys.modules:  # a part of it is missing
        return ""
    return (
        f"{name!r} is not installed here: is it in the lock of what functions import ([tool.joblane] lock)? "
        "A folder of your own belongs in [tool.joblane] code.\n"
    )


def _task_of(module: ModuleType, where: str, folder: str) -> Task[Any, Any] | None:
    """The task that ``module`` declares; None where it declares a handler of its own."""
    tasks = list(dict.fromkeys(item for item in vars(module).values() if isinstance(item, Task)))
    declared = [item for item in tasks if item.function.__module__ == module.__name__]
    if not declared:
        if not callable(getattr(module, "handler", None)):
            raise DeclarationError(f"{where}: declares no task; put @task on its function {folder!r}")
        return None
    if len(declared) > 1:
        raise DeclarationError(f"{where}: declares {', '.join(item.type for item in declared)}; one folder, one task")
    if declared[0].folder != folder:
        raise DeclarationError(
            f"{where}: declares {declared[0].type!r}, which belongs in "
            f"{where.partition('/')[0]}/{declared[0].folder}/handler.py"
        )
    return declared[0]
