"""Statements for the rows of new tasks: insert, find conflicting tasks, replace waiting tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from joblane.record.row.conditions import HAS_TIME, UNDER_WAY
from joblane.record.row.new import COLUMNS, ONE_FIELDS, RELATIONS, document, enqueued
from joblane.record.row.states import WAITING_SQL, State
from joblane.record.row.transitions import DUE_STATE, DUE_SWEEP, RESET, Columns, assignments
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from joblane.names import Queue
    from joblane.record.flow.free_slots import LimitNames
    from joblane.sqs.client import Entry
    from joblane.tasks.options import Options
    from joblane.tasks.task import Task
    from joblane.tasks.unique import Debounce, OnConflict, Unique

BACKSLASH, QUOTE = "\\", '"'
"""In an element of PostgreSQL's text of an array, both follow a backslash."""
BATCH_TAG = "batch:"
"""A member of a batch has a tag of this and the batch's id."""
# The casts are for a session whose driver gives parameters a type.
INSERT = f"select * from joblane.insert_{VERSION}(cast($1 as json))"

INSERT_ONE = f"select joblane.insert_one_{VERSION}(cast(cast($1 as text) as text[]))"
"""The insert of one task, of the array of :func:`plain`. One column: the seconds until it is due, or null."""

EXISTING = f"""
select t.id, t.queue, t.state, case when t.finished_at is null then t.unique_key end,
       extract(epoch from t.due_at - clock_timestamp())::float8,
       x.id = t.id, {UNDER_WAY}, t.runs > 0
  from jsonb_to_recordset(cast($1 as jsonb)) as x(id text, unique_key text)
  join joblane.tasks t on t.id = x.id or (t.unique_key = x.unique_key and t.finished_at is null)
"""
"""The existing tasks that kept rows from being inserted, by id or by unique key. The last two columns: no
enqueue replaces it; a run has begun."""

SAME = """
select t.id, t.type, t.payload_digest, extract(epoch from t.due_at - clock_timestamp())::float8
  from joblane.tasks t where t.id = any(array(select jsonb_array_elements_text(cast($1 as jsonb))))
"""
"""The existing tasks with the ids of an insert whose answer was lost."""

KEPT = ("id", "type", "payload_digest", "unique_key", "unique_until", "unique_expires_at", *RELATIONS)
CONTENT: Columns = {
    **{name: value for name, value in COLUMNS.items() if name not in KEPT},
    "owner": "x.owner",
    "tags": f"pg_catalog.array_cat({COLUMNS['tags']},"
    f" case when t.batch is not null then array['{BATCH_TAG}' || t.batch] end)",
    "bulk": "null",
}
"""The columns that a waiting task gets from a new task in its place. It keeps its relations to other tasks, and its
`payload_digest`, which identifies the message of an external producer as the row's own."""

REPLACE = f"""
with waiting as (
  select id, unique_key, key_limit, total_limit, shared_limit,
         passed is not null or wait_kind is not null or due_at <= clock_timestamp() as may_free,
         {HAS_TIME} as has_time
    from joblane.tasks t
   where unique_key = any(array(select unique_key from jsonb_to_recordset(cast($1 as jsonb)) as x(unique_key text)))
     and finished_at is null and state in {WAITING_SQL} and not {UNDER_WAY}
     and runs = (select b.runs from joblane.tasks b where b.id = t.id)  -- no run began while this waited for the row
   order by unique_key for no key update
),
replaced as (
  update joblane.tasks t set
    {assignments(CONTENT | RESET)}, state = case when stays and t.state = 'held' then t.state else {DUE_STATE} end,
    unique_until = coalesce(x.unique_until, 'finish'),
    unique_expires_at = clock_timestamp() + pg_catalog.make_interval(secs => x.unique_seconds),
    due_at = case when stays and has_time then t.due_at else d.due_at end,
    sweep_at = case when stays and has_time then t.sweep_at when stays and t.state = 'held' then x.deadline
                    else {DUE_SWEEP} end,
    first_due_at = case when x.limits is not null then least(case when stays then t.first_due_at end, d.due_at) end,
    seq = case when stays then t.seq
               when x.limits is not null then pg_catalog.nextval('joblane.tasks_seq'::regclass) end,
    passed = case when stays then t.passed end, wait_kind = case when stays then t.wait_kind end,
    waits_for = case when stays then t.waits_for end, place = case when stays then t.place end
    from {enqueued("cast($1 as json)")}, waiting,
         lateral (select d.due_at <= clock_timestamp()
                         and waiting.key_limit is not distinct from x.limits[1]
                         and waiting.total_limit is not distinct from x.limits[2]
                         and waiting.shared_limit is not distinct from x.limits[3]) as s(stays)
   where t.id = waiting.id and waiting.unique_key = x.unique_key
  returning t.id, t.unique_key, t.due_at,
    case when waiting.may_free and not stays then array[waiting.key_limit, waiting.total_limit, waiting.shared_limit]
         else array[null::text, null, null] end as freed
),
items as (delete from joblane.task_items where task_id in (select id from replaced)),
cursors as (delete from joblane.task_cursors where task_id in (select id from replaced)),
steps as (delete from joblane.task_steps where task_id in (select id from replaced)),
progress as (delete from joblane.task_progress where task_id in (select id from replaced))
select id, extract(epoch from due_at - clock_timestamp())::float8, unique_key, freed[1], freed[2], freed[3], null
  from replaced
"""
"""Replace each waiting task that holds a unique key by the new task with that key, and reset its counts. It keeps its
slots, its place and the time that a rate gave it if it is due now and has the same limits; otherwise three columns are
the limits that must be served after the commit. The last column is null: a message must be sent. Rows are locked in the
order of keys. A task stays unchanged if an attempt is under way or the task has ended."""


