"""Transitions of a task that more than one statement makes: for each, the columns that it writes, said once.

A transition maps a column to its SQL expression over the row ``t``. A statement adds what only it can know, such as a
reason. What the ways to one state may differ in is listed in ``tests/integration/record/test_transitions.py``.
"""

from __future__ import annotations

from joblane.limits import CONTENT_KEPT_FOR_MESSAGES
from joblane.record.states import ARCHIVED_RETENTION, LIVE_SQL, SWEEP_MARGIN_SECONDS

Columns = dict[str, str]

NOW = "clock_timestamp()"
FINGERPRINT = "left(md5({row}.type || '|{error}'), 16)"
"""Of an error without a traceback: the same for all tasks of a type."""
SWEEP_SOON = f"{NOW} + interval '{SWEEP_MARGIN_SECONDS} s'"
"""The sweep sends the message where nobody has by then."""
ARCHIVED_EXPIRES = f"{NOW} + interval '{ARCHIVED_RETENTION.days} days'"
RETENTION_EXPIRES = f"{NOW} + make_interval(secs => t.retention_seconds)"
CLEARED_EXPIRES = f"{NOW} + interval '{CONTENT_KEPT_FOR_MESSAGES.days} days'"

LET_GO: Columns = {"lease_token": "null", "lease_until": "null", "batch_size": "0", "claim_alone": "false"}
"""No run holds it."""
FRESH: Columns = {
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
"""As if it had never run: revived, or replaced by another enqueue."""
REVIVED: Columns = FRESH | {
    "generation": "t.generation + 1",
    "due_at": NOW,
    "cancel_requested_at": "null",
    "deadline": "null",
    "dead_sent_at": "null",
    "finished_at": "null",
    "expire_at": "null",
}
"""Live again after its end. A dead letter of the generation before is a leftover from then on."""
TO_SEND: Columns = {"state": "'pending'", "sent_at": "null", "sends": "0", "sweep_at": SWEEP_SOON}
"""Its message is sent after the commit."""

_ENDED: Columns = LET_GO | {"used_ms": "0", "sends": "0", "mismatch_since": "null", "finished_at": NOW}
ARCHIVED: Columns = _ENDED | {
    "state": "'archived'",
    "dead_sent_at": "null",
    "expire_at": ARCHIVED_EXPIRES,
    "sweep_at": SWEEP_SOON,
}
"""Given up; its dead letter is to be sent."""
CANCELLED: Columns = _ENDED | {
    "state": "'cancelled'",
    "cancel_requested_at": f"coalesce(t.cancel_requested_at, {NOW})",
    "expire_at": RETENTION_EXPIRES,
    "sweep_at": "null",
}
"""Stopped before it was done; no dead letter."""
DELETED: Columns = {
    "state": f"case when t.state in {LIVE_SQL} then 'cancelled' else t.state end",
    # a dead letter that is sent back after this would revive a task without a payload: it is made a leftover
    "generation": "t.generation + (t.state = 'archived')::int",
    "dead_sent_at": f"case when t.state = 'archived' then coalesce(t.dead_sent_at, {NOW}) end",
    "finished_at": f"coalesce(t.finished_at, {NOW})",
    "sweep_at": "null",
    "error_message": "null",
    "unique_key": "null",
    "payload": "null",
    "result": "null",
    "headers": "'{}'",
    "cleared": "true",
    "expire_at": CLEARED_EXPIRES,
}
"""Its content is gone, and it never runs."""


def _unless_active(columns: Columns) -> Columns:
    return {name: f"case when t.state = 'active' then t.{name} else {value} end" for name, value in columns.items()}


CANCEL_REQUESTED: Columns = _unless_active(
    CANCELLED | {"reason": "case when t.runs = 0 then 'cancelled before it ran' else 'cancelled while it waited' end"}
) | {"cancel_requested_at": CANCELLED["cancel_requested_at"]}
"""Of a live row: a task that waits never runs; a running one finds the request at its next check, or at its end."""


def assignments(columns: Columns) -> str:
    """For ``set`` of an ``update``."""
    return ", ".join(f"{name} = {value}" for name, value in columns.items())


CANCEL = (
    f"update joblane.tasks t set {assignments(CANCEL_REQUESTED)} where id = $1 and state in {LIVE_SQL} returning state"
)
