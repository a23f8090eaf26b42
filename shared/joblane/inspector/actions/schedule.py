"""Actions on one schedule.

They change it as :class:`joblane.client.schedules.Schedules` does, with an audit entry in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from joblane.enqueue.check import check
from joblane.enqueue.schedule_changes import Cancelled, ScheduleChanges
from joblane.enqueue.wake import wake
from joblane.errors import DeclaredScheduleError, ScheduleError
from joblane.inspector.actions import audit
from joblane.inspector.actions.single import insert, named, note_of, send_inserted
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.scope import Scope
from joblane.inspector.stage.pauses import NEVER_PAUSED, end_of
from joblane.inspector.stage.schedules import one, read, target_of
from joblane.inspector.views import ActionResult, ScheduleRow, ScheduleView
from joblane.names import SWEEP
from joblane.record.row.states import State
from joblane.record.schedules import GONE


def pause(scope: Scope, name: str, reason: str | None, until: datetime | None) -> ScheduleView:
    end_of(until)
    if name.startswith(f"{SWEEP}:"):
        raise SelectionError("name", NEVER_PAUSED)
    with _on(scope, "pause_schedule", name, reason) as on:
        checked_reason = audit.check_reason(reason)
        on.doing.details |= {"until": None if until is None else until.astimezone(UTC).isoformat()}
        (is_changed, cancelled), _ = on.changes.pause(
            on.run, name=name, until=until, by=on.doing.who, reason=checked_reason
        )
        if not is_changed:
            raise SelectionError("name", f"the schedule {name!r} is paused already; resume it first")
    _wake(scope, cancelled)
    return one(scope, name)


def resume(scope: Scope, name: str, reason: str | None) -> ScheduleView:
    """The tasks of the ticks within the next 15 minutes are created here; the sweep creates the others."""
    with _on(scope, "resume_schedule", name, reason) as on:
        if on.schedule.problem == GONE:
            raise SelectionError("name", f"the code does not declare {name!r} any more: delete it, or deploy it again")
        is_changed, tasks = on.changes.resume(on.run, name=name, task=scope.task(on.schedule.type))
        if not is_changed:
            raise SelectionError("name", f"the schedule {name!r} is not paused")
        inserted = [insert(on.doing.connection, task) for task in tasks]
    for task in inserted:
        send_inserted(scope, task)
    return one(scope, name)


def delete(scope: Scope, name: str, reason: str | None) -> ScheduleRow:
    with _on(scope, "delete_schedule", name, reason) as on:
        (_, cancelled), _ = on.changes.delete(on.run, name=name)
    _wake(scope, cancelled)
    return on.schedule


def run(scope: Scope, name: str, reason: str | None) -> ActionResult:
    """The audit has the id of the task."""
    with _on(scope, "run_schedule", name, reason) as on:
        (job, links), _ = on.changes.job_now(on.run, name=name, task=named(scope, on.schedule.type))
        ready = check(job, record=True, prefix=scope.prefix)
        inserted = insert(on.doing.connection, replace(ready, links={**ready.links, **links}))
        on.doing.details |= {"id": inserted.id}
    failed = send_inserted(scope, inserted)
    after = State.HELD if inserted.waits else State.PENDING
    return ActionResult(inserted.id, "run_schedule", None, after, new_id=inserted.id, note=note_of(failed))


@dataclass(frozen=True, slots=True)
class _Action:
    """An action on a schedule. ``schedule``: as it was before."""

    doing: audit.Action
    changes: ScheduleChanges
    schedule: ScheduleRow

    def run(self, sql: str, *documents: str) -> list[list[Any]]:
        """Run a statement once for each document, in the transaction of the action."""
        return self.doing.connection.run_each(sql, *documents)


@contextmanager
def _on(scope: Scope, action: str, name: str, reason: str | None) -> Iterator[_Action]:
    """An action on one schedule. Raises :class:`UnknownScheduleError`, :class:`SelectionError`, :class:`BusyError`."""
    target = target_of(name)
    try:
        with audit.action(scope, action, target, reason) as doing:
            schedule = read(doing.connection, name)
            doing.details |= {"type": schedule.type, "tenant": schedule.tenant}
            yield _Action(doing, ScheduleChanges(scope.prefix), schedule)
    except DeclaredScheduleError as error:
        raise SelectionError("name", error.problem) from error
    except ScheduleError as error:
        if error.field == "name":  # the name is valid, so another transaction holds it
            raise BusyError(target) from error
        raise SelectionError(error.field, error.problem) from error


def _wake(scope: Scope, cancelled: Cancelled) -> None:
    """Start a sweep if tasks wait for what the cancelled ticks have given back."""
    if cancelled.limits or cancelled.parents:
        wake(scope.sqs, scope.prefix)
