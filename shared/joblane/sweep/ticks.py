"""The tasks of the ticks of schedules.

The sweep makes the tasks of schedules at run time up to 15 minutes ahead. EventBridge Scheduler sends the ticks of
schedules of the code; the sweep looks for their tasks 30 minutes after their time, and makes the newest that did not
come, if the policy of the schedule wants it.

The tasks of a schedule's ticks and its next time are written in one transaction. Their messages are sent by the walk
that follows, or by the next sweep if this one is killed. Only schedules that fire soon are read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError

from joblane import telemetry
from joblane.enqueue.insert import insert_tasks
from joblane.enqueue.ticks import GRACE, Stored, due_ticks, past_ticks, tick_id, tick_tasks
from joblane.errors import DeclarationError, JobError, UnknownTypeError, text_of
from joblane.names import full_schedule_name
from joblane.record import schedules
from joblane.record.driver.connection import is_of_row
from joblane.record.schedules import (
    DUE,
    DUE_BY_NAME,
    MOVE,
    UNDELIVERED,
    WITHOUT_TASK,
    Origin,
    read,
    schedule_of,
)
from joblane.tasks.schedule import Missed

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection, Row
    from joblane.record.task.insert import NewTask
    from joblane.tasks.schedule import Schedule
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

    ``made``: tasks. ``late``: schedules at run time with ticks that were missed. ``missed``: the ids of ticks of the
    code that did not come. ``problems``: schedules whose ticks got no task. ``is_over``: False if schedules are left
    that fire soon.
    """

    made: int = 0
    late: int = 0
    missed: list[str] = field(default_factory=list)
    problems: int = 0
    is_over: bool = True


@dataclass(slots=True)
class _Due:
    """A schedule of which the sweep makes ticks.

    ``schedule``: its times; None: they cannot be read, and ``problem`` says why. ``sent``: the ticks that the scheduler
    should have sent, of a schedule of the code.
    """

    stored: Stored
    next_at: datetime
    now: datetime
    schedule: Schedule | None = None
    problem: str | None = None
    sent: Sequence[datetime] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any], now_text: str) -> _Due:
        next_at, now = (schedules.by_schedules(datetime.fromisoformat(text)) for text in (row["next_at"], now_text))
        due = cls(Stored.of(row), next_at, now)
        try:
            due.schedule = schedule_of(due.stored.expression, due.stored.timezone)
        except DeclarationError as error:
            due.problem = _text(error)
        if due.schedule is not None and due.stored.origin == Origin.CODE:
            due.sent = past_ticks(due.schedule, next_at, now)
        return due


