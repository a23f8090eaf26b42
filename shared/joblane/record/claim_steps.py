"""The steps of a claim: each one changes a row, by a transition of its own or by one shared with other statements."""

from __future__ import annotations

from joblane.limits import MAX_DELAY_SECONDS
from joblane.record.transitions import ARCHIVED, CANCELLED, FINGERPRINT, NOW, REVIVED, SWEEP_SOON, Columns

LEASE_SWEEP_SECONDS = 15
"""The sweep sends the message this long after its lease ends, so that a slow finish can commit first."""

DEADLINE_REASON = "'DeadlinePassed: the task had to run by ' || {row}.deadline::text"
DEADLINE_ERROR = "the deadline passed before the task ran"
LOST_FINGERPRINT, DEADLINE_FINGERPRINT = (FINGERPRINT.replace("{error}", error) for error in ("Lost", "DeadlinePassed"))

RUN: Columns = {
    "state": "'active'",
    "attempts": "t.attempts + 1 - decision.uncounted",
    "runs": "t.runs + 1",
    "claim_alone": "t.claim_alone or decision.uncounted = 1",
    "batch_size": "decision.batch_size",
    "lease_token": "decision.token",
    "lease_until": "decision.lease_until",
    "sweep_at": f"decision.lease_until + interval '{LEASE_SWEEP_SECONDS} s'",
    "unique_key": "case when t.unique_until = 'start' then null else t.unique_key end",
    "used_ms": "case when t.state = 'active' then 0 else t.used_ms end",
}
PARKED: Columns = {
    "sent_at": "null",
    "sweep_at": f"greatest({NOW}, t.due_at - interval '{MAX_DELAY_SECONDS} s')",
}
STEPS: dict[str, Columns] = {
    "run": RUN,
    "revive": RUN | REVIVED | {"attempts": "1", "batch_size": "decision.batch_size"},
    "revive_paused": REVIVED | PARKED | {"state": "'pending'"},
    "park": PARKED,
    "release": {
        "state": "'pending'",
        "attempts": "t.attempts - decision.uncounted",
        "claim_alone": "true",
        "lease_token": "null",
        "lease_until": "null",
        "sent_at": "case when decision.paused then null else t.sent_at end",
        "sweep_at": SWEEP_SOON,
    },
    "exhaust": ARCHIVED
    | {
        "reason": "'lost: the last run did not report its end (killed, out of memory, or out of time)'",
        "error_type": "'Lost'",
        "error_message": "'the run did not report its end'",
        "fingerprint": LOST_FINGERPRINT.format(row="t"),
    },
    "overdue": ARCHIVED
    | {
        "reason": DEADLINE_REASON.format(row="t"),
        "error_type": "'DeadlinePassed'",
        "error_message": f"'{DEADLINE_ERROR}'",
        "fingerprint": DEADLINE_FINGERPRINT.format(row="t"),
    },
    "cancel": CANCELLED | {"reason": "'cancelled while it ran'"},
}
"""Step → the columns that it writes, with their values. The step ``keep`` is not listed: it changes nothing.

``t`` is the row. ``decision`` is the message with the step that was chosen, and ``uncounted``: 1 if the lost run was
claimed in a batch, so that it does not count as an attempt.
"""
STEP_COLUMNS = sorted({name for columns in STEPS.values() for name in columns})


def _value_after_step(column: str) -> str:
    """Return the SQL for a column's new value.

    Times are the transaction's ``now()``, so that the claim recognises the rows that it archived itself.
    """
    cases: dict[str, list[str]] = {}
    for step, columns in STEPS.items():
        if column in columns:
            cases.setdefault(columns[column].replace(NOW, "now()"), []).append(f"'{step}'")
    whens = " ".join(f"when decision.step in ({', '.join(steps)}) then {value}" for value, steps in cases.items())
    return f"case {whens} else t.{column} end"


STEP_VALUES = ",\n             ".join(map(_value_after_step, STEP_COLUMNS))
