"""Answers of the inspector: plain typed objects, which JSON can hold unchanged.

Times are aware UTC. In payloads, results and headers the values of redacted fields are masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from joblane.inspector.filter import Filter, PauseScope
from joblane.queues import Queue
from joblane.record.states import ENDED, State
from joblane.record.status import Progress


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
class Percentiles:
    """Times in milliseconds, each within 10 %: half of the runs took less than ``p50``."""

    p50: int
    p95: int
    p99: int


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Runs that ended in a time. ``failed``: they failed or timed out, and were retried. ``archived``: their task was
    archived after them. ``others``: snoozed, cancelled and the like.

    ``wait_ms``: from the due time to the start. ``duration_ms``: of runs that completed or failed. None: no such run.
    """

    completed: int
    failed: int
    archived: int
    lost: int
    others: int
    cost_usd: float
    wait_ms: Percentiles | None
    duration_ms: Percentiles | None

    @property
    def number(self) -> int:
        """All runs."""
        return self.completed + self.failed + self.archived + self.lost + self.others

    @property
    def unsuccessful(self) -> int:
        """Runs that failed, timed out or were lost."""
        return self.failed + self.archived + self.lost


@dataclass(frozen=True, slots=True)
class Period:
    """The runs that ended from ``at`` on, for the ``step_seconds`` of the whole."""

    at: datetime
    counts: RunCounts


