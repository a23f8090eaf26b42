"""Bulk actions: each is a task of type ``jobs:bulk``, with a frozen filter, and a progress and an end of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from joblane.enqueue.check import check, new_id
from joblane.enqueue.insert import insert_tasks
from joblane.inspector.actions import audit
from joblane.inspector.bulk.blocks import stopping
from joblane.inspector.bulk.dead_letters import declared
from joblane.inspector.errors import ActionError, SelectionError, UnknownBulkError
from joblane.inspector.filter import BULK_TYPE, MAX_CANARY, MAX_RATE, BulkAction, Filter
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.blocks import canary_stopped_line
from joblane.inspector.tasks import listing
from joblane.inspector.tasks.filter_sql import BOUND, LARGEST_PAGE, aimed, check_number, checked
from joblane.inspector.views import Block, BulkOutcome, BulkView
from joblane.record.driver.connection import Connection
from joblane.record.row.states import LIVE, WAITING_SQL, State
from joblane.record.row.transitions import CANCEL
from joblane.record.task.insert import NewTask
from joblane.sqs.message import ID_PATTERN
from joblane.tasks.job import Job

REDRIVE = "redrive"
"""The action of a row of ``bulks`` that retries archived tasks and sends dead letters back."""

FILTER: TypeAdapter[Filter] = TypeAdapter(Filter)

INSERT = """
insert into joblane.bulks (id, action, filter, who, reason, rate, canary, total)
values ($1, $2, $3::jsonb, $4, $5, $6::int, $7::int, $8::int)
"""


def start(scope: Scope, action: BulkAction, filter_: Filter, *, rate: int, canary: int, reason: str | None) -> BulkView:
    """Start a bulk action. Raises :class:`SelectionError` if nothing matches, or too many tasks for its timeout."""
    action = action_of(action)
    if canary and action is not BulkAction.RETRY:
        raise SelectionError("canary", f"only a retry has one, not {action!r}")
    return begin(scope, action, frozen(scope, filter_, action), rate=rate, canary=canary, reason=reason)


def action_of(action: str) -> BulkAction:
    """The action with a name. Raises :class:`SelectionError`."""
    try:
        return BulkAction(action)
    except ValueError:
        raise SelectionError("action", f"{action!r} is not valid; valid are {', '.join(BulkAction)}") from None


def frozen(scope: Scope, filter_: Filter, action: BulkAction) -> Filter:
    """The filter of the walk: it excludes tasks that are created from now on, by the database's clock."""
    filter_ = aimed(checked(scope, filter_), action)
    [[now]] = scope.connection.run("select clock_timestamp()")
    before: datetime = now if filter_.created_before is None else min(now, filter_.created_before)
    return replace(filter_, created_before=before)


def begin(
    scope: Scope,
    action: str,
    filter_: Filter,
    *,
    rate: int,
    canary: int,
    reason: str | None,
    dead_letters: int = 0,
    may_be_none: bool = False,
) -> BulkView:
    """Count the tasks and insert the action, its audit entry and its task in one transaction; then send its message.

    ``filter_``: the result of :func:`frozen`. ``dead_letters``: the number of messages without a row to send back.
    ``may_be_none``: start even if nothing matches, as there are obsolete dead letters to remove.
    """
    check_number("rate", rate, MAX_RATE)
    check_number("canary", canary, MAX_CANARY, least=0)
    ready = _ready(scope)
    with audit.action(scope, action if action == REDRIVE else f"bulk {action}", ready.id, reason) as doing:
        total = listing.count_all(doing.connection, filter_) + dead_letters
        if total or not may_be_none:
            _check_total(scope, total, rate)
        if canary:
            _check_canary(doing.connection, scope, filter_, canary)
        document = FILTER.dump_python(filter_, mode="json", exclude_defaults=True)
        numbers = (str(number) for number in (rate, canary, total))
        doing.connection.run(INSERT, ready.id, action, json.dumps(document), doing.who, doing.reason, *numbers)
        insert_tasks(doing.connection.run, [ready])
        doing.details |= {"filter": document, "total": total, "rate": rate, "canary": canary}
    scope.sqs.send_many([ready.entry])  # on failure the sweep sends it
    return view(scope, ready.id)


def _ready(scope: Scope) -> NewTask:
    if BULK_TYPE not in scope.tasks:
        raise SelectionError("action", f"the task {BULK_TYPE!r}, which carries out bulk actions, is not deployed here")
    task = scope.tasks[BULK_TYPE]
    return check(Job(task, task.payload(), task_id=new_id()), record=True, prefix=scope.prefix)


def _check_total(scope: Scope, total: int, rate: int) -> None:
    if not total:
        raise SelectionError("filter", "no task matches; nothing was started")
    most = int(scope.tasks[BULK_TYPE].timeout.total_seconds() * rate * 0.9)
    if total > most:
        raise SelectionError(
            "rate",
            f"{total} tasks match, and at {rate} a second the timeout of {BULK_TYPE} allows {most}; give a higher rate "
            "or a narrower filter",
        )


