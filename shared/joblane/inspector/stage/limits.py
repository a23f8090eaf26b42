"""Limits: their values, the tasks that have their slots and wait for them, what operators set; the order of a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.wake import wake
from joblane.errors import EnqueueError, LimitError
from joblane.inspector.actions import audit
from joblane.inspector.errors import SelectionError
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import LARGEST_PAGE, check_number, reading
from joblane.inspector.tasks.listing import COLUMNS, row_of
from joblane.inspector.views import ActionResult, TaskRow
from joblane.record.driver.connection import Connection
from joblane.record.flow import limit_changes
from joblane.record.flow.limit_changes import Given
from joblane.record.flow.limit_status import LimitStatus, changed_keys, oldest_keys, statuses
from joblane.record.row.states import LIVE_SQL, State
from joblane.record.row.transitions import NOW
from joblane.tasks.limit import check_key
from joblane.tasks.task import Task

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
        return statuses(connection, [*dict.fromkeys(found)])


def limits_of(task: Task[Any, Any]) -> tuple[str, ...]:
    """The names under which the limits of a type are found."""
    names = task.flow.names(task.type) if task.flow else ()
    return tuple(dict.fromkeys(name.removesuffix("/") for name in names if name is not None))


def set_limit(scope: Scope, name: str, key: str | None, given: Given, reason: str) -> tuple[LimitStatus, ...]:
    if audit.check_reason(reason) is None:
        raise SelectionError("reason", "a reason is required")
    with audit.action(scope, "set_limit", limit_changes.target_of(name, key), reason) as doing:
        changed, doing.details = limit_changes.set_limit(
            doing.connection, name, key, given, who=doing.who, reason=doing.reason
        )
    return served(scope, changed)


def reset_limit(scope: Scope, name: str, key: str | None, reason: str | None) -> tuple[LimitStatus, ...]:
    with audit.action(scope, "reset_limit", limit_changes.target_of(name, key), reason) as doing:
        changed, doing.details = limit_changes.reset_limit(doing.connection, name, key)
    return served(scope, changed)


def served(scope: Scope, changed: Sequence[str]) -> tuple[LimitStatus, ...]:
    """Start tasks that wait for raised limits; a sweep, woken here, sends the messages of those with new times."""
    FollowUp(changed=[*changed]).act(scope.sqs, scope.prefix, scope.database.call, brief=True)
    wake(scope.sqs, scope.prefix)
    with reading(scope.connection) as connection:
        return statuses(connection, changed)


# --- The order of a key -----------------------------------------------------------------------------------------------


ORDERED = f"key_limit = $1 and ordered and expire_at is null and state in {LIVE_SQL}"
LINE = f"""
select {COLUMNS} from joblane.tasks
 where {ORDERED} and first_due_at is not null order by first_due_at, seq limit $2::integer
"""
"""A task that waits for its parents has no place yet."""
FIRST = f"""
select id, state, total_limit, shared_limit from joblane.tasks
 where {ORDERED} and first_due_at <= now() order by first_due_at, seq limit 2 for no key update
"""
# A task that waits, for this key or for a wider limit, waits for its place from now on.
TO_THE_END = f"""
update joblane.tasks t
   set first_due_at = {NOW}, seq = pg_catalog.nextval('joblane.tasks_seq'::regclass), passed = null,
       waits_for = case when t.state = 'held' then t.key_limit end,
       place = case when t.state = 'held' then extract(epoch from {NOW}) end
 where id = $1
"""


def line(scope: Scope, type_: str, key: str, limit: int) -> tuple[TaskRow, ...]:
    check_number("limit", limit, LARGEST_PAGE)
    name = _name(scope, type_, key)
    with reading(scope.connection) as connection:
        return tuple(row_of(row) for row in connection.run(LINE, name, limit))


def pass_line(scope: Scope, type_: str, key: str, expected: str | None, reason: str | None) -> ActionResult:
    name = _name(scope, type_, key)
    with audit.action(scope, "pass_line", f"line:{name}", reason) as doing:
        first, following = _first_two(doing.connection, name)
        id_, state, *limits = first
        if expected not in (None, id_):
            raise LimitError("first", f"task {id_} is the first of {name} now; show the order again")
        if state == State.ACTIVE:
            raise LimitError(
                "key", f"task {id_} runs now; the next of {name} follows when it ends. To stop it, cancel it"
            )
        doing.connection.run(TO_THE_END, id_)
        doing.target = id_
        doing.details |= {"line": name, "next": following}
    FollowUp(freed=[[name, *limits]]).act(scope.sqs, scope.prefix, scope.database.call, brief=True)
    return ActionResult(
        id_, "pass_line", State(state), State(state), note=f"It is the last of {name} now; {following} is first"
    )


def _first_two(connection: Connection, name: str) -> tuple[list[Any], str]:
    rows = connection.run(FIRST, name)
    if len(rows) < 2:
        found = f"only task {rows[0][0]} is" if rows else "no task is"
        lacks = "take the first place" if rows else "move to the end"
        raise LimitError("key", f"{found} due in the order of {name}, so there is none to {lacks}")
    return rows[0], rows[1][0]


def _name(scope: Scope, type_: str, key: str) -> str:
    task = scope.task(type_)
    if task is None or task.flow is None or not task.flow.ordered:
        ordered = ", ".join(each.type for each in scope.tasks.values() if each.flow and each.flow.ordered)
        raise LimitError("type", f"{type_} declares no order; types with an order: {ordered or 'none'}")
    try:
        return f"{task.type}/{check_key(key)}"
    except EnqueueError as error:
        raise LimitError("key", error.problem) from None
