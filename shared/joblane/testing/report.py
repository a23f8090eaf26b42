"""Reports on the tasks that a test has run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.row.states import WAITING, WAITING_SQL, State
from joblane.tasks.task import Task
from joblane.testing.errors import KitError

TASKS = """
select t.id, t.type, t.state, t.attempts, t.max_attempts, t.runs, t.result, t.reason, t.error_type, t.error_message,
       array(select coalesce(a.outcome, 'under way') from joblane.runs a where a.task_id = t.id order by a.run)
  from jsonb_array_elements_text($1::jsonb) with ordinality as x(id, position) join joblane.tasks t using (id)
 order by x.position
"""

WAITING_FOR_PARENTS = """
select t.id from joblane.tasks t
 where t.wait_kind = 'parents' and exists (select from joblane.task_parents e where e.child = t.id)
"""
RELEASED = """
select t.id, array(select i.id from jsonb_array_elements_text($2::jsonb) with ordinality as i(id, position)
                    where i.id = any (t.after)
                       or exists (select from joblane.task_waits w
                                   where w.task_id = t.id and w.run = t.runs and i.id = any (w.children))
                       or (select m.batch from joblane.tasks m where m.id = i.id) = t.callback_of
                    order by i.position)
  from jsonb_array_elements_text($1::jsonb) with ordinality as x(id, position) join joblane.tasks t using (id)
 where t.state not in ('cancelled', 'archived')
   and not exists (select from joblane.task_parents e where e.child = t.id)
 order by x.position
"""
"""The tasks for which no parent is open any more, each with its parents among the given ids."""

HELD = """
select t.id, case when t.wait_kind = 'parents'
                  then array(select e.parent || e.parent_batch from joblane.task_parents e where e.child = t.id
                              order by e.parent, e.parent_batch)
                  else array[t.waits_for] end
  from joblane.tasks t where t.type = $1 and t.state = 'held' order by t.waits_for, t.place, t.seq
