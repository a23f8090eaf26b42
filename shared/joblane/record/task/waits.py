"""Waits and signals: the expiry of a wait, a signal, and the wake-up of the task that waits for it; and the ends of the
children for which a task waits.

A task that waits is ``scheduled`` for the end of its wait, without a message if that is far. Neither side can miss the
other: the run looks for a signal once it has locked the task's row, and who sends a signal looks for a wait with the
same lock, after the commit, see ``suspend.sql`` and ``wake.sql``. The sweep does it for signals that are not heard.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joblane.record.flow.free_slots import Turn
from joblane.record.row.conditions import EARLY_SECONDS
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

MAX_WAKES = 100
"""The maximum number of tasks of one call of :func:`wake`."""


SIGNAL_PATTERN = re.compile(r"[ -~]{1,100}")
"""The name of a signal."""


# --- What a run reads ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Wait:
    """A wait at which an earlier run has stopped. ``left``: seconds until its end, when the history was read.

    ``children``: the number of tasks for which it waits, then ``left`` means nothing. None: it waits for no tasks.
    """

    left: float
    expired: bool
    children: int | None = None


@dataclass(slots=True)
class History:
    """The stored steps, waits and signals of a task, by their names. Values are JSON text."""

    steps: dict[str, str] = field(default_factory=dict)
    waits: dict[str, Wait] = field(default_factory=dict)
    signals: dict[str, str] = field(default_factory=dict)
    read_at: float = field(default_factory=time.monotonic)

    def is_over(self, name: str) -> bool:
        """True if the end of a wait has come. Like a message, a run may be early by some seconds."""
        wait = self.waits.get(name)
        return wait is not None and wait.left - (time.monotonic() - self.read_at) <= EARLY_SECONDS


READ = """
select 'step', name, value::text, null::float8, null::boolean, null::integer
  from joblane.task_steps where task_id = $1
union all
select 'wait', name, null, coalesce(extract(epoch from until - clock_timestamp()), 0)::float8, expired_at is not null,
       pg_catalog.cardinality(children)
  from joblane.task_waits where task_id = $1
union all
select 'signal', name, value::text, null, null, null from joblane.task_signals where task_id = $1
"""


def read_history(connection: Connection, id_: str) -> History:
    history = History()
    for kind, name, value, left, expired, children in connection.run(READ, id_):
        if kind == "step":
            history.steps[name] = value
        elif kind == "wait":
            history.waits[name] = Wait(left, expired, children)
        else:
            history.signals[name] = value
    return history


READ_SIGNAL = "select value::text from joblane.task_signals where task_id = $1 and name = $2"


def read_signal(connection: Connection, id_: str, *, name: str) -> str | None:
    """Return the value of a signal as JSON text, or None if it has not come."""
    rows = connection.run(READ_SIGNAL, id_, name)
    return rows[0][0] if rows else None


READ_CHILDREN = """
with children as materialized (
  select c.n, c.id, t.type, case when t.id is null or t.cleared then 'deleted' else t.state end as state,
         t.finished_at is null and t.id is not null as is_live, t.result::text as result
    from joblane.task_waits w, pg_catalog.unnest(w.children) with ordinality as c(id, n)
         left join lateral (select * from joblane.tasks x where x.id = c.id limit 1) t on true
   where w.task_id = $1 and w.name = $2
)
select id, type, state, is_live, (select pg_catalog.sum(pg_catalog.octet_length(result)) from children),
       case when (select pg_catalog.sum(pg_catalog.octet_length(result)) from children) <= $3::bigint then result end
  from children order by n
"""
"""The children of a wait, in their order. Their results are read if they have a limited size together."""


def read_children(connection: Connection, id_: str, *, name: str, most_bytes: int) -> list[list[Any]]:
    """Return for each child its id, type and state, true if it has not ended, the bytes of all results, and its result
    as JSON text. No type: it was deleted. No result: it has none, or all are longer than ``most_bytes``."""
    return connection.run(READ_CHILDREN, id_, name, str(most_bytes))


MARK_FAILED = """
insert into joblane.task_steps (task_id, name, value) values (:id, :name, cast(:value as json)) on conflict do nothing
"""
"""Remember that children did not complete, for a session. The commit that follows is fenced by the lease's token."""


# Locked like MARK_ITEM in checkpoints.py. A signal that commits after the start of this statement is too late.
EXPIRE = """
with held as (
  select id from joblane.tasks where id = $1 and lease_token = $2::uuid and state = 'active' for share
),
came as (select value::text from joblane.task_signals where task_id = $1 and name = $4),
expired as (
  update joblane.task_waits w set expired_at = clock_timestamp()
    from held where w.task_id = held.id and w.name = $3 and not exists (select from came)
)
select (select value from came) from held
"""


def expire(connection: Connection, id_: str, token: str, *, name: str, signal: str | None, came: list[str]) -> bool:
    """Expire a wait, in the open transaction, unless its signal is there: the value is appended to ``came``.

    Return False if the lease is lost.
    """
    rows = connection.run(EXPIRE, id_, token, name, signal)
    came += [value for (value,) in rows if value is not None]
    return bool(rows)


# --- Signals -------------------------------------------------------------------------------------------------------

# The function fails for an unknown task, which would end the caller's transaction.
SIGNAL = """
select case when exists (select from joblane.tasks t where t.id = x.id)
            then joblane.signal(x.id, x.name, x.value, x.sent_by) end
  from json_to_record(cast($1 as json)) as x(id text, name text, value json, sent_by text)
"""
"""True if the signal counts, false if it came too late, null if the task is unknown."""


def signal_document(id_: str, name: str, value: str, sent_by: str | None = None) -> str:
    """Return the parameter of :data:`SIGNAL`. ``value``: JSON text."""
    return f'{{"id":{json.dumps(id_)},"name":{json.dumps(name)},"value":{value},"sent_by":{json.dumps(sent_by)}}}'


WAKE = f"select joblane.wake_{VERSION}($1::text[])"


def wake(connection: Connection, *, ids: Sequence[str]) -> list[Turn]:
    """Let at most :data:`MAX_WAKES` tasks continue that wait for a signal that has come, in a transaction of its own.

    Return the tasks whose messages are to be sent. The sweep continues those whose rows are locked.
    """
    ((answer,),) = connection.run(WAKE, list(ids))
    return [Turn(**turn) for turn in answer["turns"]]
