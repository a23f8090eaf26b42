"""Events: the ends of tasks, for listeners in the worker's process and for other systems.

``@task(…, events=("archived",))`` sends them to the stage's EventBridge bus, at least once. ``@on("archived")`` calls a
function in the worker's process, at most once.

The transaction that ends the task writes the event to ``joblane.events``. The worker sends it after its response is
decided; the sweep sends what is left. The sweep writes the metrics ``EventsWaiting``, ``EventsOldestSeconds`` and
``EventsDropped`` when they are above 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

DETAIL_TYPE = "Task {kind}"
"""The ``detail-type`` of an event, such as ``Task archived``."""


@dataclass(frozen=True, slots=True)
class Event:
    """The end of a task, in the fields of the event's ``detail``. It has no payload, no headers and no result.

    In JSON the times are ISO 8601 in UTC with milliseconds, such as ``"2030-01-31T12:00:00.000Z"``. Releases add
    fields, and change none.
    """

    id: str
    """``TASK_ID:REDRIVES:KIND``. An event that is sent twice has the same id both times."""
    kind: str
    """``"completed"``, ``"archived"`` or ``"cancelled"``."""
    type: str
    """Type of the task, as it was declared at the enqueue."""
    task_id: str
    """Id of the task."""
    queue: str
    """Queue of the task: ``"critical"``, ``"default"`` or ``"low"``."""
    tenant: str | None
    """Tenant of the task. None: it has none."""
    owner: str | None
    """User that owns the task. None: nobody."""
    tags: tuple[str, ...]
    """Tags of the task. A member of a batch has ``batch:`` and the batch's id."""
    redrives: int
    """Number of redrives and retries by operators before this end, 0 or more."""
    attempts: int
    """Attempts that have begun since the last redrive. 0: the task has not run."""
    enqueued_at: datetime
    """Time of the enqueue."""
    finished_at: datetime
    """Time of the end."""
    reason: str | None
    """Why the task was archived or cancelled, at most 2,000 characters, with the values of redacted fields removed.
    None: it completed."""
    error_type: str | None
    """Class of the last error. None: the last attempt has not failed."""
    fingerprint: str | None
    """Digest that equal errors share. None: the last attempt has not failed."""

    @classmethod
    def read(cls, detail: Mapping[str, Any]) -> Event:
        """Return the event of an EventBridge event's ``detail``. Fields that it does not know are ignored.

        Raises ``KeyError`` if a field is missing, and ``ValueError`` if a time cannot be read.
        """
        values = {field.name: detail[field.name] for field in fields(cls)}
        times = {name: datetime.fromisoformat(values[name]) for name in ("enqueued_at", "finished_at")}
        return cls(**values | times | {"tags": tuple(values["tags"])})


def source(prefix: str) -> str:
    """Return the ``source`` of a stage's events, such as ``joblane.jobs-prod``."""
    return f"joblane.{prefix}"
