"""The errors of Django tasks: the path of their class, and no values of rows."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator

from joblane import errors
from joblane.errors import storable

CLASS_NOTE = "Class of the error: "
"""The start of the note with the path of an error's class, the last line of its traceback: a row has only its name."""
CLASS_LINE = re.compile(rf"^{CLASS_NOTE}([\w.]+)\n", re.M)


def path_of(kind: type[BaseException]) -> str:
    """Return the path by which Django imports the class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def path_of_name(name: str) -> str:
    """Return the path of a class of which only the name is known."""
    return next((path_of(vars(home)[name]) for home in (errors, builtins) if name in vars(home)), name)


def describe(error: BaseException) -> None:
    """Note the path of an error's class for the result of the task, and remove rows from the database's errors."""
    hide_rows(error)
    error.add_note(f"{CLASS_NOTE}{path_of(type(error))}")


def hide_rows(error: BaseException) -> None:
    """Remove the values of rows, DETAIL and CONTEXT, from the database's errors in an error, its causes and groups."""
    for link in _linked(error):
        _hide_rows_of_one(link)


def _hide_rows_of_one(error: BaseException) -> None:
    from django.db import Error as DjangoError

    original = error.__cause__ if isinstance(error, DjangoError) else error
    code, diagnosis = getattr(original, "sqlstate", None), getattr(original, "diag", None)
    if isinstance(code, str) and diagnosis is not None:
        message = storable(diagnosis.message_primary or type(error).__name__)
        if code.startswith("22"):  # data exceptions quote the value
            message = message.partition('"')[0].rstrip(" :")
        error.args = (f"{message} ({code})",)


def _linked(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, link.__context__]
            waiting += link.exceptions if isinstance(link, BaseExceptionGroup) else ()