@dataclass(frozen=True, slots=True)
class Performance:
    """The runs of a type or a tenant. ``periods``: oldest first, without gaps; the last one is not over yet."""

    kind: PauseScope
    name: str
    at: datetime
    step_seconds: int
    total: RunCounts
    periods: tuple[Period, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """An event on a chart. ``kind``: deploy, pause, resume, limit or bulk.

    ``who``: None if it is not known. ``target``: of its entries in the audit, for example ``type:data:export``; None
    for a deploy and a bulk action. ``bulk``: the id of the bulk action.
    """

    at: datetime
    kind: str
    text: str
    who: str | None
    reason: str | None = None
    target: str | None = None
    bulk: str | None = None


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
class TaskRow:
    """A line of a listing."""

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
    """A page of a listing. ``after``: the position from which the next page begins; None on the last page.

    ``searched_to``: the page ends before it is full, because the filter has no index of its own; all tasks that were
    created since then were searched, and the next page searches further. None: the page is full, or the last one.
    """

    tasks: tuple[TaskRow, ...]
    after: str | None
    searched_to: datetime | None = None


class FoundKind(StrEnum):
    """Where a search has found its text: a whole name or key, a part of a type or an error, or a value of a payload."""

    ID = "id"
    KEY = "unique key"
    TYPE = "type"
    TENANT = "tenant"
    TAG = "tag"
    FINGERPRINT = "fingerprint"
    ERROR = "error"
    PAYLOAD = "payload"


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """Tasks that a search has found in one way.

    ``filter``: of the listing with all of them, None if there is none. ``page``: the newest of them; for a type: none.
    Without tasks and with ``searched_to``: the listing can search further.
    """

    kind: FoundKind
    filter: Filter | None
    page: Page


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of a search. ``id``: the only task that the text names; all else is empty then.

    ``read``: the number of tasks whose payloads were searched, newest first. ``searched_to``: creation of the last of
    them, None if there was none. ``after``: the position from which the next search continues; None if all payloads of
    the time range were searched.
    """

    id: str | None
    groups: tuple[FoundGroup, ...]
    read: int
    searched_to: datetime | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run. ``outcome`` None: it has not ended. ``cost_usd``: an estimate, None if it is not known yet.

    ``wait_ms``: from the time the task was due to the start; None if not known.
    """

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
    wait_ms: int | None = None

    @property
    def due_at(self) -> datetime:
        """The time from which the run was due; its start if that is not known."""
        return self.started_at - timedelta(milliseconds=self.wait_ms or 0)


class Reason(StrEnum):
    """The reason why a task is not running now."""

    ENDED = "ended"
    RUNNING = "running"
    STOPPING = "stopping"
    LOST = "lost"
    PAUSED = "paused"
    HELD = "held"
    IN_ORDER = "in-order"
    PARENTS = "parents"
    RATED = "rated"
    TURN = "turn"
    NOT_DUE = "not-due"
    UNSENT = "unsent"
    NO_LANE = "no-lane"
    IN_LANE = "in-lane"
    CLAIM_ALONE = "claim-alone"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Why:
    """``text``: the reason, with its numbers, and the next step. ``until``: the time of that step, if known."""

    reason: Reason
    text: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Relative:
    """A parent or child of a task, or a callback of a batch. ``type``, ``state`` None: its row is removed."""

    id: str
    type: str | None
    state: State | None


@dataclass(frozen=True, slots=True)
class Relatives:
    """The parents or children of a task. ``tasks``: at most 50 of them, archived ones first, then those that have not
    ended. ``more``: True if it has more than these.

    ``states``: the number of all of them by state, ``removed``: of those whose rows are removed. ``exact`` False: there
    are more than the 1,000 that are counted.
    """

    tasks: tuple[Relative, ...]
    more: bool
    states: Mapping[State, int] = field(default_factory=dict)
    removed: int = 0
    exact: bool = True

    @property
    def number(self) -> str:
        """The number of all of them, in words."""
        return f"{'' if self.exact else 'at least '}{sum(self.states.values()) + self.removed:,}"

    @property
    def summary(self) -> str:
        """``5 completed, 1 archived``."""
        order = sorted(State, key=lambda state: state not in ENDED)
        found = [*((self.states.get(state, 0), str(state)) for state in order), (self.removed, "removed")]
        return ", ".join(f"{number:,} {name}" for number, name in found if number)


@dataclass(frozen=True, slots=True)
class TaskView:
    """All details of one task. ``payload`` None: it was cleared. ``actions``: the actions that its state allows now.

    ``headers``: names with masked values, except for ``traceparent``. ``limits``: the names of its limits, the
    narrowest first: ``TYPE/KEY``, a type, or the name of a shared limit. ``waits_for``: the limit for which it is held,
    None if it waits for no limit.

    ``parents``: the tasks after which it runs. ``on_parent_dead``: None without parents. ``children``: the tasks that
    run after it, or that its runs enqueued. ``enqueued_by``: the id of the task whose run enqueued it. ``batch``: the
    id of its batch. ``callback``: ``on_end`` or ``on_success`` if it is this callback of the batch, None if it is a
    member.
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
    dead_sent_at: datetime | None
    lease_until: datetime | None
    expire_at: datetime | None
    cancel_requested_at: datetime | None
    unique_key: str | None
    replay_of: str | None
    replays: tuple[str, ...]
    progress: Progress | None
    items_done: int
    limits: tuple[str, ...]
    waits_for: str | None
    parents: Relatives
    on_parent_dead: str | None
    children: Relatives
    enqueued_by: str | None
    batch: str | None
    callback: str | None
    attempts: tuple[Attempt, ...]
    why: Why
    actions: tuple[str, ...]
    audit: tuple[AuditEntry, ...]
    log_link: str | None


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch. ``sealed_at`` None: members can be added. ``on_end``, ``on_success``: its callbacks, or None."""

    id: str
    created_at: datetime
    sealed_at: datetime | None
    on_end: Relative | None
    on_success: Relative | None


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch with its members. ``members``: their number by state.

    ``exact`` False: the batch has more members than the 50,000 that are counted. ``dead``: the latest archived members,
    at most 20. Members whose rows are removed are in neither.
    """

    row: BatchRow
    members: Mapping[State, int]
    exact: bool
    dead: tuple[TaskRow, ...]

    @property
    def number(self) -> int:
        """The number of members that are counted."""
        return sum(self.members.values())

    @property
    def ended(self) -> int:
        """The number of these that have ended, archived ones included."""
        return sum(number for state, number in self.members.items() if state in ENDED)


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The result of an action on one task. ``note``: why the task does not run yet, as a sentence.

    ``new_id``: the id of the task that a replay or an enqueue created; ``after`` is then the state of that task.
    """

    id: str
    action: str
    before: State | None
    after: State
    new_id: str | None = None
    note: str | None = None


BULK_RESULTS = {
    "run": "sent",
    "retry": "sent again",
    "redrive": "sent again",
    "archive": "archived",
    "delete": "deleted",
    "cancel": "cancelled or stopping",
}
"""Bulk action → the result for each task that it has changed."""


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """The tasks that a bulk action has sent, by their state now, without those that another action has changed since.
    ``exact`` False: only the first 20,000 tasks are counted."""

    completed: int
    waiting: int
    active: int
    archived: int
    cancelled: int
    exact: bool


@dataclass(frozen=True, slots=True)
class BulkView:
    """A bulk action, which is a task of type ``jobs:bulk``. ``state``: the state of that task.

    ``total``: tasks that matched at the start. ``done``, ``skipped``, ``failed``: tasks so far. ``stopped``: why the
    action ended early, None if it did not. ``reason``: the operator's, None if none was given. ``outcome``: of the
    tasks that it has sent; None in a listing, and for an action that sends none.
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
    reason: str | None = None
    outcome: BulkOutcome | None = None

    @property
    def result(self) -> str:
        """The result for each of the ``done`` tasks, in words."""
        return BULK_RESULTS.get(self.action, "changed")

    @property
    def why_skipped(self) -> str:
        """Why tasks were skipped, in words."""
        return "changed in the meantime" + (", or waiting for a limit" if self.action == "run" else "")

    @property
    def shown_state(self) -> str:
        """``state``, or ``stopping`` or ``stopped`` if the canary or an operator has ended the action early: the state
        of its task does not show that."""
        if self.stopped is None or self.state == "archived":
            return self.state
        return "stopped" if self.state in ("completed", "cancelled") else "stopping"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An action of an operator. ``target``: a task's id, or for example ``type:data:export`` or ``queue:low``.

    ``bulk``: the id of the bulk action that acted on the task, None for an action of its own.
    """

    number: int
    at: datetime
    who: str
    action: str
    target: str
    reason: str | None
    bulk: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An operator's note on a cause of failures. It ends once another task fails with the cause."""

    at: datetime
    who: str
    note: str


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Tasks, or dead letters, with the same error. ``fingerprint``: the argument of a redrive.

    ``recorded``: True for archived tasks; False for dead letters that never had a row, or that SQS itself moved.
    ``is_new``: the first of the tasks was archived less than a day ago. ``acknowledged``: None if no operator has
    acknowledged the cause, or if it has come again since. ``queue``: the dead-letter queue.
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
    is_new: bool = False
    acknowledged: Acknowledged | None = None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """``groups``: 500 at most. ``depths``: the number of messages in each dead-letter queue that holds any.

    ``unread``: the number of messages that were not read: at most 100 of each queue are read. ``obsolete``: type → the
    number of dead letters whose tasks were retried or deleted.
    """

    groups: tuple[DeadGroup, ...]
    depths: Mapping[str, int]
    unread: int
    obsolete: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of a schedule. ``state`` None: it did not arrive. ``duration_ms``: of its last run, None without one that
    has ended."""

    at: datetime
    task_id: str
    state: State | None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """``next``: the next times. ``ticks``: the last ticks, newest first. ``on_aws``: the state of the schedule in
    EventBridge Scheduler, None if not known.

    ``missed``: number of ticks of the last 24 hours that did not arrive within 30 minutes. ``missed_at``: the times of
    the last 20 of them, newest first."""

    type: str
    name: str
    text: str
    timezone: str
    overlap: str
    next: tuple[datetime, ...]
    ticks: tuple[Tick, ...]
    pause: Pause | None
    on_aws: str | None
    missed: int
    missed_at: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class Statistic:
    """Runs of one ``key``, a type or a tenant, that started within a period. ``cost_usd``: an estimate.

    A period of more than a day has the runs that ended in its hours. The ``key`` ``*`` then stands for the tenants that
    had no numbers of their own in an hour.
    """

    key: str
    started: int
    completed: int
    retried: int
    archived: int
    lost: int
    wait_ms: int | None
    duration_ms: int | None
    longest_ms: int | None
    cost_usd: float


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


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log. ``attempt`` None: the line names no attempt. ``fields``: the rest of the JSON."""

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
    """The result of one check. ``do``: the remedy; empty if all is well."""

    grade: Grade
    what: str
    found: str
    do: str = ""
