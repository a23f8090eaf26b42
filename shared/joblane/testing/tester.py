"""The tester: the object that a test of jobs works with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from joblane.enqueue.result import Enqueued
from joblane.errors import TaskTimeout, UnknownTaskError
from joblane.handler.context import TaskContext
from joblane.handler.resources import aclose_resources
from joblane.names import Queue
from joblane.record import schedules as declared_schedules
from joblane.record import task_types as registry
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.tasks.arguments import with_payload
from joblane.tasks.events import Event
from joblane.tasks.job import JobOptions
from joblane.tasks.payload import Payload
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task
from joblane.testing import report
from joblane.testing.enqueued import Captured, EnqueuedTask
from joblane.testing.errors import KitError
from joblane.testing.faults import Fault, FaultKind
from joblane.testing.process import alarm_restored, arun_context, run_context
from joblane.testing.queues import DeadLetter
from joblane.testing.report import CrashedError, Deliveries, DrainReport, NotRunError, TaskReport
from joblane.testing.stage import LIMIT, Stage
from joblane.worker.run import TIMED_OUT

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from joblane.client.limits import Limits
    from joblane.client.schedules import Schedules

P = TypeVar("P", bound="Payload")
R = TypeVar("R")


class JobTester(Stage):
    """Jobs without AWS: the real client, worker and sweep, with a migrated database and with queues in memory.

    Inside its ``with`` block, every :class:`JobClient` of the process enqueues here.
    """

    @property
    def invocation(self) -> timedelta | None:
        """Longest time of one invocation. None: the function's timeout on AWS."""
        return self._lanes.invocation

    @invocation.setter
    def invocation(self, value: timedelta | None) -> None:
        self._lanes.invocation = value

    # --- The application's side ------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> Engine:
        """An SQLAlchemy engine for the test's own sessions, without a pool."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        return create_engine("postgresql+pg8000://", creator=lambda: Database(self.url).get(), poolclass=NullPool)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Return a context manager with an SQLAlchemy session that commits at the end of the block."""
        from sqlalchemy.orm import Session

        with Session(self.engine) as session, session.begin():
            yield session

    def register(self, *tasks: Task[Any, Any]) -> None:
        """Make tasks known, for ticks, for messages that were not enqueued here, and for producers in SQL.

        Their schedules are registered as by ``joblane migrate``. From then on, a :meth:`drain` creates the newest
        missed tick, if the schedule has ``missed="latest"``. A tick that arrives after that does not run.

        Args:
            tasks: The tasks.
        """
        for task in tasks:
            self._know(task)
        registry.register(self._database.get(), self._lanes.known.tasks)
        declared_schedules.register(self._database.get(), self._lanes.known.tasks)

    @property
    def limits(self) -> Limits:
        """The limits of the known tasks: ``limits.set``, ``reset`` and ``get``, as for :attr:`JobClient.limits`.

        A task is known once it was enqueued here, or by :meth:`register`.
        """
        return self.client.limits

    @property
    def schedules(self) -> Schedules:
        """The stage's schedules: ``schedules.put``, ``get`` and so on, as for :attr:`JobClient.schedules`.

        Schedules made at run time fire in :meth:`travel` with ``ticks=True``, and in :meth:`drain` with ``within``,
        each at its time. Without these arguments, the next :meth:`drain` finds their ticks missed.
        """
        return self.client.schedules

    @with_payload
    def enqueue(
        self, task: Task[P, Any], payload: P, *, session: Session | None = None, **options: Unpack[JobOptions]
    ) -> Enqueued:
        """Enqueue a task. It has the arguments and errors of :meth:`JobClient.enqueue`."""
        return self.client.enqueue(task, payload, session=session, **options)

    def signal(self, task_id: str, signal: str, value: Any = None, *, session: Session | None = None) -> bool:
        """Send a signal to a task. It has the arguments and errors of :meth:`JobClient.signal`."""
        return self.client.signal(task_id, signal, value, session=session)

    # --- Running ---------------------------------------------------------------------------------------------------

    @overload
    def run(self, task: Task[P, Coroutine[Any, Any, R]], payload: P, **options: Unpack[JobOptions]) -> R: ...
    @overload
    def run(self, task: Task[P, R], payload: P, **options: Unpack[JobOptions]) -> R: ...
    def run(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Any:
        """Enqueue a task, run it now, without other tasks, and return the handler's return value.

        There is one run. If the handler raises an exception, the failure is recorded as in production, so the task may
        be retried later. Then the method raises the exception.

        Args:
            task: The task.
            payload: Its payload.
            options: The enqueue options.

        Raises:
            NotRunError: the task has not completed, although the handler raised no exception.
            CrashedError: a fault has killed the process.
        """
        id_, message = self._due(task, payload, options)
        self._lanes.results[id_] = (None, None)
        deliveries = Deliveries(self._database)
        self._lanes.deliver(task, [message], deliveries)
        result, error = self._lanes.results.pop(id_)
        if deliveries.killed:
            raise CrashedError(self.task(id_))
        ended = self.task(id_)
        if task.is_async and error is not None and ended.error_type == TaskTimeout.__name__:
            raise TaskTimeout(TIMED_OUT) from error  # the coroutine was cancelled
        if error is not None:
            raise error
        if ended.state is not State.COMPLETED:
            raise NotRunError(ended)
        return result

    def drain(self, *, limit: int = LIMIT, within: timedelta | None = None) -> DrainReport:
        """Run all tasks that are due, and those that they enqueue, until none is due. Errors are in the report.

        Args:
            limit: Maximum number of invocations.
            within: Also run the tasks that become due within this time, and let as much time pass as they need. None:
                only the tasks that are due now.

        Raises:
            KitError: more than ``limit`` invocations are necessary.
        """
        within = _time_of("within", within or timedelta(0))
        deliveries = Deliveries(self._database)
        self._advance(deliveries, limit, within, ())
        return deliveries.report()

    @contextmanager
    def context(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Iterator[TaskContext]:
        """Return a context manager with the :class:`TaskContext` of a running task, to call ``task(payload, ctx)`` or a
        helper.

        At the end of the block the task completes and its work commits. An exception rolls the work back and is raised.
        The timeout does not interrupt the block. ``ctx.deadline`` and ``ctx.remaining()`` show the time that is left.
        :meth:`run` does interrupt a handler.

        Args:
            task: The task.
            payload: Its payload.
            options: The enqueue options.

        Raises:
            TaskCancelled: at the end of the block, if the task was cancelled.
            LeaseLostError: at the end of the block, if another run holds the task.
        """
        with (
            alarm_restored(),
            Database(self.url) as own,
            run_context(self._running(own, task, payload, options)) as ctx,
        ):
            yield ctx

    @asynccontextmanager
    async def acontext(
        self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]
    ) -> AsyncIterator[TaskContext]:
        """Like :meth:`context`, for ``async with`` in a coroutine of the test, to ``await task(payload, ctx)``."""
        with Database(self.url) as own:
            try:
                async with arun_context(self._running(own, task, payload, options), own) as ctx:
                    yield ctx
            finally:
                await aclose_resources()

    # --- Inspecting ------------------------------------------------------------------------------------------------

    def task(self, task_id: str) -> TaskReport:
        """Return the state of a task. Raises :class:`~joblane.errors.UnknownTaskError`."""
        found = report.reports(self._database.get(), [task_id])
        if not found:
            raise UnknownTaskError(task_id)
        return found[0]

    def enqueued(self, task: Task[Any, Any] | str | None = None) -> list[EnqueuedTask]:
        """Return the tasks that were enqueued since the test began, of one type or all, in order. They may have run."""
        return self._since.enqueued(task)

    def assert_enqueued(
        self,
        task: Task[Any, Any] | str,
        payload: Payload | Mapping[str, Any] | None = None,
        **wanted: Any,
    ) -> list[EnqueuedTask]:
        """Check the tasks that were enqueued since the test began, see :meth:`Captured.assert_enqueued`."""
        __tracebackhide__ = True
        return self._since.assert_enqueued(task, payload, **wanted)

    def assert_held(self, task: Task[Any, Any] | str, *, by: str | None = None) -> list[TaskReport]:
        """Check that at least one task of a type is held, and return the held ones, in the order in which they wait.

        Args:
            task: The task, or its type.
            by: What they wait for: the id of a parent, of a member of a batch, or of a batch that is not sealed; or the
                name of a limit: of a shared limit, the type for its total, or the type, a slash and the key. None:
                anything.
        """
        __tracebackhide__ = True
        return report.held(self._database.get(), task if isinstance(task, str) else task.type, by)

    def assert_waiting(self, task: Task[Any, Any] | str, *, signal: str | None = None) -> list[TaskReport]:
        """Check that at least one task of a type has stopped at a wait, and return them, in the order of the ends.

        Args:
            task: The task, or its type.
            signal: The signal for which they wait. None: any signal, a sleep or a poll.
        """
        __tracebackhide__ = True
        return report.waiting(self._database.get(), task if isinstance(task, str) else task.type, signal)

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        """Return a context manager with the tasks that are enqueued inside the block, a :class:`Captured`."""
        captured = Captured(self._enqueued, self._lanes.known.get)
        try:
            yield captured
        finally:
            captured.close()

    def dead_letters(self, task: Task[Any, Any], queue: Queue | None = None) -> list[DeadLetter]:
        """Return the dead letters of a task's lane. ``queue`` None: its home queue."""
        return self._queues.dead_letters(self._lanes.lane(task, queue))

    def redrive(self, task: Task[Any, Any], queue: Queue | None = None) -> int:
        """Send a lane's dead letters back to it, and return their number. ``queue`` None: the home queue."""
        return self._queues.redrive(self._lanes.lane(task, queue))

    @property
    def events(self) -> list[Event]:
        """The events of tasks that declare ``events``, in the order in which their tasks ended, since the test began.

        If a run ends the task, its event is listed at once. If a cancel or an operator ends it, the event is listed
        after the next :meth:`drain`. An event that is sent twice is listed twice.
        """
        return list(self._bus.events)

    # --- Time ------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time of the test, in UTC, for :meth:`at` and :meth:`tick`.

        The clock of the code under test does not move. Calculate a time that you pass to this code or to an enqueue
        from ``datetime.now(UTC)``, not from this property.
        """
        return self._clock.now()

    def travel(self, by: timedelta, *, ticks: bool = False) -> DrainReport:
        """Let time pass: subtract ``by`` from every time in the database.

        Args:
            by: The time, zero or more.
            ticks: True: all tasks that become due run at their time, and so do the ticks of all known tasks (see
                :meth:`register`). False: nothing runs.

        Raises:
            KitError: a time in the database cannot be changed.
            ValueError: ``by`` is negative.
        """
        if _time_of("by", by) < timedelta(0):
            raise ValueError("travel: time only passes")
        deliveries, ends = Deliveries(self._database), self._clock.now() + by
        if ticks:
            known = list(self._lanes.known.tasks.values())
            self._advance(deliveries, LIMIT, by, [(task, schedule) for task in known for schedule in task.schedules])
        if (left := ends - self._clock.now()) > timedelta(0):
            self._pass(by if not ticks else left)
        return deliveries.report()

    def at(self, moment: datetime, *, ticks: bool = False) -> DrainReport:
        """Let time pass until ``moment``, a time with a time zone, not before :attr:`now`. See :meth:`travel`."""
        return self.travel(moment - self.now, ticks=ticks)

    def tick(self, task: Task[Any, Any], schedule: str | None = None, *, at: datetime | None = None) -> str:
        """Send a tick of a schedule, as EventBridge does, and return the id of its task, which the next drain runs.

        Args:
            task: The task.
            schedule: Name of the schedule. None: the only one.
            at: Time of the tick. The same time again is the same tick, delivered twice. None: the schedule's last time
                up to :attr:`now`.

        Raises:
            KitError: the task has no such schedule, or has several and no name is given.
        """
        found = _schedule(task, schedule)
        return self._send_tick(task, found, found.previous(self.now) if at is None else at)

    # --- Faults ----------------------------------------------------------------------------------------------------

    def duplicate(
        self, task: Task[Any, Any] | None = None, *, while_running: bool = False, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """Arm a fault: SQS delivers a message twice. The second delivery comes after the run or during it.

        Args:
            task: Task whose messages it concerns. None: all tasks.
            while_running: True: the second delivery comes during the run, to another process.
            times: Number of times that it happens.
        """
        kind = FaultKind.DUPLICATE_WHILE_RUNNING if while_running else FaultKind.DUPLICATE
        return self._faults.armed(kind, task, times)

    def crash_before_commit(
        self, task: Task[Any, Any] | None = None, *, commit: int | None = None, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """Arm a fault: the process is killed before it commits the end of a run. The work of the run is lost.

        Args:
            task: Task whose runs it concerns. None: all tasks.
            commit: Number of the commit within the run, from 1, for steps, and for loops over ``ctx.each`` and
                ``ctx.resume``. None: the last one.
            times: Number of times that it happens.
        """
        return self._faults.armed(FaultKind.CRASH_BEFORE_COMMIT, task, times, commit)

    def crash_after_commit(
        self, task: Task[Any, Any] | None = None, *, commit: int | None = None, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """Arm a fault: the process is killed after it commits. The work is kept, and its message is delivered again.

        Args:
            task: Task whose runs it concerns. None: all tasks.
            commit: Number of the commit within the run, from 1. None: the last one.
            times: Number of times that it happens.
        """
        return self._faults.armed(FaultKind.CRASH_AFTER_COMMIT, task, times, commit)

    def cancel_at_check(
        self, task: Task[Any, Any] | None = None, *, check: int = 1, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """Arm a fault: an operator cancels a task while it runs, just before the run checks for it.

        Each call of ``ctx.check`` and ``ctx.progress`` is a check, and so is the end of each item of ``ctx.each`` and
        of each chunk of ``ctx.resume``, and the start of each step of ``ctx.step`` that is not done yet. The run ends
        there with :class:`TaskCancelled`.

        Args:
            task: Task whose runs it concerns. None: all tasks.
            check: Number of the check within the run, from 1.
            times: Number of runs in which it happens.
        """
        return self._faults.armed(FaultKind.CANCEL_AT_CHECK, task, times, check)

    def late_acknowledgement(
        self, task: Task[Any, Any] | None = None, *, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """Arm a fault: a process stands still between claim and handler until its lease and visibility timeout expire.

        Another process gets the message and runs it. Then the first one continues, too late to commit.

        Args:
            task: Task whose runs it concerns. None: all tasks.
            times: Number of times that it happens.
        """
        return self._faults.armed(FaultKind.LATE_ACKNOWLEDGEMENT, task, times)


def _time_of(name: str, value: timedelta) -> timedelta:
    if not isinstance(value, timedelta):
        seconds = f"; write timedelta(seconds={value})" if isinstance(value, (int, float)) else ""
        raise TypeError(f"{name}: a timedelta is required, not {type(value).__name__}{seconds}")
    return value


def _schedule(task: Task[Any, Any], name: str | None) -> Schedule:
    """Return the schedule of that name, or the only one. Raises :class:`KitError`."""
    names = [str(schedule.name) for schedule in task.schedules]
    if name is None and len(names) == 1:
        name = names[0]
    for schedule in task.schedules:
        if schedule.name == name:
            return schedule
    has = f"it has {', '.join(map(repr, names))}" if names else "it has none"
    raise KitError(f"schedule: {task.type!r} has no such schedule; {has}" if name else f"schedule: name one; {has}")
