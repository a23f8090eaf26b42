"""The stage of a test: its database, its queues in memory, and its clock. It delivers what is due."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from joblane import settings, telemetry
from joblane.client.client import JobClient
from joblane.handler.resources import close_resources
from joblane.local.memory_queues import QueuedMessage
from joblane.names import check_prefix
from joblane.record import task_types as registry
from joblane.record.driver.database import Database
from joblane.record.row.states import LIVE, State, in_sql
from joblane.sqs.client import Entry
from joblane.sqs.message import Message
from joblane.sqs.tick import id_of, tick_entry
from joblane.sweep.sweep import sweep
from joblane.sweep.ticks import make_ticks
from joblane.tasks.job import JobOptions
from joblane.tasks.payload import Payload
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task
from joblane.testing import clock
from joblane.testing.clock import Clock
from joblane.testing.enqueued import Captured, EnqueuedTask, read
from joblane.testing.errors import KitError
from joblane.testing.faults import Faults
from joblane.testing.lanes import Lanes
from joblane.testing.process import Running, diverted, signal_settings
from joblane.testing.queues import CapturingBus, KitQueues
from joblane.testing.report import Deliveries

P = TypeVar("P", bound="Payload")
LIMIT = 1_000
"""Invocations of one drain."""
NEXT_SWEEP = f"""
select extract(epoch from min(at) - clock_timestamp())::float8
  from (select sweep_at from joblane.tasks
         where (finished_at is null or dead_letter_unsent) and state in {in_sql(LIVE | {State.ARCHIVED})}
        union all select until from joblane.pauses
        union all select until from joblane.limit_changes
        union all select next_at from joblane.schedules
         where origin = 'run_time' and (paused_at is null or paused_until is not null)) as next(at)
 where at > clock_timestamp()
"""
"""A task that is due for longer waits for the end of a pause, for a limit, or for its message."""


class Stage:
    """The stage that :class:`JobTester` shows to a test."""

    url: str
    """Address of the test's database."""
    ageless: set[str]
    """Names of the tables that :meth:`travel` leaves unchanged."""
    client: JobClient
    """A client."""

    def __init__(self, url: str) -> None:
        """Make a tester. The fixture ``jobs`` does so.

        Args:
            url: Address of a migrated database that no other test uses.
        """
        self.url = url
        self.ageless = {"alembic_version"}
        self.client = JobClient()
        self._prefix = check_prefix(settings.prefix())
        self._clock = Clock()
        self._queues = KitQueues(self._clock)
        self._faults = Faults()
        self._bus = CapturingBus(self._prefix)
        self._lanes = Lanes(url, self._prefix, self._queues, self._faults, self._pass, bus=self._bus)
        self._database = Database(url)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(signal_settings())
        self._stack.enter_context(telemetry.Quiet())
        self._stack.enter_context(diverted(self.url, self._queues, self._clock, self._know))
        self._since = Captured(self._enqueued, self._lanes.known.get)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        close_resources()
        self._lanes.close()
        self._database.close()

    def _know(self, task: Task[Any, Any]) -> None:
        """Make a task known. Its limits hold from now on, as after `joblane migrate`."""
        is_new = task.type not in self._lanes.known.tasks
        self._lanes.known.add(task)
        if is_new and task.flow is not None:
            registry.register_limits(self._database.get(), self._lanes.known.tasks)

    def _running(self, own: Database, task: Task[P, Any], payload: P, options: JobOptions) -> Running:
        id_, message = self._due(task, payload, options)
        self._queues.delete(message)
        return Running.claimed(own, task, id_, self._queues, self._prefix)

    def _due(self, task: Task[P, Any], payload: P, options: JobOptions) -> tuple[str, QueuedMessage]:
        """Enqueue a task and make it due now. Return its id and its message, received."""
        enqueued = self.client.enqueue(task, payload, **options)
        self._database.get().run("update joblane.tasks set due_at = clock_timestamp() where id = $1", enqueued.id)
        if (message := self._queues.find(enqueued.id)) is None:
            body = Message(task.type, enqueued.id, rec=True).encode()
            self._queues.send(Entry(self._lanes.lane(task, enqueued.queue), body))
            message = self._queues.find(enqueued.id)
        assert message is not None
        return enqueued.id, self._queues.take(message, task.numbers.visibility.total_seconds())

    def _enqueued(self) -> list[EnqueuedTask]:
        return read(self._database.get(), self._queues.sent, self._prefix)

    def _send_tick(self, task: Task[Any, Any], schedule: Schedule, moment: datetime) -> str:
        """Send a tick as EventBridge does, and return the id of its task."""
        self._know(task)
        self._queues.send(tick_entry(self._prefix, task, schedule, moment), sent_at=moment.timestamp())
        return id_of(task.type, str(schedule.name), moment)

    def _pass(self, by: timedelta) -> None:
        clock.age(self._database.get(), by, self.ageless)
        self._clock.travelled += by

    def _advance(
        self,
        deliveries: Deliveries,
        limit: int,
        within: timedelta,
        schedules: Sequence[tuple[Task[Any, Any], Schedule]],
    ) -> None:
        """Run what is due, and travel to the next time at which a message or tick is due, and stop after ``within``."""
        ends = self._clock.now() + within
        next_ticks = [schedule.next_after(self._clock.now()) for _, schedule in schedules]
        while True:
            self._run_due(deliveries, limit)
            moments = [moment for moment in self._next_moments() if moment <= ends + clock.WHOLE_SECOND]
            moments += [tick for tick in next_ticks if tick <= ends]
            if not moments:
                return
            if (gap := min(moments) - self._clock.now()) > timedelta(0):
                self._pass(gap + clock.FINEST)
            for position, (task, schedule) in enumerate(schedules):
                if next_ticks[position] <= min(self._clock.now(), ends):
                    self._send_tick(task, schedule, next_ticks[position])
                    next_ticks[position] = schedule.next_after(next_ticks[position])

    def _run_due(self, deliveries: Deliveries, limit: int) -> None:
        """Deliver the visible messages, then sweep, until neither finds any."""
        while True:
            while self._lanes.deliver_due(deliveries, self._clock.seconds()):
                if deliveries.invocations > limit:
                    tasks = deliveries.report()
                    raise KitError(f"tasks are still due after {limit} invocations. The delivered tasks:\n{tasks}")
            with deliveries.releasing(()):
                make_ticks(self._database.get(), self._lanes.known.find, self._prefix)
                swept = sweep(self._database.get(), self._queues, self._prefix, bus=self._bus)
                self._bus.take_all(self._database.get())
            if swept.failed:
                raise KitError(f"duties of the sweep failed, as the log says: {', '.join(swept.failed)}")
            if not (swept.sent or swept.served or swept.released or swept.woken):
                return

    def _next_moments(self) -> list[datetime]:
        """Return the times at which the queues and the sweep have their next message."""
        seconds = self._database.get().run(NEXT_SWEEP)[0][0]
        moments = [] if seconds is None else [self._clock.now() + timedelta(seconds=seconds)]
        if (waiting := self._queues.next_lane()) is not None:
            moments.append(self._clock.now() + timedelta(seconds=waiting[1] - self._clock.seconds()))
        return moments
