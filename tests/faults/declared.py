"""The types of a storm: several types with the same handler, and the words of a script that end a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import FunctionType
from typing import Any

from joblane import RateLimited, RetryAfter, RevokeTask, SkipRetry, Snooze, task
from joblane.names import folder_of
from joblane.tasks.task import Task

Tasks = dict[str, Task[Any, Any]]


def declared(handler: Callable[..., Any], types: Mapping[str, Mapping[str, Any]], **options: Any) -> Tasks:
    """Declare each type with the options of all and its own.

    ``handler`` among the options of a type: another one. ``on_archived``: a type above it.
    """
    tasks: Tasks = {}
    for type_, own in types.items():
        given = {"handler": handler, **options, **own}
        if "on_archived" in given:
            given["on_archived"] = tasks[given["on_archived"]]
        code: FunctionType = given.pop("handler")
        function = FunctionType(code.__code__, code.__globals__, folder_of(type_), None, code.__closure__)
        function.__annotations__ = code.__annotations__
        tasks[type_] = task(type_, **given)(function)
    return tasks


def follow(word: str, wait: timedelta = timedelta(0)) -> None:
    """End a run as a word says. Another word: it continues."""
    match word:
        case "fail":
            raise ValueError("as the script says")
        case "retry":
            raise RetryAfter(wait, "again")
        case "snooze":
            raise Snooze(wait)
        case "limited":
            raise RateLimited(wait)
        case "skip":
            raise SkipRetry("as the script says")
        case "revoke":
            raise RevokeTask("as the script says")
