"""The choices that operations offer: the filter of tasks, the actions, the scopes of a pause, orders and bounds.

Commands and the page need them too, and a shared page runs without a database driver: this module imports none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from joblane.names import BULK, Queue
from joblane.record.row.states import ENDED, LIVE, WAITING, State

DEFAULT_RATE, DEFAULT_CANARY = 50, 5
"""Tasks a second of a bulk action, and the tasks that a redrive tries first, unless an operator chooses others."""
MAX_LOG_LINES = 1000
MAX_LOG_TEXT = 200
"""Characters of the text that log lines are searched for."""
MOST_LOGGED_RUNS = 20
"""Attempts of a task whose lines are searched: the last ones."""
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MAX_RATE = 500
MAX_CANARY = 100
MOST_ERRORS = 5
"""The errors that are shown with the runs of a type."""
SORTS = ("count", "last")
"""The orders of dead letters: the largest first, or those that came last first."""
CAUSE_SORTS = ("now", "runs", "last")
"""The orders of errors: the last hour before the rest and new errors before others, the most failed runs, or the latest
failure."""
TROUBLE = "trouble"
"""The order of tenants: failed runs of the last hour, and tasks that are due or held, most first."""
MOST_FAILED_RUNS = 100_000
"""Failed runs that a list of errors counts: the latest."""
BULK_TYPE = BULK
"""The task type that carries out bulk actions."""
STATISTICS_BY = ("type", "tenant")
"""The groups of the statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Selects tasks. A task matches if it fits all fields that are given; a filter without fields matches all tasks."""

    ids: tuple[str, ...] = ()
    """Ids."""
    id_prefix: str | None = None
    """Beginning of the id."""
    states: tuple[State, ...] = ()
    """States."""
    types: tuple[str, ...] = ()
    """Types."""
    queues: tuple[Queue, ...] = ()
    """Queues."""
    tenant: str | None = None
    """Tenant."""
    tag: str | None = None
    """A tag of the task."""
    error: str | None = None
    """Text in the class or the message of the last error, in upper or lower case."""
    fingerprint: str | None = None
    """Fingerprint of the last error."""
    parent: str | None = None
    """Id of a task. The tasks that run after it, or that its runs enqueued, match: its children."""
    created_after: datetime | None = None
    """Earliest time of the enqueue, inclusive."""
    created_before: datetime | None = None
    """Latest time of the enqueue, exclusive."""
    ended_after: datetime | None = None
    """Earliest time of the end, inclusive. With this or the next field, a task matches only if it has ended."""
    ended_before: datetime | None = None
    """Latest time of the end, exclusive."""
    lease_over: bool = False
    """True: only active tasks whose lease has ended: their run has stopped without a result."""
    longer: timedelta | None = None
    """Least duration of the last run, exclusive. A run in progress counts with its time so far."""

    @property
    def removes_obsolete(self) -> bool:
        """True if a redrive with this filter removes obsolete dead letters: it is of all tasks, or by types only."""
        return replace(self, types=(), states=()) == Filter()


class BulkAction(StrEnum):
    """An action on many tasks at once; the action on each is the same as on a single task."""

    RUN = "run"
    RETRY = "retry"
    ARCHIVE = "archive"
    DELETE = "delete"
    CANCEL = "cancel"


class PauseScope(StrEnum):
    """The kinds of things that can be paused."""

    QUEUE = "queue"
    TYPE = "type"
    TENANT = "tenant"


class Measure(StrEnum):
    """The series of a chart."""

    RUNS = "runs"
    FAILED = "failed"
    FAILED_SHARE = "failed-share"
    WAIT = "wait"
    DURATION = "duration"
    COST = "cost"

    @property
    def heading(self) -> str:
        """Its name for a reader."""
        return TITLES.get(self, self.capitalize())

    @property
    def is_sum(self) -> bool:
        """True if the values of groups add up to the value of all."""
        return self in {Measure.RUNS, Measure.FAILED, Measure.COST}

    @property
    def is_time(self) -> bool:
        """True if the values are percentiles of times."""
        return self in {Measure.WAIT, Measure.DURATION}


class Group(StrEnum):
    """The lines of a chart."""

    NONE = "none"
    TYPE = "type"
    QUEUE = "queue"
    TENANT = "tenant"

    def shown(self, key: str) -> str:
        """Return the name of a group by its key."""
        return "all" if self is Group.NONE else {"": f"no {self}", "*": f"smaller {self}s"}.get(key, key)


TITLES = {Measure.FAILED: "Failed runs", Measure.FAILED_SHARE: "Failed share", Measure.COST: "Cost, estimated"}
PERCENTILES = ("p50", "p95", "p99")
"""Percentiles of waits and durations."""
ALLOWED: Mapping[str, frozenset[State]] = {
    BulkAction.RUN: WAITING,
    BulkAction.RETRY: frozenset({State.ARCHIVED, State.CANCELLED}),
    BulkAction.ARCHIVE: WAITING,
    BulkAction.DELETE: WAITING | ENDED,
    BulkAction.CANCEL: LIVE,
    "replay": ENDED,
    "edit": WAITING | {State.ARCHIVED},
    "signal": LIVE | {State.ARCHIVED},
    "skip": frozenset({State.SCHEDULED}),
}
"""The states that allow an action."""
