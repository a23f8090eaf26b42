"""Statistics of runs, and the marks of their charts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from joblane.inspector.filter import PauseScope
from joblane.inspector.listing import LISTINGS, Column, Kind, Listing

NEAR_TIMEOUT_PERCENT = 80
"""A run that takes this share of its timeout is near it: the default of the alarm, and the bound of the doctor."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Times in milliseconds, each within 10 %: half of the runs took less than ``p50``."""

    p50: int
    p95: int
    p99: int


class OfRuns:
    """A row with the number of runs of a time, and of those that failed."""

    __slots__ = ()
    started: int
    failed: int

    @property
    def failed_share(self) -> float | None:
        """The failed runs, as a part of all; None without a run."""
        return self.failed / self.started if self.started else None

    @property
    def failed_percent(self) -> float | None:
        """The failed runs, in percent of all; None without a run."""
        return None if self.failed_share is None else round(100 * self.failed_share, 1)


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


LISTINGS[Period] = Listing(
    "Numbers",
    "No run has ended in this time.",
    (
        Column("From", "at", Kind.STAMP),
        Column("Runs", "counts.number", Kind.NUMBER),
        Column("Failed", "counts.unsuccessful", Kind.ALARM, since="at"),
        Column("Wait p95", lambda period: period.counts.wait_ms and period.counts.wait_ms.p95, Kind.MILLISECONDS),
        Column(
            "Duration p95",
            lambda period: period.counts.duration_ms and period.counts.duration_ms.p95,
            Kind.MILLISECONDS,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Performance:
    """The runs of a type or a tenant. ``periods``: oldest first, without gaps; the last one is not over yet.

    ``earlier``: the runs of the same time a day earlier, of a tenant by whole hours; None if the time is longer than a
    day.
    """

    kind: PauseScope
    name: str
    at: datetime
    step_seconds: int
    total: RunCounts
    periods: tuple[Period, ...]
    earlier: RunCounts | None = None

    def latest(self, number: str) -> datetime | None:
        """The start of the last period in which a number of :class:`RunCounts` is not 0; None without one."""
        return next((one.at for one in reversed(self.periods) if getattr(one.counts, number)), None)


@dataclass(frozen=True, slots=True)
class Mark:
    """An event on a chart. ``kind``: deploy, pause, resume, limit or bulk; started: a deploy that has not ended.

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
class Statistic:
    """Runs of one ``key``, a type or a tenant, that started within a period. ``cost_usd``: an estimate.

    ``p99_ms``: of the durations, within 10 %; None for a tenant, and without such a run. ``timeout_ms``: the timeout
    of the type; None for a tenant, and if no code declares the type.

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
    p99_ms: int | None = None
    timeout_ms: int | None = None

    @property
    def unsuccessful(self) -> int:
        """Runs that failed, timed out or were lost."""
        return self.retried + self.archived + self.lost

    @property
    def timeout_share(self) -> float | None:
        """The longest run as a share of the timeout. A run at its timeout takes a little more than 1."""
        return _share(self.longest_ms, self.timeout_ms)

    @property
    def p99_share(self) -> float | None:
        """``p99_ms`` as a share of the timeout."""
        return _share(self.p99_ms, self.timeout_ms)


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


LISTINGS[Statistic] = Listing(
    "Statistics",
    "No task ran in this time.",
    (
        Column("Name", lambda statistic: statistic.key or None, fold=20),
        Column("Runs", "started", Kind.NUMBER),
        Column("Failed", "unsuccessful", Kind.QUIET),
        Column("Completed", "completed", Kind.NUMBER),
        Column("Retried", "retried", Kind.NUMBER),
        Column("Archived", "archived", Kind.QUIET),
        Column("Lost", "lost", Kind.QUIET),
        Column("Mean wait", "wait_ms", Kind.MILLISECONDS),
        Column("Mean time", "duration_ms", Kind.MILLISECONDS),
        Column("Longest", "longest_ms", Kind.MILLISECONDS),
        Column("Cost", "cost_usd", Kind.DOLLARS),
        Column("Per 1000", lambda one: one.cost_usd / one.started * 1000 if one.started else None, Kind.DOLLARS),
        Column("p99", "p99_ms", Kind.MILLISECONDS, optional=True),
        Column("Timeout", "timeout_ms", Kind.MILLISECONDS, optional=True),
        Column("p99 of timeout", lambda one: _percent(one.p99_share), Kind.NUMBER, optional=True, order="p99_share"),
        Column(
            "Longest of timeout",
            lambda one: _percent(one.timeout_share),
            Kind.NUMBER,
            optional=True,
            order="timeout_share",
            warns=lambda one: (one.timeout_share or 0) * 100 >= NEAR_TIMEOUT_PERCENT,
        ),
    ),
    left_out=(
        "Timeout",
        "p99 of timeout",
        "p99",
        "Per 1000",
        "Longest",
        "Mean wait",
        "Lost",
        "Retried",
        "Mean time",
        "Completed",
    ),
    whole=True,
)
