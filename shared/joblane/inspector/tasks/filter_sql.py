"""The check of a filter, field by field; positions in a listing; and how the statements of the Inspector are planned.

A listing is in the order of (created_at, id), and a position in it is such a pair.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from joblane.errors import storable
from joblane.inspector.durations import LONGEST, written
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import ALLOWED, BulkAction, Filter
from joblane.inspector.nearest import meant
from joblane.inspector.scope import Scope
from joblane.names import TYPE_PATTERN, Queue
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State
from joblane.sqs.message import ID_PATTERN, MAX_ID, TENANT_PATTERN
from joblane.tasks.job import MAX_TAG

LARGEST_PAGE = 500
LONGEST_WITHIN = timedelta(days=30)
"""The longest period of statistics."""
MAX_VALUES = LARGEST_PAGE
"""Values of one field of a filter: enough for the ids of a whole page."""
MAX_ERROR = 200
NOW = "select clock_timestamp()"
BOUND = 20_000
"""Rows that a statement of a listing reads at most, in about 10 ms."""
HAS_ROWS = f"""
select where exists (select from joblane.tasks where type = $1 and finished_at is not null)
          or exists (select from (select type from joblane.tasks where finished_at is null
                                   order by created_at desc, id desc limit {BOUND}) as live where type = $1)
"""
OF_ID = f"1 to {MAX_ID} printable ASCII characters without spaces"
FINGERPRINT_PATTERN = re.compile(r"[!-~]{1,64}")

E = TypeVar("E", bound=StrEnum)


# --- Checking ------------------------------------------------------------------------------------------------------


def checked(scope: Scope, filter_: Filter) -> Filter:
    """``filter_`` with its values in their types. Raises :class:`SelectionError`, which names the invalid field."""
    for each in fields(Filter):
        value = getattr(filter_, each.name)
        if isinstance(value, str) and each.name in ("ids", "states", "types", "queues"):
            raise SelectionError(each.name, "a list is required, not a single text")
        if isinstance(value, str) and not value.strip():
            raise SelectionError(each.name, "the text is empty; leave it out to match any")
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > MAX_VALUES:
            raise SelectionError(each.name, f"{MAX_VALUES} at most, not {len(value)}")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise SelectionError(each.name, "a time with a zone is required")
        if isinstance(value, timedelta) and not timedelta(0) < value <= LONGEST:
            raise SelectionError(each.name, f"a duration of more than 0 s and at most {LONGEST.days} days is required")
    for name, value, pattern, wanted in (
        *(("ids", id_, ID_PATTERN, f"{OF_ID} are required") for id_ in filter_.ids),
        ("id_prefix", filter_.id_prefix, ID_PATTERN, OF_ID),
        ("parent", filter_.parent, ID_PATTERN, "the id of a task is required"),
        ("tenant", filter_.tenant, TENANT_PATTERN, "1 to 128 ASCII letters, digits and punctuation are required"),
        ("fingerprint", filter_.fingerprint, FINGERPRINT_PATTERN, "a fingerprint from a listing is required"),
    ):
        if value is not None and (not isinstance(value, str) or not pattern.fullmatch(value)):
            raise SelectionError(name, wanted)
    for name, longest in (("tag", MAX_TAG), ("error", MAX_ERROR)):
        text = getattr(filter_, name)
        if text is not None and (not isinstance(text, str) or len(text) > longest or storable(text) != text):
            raise SelectionError(name, f"a string of 1 to {longest} characters is required")
    for name in ("created", "ended"):
        after, before = getattr(filter_, f"{name}_after"), getattr(filter_, f"{name}_before")
        if after is not None and before is not None and after >= before:
            raise SelectionError(f"{name}_before", f"a time after {name}_after is required")
    check_types(scope, filter_.types)
    return replace(
        filter_,
        ids=tuple(dict.fromkeys(filter_.ids)),
        types=tuple(dict.fromkeys(filter_.types)),
        states=_states(filter_),
        queues=_members("queues", Queue, filter_.queues),
    )


def aimed(filter_: Filter, action: BulkAction) -> Filter:
    """A checked filter, limited to the states that allow ``action``. Raises :class:`SelectionError`."""
    allowed = [state for state in State if state in ALLOWED[action]]
    if bad := set(filter_.states) - set(allowed):
        raise SelectionError(
            "states",
            f"{action} is for tasks that are {' or '.join(allowed)}, not for tasks that are {' or '.join(sorted(bad))}",
        )
    return replace(filter_, states=filter_.states or tuple(allowed))


def check_number(field: str, number: object, most: int, *, least: int = 1) -> None:
    """Raise :class:`SelectionError` unless ``number`` is from ``least`` to ``most``."""
    if type(number) is not int or not least <= number <= most:
        raise SelectionError(field, f"a whole number from {least} to {most} is required")


def check_within(within: object, shortest: timedelta = timedelta(minutes=1)) -> None:
    """Raise :class:`SelectionError` unless ``within`` is a time from ``shortest`` to :data:`LONGEST_WITHIN`."""
    if not isinstance(within, timedelta) or not shortest <= within <= LONGEST_WITHIN:
        given = written(within) if isinstance(within, timedelta) else repr(within)
        raise SelectionError("within", f"{written(shortest)} to {written(LONGEST_WITHIN)} is required, not {given}")


def _states(filter_: Filter) -> tuple[State, ...]:
    states = _members("states", State, filter_.states)
    if type(filter_.lease_over) is not bool:
        raise SelectionError("lease_over", "true or false is required")
    if not filter_.lease_over:
        return states
    if states and State.ACTIVE not in states:
        raise SelectionError("lease_over", "only active tasks have a lease; leave out the states, or name active")
    return (State.ACTIVE,)


def _members(field: str, kind: type[E], values: Iterable[str]) -> tuple[E, ...]:
    try:
        return tuple(dict.fromkeys(map(kind, values)))
    except ValueError as error:
        raise SelectionError(field, f"{error}; valid are {', '.join(kind)}") from None


def check_types(scope: Scope, types: Sequence[str]) -> None:
    """A type is known if it is declared, is a former name of a declared type, or has rows in the task table."""
    known = {name for task in scope.tasks.values() for name in task.types} if types else set()
    for type_ in types:
        if type_ not in known and not (
            isinstance(type_, str) and TYPE_PATTERN.fullmatch(type_) and scope.connection.run(HAS_ROWS, type_)
        ):
            raise SelectionError("types", unknown_type(type_, known))


def unknown_type(type_: object, known: Iterable[str]) -> str:
    """The message for a type that is not known, with the nearest known names."""
    return f"there is no task type {type_!r}. {meant(type_, known)}`joblane types` lists all"


# --- A position in a listing ---------------------------------------------------------------------------------------


def cursor_of(created_at: datetime, id_: str) -> str:
    """A position as a string for addresses and JSON."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {id_}".encode()).decode().rstrip("=")


