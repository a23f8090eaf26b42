"""The finish: one statement records the ends of up to ten runs in their rows, in one round trip."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joblane.limits import MAX_BATCH, MAX_DELAY_SECONDS
from joblane.record.states import ENDED_SQL, SWEEP_MARGIN_SECONDS, State
from joblane.record.transitions import (
    ARCHIVED_EXPIRES,
    CLEARED_EXPIRES,
    LEASE_RELEASED,
    RETENTION_EXPIRES,
    SWEEP_SOON,
    assignments,
)

if TYPE_CHECKING:
    from joblane.record.connection import Connection


@dataclass(slots=True)
class Finish:
    """The end of one run: the new values of its task's row and of its ``task_attempts`` row.

    ``outcome``: the value of ``task_attempts.outcome``. ``delay_seconds``: until the task is due again, for the states
    ``retry`` and ``pending``. ``counted``: the run used an attempt. ``mismatch``: the task waits for code that knows
    its payload's schema. ``continued``: the next invocation continues the attempt. ``billed_ms``, ``memory_mb``,
    ``cost_usd``: see :mod:`joblane.worker.run_log`.
    """

    id: str
    token: str
    run: int
    outcome: str
    state: State
    delay_seconds: float = 0
    counted: bool = True
    snoozed: bool = False
    mismatch: bool = False
    continued: bool = False
    result: Any = None
    reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None
    traceback: str | None = None
    duration_ms: int = 0
    billed_ms: int | None = None
    memory_mb: int | None = None
    cost_usd: float | None = None

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def waits_long(self) -> bool:
        """True if SQS cannot hide a message for the whole delay: the message is acknowledged, and the row waits."""
        return self.state in (State.RETRY, State.PENDING) and self.delay_seconds > MAX_DELAY_SECONDS

    @property
    def visibility_seconds(self) -> int:
        return math.ceil(self.delay_seconds)


# Only the holder of the lease may finish: the token decides, not the clock. A task with a cancel request takes no other
# end than `cancelled`: it does not complete, is not retried and is not archived. The worker then finishes the run
# again, as cancelled.
FINISH = f"""
with f as materialized (
  select * from jsonb_to_recordset($1::jsonb) as f(
    id text, token uuid, run integer, outcome text, state text, delay_seconds float8, counted boolean, snoozed boolean,
    mismatch boolean, continued boolean,
    result jsonb, reason text, error_type text, error_message text, fingerprint text, traceback text,
    duration_ms integer, billed_ms integer, memory_mb integer, cost_usd float8)
  limit {MAX_BATCH}
),
owned as materialized (
  select t.id, t.retention_seconds from joblane.tasks t join f on f.id = t.id
   where t.state = 'active' and t.lease_token = f.token
     and (t.cancel_requested_at is null or f.state = 'cancelled')
   order by t.id for no key update of t
),
finished as (
  update joblane.tasks t set
    state = f.state, {assignments(LEASE_RELEASED)},
    attempts = t.attempts - (not f.counted)::int,
    snoozes = t.snoozes + f.snoozed::int,
    continuations = t.continuations + f.continued::int,
    used_ms = case when f.continued then t.used_ms + f.duration_ms else 0 end,
    mismatch_since = case when f.mismatch then coalesce(t.mismatch_since, now()) end,
    due_at = case when f.state in ('retry', 'pending') then next.due_at else t.due_at end,
    sent_at = case when next.is_long then null else t.sent_at end,
    sends = 0,
    sweep_at = case when next.is_long then next.due_at - interval '{MAX_DELAY_SECONDS} s'
                    when f.state in ('retry', 'pending') then next.due_at + interval '{SWEEP_MARGIN_SECONDS} s'
                    when f.state = 'archived' then {SWEEP_SOON} end,
    finished_at = case when next.is_end then clock_timestamp() end, dead_letter_unsent = f.state = 'archived',
    payload = case when next.is_cleared then null else t.payload end,
    result = case when not next.is_cleared then f.result end,
    headers = case when next.is_cleared then '{{}}' else t.headers end,
    cleared = next.is_cleared,
    expire_at = case when next.is_cleared then {CLEARED_EXPIRES}
                     when f.state = 'archived' then {ARCHIVED_EXPIRES}
                     when next.is_end then {RETENTION_EXPIRES} end,
    reason = f.reason, error_type = f.error_type, error_message = f.error_message, fingerprint = f.fingerprint
   from f join owned using (id),
        lateral (select clock_timestamp() + make_interval(secs => f.delay_seconds) as due_at,
                        f.state in ('retry', 'pending') and f.delay_seconds > {MAX_DELAY_SECONDS} as is_long,
                        f.state in {ENDED_SQL} as is_end) as n,
        lateral (select n.*, n.is_end and f.state <> 'archived' and owned.retention_seconds = 0 as is_cleared) as next
  where t.id = f.id
  returning t.id
),
closed as (
  update joblane.task_attempts a set
    finished_at = clock_timestamp(), outcome = f.outcome, duration_ms = f.duration_ms,
    billed_ms = f.billed_ms, memory_mb = f.memory_mb, cost_usd = f.cost_usd,
    error_type = f.error_type, error_message = f.error_message, fingerprint = f.fingerprint, traceback = f.traceback
   from f join owned using (id)
  where a.task_id = f.id and a.run = f.run
)
select id from finished
"""


def finish(connection: Connection, runs: Sequence[Finish]) -> set[str]:
    """Finish at most 10 runs, in the open transaction or in a new one. Return the ids of the tasks that were finished.

    If an id is missing, another run holds the task or the task has a cancel request: see :func:`cancel_requested`.
    """
    if not runs:
        return set()
    rows = connection.run(FINISH, json.dumps([run.row() for run in runs], ensure_ascii=False))
    return {row[0] for row in rows}


def cancel_requested(connection: Connection, id_: str, token: str) -> bool:
    """True if the run still holds the task and the task has a cancel request."""
    rows = connection.run(
        "select cancel_requested_at is not null from joblane.tasks"
        " where id = $1 and state = 'active' and lease_token = $2::uuid",
        id_,
        token,
    )
    return bool(rows and rows[0][0])
