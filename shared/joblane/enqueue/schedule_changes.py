"""The changes of schedules, in the transaction of their caller."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from joblane.enqueue.ticks import (
    AHEAD,
    LONGEST_LOOK_BACK,
    SCHEDULE,
    Stored,
    due_ticks,
    keyed,
    start_of_ids,
    tick_tasks,
)
from joblane.errors import DeclarationError, DeclaredScheduleError, JobError, ScheduleError, UnknownScheduleError
from joblane.record import schedules
from joblane.record.schedules import (
    CANCEL_TICKS,
    DELETE,
    GET,
    GONE,
    LOCK,
    PAUSE,
    RESUME,
    UNDELIVERED,
    WRITE,
    Origin,
    PutSchedule,
    StoredSchedule,
    read,
    schedule_of,
)
from joblane.sqs.tick import written
from joblane.tasks.discovery import load
from joblane.tasks.task import Task

if TYPE_CHECKING:
    from joblane.enqueue.insert import Execute
    from joblane.record.task.insert import NewTask
    from joblane.tasks.job import Job
    from joblane.tasks.schedule import Schedule

LOOK_BACK = LONGEST_LOOK_BACK + 2 * UNDELIVERED
"""Ticks that were due earlier, and have not begun yet, are not cancelled with their schedule."""
COMPARED = ("type", "payload", "schema", "options", "expression", "timezone", "missed")
"""The columns of a schedule that ``put`` compares."""
DELETED = "ScheduleDeleted: its schedule was deleted before it ran"
PAUSED = "SchedulePaused: its schedule was paused before it ran"
CHANGED = "ScheduleChanged: its schedule was changed before it ran"
TRY_AGAIN = "it has not ended within 5 seconds. Nothing was changed; try again"


@dataclass(frozen=True, slots=True)
class _Locked:
    """A locked schedule. ``row`` None: no schedule has the name."""

    name: str
    now: datetime
    revision: int
    row: Mapping[str, Any] | None

    @property
    def is_of_code(self) -> bool:
        return self.row is not None and self.row["origin"] == Origin.CODE

    @property
    def is_paused(self) -> bool:
        return self.row is not None and self.row["paused_at"] is not None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The result of a cancel of ticks.

    ``begun``: the ticks whose tasks have begun before their time, which a claim allows by seconds, and an operator by
    any time. ``limits``, ``parents``: the limits to serve after the commit, and the cancelled tasks for which others
    wait.
    """

    begun: Collection[datetime] = ()
    limits: Sequence[Sequence[str | None]] = ()
    parents: Sequence[str] = ()


NOTHING = Cancelled()