def plain(row: Mapping[str, Any]) -> str | None:
    """Return a row of :meth:`NewTask.row` as the array of ``insert_one.sql``. None: the row has other fields."""
    if any(value for name, value in row.items() if name not in ONE_FIELDS):
        return None
    return f"{{{','.join(_element(row[name]) for name in ONE_FIELDS)}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f'"{text.replace(BACKSLASH, BACKSLASH * 2).replace(QUOTE, BACKSLASH + QUOTE)}"'


@dataclass(slots=True)
class NewTask:
    """A new task: checked, with its message.

    ``delay``: seconds from the database's now; ``at``: an aware time; neither: due now. ``limits``: the columns of
    :meth:`Flow.row`. ``links``: the columns that name other tasks, a batch or a schedule. ``unsent``: the sweep sends
    the message. ``tick_key``: the key that the task of a tick takes when it first runs, until its seconds after the
    insert have passed. The last six fields hold the result of the insert. ``due_seconds``: from now. ``created``: False
    if an existing task holds the unique key. ``changed``: False if that task stays unchanged. ``state``: the state of
    an existing task that needs no message, or None if the message must be sent. ``freed``: the limits of a replaced
    task that must be served after the commit. ``waits``: the task waits for other tasks.
    """

    id: str
    task: Task[Any, Any]
    queue: Queue
    payload: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str]
    owner: str | None
    options: Options
    unique: Unique | None
    on_conflict: OnConflict
    delay: float | None
    at: datetime | None
    entry: Entry
    limits: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, Any] = field(default_factory=dict)
    debounce: Debounce | None = None
    tick_key: Unique | None = None
    unsent: bool = False
    due_seconds: float = 0.0
    created: bool = True
    changed: bool = True
    state: State | None = None
    freed: LimitNames | None = None
    waits: bool = False

    def row(self) -> dict[str, Any]:
        """Return the item of the parameter of :data:`INSERT`, :data:`REPLACE` and ``PUSH``, a JSON array."""
        rest = dict(self.links)
        if self.debounce is not None:
            rest |= {"asks": self.debounce.asks, "longest_seconds": self.debounce.longest}
        if self.tick_key is not None:
            rest["tick_key"] = self.tick_key.key
        row = document(
            self.id,
            self.task,
            self.queue,
            self.payload,
            self.options,
            tenant=self.entry.group,
            schema=self.task.schema_digest,
            headers=self.headers,
            limits=self.limits,
            unique=self.unique,
            rest=rest,
        ) | {
            "owner": self.owner,
            "delay": self.delay,
            "at": self.at and self.at.isoformat(),
            "unsent": self.unsent,
        }
        if "batch" in self.links:
            row["tags"] = [*self.options.tags, BATCH_TAG + self.links["batch"]]
        if self.debounce is not None:
            row["keep"] = self.debounce.keep
        if (later := self.tick_key) is not None:
            row |= {"unique_until": later.until, "unique_seconds": later.seconds}
        return row
