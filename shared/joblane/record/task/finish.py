"""The finish: one statement records the ends of up to ten runs in their rows, in one round trip."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from joblane.quotas import MAX_DELAY_SECONDS
from joblane.record.row.states import State
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from joblane.record.task.stop import Stop


class Statements(Protocol):
    """A connection of any driver."""

    def run(self, sql: str, *parameters: str | None) -> list[list[Any]]:
        """Execute a statement with ``$1``-style parameters and return its rows.

        The server infers the types of the parameters. JSON arrives as Python values.
        """


@dataclass(slots=True)
class Finish:
    """The end of one run: the new values of its task's row, and of the run's own row if it has one.

    ``outcome``: the value of ``runs.outcome``. ``delay_seconds``: until the task is due again, for the states
    ``retry`` and ``pending``. ``counted``: the run used an attempt. ``mismatch``: the task waits for code that knows
    its payload's schema. ``continued``: the next invocation continues the attempt. ``billed_ms``, ``memory_mb``,
    ``cost_usd``: see :mod:`joblane.worker.run_log`.
    """

    id: str
    token: str
    run: int
    outcome: str
    state: State
    delay_seconds: float = 0
    counted: bool = True
    snoozed: bool = False
    mismatch: bool = False
    continued: bool = False
    result: Any = None
    reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None
    traceback: str | None = None
    duration_ms: int = 0
    billed_ms: int | None = None
    memory_mb: int | None = None
    cost_usd: float | None = None
    stop: Stop | None = None
    """The wait at which the run stops. Once that is recorded, ``delay_seconds`` is the time until the task is due."""
    wakes: bool = False
    """A signal may have come that the stop did not see: :func:`~joblane.record.task.waits.wake` follows the commit."""
    released: list[str] = field(default_factory=list)
    """Children that do not wait for this task any more, once the finish is committed."""
    look: bool = False
    """The task may have children, for which :class:`~joblane.record.flow.release.Release` looks after the commit."""

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name not in NOT_RECORDED}

    @property
    def waits_long(self) -> bool:
        """True if SQS cannot hide a message for the whole delay: the message is acknowledged, and the row waits."""
        return self.state in LATER and self.delay_seconds > MAX_DELAY_SECONDS

    @property
    def visibility_seconds(self) -> int:
        return math.ceil(self.delay_seconds)


NOT_RECORDED = ("stop", "wakes", "released", "look")
LATER = (State.RETRY, State.PENDING, State.SCHEDULED)
"""The states of an end after which the task is due again."""
FINISH = f"select joblane.finish_{VERSION}($1, $2)"
FINISH_ONE = f"select joblane.finish_one_{VERSION}($1, $2, $3, $4, $5, $6, $7, $8)"
FINISHES = (FINISH, FINISH_ONE)


def finish(connection: Statements, runs: Sequence[Finish], *, waits: bool = True) -> set[str]:
    """Finish at most 10 runs, in the open transaction or in a new one. Return the ids of the tasks that were finished.
    Their ends get what has to follow the commit, in ``released`` and ``look``. A run that stops is finished alone.

    ``waits``: wait up to 5 s in all for rows that other transactions have locked; otherwise these are left out. If an
    id is missing, the run does not hold the task any more, or the task has a cancel request, or its row is locked: see
    :func:`cancel_requested`. A single run whose row is still locked raises pg8000's ``DatabaseError``.
    """
    if not waits and len(runs) == 1 and may_be_ordinary(runs[0]):
        (run,) = runs
        ((answer,),) = connection.run(FINISH_ONE, *parameters_of_one(run), "false")
        if answer is None:
            return {run.id}
    elif len(runs) == 1 and runs[0].stop is not None:
        return {runs[0].id} if suspend(connection, runs[0], runs[0].stop, waits=waits) else set()
    else:
        document = json.dumps([run.row() for run in runs], ensure_ascii=False)
        ((answer,),) = connection.run(FINISH, document, "true" if waits else "false")
    note_children(answer, runs)
    return set(answer["finished"])


SUSPEND = f"select joblane.suspend_{VERSION}($1, $2)"
OF_RUN = ("id", "token", "run", "duration_ms", "billed_ms", "memory_mb", "cost_usd")


def suspend(connection: Statements, run: Finish, stop: Stop, *, waits: bool) -> bool:
    """Record the stop of a run, and write the time until the task is due into ``run``, or that it is held.

    Return False if the run does not hold its task, if the task has a cancel request, or if its row is locked.

    ``waits``: wait for the row; raises pg8000's ``DatabaseError`` after 5 s.
    """
    document = {name: getattr(run, name) for name in OF_RUN} | {
        "name": stop.name,
        "signal": stop.signal,
        "seconds": stop.seconds,
        "at": stop.at and stop.at.isoformat(),
        "again": stop.again,
        "children": stop.children,
    }
    ((answer,),) = connection.run(SUSPEND, json.dumps(document, ensure_ascii=False), "true" if waits else "false")
    if answer is None:
        return False
    if answer["due"] is None:
        run.state = State.HELD
        return True
    run.delay_seconds, run.wakes = answer["due"], answer["look"]
    return True


def note_children(answer: Mapping[str, Any], runs: Sequence[Finish]) -> None:
    """Note in the ends what has to follow the commit."""
    if "look" in answer:
        ends = {run.id: run for run in runs}
        for parent, child in answer["released"] or ():
            ends[parent].released.append(child)
        for id_ in answer["look"] or ():
            ends[id_].look = True


def parameters_of_one(run: Finish) -> list[str | None]:
    """Return the parameters of :data:`FINISH_ONE` but the last."""
    result = None if run.result is None else json.dumps(run.result, ensure_ascii=False)
    return [run.id, run.token, result, *map(_text, (run.duration_ms, run.billed_ms, run.memory_mb, run.cost_usd))]


def may_be_ordinary(run: Finish) -> bool:
    """True if ``finish_one.sql`` may record an end: of the first run of a task, which has completed."""
    return run.run == 1 and run.state is State.COMPLETED


def _text(number: float | None) -> str | None:
    return None if number is None else str(number)


def cancel_requested(connection: Statements, id_: str, token: str) -> bool | None:
    """True if the task of a run has a cancel request. None if the run does not hold the task any more."""
    rows = connection.run(
        "select cancel_requested_at is not null from joblane.tasks"
        " where id = $1 and state = 'active' and lease_token = $2::uuid",
        id_,
        token,
    )
    return rows[0][0] if rows else None
