"""The state of a stage: queues, pauses, schedules, types and checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from joblane.inspector.filter import PauseScope
from joblane.inspector.listing import LISTINGS, Column, Kind, Listing, Order
from joblane.inspector.views.runs import OfRuns
from joblane.names import Queue, slug_of
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


LISTINGS[Pause] = Listing(
    "Pauses",
    "Nothing is paused.",
    (
        Column("Scope", "scope"),
        Column("Name", "name", fold=40),
        Column("Since", "since", Kind.STAMP),
        Column("Until", lambda pause: pause.until or "until resumed", Kind.STAMP),
        Column("By", "by"),
        Column("Reason", "reason", fold=20),
    ),
    left_out=("Since",),
)


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
    been due longest; None if no task is due.

    ``place``: the place whose lane it is, None without one. ``depth`` is then of all types of the place.
    """

    queue: Queue
    type: str
    name: str
    depth: Depth
    tasks: Mapping[State, int]
    oldest_wait_seconds: float | None
    pause: Pause | None
    place: str | None = None

    @property
    def row_id(self) -> str:
        """Differs from the id of every other lane and type."""
        return self.name if self.place is None else f"{self.name}-{slug_of(self.type)}"


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
class TenantRow(OfRuns):
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


TENANT_ORDERS = {
    "Tenant": Order("tenant", descending=False),
    **{title: Order(title.lower()) for title in ("Due", "Oldest", "Active", "Held", "Later")},
    "Runs 1h": Order("runs"),
    "Failed 1h": Order("failed"),
    "Failed %": Order("share"),
}
LISTINGS[TenantRow] = Listing(
    "Tenants",
    "No tenant has live tasks, or runs of the last hour.",
    (
        Column("Tenant", lambda row: row.tenant or "none", fold=20),
        Column("Due", "due", Kind.NUMBER),
        Column("Oldest", "oldest_wait_seconds", Kind.SECONDS),
        Column("Active", "active", Kind.NUMBER),
        Column("Held", "held", Kind.NUMBER),
        Column("Later", "later", Kind.NUMBER),
        Column("Runs 1h", "started", Kind.NUMBER),
        Column("Failed 1h", "failed", Kind.ALARM),
        Column("Failed %", "failed_percent", Kind.NUMBER),
        Column("Paused", lambda row: row.pause and "yes", optional=True),
    ),
    left_out=("Failed %", "Later", "Held"),
    orders=TENANT_ORDERS,
)


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

    @property
    def number_of_lanes(self) -> int:
        """The types of a place share one."""
        return sum(not lane.place for lane in self.lanes) + len({lane.name for lane in self.lanes if lane.place})


def plus(*numbers: int | None) -> int | None:
    """Return the sum of the known numbers; None if none is known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def messages(depth: Depth) -> int | None:
    """Return all messages in an SQS queue, without its dead letters."""
    return plus(depth.waiting, depth.in_flight, depth.delayed)


def _dead(row: QueueView | Lane) -> int | None:
    return plus(row.depth.dead, row.front_door.dead) if isinstance(row, QueueView) else row.depth.dead


def _in_sqs(row: QueueView | Lane) -> int | None:
    if isinstance(row, QueueView):
        return plus(row.depth.waiting, messages(row.front_door))
    return plus(row.depth.waiting, row.depth.delayed)


def _paused(row: QueueView | Lane) -> str:
    """``yes``, or the number of paused lanes of a queue; of paused types, if some of them share a lane."""
    if row.pause or not isinstance(row, QueueView):
        return "yes" if row.pause else ""
    paused = [lane for lane in row.lanes if lane.pause is not None]
    return _number(len(paused), "type" if any(lane.place for lane in paused) else "lane") if paused else ""


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


TASKS_BY_STATE = (
    Column("Pending", lambda row: row.tasks.get(State.PENDING, 0), Kind.QUIET),
    Column("Held", lambda row: row.tasks.get(State.HELD) or None, Kind.QUIET, optional=True),
    Column("Active", lambda row: row.tasks.get(State.ACTIVE, 0), Kind.QUIET),
    Column("Retry", lambda row: row.tasks.get(State.RETRY, 0), Kind.QUIET),
    Column("Scheduled", lambda row: row.tasks.get(State.SCHEDULED, 0), Kind.QUIET),
    Column("Dead", _dead, Kind.ALARM, since=lambda _: None),
    Column("Oldest", "oldest_wait_seconds", Kind.SECONDS),
)
LISTINGS[QueueView] = Listing(
    "Queues",
    "There are no queues.",
    (
        Column("Queue", "queue", Kind.NAME),
        Column("Front door", lambda row: messages(row.front_door), Kind.NUMBER),
        *TASKS_BY_STATE,
        Column("Completed", lambda row: sum(minute.completed for minute in row.minutes), Kind.NUMBER),
        Column("Failed", lambda row: sum(minute.failed for minute in row.minutes), Kind.ALARM),
        Column("Runs", lambda row: [minute.started for minute in row.minutes], Kind.SPARKS),
        Column("Paused", _paused, optional=True),
    ),
    left_out=("Runs", "Completed", "Oldest", "Failed", "Scheduled", "Retry", "Held"),
)
LISTINGS[Lane] = Listing(
    "Lanes",
    "There are no lanes.",
    (
        Column("Queue", "queue", Kind.NAME),
        Column(
            "Type",
            lambda row: row.type if isinstance(row, Lane) else _number(row.number_of_lanes, "lane"),
            fold=20,
        ),
        Column("Runs on", lambda row: row.place if isinstance(row, Lane) else None, optional=True),
        *TASKS_BY_STATE,
        Column("In SQS", _in_sqs, Kind.NUMBER),
        Column("In flight", "depth.in_flight", Kind.NUMBER),
        Column("Paused", _paused, optional=True),
    ),
    left_out=("In flight", "In SQS", "Oldest", "Scheduled", "Retry", "Held"),
)
"""Its rows can also be queues, each above its lanes."""


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
    place: str | None = None
    """Its place, which has ``batch_size``, ``memory_mb`` and ``max_concurrency``. None: it has its own function."""
    others: int = 0
    """Other types of its place."""


LISTINGS[TypeView] = Listing(
    "Types",
    "No task type is declared.",
    (
        Column("Type", "type"),
        Column("Queues", lambda declared: ", ".join(declared.queues)),
        Column("Runs on", "place", optional=True),
        Column("Retries", "max_retry", Kind.NUMBER),
        Column("Timeout", "timeout_seconds", Kind.SECONDS),
        Column("Kept", "retention_seconds", Kind.SECONDS),
        Column("Batch", "batch_size", Kind.NUMBER),
        Column("Memory", "memory_mb", Kind.MEGABYTES),
        Column("Schedules", lambda declared: "; ".join(declared.schedules) or None, fold=24),
    ),
    left_out=("Batch", "Kept", "Memory"),
    whole=True,
)


class Grade(StrEnum):
    """The result of one check of the doctor."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. ``do``: the remedy; empty if all is well. ``path``: the view of the page that shows the
    cause; empty if none does."""

    grade: Grade
    what: str
    found: str
    do: str = ""
    path: str = ""


LISTINGS[Check] = Listing(
    "Checks",
    "There is nothing to check.",
    (
        Column("Grade", "grade", Kind.STATE),
        Column("Check", "what", fold=20),
        Column("Finding", "found", Kind.PROSE, fold=20),
        Column("What to do", "do", Kind.PROSE, fold=20),
    ),
)
