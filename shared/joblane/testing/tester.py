"""The tester: what a test of jobs holds in its hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from joblane import settings
from joblane.client import Enqueued, JobClient
from joblane.context import TaskContext
from joblane.declaration import Task
from joblane.errors import UnknownTaskError
from joblane.job import JobOptions
from joblane.maintenance.sweep import sweep
from joblane.payload import Payload
from joblane.queues import Queue, check_prefix
from joblane.record import task_types as registry
from joblane.record.database import Database
from joblane.record.states import LIVE, State, in_sql
from joblane.schedule import Schedule
from joblane.sqs.client import Entry
from joblane.sqs.message import Message
from joblane.sqs.tick import id_of, tick_entry
from joblane.testing import clock, report
from joblane.testing.clock import Clock
from joblane.testing.context import run_context
from joblane.testing.enqueued import Captured, EnqueuedTask, read
from joblane.testing.errors import KitError
from joblane.testing.faults import Fault, Faults, Kind
from joblane.testing.lanes import Lanes
from joblane.testing.process import alarm_kept, diverted
from joblane.testing.queues import DeadLetter, MemoryQueues, QueuedMessage
from joblane.testing.report import CrashedError, Deliveries, DrainReport, NotRunError, TaskReport

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

P = TypeVar("P", bound="Payload")
R = TypeVar("R")
LIMIT = 1_000
"""Invocations of one drain."""
NEXT_SWEEP = f"""
select extract(epoch from min(sweep_at) - clock_timestamp())::float8 from joblane.tasks
 where state in {in_sql(LIVE | {State.ARCHIVED})}
