"""Transitions of a task that several statements share: the columns that each transition writes.

A transition maps a column to an SQL expression over the row ``t``. The statement adds its own columns, such as a
reason. ``tests/integration/record/test_transitions.py`` lists the columns in which two ways to one state may differ.
"""

from __future__ import annotations

from joblane.quotas import CONTENT_KEPT_FOR_MESSAGES, MAX_DELAY_SECONDS
from joblane.record.row.states import ARCHIVED_RETENTION, LIVE_SQL, SWEEP_MARGIN_SECONDS, Passed

Columns = dict[str, str]

NOW = "clock_timestamp()"
FINGERPRINT = "left(md5({row}.type || '|{error}'), 16)"
"""The fingerprint of an error without a traceback: the same for all tasks of a type."""
SWEEP_SOON = f"{NOW} + interval '{SWEEP_MARGIN_SECONDS} s'"
"""A worker or a client usually sends the message before. After this time the sweep makes sure of it."""
UNSENT_SWEEP = f"{{due}} - interval '{MAX_DELAY_SECONDS} s'"
"""For a task without a message: the sweep sends one, from the time at which SQS can delay it until the task is due.

Only such a task has a ``sweep_at`` before its ``due_at``: the sweep and the inspector recognise it by that.
"""
ARCHIVED_EXPIRES = f"{NOW} + interval '{ARCHIVED_RETENTION.days} days'"
RETENTION_EXPIRES = f"{NOW} + pg_catalog.make_interval(secs => t.retention_seconds)"
CLEARED_EXPIRES = f"{NOW} + interval '{CONTENT_KEPT_FOR_MESSAGES.days} days'"

LEASE_RELEASED: Columns = {"lease_token": "null", "lease_until": "null", "batch_size": "0", "claim_alone": "false"}
"""No run holds the task."""
NO_WAIT: Columns = {"wait_kind": "null", "waits_for": "null", "place": "null"}
"""The task waits for no limit and for no parents."""
NO_LIMITS: Columns = NO_WAIT | {"passed": "null"}
"""The task has no slot of a limit, and waits for nothing."""
LEFT_LIMITS: Columns = {
    "passed": "null",
    "wait_kind": "case when t.wait_kind = 'parents' then t.wait_kind end",
    "waits_for": "null",
    "place": "case when t.wait_kind = 'parents' then t.place end",
}
"""The task has no slot of a limit, and waits for none. It still waits for its parents."""
RESET: Columns = {
    "attempts": "0",
    "snoozes": "0",
    "used_ms": "0",
    "batch_size": "0",
    "claim_alone": "false",
    "sends": "0",
    "mismatch_since": "null",
    "reason": "null",
    "error_type": "null",
    "error_message": "null",
    "fingerprint": "null",
}
"""The task as if it had never run: for a revived task, and for one that another enqueue replaces."""
REVIVED: Columns = RESET | {
    "generation": "t.generation + 1",
    "due_at": NOW,
    "cancel_requested_at": "null",
    "deadline": "null",
    "dead_sent_at": "null",
    "dead_letter_unsent": "false",
    "finished_at": "null",
    "expire_at": "null",
    "first_due_at": f"case when t.seq is not null then {NOW} end",
    "seq": "case when t.seq is not null then pg_catalog.nextval('joblane.tasks_seq'::regclass) end",
}
"""The task is live again, the last in its order. A dead letter of its previous generation is obsolete from now on."""
TO_SEND: Columns = {"state": "'pending'", "sends": "0", "sweep_at": SWEEP_SOON}
"""The task's message is sent after the commit."""

