"""The trouble of a stage, which needs an operator now, and the types with their runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from joblane.inspector.listing import LISTINGS, Column, Kind, Listing
from joblane.inspector.views.runs import OfRuns
from joblane.inspector.views.stage import Check, Grade, Overview, Pause, Paused
from joblane.names import Queue


@dataclass(frozen=True, slots=True)
class Trouble:
    """The findings that need an operator now.

    ``needs``: checks that are bad, a warning or unknown, worst first, a cause before its effects. ``more``: the number
    of further ones that are left out.
    """

    at: datetime
    needs: tuple[Check, ...]
    more: int = 0

    @property
    def number(self) -> int:
        """The number of things that need an operator."""
        return len(self.needs) + self.more

    @property
    def grade(self) -> Grade:
        """The worst grade."""
        return self.needs[0].grade if self.needs else Grade.GOOD


WARNING_SHARE, BAD_SHARE = 0.1, 0.5
LEAST_RUNS = 5
"""With fewer runs that ended in the period, times and shares of failures mean nothing."""


@dataclass(frozen=True, slots=True)
class TypeNow(OfRuns):
    """A type with its live tasks, and its runs of the last minutes.

    ``minutes``: runs that started in each, oldest first. ``failures``: the failed ones of these.
    ``wait_p95_ms``: within 10 %, None without runs.
    ``oldest_wait_seconds``: of due tasks, None if none waits or a pause keeps them. ``held``, ``held_seconds``: tasks
    that wait for a limit, and the longest wait. ``dead``: tasks that were archived within a day and still are;
    ``dead_hour``: within an hour. ``target_seconds``: None if no code declares the type.
    ``pauses``: the pauses that keep all its tasks.
    """

    type: str
    queues: tuple[Queue, ...]
    minutes: tuple[int, ...]
    failures: tuple[int, ...]
    started: int
    failed: int
    wait_p95_ms: int | None
    target_seconds: float | None
    oldest_wait_seconds: float | None
    due: int
    active: int
    retry: int
    held: int
    held_seconds: float
    dead: int
    dead_hour: int
    pauses: tuple[Pause, ...]

    @property
    def a_minute(self) -> float:
        """Runs that started in a minute, on average."""
        return self.started / len(self.minutes) if self.minutes else 0.0

    @property
    def is_empty(self) -> bool:
        """True if it has no run and no task that needs a look."""
        return not (self.started or self.due or self.active or self.retry or self.held or self.dead)

    @property
    def failing(self) -> Grade:
        """A warning from 10 % of failed runs on, bad from 50 % on."""
        if self.started < LEAST_RUNS or self.failed < self.started * WARNING_SHARE:
            return Grade.GOOD
        return Grade.BAD if self.failed >= self.started * BAD_SHARE else Grade.WARNING

    @property
    def waiting(self) -> Grade:
        """Bad if a task waits longer than the target now, a warning if 5 % of the runs have waited longer."""
        if self.target_seconds is None:
            return Grade.GOOD
        if (self.oldest_wait_seconds or 0.0) > self.target_seconds:
            return Grade.BAD
        return Grade.WARNING if (self.wait_p95_ms or 0) > self.target_seconds * 1000 else Grade.GOOD

    @property
    def holding(self) -> Grade:
        """A warning if tasks wait for a limit for longer than the target."""
        is_late = self.target_seconds is not None and self.held and self.held_seconds > self.target_seconds
        return Grade.WARNING if is_late else Grade.GOOD

    @property
    def needs_operator(self) -> bool:
        """True if it fails, waits or is held for too long."""
        return {self.failing, self.waiting, self.holding} != {Grade.GOOD}

    @property
    def rank(self) -> tuple[float, ...]:
        """The order of types: the smallest needs an operator most."""
        grades = [self.failing, self.waiting, self.holding]
        late = (self.oldest_wait_seconds or 0.0) / (self.target_seconds or 1.0)
        return (
            -grades.count(Grade.BAD),
            -grades.count(Grade.WARNING) - bool(self.pauses),
            -self.dead_hour,
            -round(self.failed_share or 0.0, 1),
            -late if late > 1 else 0.0,
            -self.held,
            -self.dead,
            -self.started,
        )


LISTINGS[TypeNow] = Listing(
    "Types now",
    "No task type is declared.",
    (
        Column("Type", "type", Kind.NAME, fold=20),
        Column("Runs", lambda row: list(row.minutes), Kind.SPARKS),
        Column("A minute", lambda row: f"{row.a_minute:,.1f}" if row.started else None),
        Column("Failed", lambda row: None if row.failed_share is None else f"{row.failed_share:.1%}"),
        Column("Wait p95", "wait_p95_ms", Kind.MILLISECONDS),
        Column("Target", "target_seconds", Kind.SECONDS),
        Column("Oldest", "oldest_wait_seconds", Kind.SECONDS),
        Column("Held", lambda row: row.held or None, Kind.QUIET),
        Column("Dead 24h", "dead", Kind.ALARM),
        Column("Paused", lambda row: "yes" if row.pauses else "", optional=True),
    ),
    left_out=("Target", "Runs", "Wait p95", "A minute"),
)


@dataclass(frozen=True, slots=True)
class Now:
    """The stage now. ``types``: worst first. ``minutes``: the length of the period of the runs."""

    trouble: Trouble
    overview: Overview
    types: tuple[TypeNow, ...]
    minutes: int

    @property
    def other_pauses(self) -> tuple[Paused, ...]:
        """The pauses that are not among the trouble."""
        named = {need.what for need in self.trouble.needs}
        return tuple(one for one in self.overview.paused if f"{one.pause.scope} {one.pause.name}" not in named)
