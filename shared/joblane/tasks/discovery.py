"""Discovery of tasks and functions: each folder under ``functions/`` declares one task or one Lambda function."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from joblane import settings
from joblane.errors import MISSING_MODULE, DeclarationError, JobError, UnknownTypeError, is_not_installed
from joblane.names import OWN_TYPES, folder_of, set_home
from joblane.tasks import schedule_overrides as schedules
from joblane.tasks.event_kinds import AROUND, EVENTS, LISTENERS
from joblane.tasks.function import Function
from joblane.tasks.limit import check_shared
from joblane.tasks.payload import ArchivedTask
from joblane.tasks.schedule_overrides import Times
from joblane.tasks.task import EVERY_LANE, Task, check_type

LIBRARY = "joblane.functions"
"""The package of the library's own tasks and functions: the sweep, bulk actions and the control API."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A handler that cannot be used. ``folder``: its folder in the package. ``text``: file, line and error."""

    folder: str
    text: str


_broken: list[Broken] | None = None
"""None: a broken handler is an error."""
_again = "Fix it and run this again"


def leave_out_broken() -> list[Broken]:
    """Let this process discover the tasks without those whose handlers are broken, as a development server must.

    Returns the list to which each discovery adds the broken handlers.
    """
    global _broken, _again
    _broken, _again = [], "Fix it and save"
    return _broken


def check(package: str | None = None) -> tuple[dict[str, Task[Any, Any]], list[Broken]]:
    """Import all handlers and the migrations, and return the usable tasks and all problems. It needs no database.

    A problem without a folder concerns several tasks.
    """
    global _broken  # noqa: PLW0603
    before, found = _broken, list[Broken]()
    _broken = found
    tasks: dict[str, Task[Any, Any]] = {}
    try:
        tasks = discover(package, times={})
        discover_functions(package)
    except DeclarationError as error:
        found.append(Broken("", str(error)))
    finally:
        _broken = before
    if (name := settings.migrations()) is not None:
        try:
            migration_of(name)
        except DeclarationError as error:
            found.append(Broken("", str(error)))
    return tasks, found


