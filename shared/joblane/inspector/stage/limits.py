"""Limits: their values, the tasks that have their slots and wait for them, and what operators set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from joblane.enqueue.wake import wake
from joblane.errors import LimitError
from joblane.flow import Rate
from joblane.inspector.actions import audit
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import reading
from joblane.record import limit_changes
from joblane.record.connection import Connection
from joblane.record.limit_changes import Changed
from joblane.record.limit_status import LimitStatus, changed_keys, oldest_keys, status_of
from joblane.record.serve import Turn

KEYS_SHOWN = 20
"""Keys of a type that are shown: those whose tasks wait longest."""


def limits(scope: Scope, name: str | None, key: str | None) -> tuple[LimitStatus, ...]:
    with reading(scope.connection) as connection:
        declared = limit_changes.declared_names(connection)
        if name is not None:
            found = limit_changes.names_of(declared, name, key)
        elif key is not None:
            raise LimitError("key", "give the task type too")
        else:
            found = declared
        of_keys = [] if key is not None else [each for each in found if limit_changes.is_of_each_key(each)]
        for each in of_keys:
            found += changed_keys(connection, each)
            found += oldest_keys(connection, each, KEYS_SHOWN) if name is not None else []
        return tuple(status_of(connection, each) for each in dict.fromkeys(found))


def set_limit(
    scope: Scope,
    name: str,
    *,
    key: str | None,
    max_per_key: int | None,
    max_total: int | None,
    total: int | None,
    rate: Rate | None,
    until: datetime | None,
    reason: str | None,
) -> tuple[LimitStatus, ...]:
    end = limit_changes.check_until(until)
    with audit.action(scope, "set_limit", limit_changes.target_of(name, key), reason) as doing:
        wanted = limit_changes.wanted(
            limit_changes.declared_names(doing.connection),
            name,
            key,
            max_per_key=max_per_key,
            max_total=max_total,
            total=total,
            rate=rate,
        )
        checked = audit.check_reason(reason)
        changed = limit_changes.set_limits(doing.connection, wanted, who=doing.who, reason=checked, until=end)
        doing.details |= limit_changes.details(wanted, end)
    return _served(scope, changed, list(wanted))


def reset_limit(scope: Scope, name: str, *, key: str | None, reason: str | None) -> tuple[LimitStatus, ...]:
    with audit.action(scope, "reset_limit", limit_changes.target_of(name, key), reason) as doing:
        names = limit_changes.names_of(limit_changes.declared_names(doing.connection), name, key)
        changed = limit_changes.reset_limits(doing.connection, names)
        doing.details |= {"limits": [each.name for each in changed]}
    return _served(scope, changed, [each.name for each in changed])


def _served(scope: Scope, changed: Sequence[Changed], names: Sequence[str]) -> tuple[LimitStatus, ...]:
    """Start tasks that wait for raised limits; a sweep, woken here, sends the messages of those with new times."""

    def send(turns: list[Turn]) -> None:
        scope.sqs.send_many([turn.entry(scope.prefix) for turn in turns], brief=True)

    limit_changes.serve_changed(scope.connection, changed, send)
    wake(scope.sqs, scope.prefix)
    return tuple(_status(scope.connection, names))


def _status(connection: Connection, names: Sequence[str]) -> list[LimitStatus]:
    with reading(connection) as reader:
        return [status_of(reader, name) for name in names]