def _check_canary(connection: Connection, scope: Scope, filter_: Filter, canary: int) -> None:
    """Raise :class:`SelectionError` if a task of the canary cannot start now."""
    stopped = stopping(connection, declared(scope.tasks), first_of(connection, filter_, canary))
    if stopped:
        raise SelectionError("canary", canary_stopped_line(stopped))


def first_of(connection: Connection, filter_: Filter, number: int) -> list[str]:
    """The first tasks of a filter, which an action changes first."""
    ids: list[str] = []
    after = None
    while len(ids) < number:
        more, after = listing.ids(connection, filter_, after, number - len(ids))
        ids += more
        if after is None:
            break
    return ids


# --- Reading -------------------------------------------------------------------------------------------------------

SENDING = (BulkAction.RUN, BulkAction.RETRY, REDRIVE)
"""The actions that send tasks."""
_UNCHANGED = "coalesce(t.bulk, $1) = $1"
OUTCOME = f"""
select count(*), count(*) filter (where {_UNCHANGED} and t.state = 'completed'),
       count(*) filter (where {_UNCHANGED} and t.state in {WAITING_SQL}),
       count(*) filter (where {_UNCHANGED} and t.state = 'active'),
       count(*) filter (where {_UNCHANGED} and t.state = 'archived'),
       count(*) filter (where {_UNCHANGED} and t.state = 'cancelled')
  from (select target from joblane.audit where bulk = $1 order by number limit {BOUND}) as a
  left join joblane.tasks t on t.id = a.target
"""
"""The states of the tasks that a bulk action has sent. A dead letter without a row has none until a worker claims it;
its row does not name the action."""
WAITING_CANARY = f"""
select t.id from joblane.bulks b join joblane.tasks t on t.id = any(b.canary_ids)
 where b.id = $1 and t.state in {WAITING_SQL}
"""
VIEW = """
select b.id, b.action, b.filter, b.who, t.state, b.total, b.done, b.skipped, b.failed, b.canary,
       coalesce(b.stopped, case when t.state in ('archived', 'cancelled') then t.reason end),
       b.started_at, t.finished_at, b.reason
  from joblane.bulks b join joblane.tasks t on t.id = b.id
"""


def view(scope: Scope, id_: str) -> BulkView:
    is_id = isinstance(id_, str) and ID_PATTERN.fullmatch(id_)
    rows = scope.connection.run(f"{VIEW} where b.id = $1", id_) if is_id else []
    if not rows:
        raise UnknownBulkError(str(id_))
    found = _view(rows[0])
    if found.action not in SENDING:
        return found
    [[number, completed, waiting, active, archived, cancelled]] = scope.connection.run(OUTCOME, found.id)
    outcome = BulkOutcome(completed, waiting, active, archived, cancelled, exact=number < BOUND)
    return replace(found, outcome=outcome, blocks=_blocks(scope, found))


def _blocks(scope: Scope, found: BulkView) -> tuple[Block, ...]:
    """The things that keep the canary of an action from starting, while the action waits for it."""
    if not found.canary or found.stopped is not None or found.state not in LIVE:
        return ()
    waiting = [id_ for (id_,) in scope.connection.run(WAITING_CANARY, found.id)]
    return stopping(scope.connection, declared(scope.tasks), waiting)


def bulks(scope: Scope, limit: int) -> tuple[BulkView, ...]:
    check_number("limit", limit, LARGEST_PAGE)
    rows = scope.connection.run(f"{VIEW} order by b.started_at desc, b.id limit $1::int", str(limit))
    return tuple(map(_view, rows))


def _view(row: list[Any]) -> BulkView:
    id_, action, filter_, who, state, *rest = row
    return BulkView(id_, action, FILTER.validate_python(filter_), who, State(state), *rest)


# --- Stopping ------------------------------------------------------------------------------------------------------


def abort(scope: Scope, id_: str, reason: str | None) -> BulkView:
    """Stop a bulk action. Raises :class:`UnknownBulkError`, and :class:`ActionError` if it has ended or is stopping."""
    before = view(scope, id_)
    with audit.action(scope, "abort", id_, reason) as doing:
        [[stopped]] = doing.connection.run("select stopped from joblane.bulks where id = $1 for update", id_)
        if stopped is not None and before.state in LIVE:
            raise ActionError(
                id_, "abort", before.state, LIVE, audit.last(doing.connection, id_), problem="it is stopping"
            )
        if not doing.connection.run(CANCEL, id_):
            raise _ended(scope, before)
        why = f"aborted by {doing.who}" + (f": {doing.reason}" if doing.reason else "")
        doing.connection.run("update joblane.bulks set stopped = $2 where id = $1", id_, why)
        doing.details |= {"done": before.done, "total": before.total}
    return view(scope, id_)


def _ended(scope: Scope, before: BulkView) -> ActionError:
    [[state]] = scope.connection.run("select state from joblane.tasks where id = $1", before.id)
    return ActionError(before.id, "abort", State(state), LIVE, audit.last(scope.connection, before.id))
