"""Actions on a task that waits: the end of its wait, and a signal."""

from __future__ import annotations

from typing import Any

from pg8000.exceptions import DatabaseError

from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.signals import check_refusal, checked
from joblane.errors import UnknownTaskError
from joblane.inspector.actions import audit
from joblane.inspector.actions.audit import Action
from joblane.inspector.actions.changes import end_wait
from joblane.inspector.actions.single import CLEARED, IS_PAUSED, on_task, refusal, sent
from joblane.inspector.durations import stamp
from joblane.inspector.errors import BusyError
from joblane.inspector.filter import ALLOWED
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.row import Record, check_id, read
from joblane.inspector.tasks.waits import open_wait, shown_names
from joblane.inspector.views import ActionResult, Wait
from joblane.record.driver.connection import Connection
from joblane.record.flow.free_slots import Call, Turn
from joblane.record.row.states import State
from joblane.record.task.waits import SIGNAL

CAME = "select created_at from joblane.task_signals where task_id = $1 and name = $2"
FORGET = "delete from joblane.task_signals where task_id = $1 and name = $2 returning true"
# The last one only, and none if a later wait gets the signal: the handler has continued after the other expiries.
REOPEN = """
update joblane.task_waits set expired_at = null where task_id = $1 and name = (
  select case when w.expired_at is not null then w.name end from joblane.task_waits w
   where w.task_id = $1 and w.signal = $2 order by w.expired_at desc nulls first limit 1)
"""


def skip(scope: Scope, id_: str, reason: str | None) -> ActionResult:
    """End the open wait now: a sleep has passed, a poll calls its function for the last time, a wait for
    a signal expires."""
    with on_task(scope, "skip", id_, reason) as (doing, found):
        wait = open_wait(scope, doing.connection, found)
        changed = end_wait(doing.connection, id_, who=doing.who)
        if changed is None or wait is None:
            problem = "it has not stopped at a wait; to run it now: `joblane run`"
            raise refusal(doing, "skip", found, problem if found.state in ALLOWED["skip"] else None)
        doing.details |= {"wait": wait.name}
    return sent(scope, "skip", found, changed)


def signal(scope: Scope, id_: str, name: str, value: Any, *, replace: bool, reason: str | None) -> ActionResult:
    """Send a signal. ``replace``: instead of the one that came before, for a task that is not active."""
    document = checked(check_id(id_), name, value, scope.who)
    if replace:
        with on_task(scope, "signal", id_, reason) as (doing, found):
            _forget(doing, found, name)
            wait = _write(scope, doing, found, name, document, replace=True)
            doing.connection.run(REOPEN, id_, name)
    else:  # without a lock: the row of a task that runs may be locked for as long as it runs
        with audit.action(scope, "signal", id_, reason) as doing:
            found = read(doing.connection, id_)
            wait = _write(scope, doing, found, name, document, replace=False)
    turns: list[Turn] = []
    FollowUp(signalled=[id_]).act(scope.sqs, scope.prefix, _noting(scope.connection, turns))
    if turns:
        return ActionResult(id_, "signal", found.state, State.PENDING, note=IS_PAUSED if found.paused else None)
    note = _kept(found, wait, shown_names(scope, found.type, found.payload)(name))
    return ActionResult(id_, "signal", found.state, found.state, note=note)


def _forget(doing: Action, found: Record, name: str) -> None:
    """Remove the earlier signal. A run that is in progress, or that continues, may have read it."""
    problem = None
    if found.state is State.ACTIVE:
        problem = "its run may have read the signal; replace it after the run"
    elif found.between_invocations:
        problem = "an attempt continues in the next invocation, and may have read the signal; cancel the task first"
    if problem:
        raise refusal(doing, "signal", found, problem)
    doing.details["replaced"] = bool(doing.connection.run(FORGET, found.id, name))


def _write(scope: Scope, doing: Action, found: Record, name: str, document: str, *, replace: bool) -> Wait | None:
    """Write the signal in the open transaction. Return the open wait of the task."""
    try:
        ((counts,),) = doing.connection.run(SIGNAL, document)
    except DatabaseError as error:
        check_refusal(error)
        raise
    if counts is None:
        raise UnknownTaskError(found.id)
    if not counts:
        raise _refused(doing, found, name, replace=replace)
    doing.details["signal"] = shown_names(scope, found.type, found.payload)(name)
    return open_wait(scope, doing.connection, found)


def _refused(doing: Action, found: Record, name: str, *, replace: bool) -> Exception:
    rows = doing.connection.run(CAME, found.id, name)
    if not rows or found.state not in ALLOWED["signal"]:
        return refusal(doing, "signal", found, CLEARED if found.cleared else None)
    if replace:  # another one was committed since the removal
        return BusyError(found.id)
    came = f"this signal came at {stamp(rows[0][0])}, and the first one counts; to correct its value, add --replace"
    return refusal(doing, "signal", found, came)


def _noting(connection: Connection, turns: list[Turn]) -> Call:
    """Return a function that runs a step, and notes the tasks that it continues."""

    def call(step: Any) -> Any:
        found = step(connection)
        turns.extend(found)
        return found

    return call


def _kept(found: Record, wait: Wait | None, name: str) -> str:
    """Say why a signal does not continue its task now."""
    if found.state is State.ARCHIVED:
        return f"kept: {found.id} is archived; a retry finds the signal"
    if found.state is State.ACTIVE:
        return f"kept: {found.id} is active; its run reads the signal at the wait"
    if wait is not None and wait.signal == name:
        return f"kept: {found.id} waits for it; it continues once its row is free, or with the next sweep"
    what = "; its next run finds the signal where it waits for it"
    if wait is not None:
        what = f', it waits for "{wait.signal}"' if wait.signal is not None else f', it waits at "{wait.name}"'
    return f'kept: {found.id} does not wait for "{name}" now{what}'
