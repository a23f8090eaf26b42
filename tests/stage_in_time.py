"""A stage in virtual time: real PostgreSQL, queues in memory, and the functions that Lambda would invoke.

Time passes as in the test kit: the queues have a clock that jumps, and all times in the database become older.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self

import pytest

from joblane import TaskContext
from joblane.client.client import JobClient
from joblane.enqueue.wake import GRID_SECONDS, PLANNED
from joblane.functions.jobs_sweep import handler as sweep_handler
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.local.memory_queues import DEAD_LETTERS, MemoryQueues, QueuedMessage
from joblane.names import lane_name
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry
from joblane.sqs.message import decode
from joblane.sqs.tick import tick_entry
from joblane.sweep.sweep import sweep
from joblane.tasks.task import Task
from joblane.testing.clock import Clock, age
from joblane.worker.of_type import worker_of
from joblane.worker.sweep_worker import SweepWorker
from joblane.worker.worker import Worker
from tests.builders.events import invocation
from tests.samples import Sample, behaviour
from tests.world import PREFIX

NET_SECONDS = 6 * 3600
runs: dict[int, list[float]] = {}
"""The payload's number → the times of its runs, in seconds since the start of the stage."""
_clock: list[Clock] = []


def lane_of(task: Task[Any, Any]) -> str:
    return lane_name(PREFIX, task.queue, task.type)


SWEEP_LANE = lane_of(jobs_sweep)


class Kill(KeyboardInterrupt):
    """The end of a process at this point. The worker records nothing after it."""


@behaviour
def note_time(payload: Sample, ctx: TaskContext) -> None:
    runs.setdefault(payload.number, []).append(_clock[0].seconds())


