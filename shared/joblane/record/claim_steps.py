"""The steps by which a claim changes a row: transitions that others make too, and its own."""

from __future__ import annotations

from joblane.limits import MAX_DELAY_SECONDS
from joblane.record.transitions import ARCHIVED, CANCELLED, FINGERPRINT, NOW, REVIVED, SWEEP_SOON, Columns

LEASE_SWEEP_SECONDS = 15
"""How long after a lease's end the sweep sends the message: late enough for a slow finish to commit."""

OVERDUE = "'DeadlinePassed: it was to run by ' || {row}.deadline::text"
UNRUN = "the deadline passed before it ran"
LOST, LATE = (FINGERPRINT.replace("{error}", name) for name in ("Lost", "DeadlinePassed"))

RUN: Columns = {
    "state": "'active'",
    "attempts": "t.attempts + 1 - d.uncounted",
    "runs": "t.runs + 1",
    "claim_alone": "t.claim_alone or d.uncounted = 1",
    "batch_size": "d.batch_size",
    "lease_token": "d.token",
    "lease_until": "d.lease_until",
    "sweep_at": f"d.lease_until + interval '{LEASE_SWEEP_SECONDS} s'",
    "unique_key": "case when t.unique_until = 'start' then null else t.unique_key end",
    "used_ms": "case when t.state = 'active' then 0 else t.used_ms end",
}
PARKED: Columns = {
    "sent_at": "null",
    "sweep_at": f"greatest({NOW}, t.due_at - interval '{MAX_DELAY_SECONDS} s')",
}
STEPS: dict[str, Columns] = {
    "run": RUN,
    "revive": RUN | REVIVED | {"attempts": "1", "batch_size": "d.batch_size"},
    "revive_paused": REVIVED | PARKED | {"state": "'pending'"},
    "park": PARKED,
    "release": {
        "state": "'pending'",
        "attempts": "t.attempts - d.uncounted",
        "claim_alone": "true",
        "lease_token": "null",
        "lease_until": "null",
        "sent_at": "case when d.paused then null else t.sent_at end",
        "sweep_at": SWEEP_SOON,
    },
    "exhaust": ARCHIVED
    | {
        "reason": "'lost: the last run ended without a word (killed, out of memory or time)'",
        "error_type": "'Lost'",
        "error_message": "'the run ended without a word'",
        "fingerprint": LOST.format(row="t"),
    },
    "overdue": ARCHIVED
    | {
        "reason": OVERDUE.format(row="t"),
        "error_type": "'DeadlinePassed'",
        "error_message": f"'{UNRUN}'",
        "fingerprint": LATE.format(row="t"),
    },
    "cancel": CANCELLED | {"reason": "'cancelled while it ran'"},
}
"""Step → the columns that it writes; any other step, ``keep``, leaves the row as it is."""
WRITTEN = sorted({name for columns in STEPS.values() for name in columns})


def _taken(column: str) -> str:
    """The value of a column after the step. Times are the transaction's, by which the claim knows what it wrote."""
    cases: dict[str, list[str]] = {}
    for step, columns in STEPS.items():
        if column in columns:
            cases.setdefault(columns[column].replace(NOW, "now()"), []).append(f"'{step}'")
    whens = " ".join(f"when d.step in ({', '.join(steps)}) then {value}" for value, steps in cases.items())
    return f"case {whens} else t.{column} end"


STEPS_TAKEN = ",\n             ".join(map(_taken, WRITTEN))
