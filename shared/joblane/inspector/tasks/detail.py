"""All details of one task, with its parents and children, and why it is not running."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from joblane.handler.steps import key_of
from joblane.inspector.actions import audit
from joblane.inspector.filter import ALLOWED, BULK_TYPE
from joblane.inspector.links import logs_link
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import reading
from joblane.inspector.tasks.row import Record, read, shown_tags
from joblane.inspector.tasks.waits import shown_names, signal_of, wait_of
from joblane.inspector.tasks.why import why
from joblane.inspector.views import Attempt, Relative, Relatives, Step, TaskRow, TaskView
from joblane.record.driver.connection import Connection, Row
from joblane.record.row.states import ENDED_SQL, State, as_read
from joblane.record.task.status import Progress
from joblane.tasks.payload import Payload
from joblane.tasks.redaction import MASK, masked, redacted_names
from joblane.tasks.scrubbing import OPEN_HEADER, scrubbed, scrubber
from joblane.tasks.task import Task
from joblane.tasks.unique import PAYLOAD_KEY

UNSHOWN = "(cannot be shown: nested too deeply)"
ATTEMPTS_SHOWN = 500
"""The last runs; a task that continues over many invocations has a run for each."""
REPLAYS_SHOWN = 100
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""Source: W3C Trace Context, *traceparent header*."""

ATTEMPTS = f"""
select run, attempt, generation, started_at, finished_at, outcome, duration_ms, billed_ms, memory_mb, cost_usd,
       request_id, error_type, error_message, fingerprint, traceback, wait_ms
  from (select * from joblane.runs where task_id = $1 order by run desc limit {ATTEMPTS_SHOWN}) as a
 order by run
"""
RELATED = f"""
select (select array(select details ->> 'new_id' from joblane.audit
                      where target = $1 and action = 'replay' and details ->> 'new_id' is not null
                      order by number limit {REPLAYS_SHOWN})),
       p.done, p.total, p.note, p.at,
       coalesce((select c.done from joblane.task_cursors c where c.task_id = $1),
                (select count(*) from joblane.task_items i where i.task_id = $1))
  from (select) as single left join joblane.task_progress p on p.task_id = $1
"""

HISTORY = """
select 'step', name, null, created_at, null, null, octet_length(value::text) from joblane.task_steps where task_id = $1
union all
select 'wait', name, signal, created_at, until, expired_at, run from joblane.task_waits where task_id = $1
union all
select 'signal', name, sent_by, created_at, null, null, octet_length(value::text)
  from joblane.task_signals where task_id = $1
 order by 4, 2
"""
RELATIVES_SHOWN = 50
"""Parents or children of a task that are shown."""
MOST_COUNTED = 1_000
"""Parents or children of a task whose states are counted, in some milliseconds."""
_STATE = "left join lateral (select t.type, t.state from joblane.tasks t where t.id = x.id limit 1) p on true"
ORDER = f"case when p.state = 'archived' then 0 when p.state in {ENDED_SQL} or p.state is null then 2 else 1 end"
PARENT_TASKS = f"""
select x.id, p.type, p.state
  from (select id, n from jsonb_array_elements_text($1::jsonb) with ordinality as after(id, n)) as x {_STATE}
 order by {ORDER}, x.n
"""
"""At most 1,000 ids are given: more parents are not accepted."""
CHILD_TASKS = f"""
select x.id, p.type, p.state
  from (select child as id from joblane.task_children where parent = $1 order by parent, child
         limit {MOST_COUNTED + 1}) as x
  {_STATE} order by {ORDER}, x.id
"""


def task(scope: Scope, id_: str) -> TaskView:
    with reading(scope.connection) as connection:
        record = read(connection, id_)
        attempts = [Attempt(*row) for row in connection.run(ATTEMPTS, id_)]
        [[replays, *progress, items_done]] = connection.run(RELATED, id_)
        history = _by_kind(connection.run(HISTORY, id_))
        entries = audit.entries(scope, target=id_, limit=audit.SHOWN_OF_TARGET)
        ended = [attempt for attempt in attempts if attempt.outcome is not None]
        related = relatives(connection, record)
        reason = why(scope, connection, record, ended[-1] if ended else None)
    declared, show = scope.task(record.type), shown_names(scope, record.type, record.payload)
    waits, last = history["wait"], attempts[-1] if attempts else None
    return record.into(
        TaskView,
        row=record.into(
            TaskRow, tags=shown_tags(record.tags), max_retry=record.max_attempts - 1, took_ms=None, version=None
        ),
        payload=shown_payload(declared, record.payload),
        result=_result(declared, record),
        headers=_headers(record.headers),
        unique_key=_key(declared, record),
        replays=tuple(replays),
        progress=_progress(progress),
        items_done=items_done,
        steps=tuple(Step(show(name), key_of(record.id, name), at, size) for name, _, at, *_, size in history["step"]),
        waits=tuple(wait_of(record, row, show) for row in waits),
        signals=tuple(signal_of(row, show, waits, last) for row in history["signal"]),
        limits=tuple(filter(None, (record.key_limit, record.total_limit, record.shared_limit))),
        **related,
        attempts=tuple(attempts),
        why=reason,
        actions=_actions(record, waits),
        audit=entries,
        log_link=_log_link(scope, record),
        place=declared.place.name if declared and declared.place else None,
        others=len(scope.members(declared)) - 1 if declared else 0,
    )


