"""The tasks of the ticks of schedules at run time. The sweep makes them up to 15 minutes ahead, and then sends them.

The tasks of a schedule's ticks and its next time are written in one transaction. Their messages are sent by the walk
that follows, or by the next sweep if this one is killed. Only schedules that fire soon are read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError

from joblane import telemetry
from joblane.enqueue.insert import insert_tasks
from joblane.enqueue.ticks import GRACE, Stored, due_ticks, tick_tasks
from joblane.errors import DeclarationError, JobError, UnknownTypeError, text_of
from joblane.record import schedules
from joblane.record.driver.connection import is_of_row
from joblane.record.schedules import DUE, DUE_BY_NAME, MOVE, read, schedule_of

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection, Row
    from joblane.record.task.insert import NewTask
    from joblane.tasks.task import Task

BATCH = 1_000
"""The most schedules of one transaction."""
MOST = 50_000
"""The number of tasks after which a sweep makes no more, and sends them."""
WRONG_TIMES = timedelta(hours=1)
"""A schedule whose times cannot be read is tried again after this time."""


@dataclass
class Ticks:
    """The result of one call.

    ``made``: tasks. ``late``: schedules with ticks that were missed. ``problems``: schedules whose ticks got no task.
    ``is_over``: False if schedules are left that fire soon.
    """

    made: int = 0
    late: int = 0
    problems: int = 0
    is_over: bool = True


@dataclass(slots=True)
class _Planned:
    """A schedule, the tasks of its ticks, and its next time."""

    name: str
    type: str
    next_at: datetime
    tasks: Sequence[NewTask] = ()
    ticks: Sequence[datetime] = ()
    is_late: bool = False
    """True if ticks were missed."""
    problem: str | None = None

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "next_at": schedules.by_database(self.next_at).isoformat(),
            "last_at": schedules.by_database(self.ticks[-1]).isoformat() if self.tasks else None,
            "last_task": self.tasks[-1].id if self.tasks else None,
            "problem": self.problem,
        }


def make_ticks(
    connection: Connection,
    task_of: Callable[[str], Task[Any, Any] | None],
    prefix: str,
    *,
    may_continue: Callable[[], bool] = lambda: True,
) -> Ticks:
    """Make the tasks of the ticks of the next 15 minutes, in batches, until no tick is left or ``may_continue()`` is
    false.

    ``task_of``: returns the task of a type, or None if no task has it.
    """
    making = _Making(connection, task_of, prefix)
    while making.result.made < MOST and may_continue():
        if making.batch() < BATCH:
            making.log()
            return making.result
    making.log()
    making.result.is_over = False
    return making.result


@dataclass
class _Making:
    connection: Connection
    task_of: Callable[[str], Task[Any, Any] | None]
    prefix: str
    result: Ticks = field(default_factory=Ticks)
    problems: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Type and problem → the number of schedules."""
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def batch(self) -> int:
        """Make the tasks of the schedules that fire first. Return the number of these schedules."""
        names: list[str] = []
        try:
            return self._transaction(DUE, BATCH, names)
        except DatabaseError as error:
            if not is_of_row(error) or not self.connection.usable:
                raise
        for name in names:  # the database refuses the task of one of them
            try:
                self._transaction(DUE_BY_NAME, name, [])
            except DatabaseError as error:
                if not is_of_row(error) or not self.connection.usable:
                    raise
                self._leave(name, text_of(error))
        return len(names)

    def _transaction(self, statement: str, parameter: str | int, names: list[str]) -> int:
        """Handle the schedules that a statement returns, and add their names to ``names``."""
        connection, planned = self.connection, list[_Planned]()
        connection.execute_simple("begin")
        try:
            rows = connection.run(statement, parameter)
            planned = [self._planned(row, names) for row in rows]
            if tasks := [task for each in planned for task in each.tasks]:
                insert_tasks(connection.run_each, tasks, room=0)
            self._move(planned)
            connection.commit()
        except BaseException:
            if connection.usable:
                connection.rollback()
            raise
        self._count(planned)
        return len(rows)

    def _planned(self, row: Row, names: list[str]) -> _Planned:
        document, now_text = read(row[0]), row[1]
        names.append(document["name"])
        stored = Stored.of(document)
        now = schedules.by_schedules(datetime.fromisoformat(now_text))
        next_at = schedules.by_schedules(datetime.fromisoformat(document["next_at"]))
        try:
            schedule = schedule_of(stored.expression, stored.timezone)
        except DeclarationError as error:
            return _Planned(stored.name, stored.type, now + WRONG_TIMES, problem=_text(error))
        ticks, following = due_ticks(schedule, next_at, now, stored.missed)
        planned = _Planned(stored.name, stored.type, following, is_late=next_at < now - GRACE)
        try:
            planned.tasks, planned.ticks = self._tasks(stored, ticks), ticks
        except Exception as error:  # also of the payload class, which is the project's own code
            planned.problem = _text(error)
        return planned

    def _tasks(self, stored: Stored, ticks: Sequence[datetime]) -> list[NewTask]:
        if not ticks:
            return []
        if (task := self.task_of(stored.type)) is None:
            raise UnknownTypeError(f"no task {stored.type!r} is declared any more")
        return tick_tasks(stored, task, ticks, prefix=self.prefix)

    def _count(self, planned: Sequence[_Planned]) -> None:
        for each in planned:
            self.result.made += len(each.tasks)
            self.result.late += each.is_late
            if each.problem is not None:
                self.result.problems += 1
                self.problems[each.type, each.problem] += 1
                self.examples.setdefault((each.type, each.problem), each.name)

    def _leave(self, name: str, problem: str) -> None:
        """Give a schedule its next time without a task."""
        self.connection.execute_simple("begin")
        try:
            planned = [self._planned(row, []) for row in self.connection.run(DUE_BY_NAME, name)]
            for each in planned:
                each.tasks, each.problem = (), problem
            self._move(planned)
            self.connection.commit()
        except BaseException:
            if self.connection.usable:
                self.connection.rollback()
            raise
        self._count(planned)

    def _move(self, planned: Sequence[_Planned]) -> None:
        if planned:
            self.connection.run(MOVE, json.dumps([each.row() for each in planned]))

    def log(self) -> None:
        for (type_, problem), number in self.problems.items():
            telemetry.logger().error(
                "ticks of schedules made at run time got no task; put the schedules again, or delete them",
                extra={
                    "of_type": type_,
                    "error": problem,
                    "schedules": number,
                    "schedule": self.examples[type_, problem],
                },
            )
        if self.result.late:
            telemetry.logger().warning(
                "ticks of schedules made at run time were missed, because no sweep made their tasks in time; of each "
                "schedule with missed='latest' the newest runs now, and the others do not run",
                extra={"schedules": self.result.late},
            )


def _text(problem: Exception) -> str:
    """Return a problem without values of the payload, which other errors than Joblane's may have."""
    of_joblane = isinstance(problem, JobError)
    text = text_of(problem) if of_joblane else "reading the schedule's payload and options raised it"
    return f"{type(problem).__name__}: {text}"
