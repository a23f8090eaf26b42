"""Waits and signals: the expiry of a wait, a signal, and the wake-up of the task that waits for it.

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
from typing import TYPE_CHECKING

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
    """A wait at which an earlier run has stopped. ``left``: seconds until its end, when the history was read."""

    left: float
    expired: bool


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
select 'step', name, value::text, null::float8, null::boolean from joblane.task_steps where task_id = $1
union all
select 'wait', name, null, extract(epoch from until - clock_timestamp())::float8, expired_at is not null
  from joblane.task_waits where task_id = $1
union all
select 'signal', name, value::text, null, null from joblane.task_signals where task_id = $1
"""


def read_history(connection: Connection, id_: str) -> History:
    history = History()
    for kind, name, value, left, expired in connection.run(READ, id_):
        if kind == "step":
            history.steps[name] = value
        elif kind == "wait":
            history.waits[name] = Wait(left, expired)
        else:
            history.signals[name] = value
    return history


READ_SIGNAL = "select value::text from joblane.task_signals where task_id = $1 and name = $2"


def read_signal(connection: Connection, id_: str, *, name: str) -> str | None:
    """Return the value of a signal as JSON text, or None if it has not come."""
    rows = connection.run(READ_SIGNAL, id_, name)
    return rows[0][0] if rows else None


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
