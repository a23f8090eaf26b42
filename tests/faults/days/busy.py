"""A busy day: bursts of enqueues, open transactions, pauses, changed limits, deaths, and times in which SQS refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from sqlalchemy.orm import Session

import joblane.functions.jobs_sweep.handler as sweep_handler
from joblane.client.client import JobClient
from joblane.errors import JobError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.local.memory_queues import QueuedMessage
from joblane.names import Queue, lane_name
from joblane.sqs.client import Entry
from joblane.sqs.message import Message
from joblane.tasks.job import Job
from joblane.tasks.task import Task
from tests.faults.days.day import CHECK_SECONDS, FIXED_HOURS, HOUR, MINUTE, SWEEP, SWEEP_LANE, Day, each
from tests.faults.days.queues import Refusal
from tests.faults.days.samples import POOL, PREFIX, TASKS, Step, Work
from tests.faults.days.schedules import Schedules

ACTS_AN_HOUR = 1.5
REST = 14 * HOUR
"""The longest time that the tasks of a day take to end after it."""
LEFT = """
select id, state, due_at::text, sweep_at::text from joblane.tasks
 where (finished_at is null or dead_letter_unsent) and type like 'day:%' limit 5
"""
TENANTS = ("acme", "globex")


class Server:
    """A long-lived process that enqueues. If it dies, it is started again."""

    def __init__(self, day: Day, name: str) -> None:
        self._day, self._name = day, name
        self._start()

    def _start(self) -> None:
        self.process = self._day.process(self._name)
        self.is_busy = False
        sqs = self._day.sqs(self.process)
        self.client = JobClient()
        self.client._producer.sqs, self.client._producer.prefix, self.client._producer.opened = (
            sqs,
            PREFIX,
            self.process.database,
        )
        self.inspector = Inspector(Scope(self.process.database, sqs, PREFIX, TASKS, "operator"))

    def do(self, act: Callable[[Server], object]) -> None:
        """Do something, unless the process is busy."""
        if self.process.dead:
            self._start()
        if self.is_busy:
            return
        self.is_busy = True

        def act_and_rest() -> None:
            self._day.draw_fate(self.process, 0.15, 12, self._day.dice.uniform(1, 25))
            act(self)
            self.process.fate()
            self.is_busy = False

        self._day.loop.spawn(self.process, act_and_rest)


class BusyDay(Day):
    """On a day with an even seed, servers act one at a time: then each wake-up counts, as nobody else sends one.

    ``hours``: after these hours nothing is enqueued, and nothing fails, any more. ``interval_hours``: of the fixed
    schedule of the sweep."""

    def __init__(
        self, url: str, seed: int, *, faults: float = 1.0, hours: float = 24.0, interval_hours: float = FIXED_HOURS
    ) -> None:
        super().__init__(url, seed, faults=faults)
        self._interval, self._ends = interval_hours * HOUR, self.begins + hours * HOUR
        self._is_lonely = seed % 2 == 0
        self.ids: list[str] = []
        self.schedules = Schedules(self)

    def plan(self) -> None:
        ends, lasts = self._ends, self._ends - self.begins
        self.servers = [Server(self, f"server {number}") for number in range(3)]
        bursts = ACTS_AN_HOUR * 24 if self._is_lonely else self.dice.randint(6, 14)
        for _ in range(max(3, round(bursts * lasts / (24 * HOUR)))):
            self._burst(self.begins + self.dice.uniform(0, lasts))
        for _ in range(max(1, round(self.dice.randint(2, 6) * lasts / (24 * HOUR))) if self.faults else 0):
            begins = self.begins + self.dice.uniform(0, lasts)
            queue = self.dice.choice(
                (None, None, SWEEP_LANE, *(lane_name(PREFIX, t.queue, t.type) for t in TASKS.values()))
            )
            long = self.dice.choice((30, 4 * MINUTE, 20 * MINUTE, 2 * HOUR))
            self.queues.refusals.append(Refusal(begins, min(begins + long, ends), queue))
        self.plan_ticks()
        self.schedules.plan(ends)
        self.loop.at(ends, self._calm)
        each(CHECK_SECONDS, self.loop, self.check)

    def plan_ticks(self) -> None:
        """Plan the ticks of the sweep's schedule."""
        at = self.begins - self.begins % self._interval
        while (at := at + self._interval) < self._ends + REST:
            self.tick(SWEEP, SWEEP.schedules[0], datetime.fromtimestamp(at, UTC))

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with super()._patched(), patch.object(sweep_handler, "make_ticks", self.schedules.make_ticks):
            yield

    def deliver(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> None:
        self.schedules.deliver(task, batch)

    def _calm(self) -> None:
        self.faults = 0.0
        self.queues.refusals.clear()

    def _run(self) -> None:
        ends = self._ends + REST
        while not self.result.wrong and (at := self.loop.next_at()) is not None and at < ends:
            if self.loop.now > self._ends and not self._observer.run(LEFT):
                break
            self.loop.step()
        if not self.result.wrong:
            self.result.wrong += [f"has not ended: {row}" for row in self._observer.run(LEFT)]
            self.schedules.check_end()
        self._count()

    def _count(self) -> None:
        for state, number in self._observer.run(
            "select state, count(*)::int from joblane.tasks where type like 'day:%' group by 1"
        ):
            self.result.counts[f"tasks {state}"] = number
        self.result.counts["processes that died"] = sum(process.died for process in self._processes)
        self.result.counts["hours"] = round((self.loop.now - self.begins) / HOUR)

    # --- What servers do --------------------------------------------------------------------------------------------

    def _burst(self, at: float) -> None:
        for _ in range(1 if self._is_lonely else self.dice.choice((1, 1, 2, 6, 12))):
            server = self.dice.choice(self.servers)
            act = self.dice.choices(
                (self._enqueue, self._session, self._cancel, self._pause, self._limit, self._external),
                (40, 30, 6, 6, 6, 6),
            )[0]
            self.loop.at(at, lambda server=server, act=act: server.do(act))  # type: ignore[misc]
            at += self.dice.choice((0, 2, 40, 200)) * self.dice.random()

    def _jobs(self) -> list[Job]:
        return [self._job() for _ in range(self.dice.choice((1, 1, 1, 2, 5)))]

    def _job(self) -> Job:
        task = self.dice.choice(list(TASKS.values()))
        options: dict[str, Any] = {}
        match self.dice.randrange(10):
            case 0 | 1:
                options["process_in"] = timedelta(seconds=self.dice.uniform(1, 900))
            case 2:
                options["process_in"] = timedelta(seconds=self.dice.uniform(900, 6 * HOUR))
            case 3:
                moment = self.loop.now + self.dice.uniform(-60, 3 * HOUR)
                options["process_at"] = datetime.fromtimestamp(round(moment), UTC)
        self.ids.append(f"t{len(self.ids):05}")
        return Job(task, self._work(), task_id=self.ids[-1], tenant=self.dice.choice((None, *TENANTS)), **options)

    def _work(self) -> Work:
        steps: list[Step] = []
        while self.dice.random() < 0.3 and len(steps) < 5:
            ends = self.dice.choice(("well", "fail", "fail", "retry", "snooze", "limited"))
            seconds = round(self.dice.choice((5, 600, 1200, 2 * HOUR)) * self.dice.random())
            steps.append(
                Step(takes=self._takes(), enqueues=self.dice.choice((0, 0, 0, 1, 3)), ends=ends, seconds=seconds)
            )
        return Work(key=self.dice.choice((None, 1, 1, 2)), steps=tuple(steps) or (Step(takes=self._takes()),))

    def _takes(self) -> float:
        return self.dice.choice((0, 0, 1, 30, 500)) * self.dice.random()

    def _enqueue(self, server: Server) -> None:
        with suppress(JobError):
            server.client.enqueue_many(self._jobs())

    def _session(self, server: Server) -> None:
        """Enqueue in a transaction that stays open for a while."""
        with Session(server.process.database.engine) as session:
            server.client.enqueue_many(self._jobs(), session=session)
            self.loop.sleep(self.dice.choice((0, 5, 200, 20 * MINUTE, 20 * MINUTE)) * self.dice.random())
            if self.dice.random() < 0.3:
                server.client.enqueue_many(self._jobs(), session=session)
                self.loop.sleep(self.dice.choice((0, 300)) * self.dice.random())
            if self.dice.random() < 0.85:
                self.draw_fate(server.process, 0.4, 4, self.dice.uniform(1, 25))
                session.commit()
            else:
                session.rollback()

    def _cancel(self, server: Server) -> None:
        if self.ids:
            server.client.cancel(self.dice.choice(self.ids[-30:]))

    def _pause(self, server: Server) -> None:
        until = datetime.fromtimestamp(self.loop.now + self.dice.uniform(60, 3 * HOUR), UTC)
        match self.dice.randrange(3):
            case 0:
                server.inspector.pause(PauseScope.TYPE, self.dice.choice(list(TASKS)), until=until)
            case 1:
                server.inspector.pause(PauseScope.QUEUE, Queue.DEFAULT, until=until)
            case _:
                server.inspector.pause(PauseScope.TENANT, self.dice.choice(TENANTS), until=until)

    def _limit(self, server: Server) -> None:
        until = datetime.fromtimestamp(self.loop.now + self.dice.uniform(60, 3 * HOUR), UTC)
        if self.dice.random() < 0.5:
            server.client.limits.set(POOL.name, total=self.dice.choice((0, 1, 5)), until=until)
        else:
            server.client.limits.set("day:one", max_total=self.dice.choice((0, 3)), until=until)

    def _external(self, server: Server) -> None:
        """Send a message without a row, as a program of another language does."""
        task = self.dice.choice(list(TASKS.values()))
        self.ids.append(f"x{len(self.ids):05}")
        body = Message(task.type, self.ids[-1], self._work().model_dump(mode="json")).encode()
        server.client._producer.sqs.send_many([Entry(lane_name(PREFIX, task.queue, task.type), body)])
