"""Hooks: ``@around`` puts a generator around each run, and ``@enqueueing`` sees each job before its check."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from joblane.errors import DeclarationError
from joblane.names import OWN_TYPES
from joblane.tasks.event_kinds import AROUND, ENQUEUEING
from joblane.tasks.task import Task, check_type

A = TypeVar("A", bound=Callable[[Any], Iterator[None] | AsyncIterator[None]])
E = TypeVar("E", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Hook:
    """A function with the types of the tasks that it is for. Empty: every type but the library's own.

    ``takes_tags``: a hook of an enqueue that also gets the tags.
    """

    function: Callable[..., Any]
    types: tuple[str, ...] = ()
    takes_tags: bool = False

    @property
    def name(self) -> str:
        """Module and name of the function, for log lines and errors."""
        return f"{self.function.__module__}.{_named(self.function)}"

    @property
    def is_async(self) -> bool:
        return inspect.isasyncgenfunction(self.function)

    def is_for(self, task: Task[Any, Any]) -> bool:
        if not self.types:
            return not task.type.startswith(OWN_TYPES)
        return any(type_ in self.types for type_ in task.types)


@overload
def around(function: A, /) -> A: ...
@overload
def around(*tasks: Task[Any, Any] | str) -> Callable[[A], A]: ...
def around(*tasks: Task[Any, Any] | str | A) -> A | Callable[[A], A]:
    """Run a generator function around each run in this process.

    The function takes the :class:`~joblane.handler.context.TaskContext` and yields once. The part before its yield runs
    before the handler, and the part after its yield runs after the handler. Both run in the handler's thread or event
    loop, within its timeout and its transaction. The first declared hook is the outermost. It is called for each run:
    each retry, each invocation of a resumable task, and each part of a task that waits.

    The yield raises the exception of the handler. It also raises an interrupt, which is no error: a
    :class:`TaskTimeout`, a :class:`TaskCancelled`, or the stop at a wait. The exception continues after the hook, even
    if the hook catches it. A hook may replace an exception that is no interrupt: ``raise RetryAfter(…) from error``.

    If a hook raises an exception before its yield, the handler does not run and no attempt is spent. The message stays
    in the queue for a growing time of up to 15 minutes. If it raises an exception after its yield, the run fails. Both
    are a :class:`HookError` with the name of the hook. Before its yield, a hook may also end the run by an exception
    such as :class:`RevokeTask` or :class:`Snooze`.

    An asynchronous generator function is for ``async def`` handlers only. A plain generator function is for both kinds.

    A function on Lambda has the hooks of the modules that its ``handler.py`` imports.

    Args:
        tasks: Tasks, or their types. Without any, as in ``@around``: every type except the library's own.

    Raises:
        DeclarationError: the function is no generator function with one parameter; or it is asynchronous, and a handler
            is a plain function.
    """
    if len(tasks) == 1 and not isinstance(tasks[0], (Task, str)):
        return _declare_around(tasks[0], ())
    for each in tasks:
        if not isinstance(each, Task):
            check_type(each)
    named = tuple(each for each in tasks if isinstance(each, (Task, str)))
    return lambda function: _declare_around(function, named)


def _declare_around(function: A, tasks: tuple[Task[Any, Any] | str, ...]) -> A:
    if not inspect.isgeneratorfunction(function) and not inspect.isasyncgenfunction(function):
        raise DeclarationError(
            f"around: {_named(function)}: a generator function with one yield is required: def hook(ctx). Tasks are "
            'named one by one: @around(order_ship, "order:cancel")'
        )
    _check_parameters("around", function, "the context of the run: def hook(ctx)", 1)
    hook = Hook(function, tuple(each.type if isinstance(each, Task) else each for each in tasks))
    check_async([hook], (each for each in tasks if isinstance(each, Task)))
    AROUND.append(hook)
    return function


def hooks_of(task: Task[Any, Any]) -> list[Hook]:
    """Return the hooks around the runs of a task, the outermost first."""
    return [hook for hook in AROUND if hook.is_for(task)]


def check_async(hooks: Iterable[Hook], tasks: Iterable[Task[Any, Any]]) -> None:
    """Raise :class:`DeclarationError` for an asynchronous hook around a plain handler, which has no event loop."""
    asynchronous = [hook for hook in hooks if hook.is_async]
    for task in tasks:
        for hook in asynchronous:
            if hook.is_for(task) and task.has_handler and not task.is_async:
                raise DeclarationError(
                    f"around: {hook.name} is asynchronous, and the handler of {task.type!r} is a plain `def`: write a "
                    'plain hook, or name the types of `async def` handlers: @around("category:action")'
                )


def enqueueing(function: E) -> E:
    """Call a function for each job that this process enqueues, before the job is checked.

    The function takes the :class:`Job` and its headers: ``def stamp(job, headers)``. With a third parameter it also
    takes the tags: ``def stamp(job, headers, tags)``. It may change the ``dict`` of headers and the list of tags. The
    job and its payload are read-only. Functions are called in the order of their declarations, in the thread of the
    enqueue, with the context variables of the caller. If a function raises an exception, the enqueue raises it and
    writes nothing.

    It is called for the jobs of ``JobClient``, ``MessageClient``, batches and runs. It is not called for a task that is
    enqueued with SQL, by a plain message or by another language, for a tick of a schedule, for a task of
    ``on_archived``, or for a task that an operator enqueues or retries.

    Raises:
        DeclarationError: the function is no plain function with two or three parameters.
    """
    if not inspect.isfunction(function) or inspect.isgeneratorfunction(function) or _is_async(function):
        raise DeclarationError(f"enqueueing: {_named(function)}: a plain function is required: def stamp(job, headers)")
    takes_tags = len(inspect.signature(function).parameters) == 3
    takes = "job and headers, or also tags: def stamp(job, headers)"
    _check_parameters("enqueueing", function, takes, 2 + takes_tags)
    ENQUEUEING.append(Hook(function, takes_tags=takes_tags))
    return function


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _named(function: object) -> str:
    return getattr(function, "__qualname__", None) or reprlib.repr(function)


def _check_parameters(what: str, function: Callable[..., Any], takes: str, number: int) -> None:
    try:
        inspect.signature(function).bind(*[None] * number)
    except TypeError:
        raise DeclarationError(f"{what}: {_named(function)}: the function takes {takes}") from None
