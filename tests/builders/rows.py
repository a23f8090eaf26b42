"""Rows of tasks in any state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.json_values import digest
from joblane.quotas import QUEUE_RETENTION
from joblane.record.row.states import ENDED
from joblane.tasks.task import Task
from tests.world import World

TOKEN = "00000000-0000-4000-8000-000000000001"
"""The lease of another run."""


@dataclass(frozen=True)
class In:
    """A moment, in seconds from now."""

    seconds: float


FOR_PARENTS: Mapping[str, Any] = {"wait_kind": "parents", "waits_for": None, "place": 1.0}
"""Columns of a row that waits for its parents."""


def put(
    world: World, /, task: Task[Any, Any], id_: str, payload: Mapping[str, Any] | None = None, **columns: Any
) -> None:
    """Write a row of ``task`` with the given columns, and the row of the run of an active one."""
    payload = {"do": "nothing", "number": 0} if payload is None else payload
    row: dict[str, Any] = {
        "id": id_,
        "type": task.type,
        "queue": "default",
        "state": "pending",
        "payload": payload,
        "payload_digest": digest(payload),
        "attempts": 0,
        "runs": 0,
        "generation": 0,
        "max_attempts": task.max_retry + 1,
        "sweep_at": In(60),
        "retention_seconds": 86_400,
        **columns,
    }
    if row["state"] == "active" and row["runs"] == 1:
        row = {"started_at": In(0), **row}
    if row["state"] == "held":
        limit = {"total_limit": task.type, "first_due_at": In(-60), "seq": 1, "place": 0}
        row = {**limit, "wait_kind": "limit", "waits_for": task.type, **row}
    if row["state"] in ENDED:
        row = {"finished_at": In(-60), **row}
        row = row if row["state"] == "completed" else {"reason": "written by a test", **row}
        row = {"expire_at": In(86_400) if row["finished_at"] else None, **row}
    if row["state"] == "archived" and row["finished_at"] and not row.get("dead_sent_at"):
        row = {"dead_letter_unsent": True, **row}
    now = datetime.now(UTC)
    moments = {
        name: (now + timedelta(seconds=value.seconds)).isoformat()
        for name, value in row.items()
        if isinstance(value, In)
    }
    names = ", ".join(row)  # the others have their defaults
    world.run(
        f"insert into joblane.tasks ({names})"
        f" select {names} from jsonb_populate_record(null::joblane.tasks, $1::jsonb)",
        json.dumps(row | moments),
    )
    if row["state"] == "active" and row["runs"] > 1:
        world.run(
            "insert into joblane.task_attempts (task_id, run, attempt, generation) values ($1, $2::int, "
            "$3::int, $4::int)",
            id_,
            str(row["runs"]),
            str(row["attempts"]),
            str(row["generation"]),
        )


def active(seconds: float, **columns: Any) -> dict[str, Any]:
    """Columns of a row in its first run, whose lease ends in ``seconds``."""
    lease = {"lease_token": TOKEN, "lease_until": In(seconds), "sweep_at": In(seconds + 15)}
    return {"state": "active", "attempts": 1, "runs": 1, "batch_size": 1} | lease | columns


def archived(**columns: Any) -> dict[str, Any]:
    """Columns of a row that was archived and whose dead letter was sent."""
    ended = {"finished_at": In(-60), "expire_at": In(QUEUE_RETENTION.total_seconds()), "sweep_at": None}
    recorded = {"reason": "attempt 4 of 4 failed", "error_type": "ValueError", "dead_sent_at": In(-50)}
    return {"state": "archived", "attempts": 4, "runs": 4} | ended | recorded | columns