@dataclass(frozen=True, slots=True)
class ScheduleChanges:
    """The changes of one client. Each runs its statements by ``run``, in one transaction."""

    prefix: str

    def put(
        self, run: Execute, *, row: dict[str, Any], task: Task[Any, Any], times: Schedule
    ) -> tuple[PutSchedule, list[NewTask]]:
        """Write a schedule, and return the tasks of its ticks in the next 15 minutes. ``row``: the given columns."""
        name = row["name"]
        locked = self._locked(run, name)
        old, now = locked.row, locked.now
        if locked.is_of_code:
            raise DeclaredScheduleError(name)
        if old is not None and old["tenant"] != row["tenant"]:
            raise ScheduleError(
                "tenant",
                f"the schedule {name!r} exists and belongs to another tenant or to none; put the tenant into the name, "
                "or delete that schedule first",
            )
        if old is not None and old["problem"] is None and all(old[column] == row[column] for column in COMPARED):
            next_at = StoredSchedule.of(old).next_at
            return PutSchedule(name, created=False, changed=False, next_at=next_at), []
        next_at = times.next_after(now)
        if old is not None and (old["expression"], old["timezone"]) == (row["expression"], row["timezone"]):
            next_at = min(next_at, _time(old["next_at"]))  # it may be late
        if old is not None and old["paused_until"] is not None:
            next_at = _first(times, _time(old["paused_until"]))
        ticks, following = ([], next_at) if locked.is_paused else due_ticks(times, next_at, now, row["missed"])
        ticks = self._without_begun(run, locked, ticks)
        row["revision"] = locked.revision
        tasks = self._tasks(Stored.of(row), task, ticks)
        run(WRITE, json.dumps(row | self._moved(tasks, ticks, following), ensure_ascii=False))
        next_tick = None if locked.is_paused else schedules.by_database(ticks[0] if ticks else following)
        return PutSchedule(name, created=old is None, changed=True, next_at=next_tick), tasks

    def resume(self, run: Execute, *, name: str, task: Task[Any, Any] | None) -> tuple[bool, list[NewTask]]:
        """End a pause, and return the tasks of the ticks in the next 15 minutes. False: there is no pause."""
        locked = self._known(run, name)
        if not locked.is_paused:
            return False, []
        if locked.is_of_code:
            passed = {"passed_until": locked.now.isoformat()}
            document = {"name": name, "revision": locked.revision, **self._moved([], [], locked.now), **passed}
            run(RESUME, json.dumps(document))
            return True, []
        stored = Stored.of({**(locked.row or {}), "revision": locked.revision})
        of = None if task is None else _task_of(stored.type, task)
        ticks, following = self._first_ticks(stored, locked.now)
        ticks = self._without_begun(run, locked, ticks)
        try:
            tasks = self._tasks(stored, of or _task_of(stored.type, None), ticks) if ticks else []
        except JobError:  # the sweep makes them, or says why they get no task
            following, ticks, tasks = ticks[0], [], []
        document = {"name": name, "revision": locked.revision, **self._moved(tasks, ticks, following)}
        run(RESUME, json.dumps(document))
        return True, tasks

    def pause(
        self,
        run: Execute,
        *,
        name: str,
        until: datetime | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> tuple[tuple[bool, Cancelled], list[NewTask]]:
        """Pause a schedule, and cancel its ticks. False: it is paused already, and nothing changes.

        ``until``: the end of the pause, an aware time. None: until it is resumed.
        """
        locked = self._known(run, name)
        if until is not None and until <= locked.now:
            raise ScheduleError("until", "a time in the future is required, by the database's clock")
        if locked.is_paused:
            return (False, NOTHING), []
        cancelled = self._cancel_ticks(run, locked, PAUSED)
        document: dict[str, Any] = {"name": name, "revision": locked.revision, "by": by, "reason": reason}
        if until is not None:
            document |= {"until": schedules.by_database(until).isoformat(), "next_at": self._after_pause(locked, until)}
            if locked.is_of_code:
                document["passed_until"] = (until - timedelta(microseconds=1)).isoformat()
        run(PAUSE, json.dumps(document))
        return (True, cancelled), []

    def _first_ticks(self, stored: Stored, now: datetime) -> tuple[list[datetime], datetime]:
        """Return the ticks that get their tasks now, and the time of the first tick after them."""
        try:
            times = schedule_of(stored.expression, stored.timezone)
        except DeclarationError:  # written by hand: the sweep says what is wrong
            return [], now
        return due_ticks(times, times.next_after(now), now, stored.missed)

    def _after_pause(self, locked: _Locked, until: datetime) -> str:
        """Return the time of the first tick after a pause. Of a schedule of the code: the end of the pause."""
        row, first = locked.row or {}, until
        if not locked.is_of_code:
            with suppress(DeclarationError):  # written by hand: the sweep says what is wrong
                first = _first(schedule_of(row["expression"], row["timezone"]), until)
        return schedules.by_database(first).isoformat()

    def delete(self, run: Execute, *, name: str) -> tuple[tuple[bool, Cancelled], list[NewTask]]:
        """Delete a schedule, and cancel its ticks. False: there is none."""
        locked = self._locked(run, name)
        if locked.row is None:
            return (False, NOTHING), []
        if locked.is_of_code and locked.row["problem"] != GONE:
            raise DeclaredScheduleError(name)
        cancelled = self._cancel_ticks(run, locked, DELETED)
        run(DELETE, json.dumps({"name": name}))
        return (True, cancelled), []

    def job_now(
        self, run: Execute, *, name: str, task: Task[Any, Any] | None
    ) -> tuple[tuple[Job, dict[str, Any]], list[NewTask]]:
        """Return the job of a schedule that is to run now, and its relation to the schedule."""
        schedule = run(GET, json.dumps({"name": name}))
        if not schedule:
            raise UnknownScheduleError(name)
        stored = Stored.of(read(schedule[0][0]))
        job = stored.job(_task_of(stored.type, task))
        return (keyed(stored, job), {SCHEDULE: name}), []

    def get(self, run: Execute, *, name: str) -> tuple[StoredSchedule | None, list[NewTask]]:
        found = self.found(run, statement=GET, document=json.dumps({"name": name}))[0]
        return found[0] if found else None, []

    def found(self, run: Execute, *, statement: str, document: str) -> tuple[Sequence[StoredSchedule], list[NewTask]]:
        """Return the schedules of the rows that a statement returns."""
        return [StoredSchedule.of(read(row[0])) for row in run(statement, document)], []

    def _known(self, run: Execute, name: str) -> _Locked:
        """Lock a schedule. Raises :class:`UnknownScheduleError`."""
        locked = self._locked(run, name)
        if locked.row is None:
            raise UnknownScheduleError(name)
        return locked

    def _locked(self, run: Execute, name: str) -> _Locked:
        [[answer]] = run(LOCK, json.dumps({"name": name}))
        if answer is None:
            raise ScheduleError("name", f"another transaction is changing the schedule {name!r}; {TRY_AGAIN}")
        document = read(answer)
        return _Locked(name, _time(document["now"]), document["revision"], document["row"])

    def _without_begun(self, run: Execute, locked: _Locked, ticks: Sequence[datetime]) -> list[datetime]:
        """Return the ticks whose tasks have not begun, and cancel the tasks of later ticks, to be made anew.

        Time passes while the cancel waits for a task, so the time of the lock decides in both.
        """
        begun = self._cancel_ticks(run, locked, CHANGED, only_later=True).begun
        return [tick for tick in ticks if tick not in begun]

    def _cancel_ticks(self, run: Execute, locked: _Locked, reason: str, *, only_later: bool = False) -> Cancelled:
        """Cancel the tasks of ticks that have not begun. ``only_later``: only those after the time of the lock."""
        name, now = locked.name, locked.now
        start = start_of_ids(name, Origin.CODE if locked.is_of_code else Origin.RUN_TIME)
        later = f"{start}{written(now)};"  # after the tick of this minute
        document = {
            "low": later if only_later else start + written(now - LOOK_BACK),
            "high": start + written(now + 2 * AHEAD),  # not those of schedules whose names begin with this one
            "later": later,
            "time_at": len(start) + 1,
            "reason": reason,
        }
        [[answer]] = run(CANCEL_TICKS, json.dumps(document))
        if answer is None:
            raise ScheduleError("name", f"another transaction holds a task of the schedule {name!r}; {TRY_AGAIN}")
        cancelled = read(answer)
        begun = {datetime.fromisoformat(text) for text in cancelled["begun"]}
        return Cancelled(begun, cancelled["limits"], cancelled["parents"])

    def _tasks(self, stored: Stored, task: Task[Any, Any], ticks: Sequence[datetime]) -> list[NewTask]:
        return tick_tasks(stored, task, ticks, prefix=self.prefix)

    def _moved(self, tasks: Sequence[NewTask], ticks: Sequence[datetime], following: datetime) -> dict[str, Any]:
        """Return the columns with the last tick that got a task, and with the next one."""
        return {
            "next_at": schedules.by_database(following).isoformat(),
            "last_at": schedules.by_database(ticks[-1]).isoformat() if ticks else None,
            "last_task": tasks[-1].id if ticks else None,
        }


def _first(times: Schedule, moment: datetime) -> datetime:
    """Return the first tick at or after a time."""
    return times.next_after(moment - timedelta(microseconds=1))


def _time(text: str) -> datetime:
    return schedules.by_schedules(datetime.fromisoformat(text))


def _task_of(type_: str, given: Task[Any, Any] | None) -> Task[Any, Any]:
    """Return the task of a schedule. Raises :class:`ScheduleError`."""
    if given is None:
        try:
            return load(type_)
        except DeclarationError as error:
            raise ScheduleError(
                "task", f"the schedule is of type {type_!r}, which this project does not declare; give task=…"
            ) from error
    if not isinstance(given, Task) or type_ not in given.types:
        raise ScheduleError("task", f"a task of type {type_!r} is required, the type of the schedule")
    return given