_ENDED: Columns = (
    LEASE_RELEASED
    | NO_LIMITS
    | {
        "used_ms": "0",
        "sends": "0",
        "mismatch_since": "null",
        "finished_at": NOW,
    }
)
ARCHIVED: Columns = _ENDED | {
    "state": "'archived'",
    "dead_sent_at": "null",
    "dead_letter_unsent": "true",
    "expire_at": ARCHIVED_EXPIRES,
    "sweep_at": SWEEP_SOON,
}
"""The task is archived, and its dead letter is not sent yet."""
CANCELLED: Columns = _ENDED | {
    "state": "'cancelled'",
    "cancel_requested_at": f"coalesce(t.cancel_requested_at, {NOW})",
    "expire_at": RETENTION_EXPIRES,
    "sweep_at": "null",
}
"""The task is stopped before it completed. It has no dead letter."""
DELETED: Columns = NO_LIMITS | {
    "state": f"case when t.state in {LIVE_SQL} then 'cancelled' else t.state end",
    # without this, a redriven dead letter would revive a task that has no payload
    "generation": "t.generation + (t.state = 'archived')::int",
    "dead_sent_at": f"case when t.state = 'archived' then coalesce(t.dead_sent_at, {NOW}) end",
    "dead_letter_unsent": "false",
    "finished_at": f"coalesce(t.finished_at, {NOW})",
    "sweep_at": "null",
    "error_message": "null",
    "fingerprint": "null",
    "unique_key": "null",
    "payload": "null",
    "result": "null",
    "headers": "'{}'",
    "cleared": "true",
    "expire_at": CLEARED_EXPIRES,
}
"""The task's content is deleted, and the task never runs again."""


def _unless_active(columns: Columns) -> Columns:
    return {name: f"case when t.state = 'active' then t.{name} else {value} end" for name, value in columns.items()}


DUE_STATE = "case when d.due_at > clock_timestamp() then 'scheduled' else 'pending' end"
DUE_SWEEP = f"""case when d.due_at > clock_timestamp() + interval '{MAX_DELAY_SECONDS} s'
              or x.unsent then {UNSENT_SWEEP.format(due="d.due_at")}
            else greatest(d.due_at, clock_timestamp()) + interval '{SWEEP_MARGIN_SECONDS} s' end"""

