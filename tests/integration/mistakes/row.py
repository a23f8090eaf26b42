"""A mistake, and the line that it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Kind = Literal["help", "half", "raw", "silent"]


class Row(NamedTuple):
    """A mistake. ``line``: a part of the message, or the reason why a silent one cannot be seen."""

    call: Callable[..., Any]
    line: str
    kind: Kind = "help"
    """``help``: the message says what to do. ``half``: it says what is wrong. ``raw``: it is Python's or a library's.
    ``silent``: there is none."""


def problem_of(row: Row, *arguments: Any) -> str | None:
    """Make the mistake. Return what is not as the row says."""
    try:
        row.call(*arguments)
    except Exception as error:
        said = str(error)
        if row.kind == "silent":
            return f"it raises {type(error).__name__}: {said}"
        return None if row.line in said else f"{row.line!r} is not in {type(error).__name__}: {said}"
    return None if row.kind == "silent" else "it raises nothing"
