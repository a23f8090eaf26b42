"""How tasks stand after a test has run them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from joblane.declaration import Task
from joblane.record.connection import Connection
from joblane.record.database import Database
from joblane.record.states import State
from joblane.testing.errors import KitError

TASKS = """
select t.id, t.type, t.state, t.attempts, t.max_attempts, t.runs, t.result, t.reason, t.error_type, t.error_message,
       array(select coalesce(a.outcome, 'under way') from joblane.task_attempts a where a.task_id = t.id order by a.run)
  from jsonb_array_elements_text($1::jsonb) with ordinality as x(id, position) join joblane.tasks t using (id)
 order by x.position
"""


@dataclass(frozen=True)
class TaskReport:
    """One task as it stands.

    ``attempts``: those that counted, of ``max_retry`` + 1. ``result``: as JSON holds it. ``reason``: why it ended
    without completing. ``error_type``, ``error_message``: of the last failed attempt. ``outcomes``: a word per run.
    """

    id: str
    type: str
    state: State
    attempts: int
    max_retry: int
    runs: int
    result: Any
    reason: str | None
    error_type: str | None
    error_message: str | None
    outcomes: tuple[str, ...]

    def __str__(self) -> str:
        error = f", {self.error_type}: {self.error_message}" if self.error_type else ""
        why = f", {self.reason}" if self.reason and not error else ""
        stands = f"{self.type} {self.id} is {self.state} after {self.attempts} of {self.max_retry + 1} attempts"
        return f"{stands}{error}{why}"


class NotRunError(KitError):
    """A task that was to be run has not completed, and its handler raised nothing. ``task``: its state."""

    def __init__(self, task: TaskReport) -> None:
        super().__init__(f"{task}")
        self.task = task


class CrashedError(KitError):
    """A fault of the test killed the process that ran the task. ``task``: its state."""

    def __init__(self, task: TaskReport) -> None:
        super().__init__(f"the process was killed: {task}")
        self.task = task


@dataclass
class DrainReport(Sequence[TaskReport]):
    """The tasks that were delivered, each once, in the order of their first delivery.

    ``invocations``: how many it took. ``killed``: how many of them a fault has killed.
    """

    tasks: Sequence[TaskReport] = ()
    invocations: int = 0
    killed: int = 0

    def __getitem__(self, position: Any) -> Any:
        return self.tasks[position]

    def __len__(self) -> int:
        return len(self.tasks)

    def of(self, task: Task[Any, Any] | str) -> list[TaskReport]:
        """Those of one type."""
        type_ = task if isinstance(task, str) else task.type
        return [one for one in self.tasks if one.type == type_]

    @property
    def only(self) -> TaskReport:
        """The one task there was. Raises :class:`KitError` for none, or several."""
        if len(self.tasks) != 1:
            raise KitError(f"one task was expected to run, not {len(self.tasks)}:\n{self}")
        return self.tasks[0]

    def check(self) -> DrainReport:
        """Itself, where every task has completed. Raises AssertionError that names those that have not."""
        __tracebackhide__ = True
        rest = [str(one) for one in self.tasks if one.state is not State.COMPLETED]
        if rest:
            raise AssertionError("\n  ".join([f"{len(rest)} of {len(self.tasks)} tasks have not completed:", *rest]))
        return self

    def __str__(self) -> str:
        return "\n".join(str(one) for one in self.tasks) or "nothing was due"


class Deliveries:
    """What a drain has delivered so far.

    Each task is looked at after each of its deliveries: its result, and in the end its row, may not outlive the time
    that passes until the report.
    """

    def __init__(self, database: Database) -> None:
        self.invocations = 0
        self.killed = 0
        self._database = database
        self._tasks: dict[str, TaskReport] = {}

    def saw(self, ids: Iterable[str]) -> None:
        """These were delivered."""
        for task in reports(self._database.get(), ids):
            self._tasks[task.id] = task

    def report(self) -> DrainReport:
        for task in reports(self._database.get(), self._tasks):
            result = self._tasks[task.id].result if task.result is None else task.result
            self._tasks[task.id] = replace(task, result=result)
        return DrainReport(list(self._tasks.values()), self.invocations, self.killed)


def reports(connection: Connection, ids: Iterable[str]) -> list[TaskReport]:
    """One per id that has a row, in order."""
    found = []
    for row in connection.run(TASKS, json.dumps(list(ids))):
        id_, type_, state, attempts, max_attempts, runs, result, reason, error, message, outcomes = row
        ended = (result, reason, error, message, tuple(outcomes))
        found.append(TaskReport(id_, type_, State(state), attempts, max_attempts - 1, runs, *ended))
    return found