@dataclass(slots=True)
class _Planned:
    """A schedule, the tasks of its ticks, and its next time."""

    name: str
    type: str
    next_at: datetime
    tasks: Sequence[NewTask] = ()
    ticks: Sequence[datetime] = ()
    is_late: bool = False
    """True if ticks of a schedule at run time were missed."""
    passed_until: datetime | None = None
    """The time up to which ticks of a schedule of the code that have no task run no more."""
    missed: Sequence[str] = ()
    """The ids of the ticks of the code that did not come."""
    problem: str | None = None

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "next_at": schedules.by_database(self.next_at).isoformat(),
            "passed_until": self.passed_until and self.passed_until.isoformat(),
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
    """Make the tasks of the ticks of the next 15 minutes, and of those of the code that did not come, in batches, until
    no tick is left or ``may_continue()`` is false.

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
    missing: dict[str, Sequence[str]] = field(default_factory=dict)
    """Schedule of the code → the ids of its ticks that did not come."""
    left: list[str] = field(default_factory=list)
    """Schedules of the code that stay due: another version of the code has them, or their tick got no task."""

    def batch(self) -> int:
        """Make the tasks of the schedules that fire first. Return the number of these schedules."""
        names: list[str] = []
        try:
            return self._transaction(DUE, names, BATCH, self.left)
        except DatabaseError as error:
            if not is_of_row(error) or not self.connection.usable:
                raise
        for name in names:  # the database refuses the task of one of them
            try:
                self._transaction(DUE_BY_NAME, [], name)
            except DatabaseError as error:
                if not is_of_row(error) or not self.connection.usable:
                    raise
                self._leave(name, text_of(error))
        return len(names)

    def _transaction(self, statement: str, names: list[str], *parameters: str | int | list[str]) -> int:
        """Handle the schedules that a statement returns, and add their names to ``names``. Return their number."""
        connection, planned = self.connection, list[_Planned]()
        connection.execute_simple("begin")
        try:
            rows = connection.run(statement, *parameters)
            planned = list(self._all_planned(rows, names))
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

    def _all_planned(self, rows: Sequence[Row], names: list[str]) -> Iterator[_Planned]:
        """Plan each schedule of the rows. One statement looks for the tasks of all ticks of the code."""
        due = [_Due.of(read(document), now) for document, now in rows]
        names += [each.stored.name for each in due]
        expected = [tick_id(each.stored, tick) for each in due for tick in each.sent]
        missing = {id_ for (id_,) in self.connection.run(WITHOUT_TASK, json.dumps(expected))} if expected else set()
        for each in due:
            is_of_code = each.stored.origin == Origin.CODE
            if is_of_code and not self._declares(each.stored):
                self.left.append(each.stored.name)  # newer code looks for its ticks; or it has none after a way back
                continue
            if each.schedule is None:
                yield _Planned(each.stored.name, each.stored.type, each.now + WRONG_TIMES, problem=each.problem)
            elif is_of_code:
                yield self._of_code(each, each.schedule, missing)
            else:
                yield self._at_run_time(each, each.schedule)

    def _declares(self, stored: Stored) -> bool:
        """True if this code has a schedule of the code, with the same times and payload."""
        task = self.task_of(stored.type)
        own = (stored.name, stored.expression, stored.timezone, stored.payload)
        return task is not None and any(
            own == (full_schedule_name(task.type, str(each.name)), each.text, each.timezone, each.json_payload)
            for each in task.schedules
        )

    def _of_code(self, due: _Due, schedule: Schedule, missing: Collection[str]) -> _Planned:
        """Plan a schedule whose ticks the scheduler sends. The newest that did not come runs, if no later one has."""
        stored, until = due.stored, due.now - UNDELIVERED
        has_come = {tick: tick_id(stored, tick) not in missing for tick in due.sent}
        missed = [tick for tick in due.sent if tick <= until and not has_come[tick]]
        planned = _Planned(stored.name, stored.type, schedule.next_after(until), passed_until=until)
        planned.missed = [tick_id(stored, tick) for tick in missed]
        newest = missed[-1:] if stored.missed == Missed.LATEST else []
        runs = [tick for tick in newest if not any(has_come[later] for later in due.sent if later > tick)]
        planned = self._with_tasks(planned, stored, runs)
        if planned.problem is not None:  # the next sweep tries again, for its payload class may be of other code
            self.left.append(stored.name)
            planned.next_at, planned.passed_until, planned.missed = due.next_at, None, ()
        return planned

    def _at_run_time(self, due: _Due, schedule: Schedule) -> _Planned:
        stored = due.stored
        ticks, following = due_ticks(schedule, due.next_at, due.now, stored.missed)
        planned = _Planned(stored.name, stored.type, following, is_late=due.next_at < due.now - GRACE)
        return self._with_tasks(planned, stored, ticks)

    def _with_tasks(self, planned: _Planned, stored: Stored, ticks: Sequence[datetime]) -> _Planned:
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
            self.result.missed += each.missed
            if each.missed:
                self.missing[each.name] = each.missed
            if each.problem is not None:
                self.result.problems += 1
                self.problems[each.type, each.problem] += 1
                self.examples.setdefault((each.type, each.problem), each.name)

    def _leave(self, name: str, problem: str) -> None:
        """Give a schedule its next time without a task."""
        self.connection.execute_simple("begin")
        try:
            planned = list(self._all_planned(self.connection.run(DUE_BY_NAME, name), []))
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
                "ticks of schedules got no task; put the schedules again, or delete them",
                extra={
                    "of_type": type_,
                    "error": problem,
                    "schedules": number,
                    "schedule": self.examples[type_, problem],
                },
            )
        for name, ticks in self.missing.items():
            telemetry.logger().error(
                "ticks are missing: check that their schedule exists and is enabled, and that its lane has no backlog",
                extra={"schedule": name, "missing": len(ticks), "newest": ticks[-1]},
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