def shown_payload(declared: Task[Any, Any] | None, content: Any) -> Any:
    """``content`` without the values of redacted fields; all masked if no declaration says which fields are."""
    if content is None:
        return None
    if declared is None:
        return MASK
    try:
        to_json(content)
        return masked(declared.payload, content)
    except (PydanticSerializationError, ValueError, RecursionError):  # it has thousands of levels, written by SQL
        return UNSHOWN


def _result(declared: Task[Any, Any] | None, record: Record) -> Any:
    """The result, without the values of the payload's redacted fields too: a handler can put them anywhere into it."""
    shown = shown_payload(declared, record.result)
    return shown if declared is None else scrubbed(scrubber(declared.payload, record.payload), shown)


def _key(declared: Task[Any, Any] | None, record: Record) -> str | None:
    """The unique key without redacted values.

    A key of the caller's own may contain such a value. A key made from the payload would let a reader guess short
    values.
    """
    key = record.unique_key
    if key is None or declared is None:
        return key and f"{record.type} {MASK}"
    model: type[Payload] = declared.payload
    if redacted_names(model) and PAYLOAD_KEY.fullmatch(key.rpartition(" ")[2]):
        return f"{record.type} {MASK}"
    return scrubber(model, record.payload)(key)


def _headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {
        name: value if name == OPEN_HEADER and TRACEPARENT.fullmatch(value) else MASK for name, value in headers.items()
    }


def _progress(row: Row) -> Progress | None:
    done, total, note, at = row
    return None if at is None else Progress(done, total, note, at)


def _by_kind(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Return the rows of :data:`HISTORY` without their kinds, by kind."""
    found: dict[str, list[Row]] = {"step": [], "wait": [], "signal": []}
    for kind, *row in rows:
        found[kind].append(row)
    return found


def _actions(record: Record, waits: Sequence[Row]) -> tuple[str, ...]:
    """The actions that the state allows now; none once the content is cleared. ``waits``: rows of :data:`HISTORY`."""
    if record.cleared:
        return ()
    is_waiting = any(run == record.runs for *_, run in waits)
    allowed = [
        action
        for action, states in {**ALLOWED, "replay_with": ALLOWED["replay"]}.items()
        if record.state in states and not (record.type == BULK_TYPE and "replay" in action)
    ]
    refused = {
        "cancel": record.state is State.ACTIVE and record.cancel_requested_at is not None,  # it was requested already
        "retry": record.is_skipped_tick,
        "edit": record.between_invocations,
        "run": record.has_time or record.is_limited or (is_waiting and record.is_scheduled),
        "skip": not is_waiting,
        "signal": not any(signal is not None for _, signal, *_ in waits),
    }
    return tuple(str(action) for action in allowed if not refused.get(action))


def _log_link(scope: Scope, record: Record) -> str | None:
    if record.runs == 0:
        return None
    return logs_link(scope.region, scope.log_group(record.type), record.id, record.created_at, record.finished_at)


def relatives(connection: Connection, record: Record) -> dict[str, Any]:
    """Return the fields of a task's view that name other tasks, and its options without them."""
    after = record.after or []
    of = record.callback_of
    return {
        "parents": _relatives(connection.run(PARENT_TASKS, json.dumps(after)) if after else []),
        "on_parent_dead": record.on_parent_dead,
        "children": _relatives(connection.run(CHILD_TASKS, record.id)),
        "enqueued_by": record.enqueued_by,
        "batch": record.batch or of,
        "callback": None if of is None else record.id.removeprefix(f"{of}:"),
        "options": {**record.options, **_own_options(record)},
    }


def _own_options(record: Record) -> dict[str, Any]:
    """Return the options that have columns, as far as the task has them."""
    debounce = None if record.asks is None else {"asks": record.asks, "longest": record.longest_seconds}
    named = {name: getattr(record, name) for name in ("schedule", "tick_key", "events", "on_archived")}
    return {name: value for name, value in (named | {"debounce": debounce}).items() if value is not None}


def _relatives(rows: Any) -> Relatives:
    found = [Relative(id_, type_, state and as_read(State, state)) for id_, type_, state in rows[:MOST_COUNTED]]
    states = Counter(one.state for one in found if one.state is not None)
    return Relatives(
        tuple(found[:RELATIVES_SHOWN]),
        more=len(rows) > RELATIVES_SHOWN,
        states=dict(states),
        removed=len(found) - states.total(),
        exact=len(rows) <= MOST_COUNTED,
    )
