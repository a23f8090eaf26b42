"""Pauses of a queue, a type or a tenant.

The claim checks the pauses, so nothing new starts once a pause has committed. A delivered message is deleted and its
row waits (a message of an external producer gets a row); waiting has no limit, spends no attempt and counts no receive.
The sweep reads the paused rows and writes none of them. They stay due, and the first sweep after the pause sends their
messages. For the pause of a schedule see :mod:`joblane.inspector.actions.schedule`.

The event source mapping stays enabled on purpose. Behind a disabled mapping messages would age in SQS and expire after
ten days, and each deploy would overwrite ``Enabled``.

The pause of a queue excludes ``jobs:*``: without the sweep no waiting task of any queue would continue.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from joblane.enqueue.wake import wake
from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.nearest import meant
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import unknown_type
from joblane.inspector.views import Pause
from joblane.names import SWEEP, Queue
from joblane.record.driver.connection import Connection
from joblane.record.pauses import ONE_AT_A_TIME, PAUSE
from joblane.sqs.message import TENANT_PATTERN
from joblane.tasks.options import is_storable

CURRENT = """
select scope, name, reason, paused_by, since, until from joblane.pauses
 where until is null or until > clock_timestamp() order by scope, name
"""
RESUME = """
delete from joblane.pauses where scope = $1 and name = any(array(select jsonb_array_elements_text($2::jsonb)))
   and (until is null or until > clock_timestamp())
returning scope, name, reason, paused_by, since, until
"""
ROWS = """
select pg_catalog.to_jsonb(p) from joblane.pauses p
 where scope = $1 and name = any(array(select jsonb_array_elements_text($2::jsonb)))
"""
DELETE = (
    "delete from joblane.pauses where scope = $1 and name = any(array(select jsonb_array_elements_text($2::jsonb)))"
)
RESTORE = """
insert into joblane.pauses select * from pg_catalog.jsonb_populate_recordset(null::joblane.pauses, $1::jsonb)
on conflict do nothing
"""
NEVER_PAUSED = f"{SWEEP} cannot be paused: without it no waiting task of any queue would continue"


def current(connection: Connection) -> tuple[Pause, ...]:
    """The current pauses, in the order of scope and name."""
    return tuple(_pause([*row, False]) for row in connection.run(CURRENT))


def pause(scope: Scope, kind: PauseScope, name: str, reason: str | None, until: datetime | None) -> Pause:
    """A type is paused under its former names as well. A new pause of the same thing replaces the one before."""
    kind, names = _names(scope, kind, name)
    if SWEEP in names:
        raise SelectionError("scope", NEVER_PAUSED)
    end = end_of(until)
    with audit.action(scope, "pause", f"{kind}:{name}", reason) as doing:
        doing.connection.run(ONE_AT_A_TIME)
        before = doing.connection.run(ROWS, kind, json.dumps(names))
        rows = [row for each in names for row in doing.connection.run(PAUSE, kind, each, doing.reason, doing.who, end)]
        if not rows:
            raise SelectionError("until", "a time in the future is required, by the database's clock")
        paused = _pause(rows[0])
        doing.details |= {"until": end, "replaced": paused.replaced}
        if paused.replaced:
            doing.details |= {"since": paused.since.isoformat(), "paused_by": paused.replaced_by}
        doing.details |= {"before": [row for (row,) in before]} if before else {}
    return paused


def resume(scope: Scope, kind: PauseScope, name: str, reason: str | None) -> Pause:
    """A sweep continues the waiting tasks within seconds; if it cannot be woken, the next sweep does."""
    kind, names = _names(scope, kind, name, known=False)
    with audit.action(scope, "resume", f"{kind}:{name}", reason) as doing:
        doing.connection.run(ONE_AT_A_TIME)
        before = doing.connection.run(ROWS, kind, json.dumps(names))
        rows = doing.connection.run(RESUME, kind, json.dumps(names))
        if not rows:
            paused = ", ".join(f"{each.scope} {each.name}" for each in current(doing.connection)) or "none"
            raise SelectionError("name", f"{kind} {name!r} is not paused; current pauses: {paused}")
        resumed = _pause([*rows[0], False])
        doing.details |= {"since": resumed.since.isoformat(), "paused_by": resumed.by}
        doing.details |= {"before": [row for (row,) in before]}
    wake(scope.sqs, scope.prefix)
    return resumed


def restore(scope: Scope, connection: Connection, target: str, before: str) -> None:
    """Restore the pauses that a pause or a resume has replaced, in the open transaction. ``target``: of its entry."""
    kind, names = _names(scope, *target.split(":", 1), known=False)  # type: ignore[arg-type]
    connection.run(ONE_AT_A_TIME)
    connection.run(DELETE, kind, json.dumps(names))
    connection.run(RESTORE, before)


def _pause(row: list[Any]) -> Pause:
    kind, *rest = row
    return Pause(PauseScope(kind), *rest)


def end_of(until: datetime | None) -> str | None:
    """The end of a pause as text. Raises :class:`SelectionError`."""
    if until is None:
        return None
    if not isinstance(until, datetime) or until.tzinfo is None:
        raise SelectionError("until", "an aware datetime is required, for example datetime.now(UTC) + …")
    with suppress(OverflowError):
        until = until.astimezone(UTC)
        if is_storable(until):
            return until.isoformat()
    raise SelectionError("until", "a time that the calendar has is required")


# --- What can be paused --------------------------------------------------------------------------------------------


def _names(scope: Scope, kind: PauseScope, name: str, *, known: bool = True) -> tuple[PauseScope, list[str]]:
    """The names under which the target is paused. ``known``: raise :class:`SelectionError` if the target does not
    exist; a resume accepts targets that a deploy has removed in the meantime."""
    try:
        kind = PauseScope(kind)
    except ValueError:
        raise SelectionError("scope", f"{', '.join(PauseScope)} are valid") from None
    if not isinstance(name, str) or not TENANT_PATTERN.fullmatch(name):  # the widest pattern of all names
        raise SelectionError("name", "1 to 128 ASCII letters, digits and punctuation are required")
    if kind is PauseScope.TYPE and (task := scope.task(name)) is not None:
        return kind, [name, *(other for other in task.types if other != name)]
    if known and kind is not PauseScope.TENANT and name not in (names := sorted(_known(scope, kind))):
        if kind is PauseScope.TYPE:
            raise SelectionError("name", unknown_type(name, names))
        raise SelectionError(
            "name", f"there is no {kind} {name!r}. {meant(name, names)}Known: {', '.join(names) or 'none'}"
        )
    return kind, [name]


def _known(scope: Scope, kind: PauseScope) -> Iterable[str]:
    if kind is PauseScope.QUEUE:
        return list(Queue)
    return scope.tasks
