"""Answers of the inspector: plain typed objects that go through JSON as they are.

Times are aware UTC. Payloads, results and headers are shown with the values of redacted fields masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from joblane.inspector.filter import Filter, PauseScope
from joblane.queues import Queue
from joblane.record.states import State
from joblane.record.status import Progress


@dataclass(frozen=True, slots=True)
class Pause:
    """``name``: of the queue, type or tenant; ``type:name`` of a schedule. ``until`` None: until it is resumed.

    ``replaced``: in the answer to a pause, that it was paused already, and has this reason and end from now on;
    ``replaced_by``: by whom it was, as far as is known.
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
class Depth:
    """Messages in one SQS queue, counted approximately. None throughout: the queue could not be asked."""

    waiting: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    dead: int | None = None
    """In its dead-letter queue."""
    missing: tuple[str, ...] = ()
    """Names of the SQS queues among these that do not exist."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One task type in one queue. ``tasks``: live rows by state. ``oldest_wait_seconds``: how long the one that is due
    longest has waited; None where none is due."""

    queue: Queue
    type: str
    name: str
    depth: Depth
    tasks: Mapping[State, int]
    oldest_wait_seconds: float | None
    pause: Pause | None


@dataclass(frozen=True, slots=True)
class Minute:
    """Runs that began in one minute. ``failed``: those that ended otherwise than well, a cancel aside.

    ``wait_ms``: the mean time from due to start, None where nothing began.
    """

    at: datetime
    started: int
    succeeded: int
    failed: int
    wait_ms: int | None


@dataclass(frozen=True, slots=True)
class QueueView:
    """One of the three queues: its lanes summed, and its front door. ``minutes``: oldest first, none left out."""

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
class Overview:
    """``archived``: kept rows that were given up, counted up to ``COUNT_CAP``."""

    at: datetime
    queues: tuple[QueueView, ...]
    archived: int


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One line of a listing."""

    id: str
    type: str
    queue: Queue
    state: State
    tenant: str | None
    tags: tuple[str, ...]
    attempts: int
    max_retry: int
    created_at: datetime
    due_at: datetime
    finished_at: datetime | None
    reason: str | None
    error_type: str | None
    error_message: str | None
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """``after``: hand it in to get the next page; None on the last one."""

    tasks: tuple[TaskRow, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Count:
    """``exact`` False: there are more than ``number``."""

    number: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run. ``outcome`` None: it is under way. ``cost_usd``: an estimate, None where it is not known yet."""

    run: int
    attempt: int
    generation: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    duration_ms: int | None
    billed_ms: int | None
    memory_mb: int | None
    cost_usd: float | None
    request_id: str | None
    error_type: str | None
    error_message: str | None
    fingerprint: str | None
    traceback: str | None


class Reason(StrEnum):
    """Why a task is not running now."""

    ENDED = "ended"
    RUNNING = "running"
    STOPPING = "stopping"
    LOST = "lost"
    PAUSED = "paused"
    NOT_DUE = "not-due"
    UNSENT = "unsent"
    NO_LANE = "no-lane"
    IN_LANE = "in-lane"
    ALONE = "alone"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Why:
    """``text``: the reason as a sentence with its numbers, and what comes next. ``until``: when that is, if known."""

    reason: Reason
    text: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task whole. ``payload`` None: it was cleared. ``actions``: those that its state allows now.

    ``headers``: names with their values masked, but for ``traceparent``.
    """

    row: TaskRow
    owner: str | None
    payload: Any
    result: Any
    headers: Mapping[str, str]
    options: Mapping[str, Any]
    runs: int
    generation: int
    deadline: datetime | None
    sent_at: datetime | None
    dead_sent_at: datetime | None
    lease_until: datetime | None
    expire_at: datetime | None
    cancel_requested_at: datetime | None
    unique_key: str | None
    replay_of: str | None
    replays: tuple[str, ...]
    progress: Progress | None
    items_done: int
    attempts: tuple[Attempt, ...]
    why: Why
    actions: tuple[str, ...]
    audit: tuple[AuditEntry, ...]
    log_link: str | None


@dataclass(frozen=True, slots=True)
class ActionResult:
    """``new_id``: of the task that a replay or an enqueue made; ``after`` is then the state of that one. ``note``: why
    it does not run yet, as a sentence."""

    id: str
    action: str
    before: State | None
    after: State
    new_id: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class BulkView:
    """A bulk action: a task of type ``jobs:bulk`` of its own. ``state``: that task's.

    ``total``: matched when it was started. ``done``, ``skipped`` (changed meanwhile), ``failed``: so far.
    ``stopped``: why it ended before all was done, None where it did not.
    """

    id: str
    action: str
    filter: Filter
    who: str
    state: State
    total: int
    done: int
    skipped: int
    failed: int
    canary: int
    stopped: str | None
    started_at: datetime
    finished_at: datetime | None

    @property
    def standing(self) -> str:
        """``state``, or what a canary or an operator made of it: a task that is to stop is live until it has looked,
        and one that has stopped has completed or is cancelled."""
        if self.stopped is None or self.state == "archived":
            return self.state
        return "stopped" if self.state in ("completed", "cancelled") else "stopping"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action of an operator. ``target``: an id, ``type:data:export``, a queue, a schedule."""

    number: int
    at: datetime
    who: str
    action: str
    target: str
    reason: str | None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Tasks and messages that failed alike. ``fingerprint``: hand it to redrive.

    ``recorded``: whether rows stand behind it; else they are messages that never had one, or that SQS moved itself.
    """

    fingerprint: str
    type: str
    error_type: str
    message: str
    recorded: bool
    count: int
    first_at: datetime
    last_at: datetime
    example: str
    queue: str
    log_link: str | None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """``groups``: largest first. ``depths``: of each dead-letter queue with messages. ``unread``: messages in them
    that were not looked at, because they are many. ``leftovers``: type → how many of those looked at have tasks that
    have moved on."""

    groups: tuple[DeadGroup, ...]
    depths: Mapping[str, int]
    unread: int
    leftovers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """``state`` None: it did not come."""

    at: datetime
    task_id: str
    state: State | None


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """``next``: the coming times. ``ticks``: the last ones, newest first. ``on_aws``: its state there, None unknown."""

    type: str
    name: str
    text: str
    timezone: str
    overlap: str
    next: tuple[datetime, ...]
    ticks: tuple[Tick, ...]
    pause: Pause | None
    on_aws: str | None


@dataclass(frozen=True, slots=True)
class Statistic:
    """Runs that began within a time, of one ``key``: a type, or a tenant. ``cost_usd``: an estimate."""

    key: str
    started: int
    succeeded: int
    retried: int
    archived: int
    lost: int
    wait_ms: int | None
    duration_ms: int | None
    longest_ms: int | None
    cost_usd: float


@dataclass(frozen=True, slots=True)
class TypeView:
    """One declared type."""

    type: str
    queues: tuple[Queue, ...]
    max_retry: int
    timeout_seconds: float
    retention_seconds: float
    batch_size: int
    memory_mb: int
    schedules: tuple[str, ...]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogLine:
    """``attempt`` None: a line that names none. ``fields``: the rest of the JSON."""

    at: datetime
    level: str
    message: str
    attempt: int | None
    request_id: str | None
    fields: Mapping[str, Any]


class Grade(StrEnum):
    """The result of one check of the doctor."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``do``: what to do about it; empty where all is well."""

    grade: Grade
    what: str
    found: str
    do: str = ""
