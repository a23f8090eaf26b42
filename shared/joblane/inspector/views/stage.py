"""The state of a stage: queues, pauses, schedules, types and checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from joblane.inspector.filter import PauseScope
from joblane.names import Queue
from joblane.record.row.states import State


@dataclass(frozen=True, slots=True)
class Pause:
    """``name``: the queue, type or tenant; ``type:name`` for a schedule. ``until`` None: until it is resumed.

    ``by``: the operator, None if not known. ``replaced``, only in the answer of ``pause``: True if there was an
    earlier pause, whose reason and end are now replaced. ``replaced_by``: the operator of the earlier pause, None if
    not known.
    """

    scope: PauseScope
    name: str
    reason: str | None
    by: str | None
    since: datetime
    until: datetime | None
    replaced: bool = False
    replaced_by: str | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """A pause, and the number of tasks that are due and wait because of it, among the live tasks of the overview."""

    pause: Pause
    waiting: int


@dataclass(frozen=True, slots=True)
class Depth:
    """Messages in one SQS queue, counted approximately. All None: SQS did not answer for this queue.

    ``missing``: names of queues that do not exist.
    """

    waiting: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    dead: int | None = None
    """In its dead-letter queue."""
    missing: tuple[str, ...] = ()
    """Names of SQS queues that should be counted here and do not exist."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A task type in one queue. ``tasks``: live rows by state. ``oldest_wait_seconds``: the wait of the task that has
    been due longest; None if no task is due."""

    queue: Queue
    type: str
    name: str
    depth: Depth
    tasks: Mapping[State, int]
    oldest_wait_seconds: float | None
    pause: Pause | None


@dataclass(frozen=True, slots=True)
class Minute:
    """Runs that started in one minute. ``failed``: runs that neither completed nor were cancelled.

    ``wait_ms``: the mean time from the due time to the start, None if no run started.
    """

    at: datetime
    started: int
    completed: int
    failed: int
    wait_ms: int | None


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant now, by its live tasks, of which the 20,000 oldest and the 20,000 newest of the stage are counted.

    ``tenant``: empty for tasks without one. ``due``: tasks that are due and have not started. ``later``: tasks that are
    due later. ``oldest_wait_seconds``: None if no task is due. ``started``, ``failed``: runs of the last hour.
    """

    tenant: str
    due: int
    held: int
    active: int
    later: int
    oldest_wait_seconds: float | None
    started: int
    failed: int
    pause: Pause | None


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue: the sum of its lanes, and its front door. ``minutes``: oldest first, without gaps."""

    queue: Queue
    weight: int
    front_door: Depth
    depth: Depth
    tasks: Mapping[State, int]
    oldest_wait_seconds: float | None
    pause: Pause | None
    lanes: tuple[Lane, ...]
    minutes: tuple[Minute, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """A number of tasks. ``exact`` False: there are at least ``number``, because the search ended early."""

    number: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The three queues. ``archived``: archived tasks that are kept, counted up to 1,000. ``paused``: the pauses of
    queues, types and tenants. ``oldest_wait_seconds`` leaves out what is paused.

    ``live``: the live tasks that ``tasks`` and ``oldest_wait_seconds`` cover. ``exact`` False: there are at
    least 40,000, and only the oldest and the newest 20,000 are covered.
    """

    at: datetime
    queues: tuple[QueueView, ...]
    archived: Count
    live: Count
    paused: tuple[Paused, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeView:
    """A declared task type."""

    type: str
    queues: tuple[Queue, ...]
    max_retry: int
    timeout_seconds: float
    retention_seconds: float
    batch_size: int
    memory_mb: int
    schedules: tuple[str, ...]
    """Its schedules in words."""
    ordered: bool
    """True if the tasks of a key run in order."""
    schema: Mapping[str, Any]
    target_wait_seconds: float
    """Time within which its tasks should start once they are due."""
    max_concurrency: int | None
    """Invocations at the same time in each lane. None: the lane's share of the stage's budget."""
    key: tuple[str, ...]
    """Parts of the key of its limits: ``tenant``, or a field of the payload. Empty: its tasks have no key."""
    limits: tuple[str, ...]
    """Names under which its limits are found: the type, the name of a shared limit."""


class Grade(StrEnum):
    """The result of one check of the doctor."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. ``do``: the remedy; empty if all is well."""

    grade: Grade
    what: str
    found: str
    do: str = ""
