"""Filters in addresses and forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from starlette.requests import Request

from joblane.inspector.durations import SHAPE, ago, duration, written
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter
from joblane.names import Queue
from joblane.record.row.states import State

Name = TypeVar("Name", bound=StrEnum)
Value = TypeVar("Value")
TEXTS = ("tenant", "tag", "error", "fingerprint", "parent")
AGES = (("newer", "older", "created"), ("ended_newer", "ended_older", "ended"))
"""Fields of ages or times, and the times of the filter."""
SHOWN = ("state", "type", "queue", "id", *TEXTS, "newer", "older", "ended_newer", "ended_older", "longer", "lease_over")
"""Names of the fields above a listing, and of the parameters of its address."""
LABELS = {
    "state": "State",
    "type": "Type",
    "queue": "Queue",
    "id": "Id begins with",
    "tenant": "Tenant",
    "tag": "Tag",
    "error": "Error contains",
    "fingerprint": "Fingerprint",
    "parent": "Child of",
    "newer": "Newer than",
    "older": "Older than",
    "ended_newer": "Ended after",
    "ended_older": "Ended before",
    "longer": "Ran longer than",
    "lease_over": "Lease is over",
}
"""Name of a field → its label above a listing."""
RARE = ("tag", "parent", "newer", "older", "ended_older", "longer", "lease_over")
"""Fields that are folded, unless one of them has a value."""

PER_PAGE = 50
"""Rows of one page of a list."""
YES = "yes"
"""The value of a checked box."""


class Fields(Protocol):
    """The query of an address, or a form: each name can have several values."""

    def getlist(self, key: str) -> Sequence[str]: ...


def read(fields: Fields, now: datetime) -> Filter:
    """Read a filter; an empty field matches any task. The fields :data:`AGES`: an age, or a time.

    Raises :class:`SelectionError`, which names the field.
    """

    def first(name: str) -> str | None:
        return next((text for given in fields.getlist(name) if (text := given.strip())), None)

    times: list[datetime | None] = []
    for newer, older, _ in AGES:
        after, before = (time_of(field, first(field), now) for field in (newer, older))
        if after and before and after >= before:
            raise SelectionError(older, f"nothing is older than {first(older)} and newer than {first(newer)}")
        times += [after, before]
    created_after, created_before, ended_after, ended_before = times
    texts: dict[str, Any] = {name: first(name) for name in TEXTS}
    return Filter(
        ids=tuple(fields.getlist("ids")),
        id_prefix=first("id"),
        states=_names(fields, "state", State),
        types=tuple(filter(None, fields.getlist("type"))),
        queues=_names(fields, "queue", Queue),
        created_after=created_after,
        created_before=created_before,
        ended_after=ended_after,
        ended_before=ended_before,
        lease_over=checked("lease_over", first("lease_over")),
        longer=None if (text := first("longer")) is None else age("longer", text),
        **texts,
    )


def write(chosen: Filter) -> list[tuple[str, str]]:
    """The fields from which :func:`read` makes the same filter, with times instead of ages."""
    pairs: list[tuple[str, str | None]] = [
        *(("ids", id_) for id_ in chosen.ids),
        ("id", chosen.id_prefix),
        *(("state", state) for state in chosen.states),
        *(("type", type_) for type_ in chosen.types),
        *(("queue", queue) for queue in chosen.queues),
        *((name, getattr(chosen, name)) for name in TEXTS),
    ]
    times = (
        (field, getattr(chosen, f"{name}_{end}"))
        for *fields, name in AGES
        for field, end in zip(fields, ("after", "before"), strict=True)
    )
    pairs += [(name, at.isoformat()) for name, at in times if at is not None]
    pairs += [("lease_over", YES)] if chosen.lease_over else []
    pairs += [] if chosen.longer is None else [("longer", _written(chosen.longer))]
    return [(name, str(value)) for name, value in pairs if value is not None]


def age(field: str, text: str) -> timedelta:
    """A duration as on the command line; spaces and capitals are allowed. Raises :class:`SelectionError`."""
    return parsed(duration, field, text)


def parsed(parse: Callable[[str], Value], field: str, text: str) -> Value:
    """The result of ``parse`` for a string without its spaces and capitals. Raises :class:`SelectionError`."""
    try:
        return parse("".join(text.split()).lower())
    except ValueError as error:
        raise SelectionError(field, str(error)) from None


def name_of(kind: type[Name], field: str, text: str) -> Name:
    """Raises :class:`SelectionError`."""
    try:
        return kind(text)
    except ValueError:
        raise SelectionError(field, f"{', '.join(kind)} are valid") from None


def whole(field: str, text: str, least: int, most: int) -> int:
    """Raises :class:`SelectionError`."""
    if not re.fullmatch(r"\d{1,9}", text.strip()) or not least <= int(text) <= most:
        raise SelectionError(field, f"a whole number from {least:,} to {most:,} is required")
    return int(text)


class Form:
    """The fields of a form."""

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._values = values

    def getlist(self, key: str) -> Sequence[str]:
        return self._values.get(key, [])

    def text(self, key: str) -> str:
        """The first value without spaces around it; empty if the field is missing."""
        return next(iter(self.getlist(key)), "").strip()

    @property
    def reason(self) -> str | None:
        return self.text("reason") or None

    @property
    def end(self) -> datetime | None:
        """The end of a pause. ``for``: its duration; empty: until it is resumed. Raises :class:`SelectionError`."""
        length = self.text("for")
        return datetime.now(UTC) + age("for", length) if length else None

    @property
    def required_reason(self) -> str:
        """Raises :class:`SelectionError`."""
        if self.reason is None:
            raise SelectionError("reason", "a reason is required, for other operators and the audit")
        return self.reason


def form(request: Request) -> Form:
    """The form of an action, which :class:`~joblane.page.security.Guard` has read and checked."""
    return Form(request.state.form)


def _written(time: timedelta) -> str:
    """The text that :func:`age` reads as ``time``."""
    return f"{time.total_seconds():f}s" if time % timedelta(seconds=1) else written(time)


def _names(fields: Fields, field: str, kind: type[Name]) -> tuple[Name, ...]:
    return tuple(name_of(kind, field, text) for text in fields.getlist(field) if text)


def checked(field: str, text: str | None) -> bool:
    """Raises :class:`SelectionError`."""
    if text not in (None, YES):
        raise SelectionError(field, f"{YES} is valid, or leave it out")
    return text == YES


def time_of(field: str, text: str | None, now: datetime) -> datetime | None:
    """The time that is given, or the time before ``now`` of an age. Raises :class:`SelectionError`."""
    if text is None:
        return None
    compact = "".join(text.split()).lower()
    try:
        return ago(compact if SHAPE.fullmatch(compact) else text, now)
    except ValueError as error:
        raise SelectionError(field, str(error)) from None