"""


class JobTester:
    """Jobs without AWS: the real client, worker and sweep over a migrated database and queues in memory.

    Inside of ``with``, every :class:`JobClient` of the process enqueues here. ``ageless``: names of tables whose times
    stay as they are when time passes. ``invocation``: how long one may take; None: as the function has on AWS.
    """

    def __init__(self, url: str) -> None:
        """``url``: of a migrated database that the test has for itself."""
        self.url = url
        self.ageless: set[str] = {"alembic_version"}
        self.client = JobClient()
        self._prefix = check_prefix(settings.prefix())
        self._clock = Clock()
        self._queues = MemoryQueues(self._clock)
        self._faults = Faults()
        self._lanes = Lanes(url, self._prefix, self._queues, self._faults, self.travel)
        self._database = Database(url)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(diverted(self.url, self._queues, self._lanes.known.learn))
        self._since = Captured(self._enqueued, self._lanes.known.get)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._lanes.close()
        self._database.drop()
        if "engine" in self.__dict__:
            self.engine.dispose()

    @property
    def invocation(self) -> timedelta | None:
        return self._lanes.invocation

    @invocation.setter
    def invocation(self, value: timedelta | None) -> None:
        self._lanes.invocation = value

    # --- The application's side ------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> Engine:
        """For the test's own sessions: a connection for each, none kept."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        return create_engine("postgresql+pg8000://", creator=lambda: Database(self.url).get(), poolclass=NullPool)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session whose work commits at the end of the block."""
        from sqlalchemy.orm import Session

        with Session(self.engine) as session, session.begin():
            yield session

    def register(self, *tasks: Task[Any, Any]) -> None:
        """Make tasks known: for ticks, for messages of tasks that were not enqueued here, and for producers in SQL."""
        for task in tasks:
            self._lanes.known.learn(task)
        registry.register(self._database.get(), self._lanes.known.tasks)

    def enqueue(
        self, task: Task[P, Any], payload: P, *, session: Session | None = None, **options: Unpack[JobOptions]
    ) -> Enqueued:
        """As :meth:`JobClient.enqueue`."""
        return self.client.enqueue(task, payload, session=session, **options)

    # --- Running ---------------------------------------------------------------------------------------------------

    def run(self, task: Task[P, R], payload: P, **options: Unpack[JobOptions]) -> R:
        """Enqueue a task and run it once, at once and alone. Returns what its handler returns.

        Raises what the handler raises, after that was recorded as in production: an attempt may be left.
        Raises :class:`NotRunError` where it has not completed for another reason, :class:`CrashedError` after a fault.
        """
        id_, held = self._due(task, payload, options)
        self._lanes.kept[id_] = (None, None)
        seen = Deliveries(self._database)
        self._lanes.deliver(task, [held], seen)
        result, error = self._lanes.kept.pop(id_)
        if seen.killed:
            raise CrashedError(self.task(id_))
        if error is not None:
            raise error
        if (ended := self.task(id_)).state is not State.COMPLETED:
            raise NotRunError(ended)
        return result  # type: ignore[no-any-return]

    def drain(self, *, limit: int = LIMIT, within: timedelta | None = None) -> DrainReport:
        """Run everything that is due, and what comes of it, until nothing is. Errors are in the report.

        ``within``: also what becomes due until then; time passes for it as far as it has to. ``limit``: invocations.

        Raises :class:`KitError` where more than ``limit`` are wanted.
        """
        seen = Deliveries(self._database)
        self._go_on(seen, limit, within or timedelta(0), ())
        return seen.report()

    @contextmanager
    def context(self, task: Task[P, Any], payload: P, **options: Unpack[JobOptions]) -> Iterator[TaskContext]:
        """A running task's context, to call a function with: ``task(payload, ctx)``, or one of its helpers.

        At the end of the block the task completes and its work commits; an exception rolls it back and goes on. So
        does the end itself, with :class:`~joblane.errors.TaskCancelled` for a task that was cancelled meanwhile and
        :class:`~joblane.errors.LeaseLostError` for one that another run has taken over. The timeout interrupts
        nothing here: ``ctx.deadline`` and ``ctx.remaining()`` tell of it, :meth:`run` keeps it.
        """
        id_, held = self._due(task, payload, options)
        self._queues.delete(held)
        with alarm_kept(), Database(self.url) as own, run_context(own, task, id_, self._queues, self._prefix) as ctx:
            yield ctx

    def _due(self, task: Task[P, Any], payload: P, options: JobOptions) -> tuple[str, QueuedMessage]:
        """Enqueue a task as due now. Its id, and its message, received; one that is sent later is sent now."""
        made = self.enqueue(task, payload, **options)
        self._database.get().run("update joblane.tasks set due_at = clock_timestamp() where id = $1", made.id)
        if (held := self._queues.find(made.id)) is None:
            self._queues.send(Entry(self._lanes.lane(task, made.queue), Message(task.type, made.id, rec=True).encode()))
            held = self._queues.find(made.id)
        assert held is not None
        return made.id, self._queues.take(held, task.numbers.visibility.total_seconds())

    # --- Looking ---------------------------------------------------------------------------------------------------

    def task(self, task_id: str) -> TaskReport:
        """How a task stands. Raises :class:`~joblane.errors.UnknownTaskError`."""
        found = report.reports(self._database.get(), [task_id])
        if not found:
            raise UnknownTaskError(task_id)
        return found[0]

    def enqueued(self, task: Task[Any, Any] | str | None = None) -> list[EnqueuedTask]:
        """What was enqueued since the test began, of one type or all, in order; what has run since, too."""
        return self._since.enqueued(task)

    def assert_enqueued(
        self,
        task: Task[Any, Any] | str,
        payload: Payload | Mapping[str, Any] | None = None,
        **wanted: Any,
    ) -> list[EnqueuedTask]:
        """As :meth:`Captured.assert_enqueued`, over all that was enqueued since the test began."""
        __tracebackhide__ = True
        return self._since.assert_enqueued(task, payload, **wanted)

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        """What is enqueued inside of the block: to look at there, and afterwards as it was at the block's end."""
        captured = Captured(self._enqueued, self._lanes.known.get)
        try:
            yield captured
        finally:
            captured.close()

    def dead_letters(self, task: Task[Any, Any], queue: Queue | None = None) -> list[DeadLetter]:
        """The dead letters of a task's lane, its home lane by default."""
        return self._queues.dead_letters(self._lanes.lane(task, queue))

    def redrive(self, task: Task[Any, Any], queue: Queue | None = None) -> int:
        """Send a lane's dead letters back to it. Returns how many there were."""
        return self._queues.redrive(self._lanes.lane(task, queue))

    def _enqueued(self) -> list[EnqueuedTask]:
        return read(self._database.get(), self._queues.sent, self._prefix)

    # --- Time ------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """Where the test is in time, for :meth:`at` and :meth:`tick`; aware.

        Your code's clock stands still, see :mod:`joblane.testing.clock`: a time that is given to your code or to
        an enqueue is of that clock, ``datetime.now(UTC) + …``.
        """
        return self._clock.now()

    def travel(self, by: timedelta, *, ticks: bool = False) -> DrainReport:
        """Let time pass. Nothing runs, unless ``ticks``: then everything that becomes due on the way runs at its time,
        and so do the ticks of all tasks this test knows (see :meth:`register`).

        Raises :class:`KitError` where a time in the database cannot be moved.
        """
        if by < timedelta(0):
            raise ValueError("travel: time only passes")
        seen, ends = Deliveries(self._database), self._clock.now() + by
        if ticks:
            known = list(self._lanes.known.tasks.values())
            self._go_on(seen, LIMIT, by, [(task, schedule) for task in known for schedule in task.schedules])
        if (left := ends - self._clock.now()) > timedelta(0):
            self._pass(by if not ticks else left)
        return seen.report()

    def at(self, moment: datetime, *, ticks: bool = False) -> DrainReport:
        """Travel to ``moment``, an aware time that is ahead of :attr:`now`."""
        return self.travel(moment - self.now, ticks=ticks)

    def tick(self, task: Task[Any, Any], schedule: str | None = None, *, at: datetime | None = None) -> str:
        """Send a schedule's tick, as EventBridge does. Returns the id of its task, which the next drain runs.

        ``schedule``: its name, where the task has several. ``at``: the time it is for, by default the schedule's last
        one up to :attr:`now`; the same time again is the same tick delivered twice.
        """
        self._lanes.known.learn(task)
        found = _schedule(task, schedule)
        moment = found.previous(self.now) if at is None else at
        self._queues.send(tick_entry(self._prefix, task, found, moment))
        return id_of(task.type, found.name, moment)

    def _pass(self, by: timedelta) -> None:
        clock.age(self._database.get(), by, self.ageless)
        self._clock.travelled += by

    def _go_on(
        self, seen: Deliveries, limit: int, within: timedelta, schedules: Sequence[tuple[Task[Any, Any], Schedule]]
    ) -> None:
        """From one moment at which something is due to the next, until ``within`` has passed."""
        ends = self._clock.now() + within
        next_ticks = [schedule.next_after(self._clock.now()) for _, schedule in schedules]
        while True:
            self._run_due(seen, limit)
            moments = [moment for moment in self._next_moments() if moment <= ends + clock.WHOLE_SECOND]
            moments += [tick for tick in next_ticks if tick <= ends]
            if not moments:
                return
            if (gap := min(moments) - self._clock.now()) > timedelta(0):
                self._pass(gap + clock.FINEST)
            for position, (task, schedule) in enumerate(schedules):
                if next_ticks[position] <= min(self._clock.now(), ends):
                    self.tick(task, schedule.name, at=next_ticks[position])
                    next_ticks[position] = schedule.next_after(next_ticks[position])

    def _run_due(self, seen: Deliveries, limit: int) -> None:
        """What the queues hold, and then what a sweep finds, until neither has anything."""
        while True:
            while self._lanes.deliver_due(seen, self._clock.seconds()):
                if seen.invocations > limit:
                    stands = seen.report()
                    raise KitError(f"more than {limit} invocations, and still not done; the last tasks:\n{stands}")
            swept = sweep(self._database.get(), self._queues, self._prefix)
            if not swept.sent:
                return

    def _next_moments(self) -> list[datetime]:
        """When the queues, and the sweep, next have something to do."""
        seconds = self._database.get().run(NEXT_SWEEP)[0][0]
        moments = [] if seconds is None else [self._clock.now() + timedelta(seconds=seconds)]
        if (waiting := self._queues.next_lane()) is not None:
            moments.append(self._clock.now() + timedelta(seconds=waiting[1] - self._clock.seconds()))
        return moments

    # --- Faults ----------------------------------------------------------------------------------------------------

    def duplicate(
        self, task: Task[Any, Any] | None = None, *, while_running: bool = False, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """SQS delivers a message twice: again after the run, or to another process while it is under way."""
        kind = Kind.DUPLICATE_WHILE_RUNNING if while_running else Kind.DUPLICATE
        return self._faults.armed(kind, task, times)

    def crash_before_commit(
        self, task: Task[Any, Any] | None = None, *, commit: int | None = None, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """The process is killed as it is about to commit the end of a run: its work is lost, nobody hears of it.

        ``commit``: which of the run's commits, from 1, where the handler loops over ``ctx.each`` or ``ctx.resume``.
        """
        return self._faults.armed(Kind.CRASH_BEFORE_COMMIT, task, times, commit)

    def crash_after_commit(
        self, task: Task[Any, Any] | None = None, *, commit: int | None = None, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """The process is killed after that commit: the work is done, and its message comes back all the same."""
        return self._faults.armed(Kind.CRASH_AFTER_COMMIT, task, times, commit)

    def late_acknowledgement(
        self, task: Task[Any, Any] | None = None, *, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """A process stands still between claim and handler until lease and visibility are over.

        Another process gets the message and runs it; then the first one goes on, too late for anything it writes.
        """
        return self._faults.armed(Kind.LATE, task, times)


def _schedule(task: Task[Any, Any], name: str | None) -> Schedule:
    """The one of that name, or the only one. Raises :class:`KitError`."""
    names = [str(schedule.name) for schedule in task.schedules]
    if name is None and len(names) == 1:
        name = names[0]
    for schedule in task.schedules:
        if schedule.name == name:
            return schedule
    has = f"it has {', '.join(map(repr, names))}" if names else "it has none"
    raise KitError(f"schedule: {task.type!r} has no such schedule; {has}" if name else f"schedule: name one; {has}")
