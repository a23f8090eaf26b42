"""Lambda's part: handing the messages of a lane to the function that serves it, and deleting those it is done with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any

from joblane.context import TaskContext
from joblane.declaration import Task
from joblane.discovery import load
from joblane.errors import DeclarationError, JobError
from joblane.queues import Queue, lane_name
from joblane.record.database import Database
from joblane.sqs.message import decode
from joblane.sqs.tick import tick_id
from joblane.testing.errors import Killed, KitError
from joblane.testing.faults import Faults, Guillotine, Kind
from joblane.testing.process import LambdaContext, alarm_kept
from joblane.testing.queues import MemoryQueues, QueuedMessage
from joblane.testing.report import Deliveries
from joblane.worker.worker import Worker


class Known:
    """The tasks whose messages can be delivered, by every type they go by."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task[Any, Any]] = {}

    def learn(self, task: Task[Any, Any]) -> None:
        self.tasks[task.type] = task
        if task.archived_to is not None and not isinstance(task.archived_to, str):
            self.tasks.setdefault(task.archived_to.type, task.archived_to)

    def get(self, type_: str) -> Task[Any, Any]:
        """One that was met in this test, else the one in the folder of its name. Raises :class:`KitError`."""
        for task in self.tasks.values():
            if type_ in task.types:
                return task
        packages = {task.function.__module__.split(".")[0] for task in self.tasks.values()}
        for package in sorted({*packages, "functions"}):
            with suppress(DeclarationError, ModuleNotFoundError):
                self.learn(task := load(type_, package))
                return task
        raise KitError(f"no task of the type {type_!r} is known; if there is one, jobs.register(…) it")


class Lanes:
    """All lanes of one test.

    ``url``, ``prefix``: of the record, and of names. ``invocation``: how long one may take; None: as long as the
    task's function has on AWS. ``stand_still``: lets that much time pass.
    """

    def __init__(
        self, url: str, prefix: str, queues: MemoryQueues, faults: Faults, stand_still: Callable[[timedelta], object]
    ) -> None:
        self.known = Known()
        self.invocation: timedelta | None = None
        self.guillotine = Guillotine(url, faults)
        self.kept: dict[str, tuple[Any, BaseException | None]] = {}
        """By task id, what a handler returned or raised: of the ids that are there already."""
        self._url = url
        self._prefix = prefix
        self._queues = queues
        self._faults = faults
        self._stand_still = stand_still
        self._numbers = itertools.count(1)
        self._context: TaskContext | None = None

    def close(self) -> None:
        self.guillotine.database.drop()

    def lane(self, task: Task[Any, Any], queue: Queue | None = None) -> str:
        return lane_name(self._prefix, queue or task.queue, task.type)

    def deliver_due(self, seen: Deliveries, now: float) -> bool:
        """Receive and handle what can be seen first. False where nothing can."""
        found = self._queues.next_lane()
        if found is None or found[1] > now:
            return False
        task = self._task_of(found[0])
        numbers = task.numbers
        batch = self._queues.receive(
            found[0], task.batch_size, numbers.visibility.total_seconds(), numbers.max_receive_count
        )
        if batch:
            self.deliver(task, batch, seen)
        return True

    def deliver(self, task: Task[Any, Any], batch: Sequence[QueuedMessage], seen: Deliveries) -> None:
        """Invoke the task's function with messages that were received."""
        seen.invocations += 1
        self._context = None
        self.guillotine.watch(task.type)
        try:
            self._handle(task, self.guillotine.database, batch)
        except Killed:
            seen.killed += 1
            self._bury_process()
        finally:
            self.guillotine.release()
        if (fault := self._faults.find(task.type, Kind.DUPLICATE)) is not None:
            fault.strikes()
            self._handle_copy(task, batch)
        seen.saw(self._ids(task, batch))

    def _handle(self, task: Task[Any, Any], database: Database, batch: Sequence[QueuedMessage]) -> None:
        """One invocation of a function's process, and its acknowledgements."""
        answer = self._invoke(task, database, batch, [held.record() for held in batch])
        kept = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        for held in batch:
            if held.message_id not in kept:
                self._queues.delete(held)

    def _handle_copy(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> None:
        """The same messages once more, in another process. What it says of them finds nothing to act on."""
        with Database(self._url) as database:  # another process's
            self._invoke(task, database, batch, [held.record(receipt="a copy's") for held in batch])

    def _invoke(
        self, task: Task[Any, Any], database: Database, batch: Sequence[QueuedMessage], records: list[dict[str, Any]]
    ) -> dict[str, list[dict[str, str]]]:
        worker = Worker(self._watched(task, batch), database, self._queues, self._prefix)
        seconds = (self.invocation or task.numbers.function_timeout).total_seconds()
        with alarm_kept():
            return worker.handle({"Records": records}, LambdaContext(seconds, next(self._numbers)))

    def _watched(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> Task[Any, Any]:
        """The task, with the test's eyes and faults around its function."""

        @wraps(task.function)
        def function(payload: Any, ctx: TaskContext) -> Any:
            self._before(task, batch)
            self._context = ctx
            try:
                result = task.function(payload, ctx)
            except BaseException as error:
                if ctx.task_id in self.kept:
                    self.kept[ctx.task_id] = (None, error)
                raise
            if ctx.task_id in self.kept:
                self.kept[ctx.task_id] = (result, None)
            return result

        return replace(task, function=function)

    def _before(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> None:
        """What happens between the claim and the handler's first line."""
        if (fault := self._faults.find(task.type, Kind.DUPLICATE_WHILE_RUNNING)) is not None:
            fault.strikes()
            self._handle_copy(task, batch)
        if (fault := self._faults.find(task.type, Kind.LATE)) is not None:
            fault.strikes()
            self._stand_still(task.numbers.visibility)
            with Database(self._url) as database:  # another process's
                for held in batch:
                    self._queues.take(held, task.numbers.visibility.total_seconds())
                self._handle(task, database, batch)

    def _bury_process(self) -> None:
        """Forget the killed one's session and connections, so that no later test meets what is left of them."""
        context, self._context = self._context, None
        if context is not None:
            if context._work.touched:
                with suppress(Exception, Killed):
                    context.session.invalidate()
            context.close()
        self.guillotine.database.drop()

    def _task_of(self, lane: str) -> Task[Any, Any]:
        for task in self.known.tasks.values():
            if lane in self._lanes(task):
                return task
        task = self.known.get(decode(self._queues.peek(lane).entry.body).type)
        if lane not in self._lanes(task):
            raise KitError(f"a message of {task.type!r} is in {lane!r}, which is no lane of it")
        return task

    def _lanes(self, task: Task[Any, Any]) -> list[str]:
        return [lane_name(self._prefix, queue, type_) for type_ in task.types for queue in task.lanes]

    def _ids(self, task: Task[Any, Any], batch: Iterable[QueuedMessage]) -> list[str]:
        ids = []
        for held in batch:
            with suppress(JobError):
                message = decode(held.entry.body)
                tick = message.tick
                ids.append(tick_id(task, tick, held.sent_at) if tick else message.id or held.message_id)
        return ids
