"""The causes of failures: failed runs, tasks in retry and archived tasks, grouped by their error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from joblane.inspector.listing import LISTINGS, Column, Kind, Listing


class CauseState(StrEnum):
    """The state of a cause. Operators set the last three, and open."""

    NEW = "new"
    """Its first failed run, or the first one since it was resolved, is less than a day old."""
    OPEN = "open"
    KNOWN = "known"
    """It is listed below the new and open causes, until an operator opens or resolves it."""
    RESOLVED = "resolved"
    """No run that started since then has failed with it. The next one makes it new again."""
    IGNORED = "ignored"
    """It is not listed, except if it has archived tasks, until an operator opens it."""


QUIET = (CauseState.KNOWN, CauseState.RESOLVED, CauseState.IGNORED)
"""The states of causes that need no operator."""


@dataclass(frozen=True, slots=True)
class CauseNote:
    """An operator's note on a cause, from the time of its mark."""

    at: datetime
    who: str
    note: str


@dataclass(frozen=True, slots=True)
class Cause:
    """An error of a type, with its runs and tasks.

    ``runs``: failed runs that started in the requested time. ``retry``: live tasks whose last run failed with
    it. ``archived``: archived tasks, whenever they failed. ``tenants``: tenants of the failed runs. ``first_at``,
    ``last_at``: times of the first and the last failure that is known. ``first_version``, ``last_version``: the
    versions that were deployed then, None if not known. ``bars``: the failed runs in each of 24 parts of the time,
    oldest first. ``note``: None if no operator has marked it. ``example``: the id of a task.

    ``recorded`` False: messages in a dead-letter queue that never had a row, or that SQS itself moved. ``archived`` is
    then the number of messages, and ``example`` may be the id of a message. ``queue``: the dead-letter queue.
    """

    fingerprint: str
    type: str
    error_type: str
    message: str
    runs: int
    retry: int
    archived: int
    tenants: int
    first_at: datetime
    first_version: str | None
    last_at: datetime
    last_version: str | None
    bars: tuple[int, ...]
    state: CauseState
    note: CauseNote | None
    example: str
    queue: str
    log_link: str | None
    recorded: bool = True

    @property
    def error(self) -> str:
        """Class and message of the error."""
        return f"{self.error_type}: {self.message}" if self.message else self.error_type

    @property
    def described(self) -> str:
        """The error, with marks for its state and for messages without a row."""
        text = f"[{self.state}] {self.error}" if self.state is not CauseState.OPEN else self.error
        if self.note:
            text = f"[{self.state}, {self.note.who}: {self.note.note}] {self.error}"
        return text if self.recorded else f"{self.error} (messages without a row, in {self.queue})"

    @property
    def versions(self) -> str:
        """The first and the last version, as far as they are known."""
        return " to ".join(dict.fromkeys(filter(None, (self.first_version, self.last_version))))

    @property
    def is_quiet(self) -> bool:
        """True if it needs no operator: it is known, resolved or ignored."""
        return self.state in QUIET


LISTINGS[Cause] = Listing(
    "Errors",
    "No run has failed in this time, and there are no archived tasks.",
    (
        Column("Runs", "runs", Kind.QUIET),
        Column("Over time", "bars", Kind.SPARKS),
        Column("Retry", "retry", Kind.QUIET),
        Column("Archived", "archived", Kind.QUIET),
        Column("Tenants", "tenants", Kind.QUIET),
        Column("Fingerprint", "fingerprint", Kind.ID),
        Column("Type", "type", fold=20),
        Column("Error", "described", Kind.PROSE, fold=20),
        Column("First", "first_at", Kind.MOMENT),
        Column("Version", "versions", optional=True),
        Column("Last", "last_at", Kind.MOMENT),
        Column("Example", "example", Kind.ID, page_only=True),
    ),
    left_out=("Version", "First", "Tenants", "Over time", "Last", "Type"),
)


@dataclass(frozen=True, slots=True)
class Causes:
    """Causes from ``since`` to ``at``, and their number. ``causes``: the listed causes.

    ``runs``: the failed runs of all causes in this time. ``ignored``: ignored causes that are not listed.
    ``exact`` False: only the latest 100,000 failed runs were counted, or there are more causes than are listed.
    ``versions``: the latest 20 versions that were deployed in this time, the newest first.
    """

    causes: tuple[Cause, ...]
    number: int
    runs: int
    ignored: int
    exact: bool
    since: datetime
    at: datetime
    versions: tuple[str, ...] = ()

    @property
    def within(self) -> timedelta:
        """The length of the time."""
        return self.at - self.since


@dataclass(frozen=True, slots=True)
class MarkedCauses:
    """The causes that an operator has marked. ``before``: fingerprint → the state before."""

    state: CauseState
    before: Mapping[str, CauseState]
