"""Errors as text: without rows and values of a database, storable, and cut; and wrong values in messages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

MAX_TEXT = 2_000


NOT_IN_DEV = "NotInJoblaneDev"
"""Code of AWS's errors with which `joblane dev` answers calls of services other than SQS."""
MISSING_MODULE = (
    "add its package with joblane lock PACKAGE, or name a folder of your own in [tool.joblane] code;"
    " joblane dev and tests need the package installed, too"
)
"""Advice for :func:`is_not_installed`. Without quotes: groups of errors show no quoted text."""
UNDEFINED_FUNCTION = "42883"
"""SQLSTATE of a function that does not exist. The library's functions have the version of their code in their names."""


def text_of(error: BaseException, scrub: Callable[[str], str] = str) -> str:
    """Return an error as one or two lines. For a database error: its message and code, without rows and values."""
    from pg8000.exceptions import Error as PostgresError

    original = getattr(error, "orig", None) or error
    try:
        if original.__cause__ is not None and original.__cause__.args == original.args:
            original = original.__cause__  # Django raises its own error from the driver's
        of_database = isinstance(original, PostgresError) or sqlstate(original) is not None
        text = _of_database(original) if of_database else str(error)
        if is_not_installed(error):
            text = f"{text}; {MISSING_MODULE}"
    except Exception:  # an error that cannot be printed is still a failed attempt
        text = ""
    return scrub(shortened(text, MAX_TEXT))[:MAX_TEXT] or type(error).__name__


def is_not_installed(error: BaseException) -> bool:
    """Return true if an import failed because its package is not installed."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return bool(name) and str(name).partition(".")[0] not in sys.modules


def _of_database(error: BaseException) -> str:
    code = sqlstate(error)
    if code is None:
        return str(error)
    fields = error.args[0] if error.args else "database error"
    message = str(fields.get("M", "database error")) if isinstance(fields, dict) else str(fields)
    message = message.partition("\nDETAIL:")[0]  # asyncpg and psycopg add it, and it contains values of rows
    if code.startswith("22"):  # data exceptions quote the value: invalid input syntax for type uuid: "…"
        message = message.partition('"')[0].rstrip(" :")
    if code == UNDEFINED_FUNCTION and " joblane." in message:
        return f"{message} ({code}); run `joblane migrate` of this code"
    return message if message.endswith(f"({code})") else f"{message} ({code})"  # Django's errors have it already


def sqlstate(error: BaseException) -> str | None:
    """Return the server's five-character code of a driver's error, or of an SQLAlchemy error around it."""
    original = getattr(error, "orig", None) or error
    first = original.args[0] if original.args else None
    code = first.get("C") if isinstance(first, dict) else getattr(original, "sqlstate", None)
    return code if isinstance(code, str) else None


_CONTROLS = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")


def storable(text: str) -> str:
    """Return ``text`` without control characters, except for line ends and tabs, and without lone surrogates.

    PostgreSQL's text cannot hold a NUL or a surrogate. Remove them before values are searched in the text: they may
    stand between the characters of a value.
    """
    return text.translate(_CONTROLS).encode(errors="replace").decode()


def shortened(text: str, longest: int) -> str:
    """Return the first ``longest`` storable characters of ``text``. An ellipsis is in place of the others."""
    kept = storable(text[: 4 * longest])
    return kept if len(kept) <= longest and len(text) <= 4 * longest else kept[: longest - 1] + "…"


MAX_SHOWN = 90


def shown(value: object) -> str:
    """Return a wrong value for an error message, a string of more than 90 characters cut.

    Another object than a string, a number or a timedelta is shown as its type, because it can hold a secret.
    """
    if isinstance(value, timedelta):
        return str(value)
    if type(value) is str:
        return repr(value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…")
    is_printable = value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 10**MAX_SHOWN)
    return repr(value) if is_printable else type(value).__name__
