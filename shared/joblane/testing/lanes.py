"""Lambda's role: it invokes the function of a lane with the messages, and deletes the acknowledged ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any

from joblane import telemetry
from joblane.enqueue.event_bus import EventBus
from joblane.errors import DeclarationError, JobError, Stopped
from joblane.handler.context import TaskContext, close_context, read_at_next_check, session_of
from joblane.local.chains import REFUSED, invocation_header
from joblane.local.memory_queues import QueuedMessage
from joblane.names import Queue, lane_name
from joblane.quotas import Numbers
from joblane.record.driver.database import Database
from joblane.record.row.transitions import CANCEL
from joblane.sqs.message import Received, decode
from joblane.sqs.tick import tick_id
from joblane.tasks.discovery import load
from joblane.tasks.places import lanes_of, numbers_of
from joblane.tasks.task import Task
from joblane.testing.errors import Killed, KitError
from joblane.testing.faults import FaultKind, Faults, Killer
from joblane.testing.process import alarm_restored, refuse_running_loop
from joblane.testing.queues import KitQueues
from joblane.testing.report import Deliveries
from joblane.worker.group import Group
from joblane.worker.invocation import Invocation
from joblane.worker.of_type import worker_of
from joblane.worker.sweep_worker import SweepWorker
from joblane.worker.worker import Worker


class KnownTasks:
    """The tasks whose messages can be delivered."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task[Any, Any]] = {}

    def add(self, task: Task[Any, Any]) -> None:
        """Make a task known. A task of `declare` has its function in its folder, if that is here."""
        if task.has_handler or task.type not in self.tasks:
            self.tasks[task.type] = task
        if task.archived_to is not None and not isinstance(task.archived_to, str):
            self.tasks.setdefault(task.archived_to.type, task.archived_to)

    def get(self, type_: str) -> Task[Any, Any]:
        """Return the task of a type or alias: a known task, or else the task in its folder.

        Raises :class:`KitError`.
        """
        known = next((task for task in self.tasks.values() if type_ in task.types), None)
        if known is not None and known.has_handler:
            return known
        packages = {task.function.__module__.split(".")[0] for task in self.tasks.values()}
        for package in sorted({*packages, "functions"}):
            with suppress(DeclarationError, ModuleNotFoundError):
                self.add(task := load(type_, package))
                return task
        if known is not None:
            return known
        raise KitError(f"no task of the type {type_!r} is known; if it exists, call jobs.register(…)")

    def find(self, type_: str) -> Task[Any, Any] | None:
        """Return the task of a type or alias as :meth:`get` does, or None."""
        with suppress(KitError):
            return self.get(type_)
        return None