def migration_of(name: str) -> Callable[[str], object]:
    """Return the function of the project's own migrations, ``module:function``. It takes the address of the database.

    Raises :class:`DeclarationError` if it cannot be imported, or is no function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DeclarationError(f"migrations: {name!r}: 'module:function' is required: {problem}") from error
    if not callable(found):
        raise DeclarationError(f"migrations: {name!r}: a function is required, not {type(found).__name__}")
    migration: Callable[[str], object] = found
    return migration


def discover(package: str | None = None, *, times: Times | None = None) -> dict[str, Task[Any, Any]]:
    """Return every task under ``package`` (default: the project's) and the library's own tasks, by type, sorted.

    ``times``: times that replace the declared ones, see :mod:`~joblane.tasks.schedule_overrides`. None: the times in
    the environment; ``{}``: the declared times.

    A folder without ``handler.py`` is skipped, and so is a handler that declares a Lambda function and no task. Raises
    :class:`DeclarationError`. If a handler cannot be imported, the error names file and line.
    """
    tasks: dict[str, Task[Any, Any]] = {}
    for where, folder, module in _handlers(package):
        with _left_out(folder):
            task = _task_of(module, where, folder)
            if task is not None and tasks.setdefault(task.type, task) is not task:
                raise DeclarationError(f"{where}: {task.type!r} is a task of the library; use another type")
    tasks = dict(sorted(tasks.items()))
    for task in list(tasks.values()):
        with _left_out(task.folder, tasks):
            _check_references(task, tasks)
    if (AROUND or LISTENERS) and not _broken:
        _check_hooks(tasks)
    check_shared({type_: task.flow for type_, task in tasks.items() if task.flow})
    if any(task.place is not None for task in tasks.values()):
        from joblane.tasks.places import check_places

        check_places(tasks.values(), complete=not _broken)
    for task in tasks.values():  # another package may have declared some of these types elsewhere
        set_home(task.types, None if task.place is None else task.place.name)
    times = schedules.of_environment() if times is None else times
    return {type_: schedules.apply(task, times) for type_, task in tasks.items()}


def discover_functions(package: str | None = None) -> dict[str, Function]:
    """Return every Lambda that declares a ``FUNCTION``, also the library's own, by its folder's name with hyphens.

    Raises :class:`DeclarationError` for a declaration without a handler.
    """
    functions: dict[str, Function] = {}
    for where, folder, module in _handlers(package):
        declared = vars(module).get("FUNCTION")
        if declared is None:
            continue
        if not isinstance(declared, Function) or not callable(vars(module).get("handler")):
            raise DeclarationError(
                f"{where}: a FUNCTION of joblane.tasks.function and a handler(event, context) are required"
            )
        name = folder.replace("_", "-")
        if name in functions:
            raise DeclarationError(f"{where}: {name!r} is a function of the library; give the folder another name")
        functions[name] = replace(declared, handler=f"{module.__name__}.handler")
    return dict(sorted(functions.items()))


def _handlers(package: str | None) -> Iterator[tuple[str, str, ModuleType]]:
    """Yield path, folder and module of every ``handler.py``: first the library's, then those of ``package``."""
    for parent in (LIBRARY, package or settings.functions()):
        root = _folder_of(parent)
        for path in sorted(root.glob("*/handler.py")):
            folder = path.parent.name
            module = None
            with _left_out(folder):
                module = _imported(parent, path)
            if module is not None:
                yield f"{parent}/{folder}/handler.py", folder, module


def _imported(parent: str, path: Path) -> ModuleType:
    """Import a ``handler.py`` of the package ``parent``. Raises :class:`DeclarationError`, with file and line."""
    name = f"{parent}.{path.parent.name}.handler"
    try:
        return importlib.import_module(name)
    except JobError:
        raise
    except (Exception, SystemExit) as error:
        raise DeclarationError(_advised(error, path, name)) from error


def _advised(error: BaseException, path: Path, name: str) -> str:
    """Return file and line of an error in the import of the module ``name`` at ``path``, and what to do."""
    origin = _origin(error, path, path.parents[name.count(".")])
    hint = f"{MISSING_MODULE[0].upper()}{MISSING_MODULE[1:]}.\n" if is_not_installed(error) else ""
    return f"{origin}\n{hint}{_again}; `python -m {name}` shows the whole traceback."


@contextmanager
def _left_out(folder: str, tasks: dict[str, Task[Any, Any]] | None = None) -> Iterator[None]:
    """Note an error of the handler in ``folder``, and remove its task from ``tasks``; see :func:`leave_out_broken`."""
    try:
        yield
    except JobError as error:
        if _broken is None:
            raise
        if not any(broken.folder == folder for broken in _broken):
            _broken.append(Broken(folder, str(error)))
        for type_ in [type_ for type_ in tasks or () if folder_of(type_) == folder]:
            tasks.pop(type_)  # type: ignore[union-attr]


def _folder_of(package: str) -> Path:
    try:
        folder = Path(next(iter(importlib.import_module(package).__path__)))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise DeclarationError(
            f"there is no package {package!r} with the tasks, each in a folder with a handler.py. `joblane init` "
            f"creates it; set another name with `functions` under [tool.joblane]"
        ) from None
    if package != LIBRARY:
        _check_place(package, folder)
    return folder


def _check_place(package: str, imported: Path) -> None:
    """Refuse an imported package that hides the project's folder of handlers, which is the first on ``sys.path``.

    Python prefers a package with ``__init__.py`` to a folder without it, in any order of the path.
    """
    folders = (Path(path, *package.split(".")) for path in sys.path)
    first = next((folder for folder in folders if any(folder.glob("*/handler.py"))), imported)
    if first.resolve() != imported.resolve():
        raise DeclarationError(
            f"Python imports the package {package!r} from {imported}, not from {first}. Add the file "
            f"{first / '__init__.py'}, or remove the other folder from the path, or give the package another name by "
            f"`functions` under [tool.joblane]"
        )


def _check_references(task: Task[Any, Any], tasks: Mapping[str, Task[Any, Any]]) -> None:
    """Check the other tasks that a declaration names."""
    what = f"task {task.type!r}"
    if (type_ := task.follower) is not None:
        if type_ not in tasks:
            raise DeclarationError(f"{what}: on_archived: there is no task {type_!r}{_meant(type_, tasks)}")
        if (takes := tasks[type_].payload) is not ArchivedTask:
            raise DeclarationError(f"{what}: on_archived: {type_!r} takes {takes.__name__}, not ArchivedTask")
        if (flow := tasks[type_].flow) is not None and flow.key:
            raise DeclarationError(
                f"{what}: on_archived: {type_!r} has a key; a task that follows others can only have max_total, limit "
                "and rate"
            )
    chain = [task.type]
    while (following := tasks[chain[-1]].follower if chain[-1] in tasks else None) is not None:
        if following in chain:
            raise DeclarationError(
                f"{what}: on_archived: {' → '.join(map(repr, [*chain, following]))} is an endless loop; remove "
                "on_archived from the last task"
            )
        chain.append(following)
    if not _broken:  # the type of a broken handler is not among the tasks
        _check_grants(what, task, tasks)
    for alias in task.aliases:
        if any(alias in other.types for other in tasks.values() if other is not task):
            raise DeclarationError(f"{what}: aliases: {alias!r} belongs to another task")


def _check_grants(what: str, task: Task[Any, Any], tasks: Mapping[str, Task[Any, Any]]) -> None:
    """Check the types that a task may enqueue: the synthesis needs their lanes."""
    for name in ("enqueue", "run"):
        for type_ in getattr(task.grants, name):
            if type_ not in tasks and type_ != EVERY_LANE:
                raise DeclarationError(f"{what}: grants: {name}: there is no task {type_!r}{_meant(type_, tasks)}")


def _meant(type_: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return "".join(f"; did you mean {near!r}?" for near in get_close_matches(type_, [*known], n=1))


def _check_hooks(tasks: Mapping[str, Task[Any, Any]]) -> None:
    """Check the types that hooks and listeners name."""
    known = [type_ for task in tasks.values() for type_ in task.types]
    named = [("around", hook, type_) for hook in AROUND for type_ in hook.types]
    named += [("on", listener, listener.type) for listener in LISTENERS if listener.type is not None]
    for what, hook, type_ in named:
        if type_ not in known:
            raise DeclarationError(
                f"{what}: {hook.name} names {type_!r}, and there is no task of this type{_meant(type_, known)}"
            )


def load(type_: str, package: str | None = None, *, times: Times | None = None) -> Task[Any, Any]:
    """Return the task of a type. Only its handler is imported. ``times``: as for :func:`discover`.

    Raises :class:`DeclarationError`.
    """
    check_type(type_)
    package = package or settings.functions()
    task = _load_if_exists(package, folder_of(type_)) or _load_if_exists(LIBRARY, folder_of(type_))
    if task is None and package in sys.modules:
        _folder_of(package)
    if task is None or task.type != type_:  # 'a_b:c' and 'a:b_c' have the same folder
        raise UnknownTypeError(
            f"there is no task {type_!r}: {package}/{folder_of(type_)}/handler.py does not declare it"
        )
    return schedules.apply(task, schedules.of_environment() if times is None else times)


def load_for_person(type_: str) -> Task[Any, Any]:
    """Return the task of a type as :func:`load` does. An import error has file, line and what to do.

    Raises :class:`DeclarationError`.
    """
    try:
        return load(type_)
    except JobError:
        raise
    except (Exception, SystemExit) as error:
        name = f"{settings.functions()}.{folder_of(type_)}.handler"
        root = Path(next(iter(importlib.import_module(settings.functions()).__path__)))
        raise DeclarationError(_advised(error, root / folder_of(type_) / "handler.py", name)) from error


@cache
def successor_of(task: Task[Any, Any]) -> Mapping[str, Any] | None:
    """Return the columns that a row keeps to insert the task of ``on_archived``, or None if there is none.

    Raises :class:`DeclarationError` if that task cannot be loaded.
    """
    successor = task.archived_to
    if isinstance(successor, str):
        successor = load(successor, task.function.__module__.rpartition(f".{task.folder}.")[0])
    if successor is None:
        return None
    limits = successor.flow.row(successor.type, None, None) if successor.flow else {}
    return {
        **limits,
        "type": successor.type,
        "queue": successor.queue,
        "max_attempts": successor.max_retry + 1,
        "retention_seconds": int(successor.retention.total_seconds()),
        **({EVENTS: list(successor.events)} if successor.events else {}),
    }


def _load_if_exists(package: str, folder: str) -> Task[Any, Any] | None:
    try:
        module = importlib.import_module(f"{package}.{folder}.handler")
    except ModuleNotFoundError as error:
        if error.name not in (package, f"{package}.{folder}", f"{package}.{folder}.handler"):
            raise
        return None
    return _task_of(module, f"{package}/{folder}/handler.py", folder)


def _origin(error: BaseException, handler: Path, root: Path) -> str:
    """Return file, line and text of an import error, at the last frame in the code under ``root``."""
    steps = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    text = str(error)
    if isinstance(error, SyntaxError):
        steps.append((error.filename or str(handler), error.lineno or 1))
        text = error.msg
    inside = [(path, line) for file, line in steps if file != __file__ and (path := Path(file)).is_relative_to(root)]
    path, line = next((step for step in reversed(inside) if "site-packages" not in step[0].parts), (handler, 1))
    return f"{path.relative_to(root)}, line {line}: {type(error).__name__}: {text}"


def _task_of(module: ModuleType, where: str, folder: str) -> Task[Any, Any] | None:
    """Return the task that ``module`` declares, or None if it declares a Lambda function."""
    tasks = list(dict.fromkeys(item for item in vars(module).values() if isinstance(item, Task)))
    declared = [item for item in tasks if item.function.__module__ == module.__name__]
    if not declared:
        if not callable(getattr(module, "handler", None)):
            raise DeclarationError(f"{where}: declares no task; put @task on its function {folder!r}")
        return None
    if len(declared) > 1:
        types = ", ".join(item.type for item in declared)
        raise DeclarationError(f"{where}: declares {types}; a folder may declare only one task")
    if declared[0].type.startswith(OWN_TYPES) and not where.startswith(LIBRARY):
        raise DeclarationError(f"{where}: declares {declared[0].type!r}; types {OWN_TYPES}* belong to the library")
    if declared[0].folder != folder:
        raise DeclarationError(
            f"{where}: declares {declared[0].type!r}, which belongs in "
            f"{where.partition('/')[0]}/{declared[0].folder}/handler.py"
        )
    return declared[0]