"""
"""The held tasks of a type, each with what it waits for."""


@dataclass(frozen=True)
class TaskReport:
    """The state of one task."""

    id: str
    """Id of the task."""
    type: str
    """Type of the task."""
    state: State
    """State of the task."""
    attempts: int
    """Number of attempts that have begun and count."""
    max_retry: int
    """Number of attempts after the first."""
    runs: int
    """Number of runs, including those that count as no attempt."""
    result: Any
    """Return value of the handler, as JSON has it. None: no result."""
    reason: str | None
    """Reason why the task was archived or cancelled. None: it was not."""
    error_type: str | None
    """Class of the last error. None: no attempt has failed."""
    error_message: str | None
    """Message of the last error."""
    outcomes: tuple[str, ...]
    """Outcome of each run, for example ``("failed", "completed")``."""

    def __str__(self) -> str:
        error = f", {self.error_type}: {self.error_message}" if self.error_type else ""
        why = f", {self.reason}" if self.reason and not error else ""
        summary = f"{self.type} {self.id} is {self.state} after {self.attempts} of {self.max_retry + 1} attempts"
        return f"{summary}{error}{why}"


class NotRunError(KitError):
    """``JobTester.run`` did not complete the task, and its handler raised nothing."""

    task: TaskReport
    """State of the task."""

    def __init__(self, task: TaskReport) -> None:
        super().__init__(f"{task}")
        self.task = task


class CrashedError(KitError):
    """A fault of the test killed the process that ran the task."""

    task: TaskReport
    """State of the task."""

    def __init__(self, task: TaskReport) -> None:
        super().__init__(f"the process was killed: {task}")
        self.task = task


@dataclass(frozen=True)
class Released:
    """A task that waited for its parents, or a callback for the members of its batch, when the last of them ended."""

    id: str
    """Id of the task."""
    parents: tuple[str, ...]
    """The parents or members that ended in the same invocation. Empty: the sweep found that none is open."""


@dataclass
class DrainReport(Sequence[TaskReport]):
    """A sequence of the tasks that ran or ended, each once, in the order of their first delivery.

    A task that was delivered and still waits, for a parent, a limit, its rate or its time, is not in it.
    """

    tasks: Sequence[TaskReport] = ()
    """The tasks."""
    invocations: int = 0
    """Number of invocations."""
    killed: int = 0
    """Number of invocations that a fault has killed."""
    released: Sequence[Released] = ()
    """The tasks whose last parent ended, in order."""

    def __getitem__(self, position: Any) -> Any:
        return self.tasks[position]

    def __len__(self) -> int:
        return len(self.tasks)

    def of(self, task: Task[Any, Any] | str) -> list[TaskReport]:
        """Return the tasks of one type."""
        type_ = task if isinstance(task, str) else task.type
        return [report for report in self.tasks if report.type == type_]

    @property
    def only(self) -> TaskReport:
        """The only task. Raises :class:`KitError` if there is none, or more than one."""
        if len(self.tasks) != 1:
            raise KitError(f"one task was expected to run, not {len(self.tasks)}:\n{self}")
        return self.tasks[0]

    def check(self) -> DrainReport:
        """Return the report if every task has completed. Raises AssertionError with the tasks that have not."""
        __tracebackhide__ = True
        failed = [str(report) for report in self.tasks if report.state is not State.COMPLETED]
        if failed:
            raise AssertionError(
                "\n  ".join([f"{len(failed)} of {len(self.tasks)} tasks have not completed:", *failed])
            )
        return self

    def __str__(self) -> str:
        return "\n".join(str(report) for report in self.tasks) or "no task was due"


class Deliveries:
    """The deliveries of a drain so far.

    Each task is read after each of its deliveries, because its result or its row may expire before the report.
    """

    def __init__(self, database: Database) -> None:
        self.invocations = 0
        self.killed = 0
        self.released: list[Released] = []
        self._database = database
        self._tasks: dict[str, TaskReport] = {}

    def add(self, ids: Iterable[str]) -> None:
        """Add tasks that were delivered."""
        for task in reports(self._database.get(), ids):
            self._tasks[task.id] = task

    @contextmanager
    def releasing(self, ids: Sequence[str]) -> Iterator[None]:
        """Add the tasks whose last parent ends in the block, in which the tasks ``ids`` run."""
        waiting = [id_ for (id_,) in self._database.get().run(WAITING_FOR_PARENTS)]
        yield
        if waiting:
            found = self._database.get().run(RELEASED, json.dumps(waiting), json.dumps(list(ids)))
            self.released += [Released(child, tuple(parents)) for child, parents in found]

    def report(self) -> DrainReport:
        for task in reports(self._database.get(), self._tasks):
            result = self._tasks[task.id].result if task.result is None else task.result
            self._tasks[task.id] = replace(task, result=result)
        ran = [task for task in self._tasks.values() if task.runs or task.state not in WAITING]
        return DrainReport(ran, self.invocations, self.killed, self.released)


def reports(connection: Connection, ids: Iterable[str]) -> list[TaskReport]:
    """Return a report for each id that has a row, in order."""
    found = []
    for row in connection.run(TASKS, json.dumps(list(ids))):
        id_, type_, state, attempts, max_attempts, runs, result, reason, error, message, outcomes = row
        ended = (result, reason, error, message, tuple(outcomes))
        found.append(TaskReport(id_, type_, State(state), attempts, max_attempts - 1, runs, *ended))
    return found


def held(connection: Connection, type_: str, by: str | None) -> list[TaskReport]:
    """Return the held tasks of a type, in the order in which they wait, for anything or ``by``. At least one."""
    __tracebackhide__ = True
    rows = connection.run(HELD, type_)
    found = [id_ for id_, holders in rows if by is None or by in holders]
    if not found:
        listed = ", ".join(dict.fromkeys(holder for _, holders in rows for holder in holders)) or "none"
        raise AssertionError(
            f"no task {type_!r} is held{f' by {by!r}' if by else ''}; limits and tasks that hold some: {listed}"
        )
    return reports(connection, found)


STOPPED = f"""
select t.id, w.signal, w.name from joblane.tasks t join joblane.task_waits w on w.task_id = t.id and w.run = t.runs
 where t.type = $1 and t.state in {WAITING_SQL} and w.expired_at is null
 order by w.until, t.id
"""


def waiting(connection: Connection, type_: str, signal: str | None) -> list[TaskReport]:
    """Return the tasks of a type that have stopped at a wait, by its end, for anything or ``signal``. At least one."""
    __tracebackhide__ = True
    rows = connection.run(STOPPED, type_)
    found = [id_ for id_, waits_for, _ in rows if signal is None or waits_for == signal]
    if not found:
        listed = ", ".join(f"{id_}: {waits_for or f'no signal ({name})'}" for id_, waits_for, name in rows) or "none"
        raise AssertionError(
            f"no task {type_!r} waits{f' for the signal {signal!r}' if signal else ''}; tasks that wait, and for what: "
            f"{listed}"
        )
    return reports(connection, found)
