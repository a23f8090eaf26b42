"""The audit: which operator did what, when and why.

Every action runs inside :func:`action`. Its entry is the last statement of its transaction, so the change and its entry
commit together, and an action that changes nothing leaves no entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue.wake import wake_after_commit
from joblane.errors import sqlstate
from joblane.inspector.durations import lasting
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import LARGEST_PAGE, check_number
from joblane.inspector.views import AuditEntry
from joblane.record.audit import line_of, write
from joblane.record.driver.connection import LOCK_NOT_AVAILABLE, Connection
from joblane.record.driver.database import Database
from joblane.record.flow.limit_changes import PATIENCE

SHOWN_OF_TARGET = 100
"""The entries that the details of a task or a schedule have."""
MAX_WHO = 700
"""Characters; the longest ARN of a user is shorter. Source: IAM quotas, a path of 512 and a name of 64."""
CONTENDED = (LOCK_NOT_AVAILABLE, "40P01")
"""SQLSTATEs: a row stayed locked, a deadlock."""

PAST = {
    "run": "ran",
    "retry": "retried",
    "archive": "archived",
    "delete": "deleted",
    "cancel": "cancelled",
    "replay": "replayed",
    "edit": "edited",
    "abort": "aborted",
    "pass_line": "passed over",
    "signal": "signalled",
    "skip": "skipped",
}
"""Action on one task → its past tense."""


@dataclass(slots=True)
class Action:
    """An action in progress. ``reason``: on one line, or None. ``details`` of its entry: names and numbers, never a
    value of a payload.

    ``changed`` False: nothing had to be changed, so no entry is written.
    """

    connection: Connection
    who: str
    target: str
    reason: str | None
    details: dict[str, Any] = field(default_factory=dict)
    changed: bool = True


@contextmanager
def action(scope: Scope, name: str, target: str, reason: str | None) -> Iterator[Action]:
    """A transaction that ends with the audit entry. Any exception inside rolls it back.

    Raises :class:`SelectionError` for a bad ``reason``, and :class:`BusyError`.
    """
    who, reason = check_who(scope.who), check_reason(reason)
    database = scope.database
    try:
        connection = database.get()
        wake_after_commit(scope.sqs, scope.prefix)
        connection.execute_simple("begin")
        connection.execute_simple(f"set local lock_timeout = '{PATIENCE}'")
        doing = Action(connection, who, target, reason)
        yield doing
        if doing.changed:
            write(connection, who, name, doing.target, reason=reason, details=doing.details)
        connection.commit()
    except PostgresError as error:
        _abandon(database)
        if sqlstate(error) in CONTENDED:
            raise BusyError(target) from error
        raise
    except BaseException:
        _abandon(database)
        raise


def _abandon(database: Database) -> None:
    """Roll back. A connection that cannot roll back is dropped, and the server rolls back."""
    if database.usable:
        with suppress(PostgresError, OSError):
            database.get().rollback()
            return
    database.drop()


def check_who(who: str) -> str:
    if not isinstance(who, str) or not 0 < len(who) <= MAX_WHO or not who.isprintable():
        raise SelectionError("who", f"a printable name of 1 to {MAX_WHO} characters is required")
    return who


def check_reason(reason: str | None) -> str | None:
    """The reason on a single line; None for an empty reason."""
    try:
        return line_of(reason)
    except ValueError as error:
        raise SelectionError("reason", str(error)) from None


# --- Reading -------------------------------------------------------------------------------------------------------


def entries(
    scope: Scope,
    *,
    target: str | None = None,
    who: str | None = None,
    name: str | None = None,
    bulk: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> tuple[AuditEntry, ...]:
    """``name``: of the action. The entries for the tasks of bulk actions are left out unless ``target`` or ``bulk`` is
    given."""
    check_number("limit", limit, LARGEST_PAGE)
    if before is not None and (type(before) is not int or not 0 <= before < 2**63):
        raise SelectionError("before", "the number of an entry is required")
    texts = {"target": target, "who": who, "action": name, "bulk": bulk}
    times = {"since": since, "until": until}
    for field_, text in texts.items():
        if text is not None and (not isinstance(text, str) or "\0" in text):
            raise SelectionError(field_, "a text without NUL is required")
    for field_, at in times.items():
        if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
            raise SelectionError(field_, "a time with a zone is required")
    if since is not None and until is not None and since >= until:
        raise SelectionError("until", "a time after since is required")
    columns = {f"{field_} = $": text for field_, text in texts.items()}
    filters = {**columns, "at >= $": since, "at < $": until, "number < $": before}
    given = {condition: str(value) for condition, value in filters.items() if value is not None}
    conditions = [f"{condition}{number}" for number, condition in enumerate(given, start=2)]
    if target is None and bulk is None:
        conditions.append("bulk is null")
    rows = scope.connection.run(
        "select number, at, who, action, target, reason, bulk, details from joblane.audit"
        f" where {' and '.join(conditions) or 'true'} order by number desc limit $1::int",
        str(limit),
        *given.values(),
    )
    return tuple(AuditEntry(*row) for row in rows)


LAST = """
select who, action, extract(epoch from clock_timestamp() - at)::float8 from joblane.audit
 where target = $1 order by number desc limit 1
"""


def last(connection: Connection, target: str) -> str | None:
    """The latest action on a task as a sentence; None if there was none."""
    for who, name, seconds in connection.run(LAST, target):
        return f"{who} {PAST.get(name, name)} it {lasting(timedelta(seconds=seconds))} ago"
    return None
