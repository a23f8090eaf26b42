"""Tasks: rows of a listing, and one task with its attempts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from joblane.inspector.filter import Filter
from joblane.inspector.listing import LISTINGS, Column, Kind, Listing, Order
from joblane.inspector.views.actions import AuditEntry
from joblane.names import Queue
from joblane.record.row.states import ENDED, State, as_read
from joblane.record.task.status import Progress

if TYPE_CHECKING:
    AnyQueue = Queue
    AnyState = State
else:  # for the answers of the control API
    AnyQueue = Annotated[Queue, BeforeValidator(partial(as_read, Queue))]
    AnyState = Annotated[State, BeforeValidator(partial(as_read, State))]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A line of a listing.

    ``took_ms``: duration of the last run, so far if it is in progress. ``version``: deployed when it started. Only a
    page of tasks has these two; None: not known, or it has not run.
    """

    id: str
    type: str
    queue: AnyQueue
    state: AnyState
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
    took_ms: int | None = None
    version: str | None = None

    @property
    def tries(self) -> str:
        """``2/4``: the attempts so far, of all."""
        return f"{self.attempts}/{self.max_retry + 1}"

    @property
    def last_error(self) -> str:
        """The first line of the last error; without one, of the reason."""
        if self.error_type is None:
            return (self.reason or "").split("\n")[0]
        message = (self.error_message or "").split("\n")[0]
        return f"{self.error_type}: {message}" if message else self.error_type


LISTINGS[TaskRow] = Listing(
    "Tasks",
    "No task matches.",
    (
        Column("ID", "id", Kind.ID, fold=40),
        Column("Type", "type", fold=18),
        Column("State", "state", Kind.STATE),
        Column("Queue", "queue"),
        Column("Tenant", "tenant", optional=True, fold=10),
        Column("Try", "tries", Kind.NUMBER, order="attempts"),
        Column("Age", "created_at", Kind.AGE),
        Column("Due or ended", lambda row: row.finished_at or row.due_at, Kind.MOMENT),
        Column("Took", "took_ms", Kind.MILLISECONDS, optional=True, page_only=True),
        Column("Version", "version", optional=True, page_only=True),
        Column("Last error", "last_error", Kind.LINE, optional=True, fold=20),
    ),
    left_out=("Queue", "Due or ended", "Tenant", "Last error"),
    orders={"Age": Order("oldest")},
    parts=True,
)


@dataclass(frozen=True, slots=True)
class TaskPage:
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
    page: TaskPage


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


OWN_FRAME = re.compile(
    r'^ +(?:\| +)?File "([^/<"][^"]*)", line (\d+), in (.+)(?:\n +(?:\| +)?(?!File ")(\S.*))?', re.MULTILINE
)
"""A frame of the project's own code: its path is relative to the folder of the function."""


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

    @property
    def took_ms(self) -> int | None:
        """Milliseconds of the run; so far, if it is in progress."""
        if self.finished_at is None:
            return round((datetime.now(UTC) - self.started_at).total_seconds() * 1000)
        return self.duration_ms

    @property
    def error(self) -> str:
        """``TimeoutError: the upload did not end``; empty without an error."""
        return f"{self.error_type}: {self.error_message or ''}".rstrip(": ") if self.error_type else ""

    @property
    def raised_at(self) -> str | None:
        """``functions/mail/handler.py, line 12, in send: provider.send(mail)``: the innermost frame of the project's
        own code; None if the traceback has none."""
        found = OWN_FRAME.findall(self.traceback or "")
        if not found:
            return None
        file, line, function, code = found[-1]
        return f"{file}, line {line}, in {function}" + (f": {code}" if code else "")


