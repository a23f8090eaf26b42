"""Limits: their values, the tasks that have their slots and wait for them, and what operators set."""

from __future__ import annotations

from collections.abc import Sequence

from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.wake import wake
from joblane.errors import LimitError
from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import reading
from joblane.record.flow import limit_changes
from joblane.record.flow.limit_changes import Given
from joblane.record.flow.limit_status import LimitStatus, changed_keys, oldest_keys, status_of

KEYS_SHOWN = 20
"""Keys of a type that are shown: those whose tasks wait longest."""


def limits(scope: Scope, name: str | None, key: str | None) -> tuple[LimitStatus, ...]:
    with reading(scope.connection) as connection:
        known = limit_changes.known_names(connection)
        if name is not None:
            found = limit_changes.names_of(known, name, key)
        elif key is not None:
            raise LimitError("key", "give the task type too")
        else:
            found = known
        of_keys = [] if key is not None else [each for each in found if limit_changes.is_of_each_key(each)]
        for each in of_keys:
            found += changed_keys(connection, each)
            found += oldest_keys(connection, each, KEYS_SHOWN) if name is not None else []
        return tuple(status_of(connection, each) for each in dict.fromkeys(found))


def set_limit(scope: Scope, name: str, key: str | None, given: Given, reason: str) -> tuple[LimitStatus, ...]:
    if audit.check_reason(reason) is None:
        raise SelectionError("reason", "a reason is required")
    with audit.action(scope, "set_limit", limit_changes.target_of(name, key), reason) as doing:
        line = audit.check_reason(reason)
        changed, doing.details = limit_changes.set_limit(doing.connection, name, key, given, who=doing.who, reason=line)
    return _served(scope, changed)


def reset_limit(scope: Scope, name: str, key: str | None, reason: str | None) -> tuple[LimitStatus, ...]:
    with audit.action(scope, "reset_limit", limit_changes.target_of(name, key), reason) as doing:
        changed, doing.details = limit_changes.reset_limit(doing.connection, name, key)
    return _served(scope, changed)


def _served(scope: Scope, changed: Sequence[str]) -> tuple[LimitStatus, ...]:
    """Start tasks that wait for raised limits; a sweep, woken here, sends the messages of those with new times."""
    FollowUp(changed=[*changed]).act(scope.sqs, scope.prefix, scope.database.call, brief=True)
    wake(scope.sqs, scope.prefix)
    with reading(scope.connection) as connection:
        return tuple(status_of(connection, each) for each in changed)
