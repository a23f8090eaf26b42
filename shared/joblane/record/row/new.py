"""The columns of a new row: the fields of the document that an enqueue or a claim gives, and the value of each column.

The statements that insert or replace a row get their lists from here, in the templates by ``@`` names. The function
``joblane.enqueue``, which SQL calls, has its own statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from joblane.json_values import digest
from joblane.record.row.options import TaskOptions
from joblane.record.row.states import WaitKind
from joblane.record.row.transitions import DUE_STATE, DUE_SWEEP, NOW, Columns
from joblane.tasks.discovery import successor_of

if TYPE_CHECKING:
    from joblane.tasks.options import Options
    from joblane.tasks.task import Task
    from joblane.tasks.unique import Unique

RELATIONS = ("batch", "callback_of", "enqueued_by", "after", "on_parent_dead")
"""The columns with the ids of other tasks, or of a batch. A waiting task that another enqueue replaces keeps them."""
REST = (*RELATIONS, "depth", "schedule", "tick_key", "asks", "longest_seconds", "events", "on_archived")
"""The columns that are null for most tasks. They are in one field of the document, so that they cost the others
nothing."""
FIELDS: Columns = {
    "id": "text",
    "type": "text",
    "queue": "text",
    "tenant": "text",
    "tags": "text[]",
    "payload": "jsonb",
    "payload_digest": "text",
    "schema": "text",
    "headers": "jsonb",
    "options": "jsonb",
    "max_attempts": "integer",
    "retention_seconds": "bigint",
    "deadline": "timestamptz",
    "unique_key": "text",
    "unique_until": "text",
    "unique_seconds": "float8",
    "limits": "text[]",
    "ordered": "boolean",
    "rest": "joblane.tasks",
}
"""The fields of a new task, each with its type. ``rest`` has the types of the columns."""
PLAIN_FIELDS = {name: type_ for name, type_ in FIELDS.items() if name != "rest"}
COLUMNS: Columns = {
    **{name: f"x.{name}" for name in FIELDS if name not in ("unique_seconds", "limits", "rest")},
    "tags": "coalesce(x.tags, '{}')",
    "headers": "coalesce(x.headers, '{}')",
    "options": "coalesce(x.options, '{}')",
    "unique_until": "coalesce(x.unique_until, 'finish')",
    "unique_expires_at": f"{NOW} + pg_catalog.make_interval(secs => x.unique_seconds)",
    "key_limit": "x.limits[1]",
    "total_limit": "x.limits[2]",
    "shared_limit": "x.limits[3]",
    **{name: f"(x.rest).{name}" for name in REST},
}
"""The value of each column of a new row, from the fields ``x``, without the state, the times and the wait."""
TIMES = {"owner": "text", "delay": "float8", "at": "timestamptz", "unsent": "boolean"}
"""The fields of an enqueue in addition to the task's."""
DUE = "coalesce(x.at, clock_timestamp() + pg_catalog.make_interval(secs => coalesce(x.delay, 0)))"
INSERTED: Columns = {
    **{name: value for name, value in COLUMNS.items() if name not in REST},
    "owner": "x.owner",
    "state": DUE_STATE,
    "due_at": "d.due_at",
    "sweep_at": DUE_SWEEP,
    "first_due_at": "case when x.limits is not null then d.due_at end",
    "seq": "case when x.limits is not null then pg_catalog.nextval('joblane.tasks_seq'::regclass) end",
}
"""The columns that an enqueue writes for a task without columns of :data:`REST`. Each column that a statement names
costs each call of it."""
ONE_FIELDS = (
    "id", "type", "queue", "tenant", "owner", "payload", "payload_digest", "schema", "headers", "max_attempts",
    "retention_seconds", "delay", "at", "unsent",
)  # fmt: skip
"""The fields of a new task that ``insert_one.sql`` inserts, in the order of its array."""
_WAITS = "((x.rest).after is not null or (x.rest).callback_of is not null)"
INSERTED_WITH_REST: Columns = (
    COLUMNS
    | INSERTED
    | {
        "state": f"case when {_WAITS} and d.due_at <= {NOW} then 'held' else {DUE_STATE} end",
        "first_due_at": f"case when x.limits is not null and not {_WAITS} then d.due_at end",
        "wait_kind": f"case when {_WAITS} then '{WaitKind.PARENTS}' end",
    }
)
"""The columns of any task."""


def defined(fields: Columns) -> str:
    """Return fields and their types, for ``json_to_recordset(…) as x(…)``."""
    return ", ".join(f"{name} {type_}" for name, type_ in fields.items())


def enqueued(document: str, fields: Columns = FIELDS) -> str:
    """Return the new tasks of an enqueue for SQL's ``from``: as ``x``, each with its due time, as ``d``."""
    return f"""rows from (json_to_recordset({document}) as (
         {defined(fields | TIMES)})) with ordinality as x,
       lateral (select {DUE}) as d(due_at)"""


def of_one(sql: str) -> str:
    """Return an expression over the fields ``x`` as one over the array of ``insert_one.sql``."""
    types = FIELDS | TIMES

    def element(found: re.Match[str]) -> str:
        return f"given[{ONE_FIELDS.index(found[1]) + 1}]::{types[found[1]]}".removesuffix("::text")

    return re.sub(r"\bx\.(\w+)", element, sql)


def one_columns() -> Columns:
    """Return the columns that ``insert_one.sql`` writes, each with its value. The others have their defaults."""
    read = {name: set(re.findall(r"\bx\.(\w+)", value)) for name, value in INSERTED.items()}
    return {name: of_one(INSERTED[name]) for name, fields in read.items() if fields <= {*ONE_FIELDS}}


def declared(task: Task[Any, Any]) -> dict[str, Any]:
    """Return the columns of :data:`REST` that the type of a task declares."""
    row: dict[str, Any] = {}
    if task.events:
        row["events"] = list(task.events)
    if task.archived_to is not None:
        row["on_archived"] = successor_of(task)
    return row


def document(
    id_: str,
    task: Task[Any, Any],
    queue: str,
    payload: Mapping[str, Any] | None,
    options: Options,
    *,
    tenant: str | None,
    schema: str | None,
    headers: Mapping[str, str],
    limits: Mapping[str, Any],
    unique: Unique | None,
    rest: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the :data:`FIELDS` of a new task. ``limits``: the value of :meth:`Flow.row`."""
    row: dict[str, Any] = {
        "id": id_,
        "type": task.type,
        "queue": queue,
        "tenant": tenant,
        "tags": options.tags,
        "payload": payload,
        "payload_digest": digest(payload or {}),
        "schema": schema,
        "headers": headers,
        "options": TaskOptions.of(options).row(),
        "max_attempts": options.max_attempts(task),
        "retention_seconds": options.retention_seconds(task),
        **limits,
    }
    if options.deadline is not None:
        row["deadline"] = options.deadline.isoformat()
    if unique is not None:
        row |= {"unique_key": unique.key, "unique_until": unique.until, "unique_seconds": unique.seconds}
    if rest or task.events or task.archived_to is not None:
        row["rest"] = {**declared(task), **(rest or {})}
    return row