class Queues(MemoryQueues):
    """The queues. ``refused``: beginnings of the ids of messages that they refuse."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.seconds)
        self.refused: tuple[str, ...] = ()

    def send_many(self, entries: Iterable[Entry], *, brief: bool = False) -> dict[int, str]:
        failed = {}
        for position, entry in enumerate(entries):
            if self.refused and (decode(entry.body).id or "").startswith(self.refused):
                failed[position] = "ServiceUnavailable"
            else:
                self.send(entry)
        return failed

    def ids(self, lane: str = SWEEP_LANE) -> list[str]:
        return [str(decode(message.entry.body).id) for message in self.queues[lane].values()]


class Counted(Database):
    """A connection of a function. ``uses``: how often it was used."""

    uses = 0

    def get(self) -> Any:
        self.uses += 1
        return super().get()


class Stage:
    """A stage that has just begun, one second after a boundary of the grid of wake-ups."""

    def __init__(self, url: str, tasks: Iterable[Task[Any, Any]]) -> None:
        self.url = url
        self.clock = Clock()
        self.clock.travelled = timedelta(seconds=-time.time() % GRID_SECONDS + 1)
        self.queues = Queues(self.clock)
        self.tasks = {task.type: task for task in (*tasks, jobs_sweep)}
        self.database = Counted(url)
        self.client = JobClient()
        self.client._producer.sqs = self.queues
        self.is_fresh = False
        """True: each message is handled by a new process."""
        self.starts: list[float] = []
        """The times at which sweeps began, since the start."""
        self.started_at = self.clock.seconds()
        self.next_net = self.started_at + NET_SECONDS
        self._workers: dict[str, Worker | SweepWorker] = {}
        self._observer = Database(url)
        self._not_aged = timedelta(0)

    @classmethod
    @contextmanager
    def open(cls, url: str, monkeypatch: pytest.MonkeyPatch, *tasks: Task[Any, Any]) -> Iterator[Self]:
        monkeypatch.setenv("DATABASE_URL", url)
        stage = cls(url, tasks)

        def swept(*args: Any, **named: Any) -> Any:
            stage.starts.append(stage.now)
            return sweep(*args, **named)

        monkeypatch.setattr(sweep_handler, "Sqs", lambda: stage.queues)
        monkeypatch.setattr(sweep_handler, "discover", lambda: stage.tasks)
        monkeypatch.setattr(sweep_handler, "sweep", swept)
        _clock[:] = [stage.clock]
        runs.clear()
        stage._observer.get().run("insert into joblane.stage (prefix) values ($1) on conflict do nothing", PREFIX)
        yield stage
        for database in (stage.database, stage._observer):
            database.drop()
        stage.client.close()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.clock.seconds() - self.started_at

    def ran(self, number: int) -> list[float]:
        """The times at which a task ran, since the start."""
        return [at - self.started_at for at in runs.get(number, [])]

    def ran_once(self, number: int = 1) -> float:
        """The time at which a task ran, since the start. It ran once."""
        (at,) = self.ran(number)
        return at

    def run(self, sql: str, *parameters: Any) -> list[list[Any]]:
        self.age()
        return self._observer.get().run(sql, *parameters)

    def enqueue(self, /, task: Task[Any, Any], number: int = 1, **options: Any) -> str:
        """Enqueue a task that notes its time."""
        self.age()
        options.setdefault("payload", Sample(do="note_time", number=number))
        return self.client.enqueue(task, **options).id

    @contextmanager
    def dying(self) -> Iterator[None]:
        """The producer is killed after its commit, before its send."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.client._producer, "_send_rows", lambda *_: set())
            yield

    def travel(self, seconds: float) -> None:
        """Let time pass. The times in the database follow before it is used."""
        by = timedelta(seconds=max(0.0, seconds))
        self.clock.travelled += by
        self._not_aged += by

    def age(self) -> None:
        if self._not_aged:
            age(self._observer.get(), self._not_aged, ())
            self._not_aged = timedelta(0)

    def pass_time(self, seconds: float, *, net: bool = False) -> None:
        """Let time pass, and deliver each message at its time. ``net``: the scheduled sweeps take place."""
        ends = self.clock.seconds() + seconds
        while True:
            lane, at = self._next()
            if net and self.next_net <= min(at, ends):
                self.travel(self.next_net - self.clock.seconds())
                self.next_net += NET_SECONDS
                self.tick()
            elif at > ends:
                break
            else:
                self.travel(at - self.clock.seconds())
                self.deliver(lane)
        self.travel(ends - self.clock.seconds())

    def tick(self) -> None:
        """Send a tick of the sweep's schedule."""
        (schedule,) = jobs_sweep.schedules
        self.queues.send(tick_entry(PREFIX, jobs_sweep, schedule, self.clock.now()))

    def deliver(self, lane: str) -> None:
        """Invoke a function with the message that is visible first."""
        task = next(task for task in self.tasks.values() if lane_of(task) == lane)
        numbers = task.numbers
        batch = self.queues.receive(lane, 1, numbers.visibility.total_seconds(), numbers.max_receive_count)
        for message in batch:
            if not self._is_early(message):
                self.age()
            self.invoke(task, message)

    def invoke(self, task: Task[Any, Any], message: QueuedMessage) -> None:
        seconds = task.numbers.function_timeout.total_seconds()
        if self.is_fresh or task.type not in self._workers:
            self._workers[task.type] = worker_of(task, self.database, self.queues, PREFIX)
        try:
            response = self._workers[task.type].handle([message.received()], invocation(seconds))
        except Kill:
            self.database.drop()
            del self._workers[task.type]
            return
        if not response.kept:
            self.queues.delete(message)

    def _is_early(self, message: QueuedMessage) -> bool:
        """True for a planned sweep whose time has not come, which uses no database."""
        id_ = decode(message.entry.body).id or ""
        return id_.startswith(PLANNED) and int(id_.removeprefix(PLANNED)) > self.queues.now()

    def _next(self) -> tuple[str, float]:
        """The lane with the message that is visible first, and that time."""
        lanes = [name for name in self.queues.queues if not name.endswith(DEAD_LETTERS)]
        waiting = [(at, name) for name in lanes if (at := self.queues.next_visible_at(name)) is not None]
        return min(waiting)[::-1] if waiting else ("", float("inf"))