class Lanes:
    """All lanes of one test.

    ``url``: the database. ``prefix``: the prefix of queue names. ``invocation``: the longest time of an invocation;
    None: the function's timeout on AWS. ``stand_still``: lets time pass. ``bus``: gets the events of tasks.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        queues: KitQueues,
        faults: Faults,
        stand_still: Callable[[timedelta], object],
        *,
        bus: EventBus,
    ) -> None:
        self.known = KnownTasks()
        self.invocation: timedelta | None = None
        self.killer = Killer(url, faults)
        self.results: dict[str, tuple[Any, BaseException | None]] = {}
        """Task id → the handler's return value and exception. Only ids that are in it already are recorded."""
        self._url = url
        self._prefix = prefix
        self._queues = queues
        self._faults = faults
        self._stand_still = stand_still
        self._bus = bus
        self._numbers = itertools.count(1)
        self._context: TaskContext | None = None

    def close(self) -> None:
        self.killer.database.close()

    def lane(self, task: Task[Any, Any], queue: Queue | None = None) -> str:
        return lane_name(self._prefix, queue or task.queue, task.type)

    def deliver_due(self, deliveries: Deliveries, now: float) -> bool:
        """Receive and handle the messages that are visible first. Return False if none is visible."""
        next_lane = self._queues.next_lane()
        if next_lane is None or next_lane[1] > now:
            return False
        lane = next_lane[0]
        task = self._task_of(lane)
        numbers = self._numbers_of(task)
        batch = self._queues.receive(
            lane, task.batch_size, numbers.visibility.total_seconds(), numbers.max_receive_count
        )
        if batch:
            self.deliver(task, batch, deliveries)
        return True

    def deliver(self, task: Task[Any, Any], batch: Sequence[QueuedMessage], deliveries: Deliveries) -> None:
        """Invoke the task's function with received messages."""
        task = task if task.has_handler else self.known.get(task.type)
        deliveries.invocations += 1
        self._context = None
        ids = self._ids(task, batch)
        with deliveries.releasing(ids):
            self.killer.start(task.type)
            try:
                self._handle(task, self.killer.database, batch)
            except Killed:
                deliveries.killed += 1
                self._clean_up_process()
            finally:
                self.killer.end()
            if (fault := self._faults.find(task.type, FaultKind.DUPLICATE)) is not None:
                fault.strikes()
                self._handle_copy(task, batch)
        deliveries.add(ids)

    def _handle(self, task: Task[Any, Any], database: Database, batch: Sequence[QueuedMessage]) -> None:
        """Invoke the function in a process, and delete the messages that it acknowledges."""
        kept = self._invoke(task, database, batch, [message.received() for message in batch])
        self._queues.delete_handled(batch, kept)

    def _handle_copy(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> None:
        """Deliver the same messages to another process, with receipts for which its response has no effect."""
        with Database(self._url) as database:  # the other process's
            self._invoke(task, database, batch, [replace(each.received(), receipt="a copy's") for each in batch])

    def _invoke(
        self, task: Task[Any, Any], database: Database, batch: Sequence[QueuedMessage], deliveries: Sequence[Received]
    ) -> list[str]:
        """Return the ids of the messages that stay in the queue."""
        if task.is_async:
            refuse_running_loop()
        outer, traces = self._queues.trace, [message.trace for message in batch]
        function = task.type if task.place is None else task.place.name
        allows_loops = any(each.allows_loops for each in self._members_of(task))
        trace = invocation_header(function, traces, allows_loops=allows_loops)
        if trace is None:
            telemetry.logger().error(REFUSED.format(function=function), extra={"task_ids": self._ids(task, batch)})
            return [message.message_id for message in batch]
        worker = self._worker_of(task, batch, database)
        seconds = (self.invocation or self._numbers_of(task).function_timeout).total_seconds()
        invocation = Invocation(f"00000000-0000-4000-8000-{next(self._numbers):012}", seconds)
        self._queues.trace = trace
        try:
            with alarm_restored():
                return worker.handle(deliveries, invocation).kept
        finally:
            self._queues.trace = outer

    def _worker_of(
        self, task: Task[Any, Any], batch: Sequence[QueuedMessage], database: Database
    ) -> Worker | SweepWorker | Group:
        """Return what the function of the task, or of its place, has."""
        if task.place is None:
            return worker_of(self._instrumented(task, batch), database, self._queues, self._prefix, bus=self._bus)
        side = database.another()

        def worker(kind: type[Worker], member: Task[Any, Any]) -> Worker:
            self.killer.start(member.type)
            made = self._instrumented(member, batch)
            return kind(made, database, self._queues, self._prefix, bus=self._bus, side=side)

        types = {name: member.type for member in self._members_of(task) for name in member.types}
        aliases = {name: known.type for known in self.known.tasks.values() for name in known.aliases}
        return Group(types, self._queues, self._prefix, aliases=aliases, load=self.known.get, worker=worker)

    def _members_of(self, task: Task[Any, Any]) -> list[Task[Any, Any]]:
        """Return the known tasks that share the function of a task."""
        if task.place is None:
            return [task]
        return [member for member in self.known.tasks.values() if member.place == task.place]

    def _numbers_of(self, task: Task[Any, Any]) -> Numbers:
        return task.numbers if task.place is None else numbers_of(task.place, self._members_of(task))

    def _instrumented(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> Task[Any, Any]:
        """Return the task with a function that causes the test's faults and records the result."""

        @wraps(task.function)
        def function(payload: Any, ctx: TaskContext) -> Any:
            self._before(task, batch)
            self._context = ctx
            self._cancel_at_check(task, ctx)
            if task.is_async:
                return awaited(payload, ctx)
            with self._recorded(ctx) as result:
                result.append(task.function(payload, ctx))
            return result[0]

        async def awaited(payload: Any, ctx: TaskContext) -> Any:
            with self._recorded(ctx) as result:
                result.append(await task.function(payload, ctx))
            return result[0]

        made = replace(task, function=function)
        made.__dict__["is_async"] = task.is_async
        return made

    @contextmanager
    def _recorded(self, ctx: TaskContext) -> Iterator[list[Any]]:
        """Record the result that the block appends to the list, or its error."""
        result: list[Any] = []
        try:
            yield result
        except BaseException as error:
            if ctx.task_id in self.results and not isinstance(error, Stopped):
                self.results[ctx.task_id] = (None, error)
            raise
        if ctx.task_id in self.results:
            self.results[ctx.task_id] = (result[0], None)

    def _cancel_at_check(self, task: Task[Any, Any], ctx: TaskContext) -> None:
        """Cancel the task at the check that a fault names, if one is armed."""
        fault = self._faults.find(task.type, FaultKind.CANCEL_AT_CHECK)
        if fault is None:
            return
        checks = itertools.count(1)

        def cancelling(check: Callable[..., None]) -> Callable[..., None]:
            @wraps(check)
            def counted(*arguments: Any, **named: Any) -> None:
                if next(checks) == fault.number and fault.left:
                    fault.strikes()
                    with Database(self._url) as database:  # the operator's
                        database.get().run(CANCEL, ctx.task_id)
                    read_at_next_check(ctx)
                check(*arguments, **named)

            return counted

        vars(ctx).update(check=cancelling(ctx.check), progress=cancelling(ctx.progress))

    def _before(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> None:
        """Cause the faults between the claim and the handler's first line."""
        if (fault := self._faults.find(task.type, FaultKind.DUPLICATE_WHILE_RUNNING)) is not None:
            fault.strikes()
            self._handle_copy(task, batch)
        if (fault := self._faults.find(task.type, FaultKind.LATE_ACKNOWLEDGEMENT)) is not None:
            fault.strikes()
            visibility = self._numbers_of(task).visibility
            self._stand_still(visibility)
            with Database(self._url) as database:  # another process's
                for message in batch:
                    self._queues.take(message, visibility.total_seconds())
                self._handle(task, database, batch)

    def _clean_up_process(self) -> None:
        """Discard the session and the connections of the killed process, so that they do not affect a later test."""
        context, self._context = self._context, None
        if context is not None:
            with suppress(Exception, Killed):
                session_of(context).undo(interrupted=True)
            close_context(context)
        self.killer.database.drop()

    def _task_of(self, lane: str) -> Task[Any, Any]:
        for task in self.known.tasks.values():
            if lane in self._lanes(task):
                return task
        task = self.known.get(decode(self._queues.peek(lane).entry.body).type)
        if lane not in self._lanes(task):
            raise KitError(f"a message of {task.type!r} is in {lane!r}, which is not a lane of this type")
        return task

    def _lanes(self, task: Task[Any, Any]) -> list[str]:
        return lanes_of(self._prefix, task)

    def _ids(self, task: Task[Any, Any], batch: Iterable[QueuedMessage]) -> list[str]:
        ids = []
        for queued in batch:
            with suppress(JobError):
                message = decode(queued.entry.body)
                tick = message.tick
                of = task if message.type in task.types else self.known.get(message.type)
                id_ = tick_id(of, message.type, tick, queued.sent_at) if tick else message.id
                ids.append(id_ or queued.message_id)
        return ids