def position_of(cursor: str) -> tuple[datetime, str]:
    """The pair that :func:`cursor_of` was given. Raises :class:`SelectionError`."""
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        at, space, id_ = decoded.partition(" ")
        created_at = datetime.fromisoformat(at)
    except (binascii.Error, ValueError, TypeError):
        created_at, space, id_ = None, "", ""
    if created_at is None or created_at.tzinfo is None or not space or storable(id_) != id_:
        raise SelectionError("after", "this is not a position that a page has returned; start without it")
    return created_at, id_


def page_cursor(of: str, created_at: datetime, id_: str) -> str:
    """A position that only the listing ``of`` accepts, see :func:`mark_of`."""
    return f"{cursor_of(created_at, id_)}.{of}"


def page_position(of: str, after: str | None) -> str | None:
    """The position in a cursor of the listing ``of``. Raises :class:`SelectionError`."""
    if after is None:
        return None
    cursor, _, mark = after.partition(".") if isinstance(after, str) else ("", "", "")
    position_of(cursor)
    if mark != of:
        raise SelectionError("after", "this position belongs to a listing with another filter; start without it")
    return cursor


def mark_of(filter_: Filter, *more: object) -> str:
    """A digest of a checked filter, without its times: an age is another time on each page."""
    fixed = replace(
        filter_, created_after=None, created_before=None, ended_after=None, ended_before=None, **_sorted(filter_)
    )
    return hashlib.sha256(repr((fixed, *more)).encode()).hexdigest()[:8]


def _sorted(filter_: Filter) -> dict[str, Any]:
    values = {each.name: getattr(filter_, each.name) for each in fields(Filter)}
    return {name: tuple(sorted(value)) for name, value in values.items() if isinstance(value, tuple)}


# --- Planning ------------------------------------------------------------------------------------------------------

CUSTOM = "set local plan_cache_mode = force_custom_plan; set local jit = off"
"""Plans are made for the actual values, because a generic plan cannot distinguish a rare type from a common one, or a
list of 500 from one of 50. A statement is not compiled, which would take longer than the statement."""
PLANNING = f"""{CUSTOM}; set local enable_seqscan = off; set local enable_sort = off;
 set local random_page_cost = 1"""
"""Plans follow the index that has the order of the listing and that fits best, even if the table's statistics are out
of date: with equal costs of pages an index that yields only rows that fit costs less than one that yields others as
well."""


@contextmanager
def reading(connection: Connection) -> Iterator[Connection]:
    """A snapshot of the database for the statements of listings. If a transaction is open, they join it."""
    with snapshot(connection, PLANNING):
        yield connection


@contextmanager
def snapshot(connection: Connection, planning: str) -> Iterator[Connection]:
    """A snapshot of the database for several statements, with settings. If a transaction is open, they join it."""
    if not connection.idle:
        connection.execute_simple(planning)
        yield connection
        return
    connection.execute_simple(f"begin isolation level repeatable read read only; {planning}")
    try:
        yield connection
    finally:
        if connection.usable:
            connection.rollback()
