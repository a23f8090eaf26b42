"""The operations that list rows, read from their signatures.

A query that no command, list or page shows in its own way is shown in the same way everywhere: the command line,
`joblane watch` and the page generate its command, its list and its page.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from joblane.inspector.durations import ago, duration
from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.listing import LISTINGS, SHOWN_IN_THEIR_OWN_WAY, Listing
from joblane.inspector.permission import Permission, permission_of

MARKUP = re.compile(r":\w+:`[~!]?(?:[\w.]+\.)?(\w+)`|``([^`]+)``")
ABOUT = re.compile(r"``(\w+)``(?:, ``\w+``)*: (.+?)(?= ``\w+``(?:, ``\w+``)*: |$)")

READABLE = (str, int, float, datetime, timedelta)
"""Types of parameters that a string gives. Others keep their defaults."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a query. ``kind``: its type without None and without the tuple of its values."""

    name: str
    kind: Any
    default: Any
    is_repeated: bool
    help: str

    @property
    def is_required(self) -> bool:
        """True without a default."""
        return self.default is inspect.Parameter.empty

    def read(self, text: str) -> Any:
        """Return the value of a string. Raises ValueError."""
        if issubclass(self.kind, Enum):
            values = [str(member.value) for member in self.kind]
            if text not in values:
                raise ValueError(f"{text!r} is not valid. Valid: {', '.join(values)}")
            return self.kind(text)
        if self.kind is bool:
            return text == "yes"
        if self.kind is datetime:
            return ago(text, datetime.now(UTC))
        if self.kind is timedelta:
            return duration(text)
        if self.kind is int and not text.isdecimal():
            raise ValueError(f"a whole number, not {text!r}")
        return self.kind(text)


@dataclass(frozen=True)
class Query:
    """An operation that lists rows. ``field``: of its answer, with the rows; None: the answer itself has them."""

    name: str
    row: type
    field: str | None
    doc: str
    parameters: tuple[Parameter, ...]

    @property
    def listing(self) -> Listing:
        """The description of its list."""
        return LISTINGS[self.row]

    @property
    def title(self) -> str:
        """``dead_orders`` → ``dead-orders``: its command, and the end of the address of its page."""
        return self.name.replace("_", "-")

    @property
    def is_complete(self) -> bool:
        """True if it needs no argument."""
        return not any(one.is_required for one in self.parameters)

    def rows(self, answer: Any) -> Sequence[Any]:
        """Return the rows of an answer."""
        found: Sequence[Any] = answer if self.field is None else getattr(answer, self.field)
        return found

    def arguments(self, given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the arguments of strings by their names. Raises :class:`SelectionError`."""
        found: dict[str, Any] = {}
        for one in self.parameters:
            given_values = [text for text in given.get(one.name, ()) if text]
            try:
                values = tuple(map(one.read, given_values))
            except ValueError as error:
                raise SelectionError(one.name, str(error)) from error
            if values:
                found[one.name] = values if one.is_repeated else values[0]
            elif one.is_required:
                raise SelectionError(one.name, "a value is required")
        return found


def query(operation: str) -> Query | None:
    """Return an operation of the inspector that lists rows; None for another operation."""
    function = vars(Inspector)[operation]
    hints = get_type_hints(function)
    field, row = _row_of(hints["return"])
    if row not in LISTINGS or permission_of(Inspector, operation) is not Permission.VIEW:
        return None
    doc = MARKUP.sub(lambda match: match[1] or f"``{match[2]}``", " ".join((inspect.getdoc(function) or "").split()))
    abouts = dict(ABOUT.findall(doc))
    parameters = []
    for name, one in list(inspect.signature(function).parameters.items())[1:]:
        kind, is_repeated = _kind_of(hints[name])
        if not issubclass(kind, READABLE):
            if one.default is one.empty:
                return None
            continue
        about = abouts.get(name, "").replace("``", "")
        parameters.append(Parameter(name, kind, one.default, is_repeated, about))
    text = ABOUT.sub("", doc).replace("``", "").strip()
    return Query(operation, row, field, text, tuple(parameters))


def new() -> list[Query]:
    """Return the queries that are not shown in their own way."""
    names = [name for name in vars(Inspector) if permission_of(Inspector, name) and name not in SHOWN_IN_THEIR_OWN_WAY]
    return [found for name in names if (found := query(name)) is not None]


def _row_of(answer: Any) -> tuple[str | None, Any]:
    """The field of an answer that has its rows, and their class; None for an answer without rows."""
    if get_origin(answer) is tuple:
        return None, get_args(answer)[0]
    if is_dataclass(answer):
        hints = get_type_hints(answer)
        for each in fields(answer):
            if get_origin(hints[each.name]) is tuple and get_args(hints[each.name])[0] in LISTINGS:
                return each.name, get_args(hints[each.name])[0]
    return None, None


def _kind_of(hint: Any) -> tuple[type, bool]:
    if get_origin(hint) in (Union, UnionType):
        hint = next(each for each in get_args(hint) if each is not NoneType)
    is_repeated = get_origin(hint) is tuple
    return (get_args(hint)[0] if is_repeated else hint), is_repeated
