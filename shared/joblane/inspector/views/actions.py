"""Results of actions on one task and on many, and their audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from joblane.inspector.filter import Filter
from joblane.inspector.listing import LISTINGS, Column, Kind, Listing
from joblane.inspector.views.preview import Block
from joblane.record.row.states import State


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
MAY_SKIP = {"run": ", or waiting for a limit or at a wait", "retry": ", without a free unique key, or a skipped tick"}
"""Bulk action → the tasks that it leaves as they are, in addition to tasks that have changed."""


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
    tasks that it has sent; None in a listing, and for an action that sends none. ``blocks``: what keeps the tasks of
    its canary from starting, while it waits for them; empty in a listing.
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
    blocks: tuple[Block, ...] = ()

    @property
    def result(self) -> str:
        """The result for each of the ``done`` tasks, in words."""
        return BULK_RESULTS.get(self.action, "changed")

    @property
    def why_skipped(self) -> str:
        """Why tasks were skipped, in words."""
        return "changed in the meantime" + MAY_SKIP.get(self.action, "")

    @property
    def shown_state(self) -> str:
        """``state``, or ``stopping`` or ``stopped`` if the canary or an operator has ended the action early: the state
        of its task does not show that."""
        if self.stopped is None or self.state == "archived":
            return self.state
        return "stopped" if self.state in ("completed", "cancelled") else "stopping"


def types_of(chosen: Filter) -> str | None:
    """The types of a filter, to fit into a column; None if it has none."""
    return ", ".join(chosen.types[:2]) + ", …" * (len(chosen.types) > 2) or None


LISTINGS[BulkView] = Listing(
    "Bulk actions",
    "There are no bulk actions yet.",
    (
        Column("ID", "id", Kind.ID),
        Column("Action", "action"),
        Column("Type", lambda bulk: types_of(bulk.filter), optional=True, fold=24),
        Column("State", "shown_state", Kind.STATE),
        Column("Changed", "done", Kind.NUMBER),
        Column("Of", "total", Kind.NUMBER),
        Column("Skipped", "skipped", Kind.NUMBER),
        Column("Failed", "failed", Kind.ALARM, since=lambda bulk: bulk.finished_at or datetime.now(UTC)),
        Column("Started", "started_at", Kind.MOMENT),
        Column("Who", "who", fold=20),
        Column("Reason", "reason", optional=True, fold=20),
        Column("Stopped", "stopped", optional=True, fold=30),
    ),
    left_out=("Skipped", "Who", "Started", "Stopped", "Failed", "Of", "Reason", "Type", "Changed"),
)


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


LISTINGS[AuditEntry] = Listing(
    "Audit",
    "No audit entry matches.",
    (
        Column("No", "number", Kind.NUMBER),
        Column("When", "at", Kind.STAMP, fold=20),
        Column("Who", "who", fold=12),
        Column("Action", "action"),
        Column("Target", "target", Kind.ID, fold=20),
        Column("Reason", "reason", fold=12),
        Column("Details", "details", page_only=True),
    ),
    left_out=("No", "Reason"),
)
