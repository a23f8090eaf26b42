"""Listeners: ``@on`` makes a function hear the ends of tasks in the worker's process."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from joblane.errors import DeclarationError
from joblane.tasks.event_kinds import KINDS, LISTENERS, Kind
from joblane.tasks.events import Event
from joblane.tasks.task import Task, check_type

F = TypeVar("F", bound=Callable[[Event], Any])


@dataclass(frozen=True, slots=True)
class Listener:
    """A function with the ends that it hears. ``type``: of the tasks. None: of every task."""

    function: Callable[[Event], Any]
    kinds: tuple[str, ...]
    type: str | None

    @property
    def name(self) -> str:
        """Module and name of the function, for log lines."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


def on(*kinds: Kind, task: Task[Any, Any] | str | None = None) -> Callable[[F], F]:
    """Call a function in the worker's process when a task has ended.

    The function is a ``def`` or an ``async def`` with one parameter, the :class:`~joblane.tasks.events.Event`. It is
    called after the end is committed, at most once, in the time that the invocation has left. Its errors are logged,
    and change nothing. It hears the ends that its own process records: not a run that was killed, nor a task that an
    operator, a caller or the sweep ends. ``@task(…, events=…)`` reports those too.

    A function on Lambda has the listeners of the modules that its ``handler.py`` imports.

    Args:
        kinds: Ends that it hears: ``"completed"``, ``"archived"``, ``"cancelled"``.
        task: Task, or its type, whose ends it hears. None: every task whose function has the listener.

    Raises:
        DeclarationError: no kind or an unknown one, or a function that does not take one event.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise DeclarationError(f'on: {kind!r} is not one of {", ".join(KINDS)}; write @on("archived")')
    if not kinds:
        raise DeclarationError(f'on: name at least one of {", ".join(KINDS)}: @on("archived")')
    type_ = task.type if isinstance(task, Task) else task
    if type_ is not None:
        if not isinstance(type_, str):
            raise DeclarationError(f"on: task: a function declared by @task, or its type, is required, not {type_!r}")
        check_type(type_)

    def declare(function: F) -> F:
        _check(function)
        LISTENERS.append(Listener(function, tuple(kinds), type_))
        return function

    return declare


def listeners(kind: str, task: Task[Any, Any]) -> list[Listener]:
    """Return the listeners that hear an end of a task, in the order of their declarations."""
    return [item for item in LISTENERS if kind in item.kinds and item.type in (None, *task.types)]


def _check(function: Callable[..., Any]) -> None:
    if (
        not inspect.isfunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise DeclarationError(f"on: {function!r}: a function with one parameter, the event, is required")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        name = function.__qualname__
        raise DeclarationError(f"on: {name}: the function takes one parameter, the event: def {name}(event)") from None