LEASE_SWEEP_SECONDS = 15
"""The sweep sends the message this long after its lease ends, so that a slow finish can commit first."""
RUN: Columns = {
    "state": "'active'",
    "attempts": "t.attempts + 1 - uncounted",
    "runs": "t.runs + 1",
    "claim_alone": "t.claim_alone or uncounted = 1",
    "batch_size": "members",
    "lease_token": "token",
    "lease_until": "leased_until",
    "sweep_at": f"leased_until + interval '{LEASE_SWEEP_SECONDS} s'",
    "unique_key": "case when t.unique_until = 'finish' then t.unique_key end",
    "used_ms": "case when t.state = 'active' then 0 else t.used_ms end",
    "started_at": f"case when t.runs = 0 then {NOW} else t.started_at end",
    "request_id": "case when t.runs = 0 then invocation else t.request_id end",
}
"""A run begins. The names without ``t.`` are variables of the claim."""
FINISH: Columns = {
    "state": "f.state",
    **LEASE_RELEASED,
    "attempts": "t.attempts - (not f.counted)::int",
    "snoozes": "t.snoozes + f.snoozed::int",
    "continuations": "t.continuations + f.continued::int",
    "passed": "case when f.continued then t.passed"
    f" when t.ordered and not f.is_end and t.passed is not null then '{Passed.KEY_SLOT}' end",
    "used_ms": "case when f.continued then t.used_ms + f.duration_ms else 0 end",
    "mismatch_since": "case when f.mismatch then coalesce(t.mismatch_since, f.clock) end",
    "due_at": "case when f.is_end then t.due_at else f.next_due end",
    "sends": "0",
    # SQS cannot delay the message for longer than the maximum: the row waits, and the sweep sends it
    "sweep_at": f"case when f.is_archived then {SWEEP_SOON.replace(NOW, 'f.clock')} when f.is_end then null"
    f" when f.delay_seconds > float8 '{MAX_DELAY_SECONDS}' then f.next_due - interval '{MAX_DELAY_SECONDS} s'"
    f" else f.next_due + interval '{SWEEP_MARGIN_SECONDS} s' end",
    "finished_at": "case when f.is_end then f.clock end",
    "dead_letter_unsent": "f.is_archived",
    "expire_at": f"case when f.is_archived then {ARCHIVED_EXPIRES.replace(NOW, 'f.clock')}"
    f" when f.is_cleared then {CLEARED_EXPIRES.replace(NOW, 'f.clock')}"
    f" when f.is_end then {RETENTION_EXPIRES.replace(NOW, 'f.clock')} end",
    "cleared": "f.is_cleared",
    "payload": "case when not f.is_cleared then t.payload end",
    "headers": "case when f.is_cleared then '{}' else t.headers end",
    "result": "case when not f.is_cleared then f.result end",
    "reason": "f.reason",
    "error_type": "f.error_type",
    "error_message": "f.error_message",
    "fingerprint": "f.fingerprint",
    "duration_ms": "case when f.is_first then f.duration_ms end",
    "billed_ms": "case when f.is_first then f.billed_ms end",
    "memory_mb": "case when f.is_first then f.memory_mb end",
    "cost_usd": "case when f.is_first then f.cost_usd end",
}
"""A run ends. ``f`` is its end, see ``finish.sql``."""
COMPLETED_AT_FIRST = {
    "state": "'completed'", "is_end": "true", "is_first": "true", "is_archived": "false", "is_cleared": "false",
    "counted": "true", "snoozed": "false", "continued": "false", "mismatch": "false", "delay_seconds": "float8 '0'",
    "next_due": "null::timestamptz", "reason": "null", "error_type": "null", "error_message": "null",
    "fingerprint": "null",
}  # fmt: skip
"""The end ``f`` of a first run that completes and whose task keeps its content. Its other fields are variables of
``finish_one.sql``."""
STOPPED: Columns = LEASE_RELEASED | {
    "state": "case when resumes > clock then 'scheduled' else 'pending' end",
    "attempts": "0",
    "used_ms": "0",
    "sends": "0",
    "mismatch_since": "null",
    "passed": f"case when t.ordered and t.passed is not null then '{Passed.KEY_SLOT}' end",
    "due_at": "resumes",
    "sweep_at": f"case when resumes > clock + interval '{MAX_DELAY_SECONDS} s'"
    f" then {UNSENT_SWEEP.format(due='resumes')} else resumes + interval '{SWEEP_MARGIN_SECONDS} s' end",
    "reason": "null",
    "error_type": "null",
    "error_message": "null",
    "fingerprint": "null",
}
"""A run stops at a wait. The part of the handler after it has all its attempts. ``resumes`` and ``clock`` are variables
of ``suspend.sql``."""
HELD_FOR_CHILDREN: Columns = STOPPED | {
    "state": "case when is_held then 'held' else 'pending' end",
    "wait_kind": "'parents'",
    "place": "case when is_held then extract(epoch from clock) end",
    "sweep_at": f"case when is_held then t.deadline else resumes + interval '{SWEEP_MARGIN_SECONDS} s' end",
}
"""It stops at a wait for children. They are its parents in ``task_parents``."""
WOKEN: Columns = TO_SEND | {"due_at": NOW}
"""The signal of a wait is there. The task keeps its place in its order."""
REVIVE_LIMITED: Columns = REVIVED | {"state": "'pending'", "sweep_at": SWEEP_SOON}
"""The redriven message is delivered again at once, and then asks for a slot."""
REVIVE: Columns = RUN | REVIVED | {"attempts": "1", "batch_size": "members"}
PARK: Columns = LEFT_LIMITS | {
    "state": "case when t.state = 'held' then 'pending' else t.state end",
    "sweep_at": UNSENT_SWEEP.format(due="t.due_at"),
}
"""The message is acknowledged, and the row waits without one for the end of a pause, or for the next sweep."""
LET_GO: Columns = LEFT_LIMITS | _unless_active({name: PARK[name] for name in ("state", "sweep_at")})
"""The same for a row without a message, or for a lost run, which the next claim finds."""
PASS: Columns = NO_WAIT | {"passed": "way.passed"}
"""It has a slot of each of its limits. ``way`` is the answer of ``pass_limits.sql``."""
RUN_WITH_SLOTS: Columns = RUN | PASS
HOLD: Columns = {
    "state": "'held'",
    "passed": "way.passed",
    "wait_kind": "'limit'",
    "waits_for": "way.waits_for",
    "place": "way.place",
    "sends": "0",
    "sweep_at": "t.deadline",
}
"""The row waits for a slot without a message."""
HOLD_FOR_PARENTS: Columns = {
    "state": "'held'",
    "wait_kind": "'parents'",
    "place": "extract(epoch from t.created_at)",
    "sends": "0",
    "sweep_at": "t.deadline",
}
"""The row waits for its parents without a message. With its ``place``, the end of its last parent releases it; before,
its message does."""
RELEASED: Columns = {
    "state": f"case when t.due_at > {NOW} then 'scheduled' else 'pending' end",
    "wait_kind": "null",
    "place": "null",
    "sends": "0",
    "due_at": f"greatest(t.due_at, {NOW})",
    "first_due_at": f"case when t.seq is not null then coalesce(t.first_due_at, greatest(t.due_at, {NOW})) end",
    "sweep_at": f"case when t.due_at > {NOW} + interval '{MAX_DELAY_SECONDS} s'"
    f" then {UNSENT_SWEEP.format(due='t.due_at')}"
    f" else greatest(t.due_at, {NOW}) + interval '{SWEEP_MARGIN_SECONDS} s' end",
}
"""It has no open parent any more. If it is due, its message is sent after the commit. It enters its order now, or keeps
its place, if it has waited for children."""
CANCELLED_BY_PARENT: Columns = CANCELLED | {"reason": "'cancelled: its parent ' || parent_id || ' ' || parent_fate"}
"""A parent ended without success. The names without ``t.`` are those of ``open_parents.sql``."""
CANCELLED_BY_BATCH: Columns = CANCELLED | {"reason": "'cancelled: its batch ' || parent_batch || ' was not sealed'"}
"""The batch of a callback was forgotten."""
START_LATER: Columns = PASS | {
    "state": "'pending'",
    "due_at": "way.starts_at",
    "sends": "0",
    "sweep_at": f"least(t.deadline, case when way.starts_at > {NOW} + interval '{MAX_DELAY_SECONDS} s'"
    f" then {UNSENT_SWEEP.format(due='way.starts_at')} else way.starts_at + interval '{SWEEP_MARGIN_SECONDS} s' end)",
}
"""A rate has given it a later time."""
TURN: Columns = PASS | TO_SEND | {"due_at": NOW}
"""It has got a slot of each of its limits, and its message is sent after the commit."""
REVIVE_PAUSED: Columns = REVIVED | {"state": "'pending'", "sweep_at": UNSENT_SWEEP.format(due=NOW)}
RELEASE: Columns = {
    "state": "'pending'",
    "attempts": "t.attempts - uncounted",
    "claim_alone": "true",
    "passed": "case when not paused then t.passed end",
    "lease_token": "null",
    "lease_until": "null",
    "sweep_at": f"case when paused then {PARK['sweep_at']} else {SWEEP_SOON} end",
}
"""A lost run is over, and the next claim takes the task alone."""
LOST_ERROR: Columns = {
    "error_type": "'Lost'",
    "error_message": "'the run did not report its end'",
    "fingerprint": FINGERPRINT.format(row="t", error="Lost"),
}
"""The error of a run that did not report its end, on its own row too."""
LOST: Columns = (
    ARCHIVED
    | LOST_ERROR
    | {"reason": "'lost: the last run did not report its end (killed, out of memory, or out of time)'"}
)
OVERDUE: Columns = ARCHIVED | {
    "reason": "'DeadlinePassed: the task had to run by ' || t.deadline::text",
    "error_type": "'DeadlinePassed'",
    "error_message": "'the deadline passed before the task ran'",
    "fingerprint": FINGERPRINT.format(row="t", error="DeadlinePassed"),
}
CANCEL_LOST: Columns = CANCELLED | {"reason": "'cancelled while it ran'"}
_SKIPPED: Columns = {name: value for name, value in CANCELLED.items() if name != "cancel_requested_at"}
DUPLICATE: Columns = _SKIPPED | {"reason": "'DuplicateTask: its unique key is held by ' || holder.id"}
TICK_SKIPPED: Columns = _SKIPPED | {"reason": "skipped"}


CANCEL_REQUESTED: Columns = _unless_active(
    CANCELLED | {"reason": "case when t.runs = 0 then 'cancelled before it ran' else 'cancelled while it waited' end"}
) | {"cancel_requested_at": CANCELLED["cancel_requested_at"]}
"""A cancel of a live task: a waiting task ends here, a running one sees the request at its next check or at its end."""


def assignments(columns: Columns) -> str:
    """Return the columns as SQL for ``update … set``."""
    return ", ".join(f"{name} = {value}" for name, value in columns.items())


CANCEL = f"""
update joblane.tasks t set {assignments(CANCEL_REQUESTED)}
 where id = $1 and finished_at is null and state in {LIVE_SQL} returning state,
       exists (select from joblane.task_parents e where e.parent = t.id), key_limit, total_limit, shared_limit
"""