LISTINGS[Attempt] = Listing(
    "Attempts",
    "The task has not run yet.",
    (
        Column("Run", "run", Kind.NUMBER),
        Column("Try", "attempt", Kind.NUMBER),
        Column("Outcome", lambda attempt: attempt.outcome or "active", Kind.STATE),
        Column("Started", "started_at", Kind.STAMP),
        Column("Waited", "wait_ms", Kind.MILLISECONDS),
        Column("Took", "took_ms", Kind.MILLISECONDS),
        Column("Billed", "billed_ms", Kind.MILLISECONDS),
        Column("Memory", "memory_mb", Kind.MEGABYTES),
        Column("Cost, estimated", "cost_usd", Kind.DOLLARS),
        Column("Error", "error", Kind.PROSE, optional=True, fold=20),
    ),
    left_out=("Billed", "Cost, estimated", "Memory", "Waited"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of ``ctx.step`` that is done. Its value is not shown: it may be anything that a service has answered.

    ``key``: its idempotency key, by which the service may know the call. ``bytes``: the size of its value as JSON.
    """

    name: str
    key: str
    done_at: datetime
    bytes: int


LISTINGS[Step] = Listing(
    "Steps",
    "No step is done.",
    (
        Column("Name", "name", fold=40),
        Column("Done", "done_at", Kind.STAMP),
        Column("Bytes", "bytes", Kind.NUMBER),
        Column("Idempotency key", "key", Kind.ID),
    ),
    left_out=("Idempotency key",),
)


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait at which a run has stopped. ``name``, ``signal``: without redacted values.

    ``signal`` None: a sleep, a poll, or a wait for children, whose ``until`` is None. ``since``: the first stop.
    ``state``: ``open``, ``expired``, or ``over``: its signal came, its time passed, its poll had a value, or its
    children have ended.
    """

    name: str
    signal: str | None
    since: datetime
    until: datetime | None
    state: str


LISTINGS[Wait] = Listing(
    "Waits",
    "No run has stopped at a wait.",
    (
        Column("Name", "name", fold=40),
        Column("Signal", "signal", optional=True, fold=20),
        Column("State", "state"),
        Column("Since", "since", Kind.STAMP),
        Column("Until", "until", Kind.STAMP, optional=True),
    ),
    left_out=("Since",),
)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal of a task. Its value is not shown. ``name``: without redacted values.

    ``sent_by``: the operator; None: a program. ``bytes``: the size of its value as JSON. ``unread`` True: no run has
    seen it, because none followed, or because its wait had expired.
    """

    name: str
    sent_by: str | None
    sent_at: datetime
    bytes: int
    unread: bool


LISTINGS[Signal] = Listing(
    "Signals",
    "No signal was sent.",
    (
        Column("Name", "name", fold=40),
        Column("Sent", "sent_at", Kind.STAMP),
        Column("By", "sent_by", optional=True, fold=20),
        Column("Bytes", "bytes", Kind.NUMBER),
        Column("Read", lambda signal: "unread" if signal.unread else None, optional=True),
    ),
)


@dataclass(frozen=True, slots=True)
class WaitRow:
    """An open wait of a task. The other fields are as in :class:`Wait`."""

    task: TaskRow
    name: str
    signal: str | None
    since: datetime
    until: datetime


LISTINGS[WaitRow] = Listing(
    "Waits",
    "No open wait matches.",
    (
        Column("ID", "task.id", Kind.ID, fold=40),
        Column("Type", "task.type", fold=18),
        Column("Tenant", "task.tenant", optional=True, fold=10),
        Column("Wait", "name", fold=20),
        Column("Signal", "signal", optional=True, fold=20),
        Column("Since", "since", Kind.AGE),
        Column("Until", "until", Kind.MOMENT),
    ),
    left_out=("Since", "Tenant", "Type"),
)


@dataclass(frozen=True, slots=True)
class WaitPage:
    """A page of open waits. ``after``: the position from which the next page begins; None on the last page.

    A page reads at most 20,000 waits, so it may end before it is full.
    """

    waits: tuple[WaitRow, ...]
    after: str | None


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
    WAIT = "wait"
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
    state: AnyState | None

    @property
    def shown_state(self) -> str:
        """``state``, or ``removed``."""
        return self.state or "removed"


LISTINGS[Relative] = Listing(
    "Tasks",
    "None.",
    (Column("ID", "id", Kind.ID, fold=40), Column("Type", "type", fold=20), Column("State", "shown_state", Kind.STATE)),
)


@dataclass(frozen=True, slots=True)
class Relatives:
    """The parents or children of a task. ``tasks``: at most 50 of them, archived ones first, then those that have not
    ended. ``more``: True if it has more than these.

    ``states``: the number of all of them by state, ``removed``: of those whose rows are removed. ``exact`` False: there
    are more than the 1,000 that are counted.
    """

    tasks: tuple[Relative, ...]
    more: bool
    states: Mapping[AnyState, int] = field(default_factory=dict)
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

    ``place``: the place on which its type runs, with ``others``, the number of its other types; None: its type has its
    own function.
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
    steps: tuple[Step, ...]
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
    place: str | None = None
    others: int = 0
    waits: tuple[Wait, ...] = ()
    signals: tuple[Signal, ...] = ()


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log. ``attempt``, ``task_id`` None: the line names none. ``fields``: the rest of the JSON."""

    at: datetime
    level: str
    message: str
    attempt: int | None
    request_id: str | None
    fields: Mapping[str, Any]
    task_id: str | None = None


LISTINGS[LogLine] = Listing(
    "Logs",
    "There are no such log lines, or they are no longer kept.",
    (
        Column("At", "at", Kind.STAMP),
        Column("Level", "level"),
        Column("Task", "task_id", Kind.ID, optional=True),
        Column("Attempt", "attempt", Kind.NUMBER),
        Column("Message", "message"),
        Column("Fields", "fields"),
    ),
)
