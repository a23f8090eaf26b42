"""A declaration apart from its function: for a package that producers import, without the handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar

from joblane.errors import DeclarationError
from joblane.names import folder_of
from joblane.tasks.decorator import payload_class, task
from joblane.tasks.payload import Payload
from joblane.tasks.task import NO_HANDLER, P, Task, check_type

Parameters = ParamSpec("Parameters")
R = TypeVar("R")


class Declare(Protocol[Parameters]):
    """The type of :func:`declare`, which has the options of another function."""

    def __call__(
        self, type_: str, payload: type[P], *none: Parameters.args, **options: Parameters.kwargs
    ) -> Task[P, Any]: ...


def _with_options_of(
    _: Callable[Concatenate[str, Parameters], Any],
) -> Callable[[Callable[..., Any]], Declare[Parameters]]:
    return lambda function: function


@_with_options_of(task)
def declare(type_: str, payload: type[Any], **options: Any) -> Task[Any, Any]:
    """Declare a task without its function, for a package that producers of another repository import.

    Producers enqueue the result like any task: payload, queue, unique key and limits are checked alike. The repository
    that runs the task gives it a function by :func:`handles`.

    Args:
        type_: Name of the task, ``category:action``.
        payload: Its payload class.
        options: The options of :func:`~joblane.tasks.decorator.task`. ``on_archived`` is a task here, not the name of a
        type.

    Raises:
        DeclarationError: as for :func:`~joblane.tasks.decorator.task`.
    """
    check_type(type_)
    if not (isinstance(payload, type) and issubclass(payload, Payload)):
        raise DeclarationError(f"task {type_!r}: payload: a subclass of Payload is required, not {payload!r}")
    if isinstance(options.get("on_archived"), str):
        raise DeclarationError(
            f"task {type_!r}: on_archived: give a task, not the name {options['on_archived']!r}: a producer has no "
            "handlers in which the name could be found"
        )

    def function(payload: Any, ctx: Any) -> NoReturn:
        raise DeclarationError(
            f"task {type_!r} is declared without a function here; the repository that runs it has it in a file "
            f"{folder_of(type_)}/handler.py, under @handles(…)"
        )

    function.__name__, function.__module__ = folder_of(type_), NO_HANDLER
    function.__annotations__["payload"] = payload
    return task(type_, **options)(function)


def handles(declared: Task[P, Any]) -> Callable[[Callable[[P, Any], R]], Task[P, R]]:
    """Give a task of :func:`declare` its function, in ``functions/<name>/handler.py``.

    The function is as :func:`~joblane.tasks.decorator.task` requires. Its payload is of the declared class.

    Raises:
        DeclarationError: ``declared`` has a function already, or the function has another name, or takes another
            payload.
    """
    if not isinstance(declared, Task) or declared.has_handler:
        shown = f"task {declared.type!r}, which has a function" if isinstance(declared, Task) else f"{declared!r}"
        raise DeclarationError(f"handles: a task made by declare(…) is required, not {shown}")
    what = f"task {declared.type!r}"

    def give(function: Callable[[P, Any], R]) -> Task[P, R]:
        if function.__name__ != declared.folder:
            raise DeclarationError(f"{what}: the function is called {function.__name__!r}, not {declared.folder!r}")
        if (takes := payload_class(what, function)) is not declared.payload:
            raise DeclarationError(
                f"{what}: the function takes {takes.__name__}, and is declared with {declared.payload.__name__}"
            )
        return replace(declared, function=function)

    return give
