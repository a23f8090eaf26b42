"""The world of a seed: the database, the queues, the time, and everything that the actors share."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import joblane.functions.jobs_sweep.handler as sweep_handler
import joblane.worker.async_call  # noqa: F401 - virtual time is for the modules that are there
from joblane import settings
from joblane.declaration import Task
from joblane.enqueue import wake
from joblane.local.postgres import Postgres
from joblane.maintenance import sweep
from joblane.queues import lane_name
from joblane.record.connection import is_unavailable
from joblane.record.database import DATABASE_ERRORS, Database
from joblane.sqs.tick import tick_entry
from joblane.worker import turns
from joblane.worker import worker as worker_module
from joblane.worker.serving import worker_of
from tests.faults.days.clock import Clock, virtual
from tests.faults.days.samples import PREFIX
from tests.faults.model.actors import Actors, Faults
from tests.faults.model.processes import pool
from tests.faults.model.queues import ModelQueues
from tests.faults.model.samples import TASKS, Here
from tests.faults.model.seen import Seen
from tests.faults.model.starts import Starts

BEGINS = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
NET_SECONDS = 6 * 3600
SWEEP = sweep_handler.jobs_sweep
LOCKED = "select exists (select from pg_locks where pid = any($1::int[]) and not granted)"
TURNS = "the end of another task"
"""The role of a worker that serves limits and releases children."""


class Observer:
    """The model's own connection, for all threads. It connects again after a crash of the server."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, limits=None)
        self._lock = threading.RLock()

    def run(self, sql: str, *parameters: Any) -> list[list[Any]]:
        with self._lock:
            for _ in range(100):
                try:
                    return self._database.get().run(sql, *parameters)
                except DATABASE_ERRORS as error:
                    if not is_unavailable(error):
                        raise
                    self._database.drop()
                    time.sleep(0.05)
        raise AssertionError("the server does not start again")

    def drop(self) -> None:
        self._database.drop()


class Context:
    """Lambda's context object, in virtual time."""

    memory_limit_in_mb = "512"

    def __init__(self, world: World, seconds: float) -> None:
        self._world, self._ends = world, world.now + seconds
        self.aws_request_id = f"00000000-0000-4000-8000-{world.actors.number():012}"

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0.0, self._ends - self._world.now) * 1000)


class World:
    """The world. ``problems``: the violated rules, one line each."""

    def __init__(self, url: str, seed: int, server: Postgres) -> None:
        self.url, self.seed, self.server = url, seed, server
        self.dice = random.Random(f"model {seed}")
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.observer = Observer(url)
        clock_connection: Any = self.observer
        self.clock = Clock(clock_connection, BEGINS)
        self.faults = Faults.drawn(self.dice, is_calm=seed % 5 == 0)
        self.actors = Actors(
            self.dice, self.faults, self.counts, self.wrong, lambda pids: bool(self.observer.run(LOCKED, pids)[0][0])
        )
        self.seen, self.queues = Seen(), ModelQueues(self)
        self.starts = Starts(self)
        self.process = pool(self)
        self.tasks: dict[str, Task[Any, Any]] = {**TASKS, SWEEP.type: SWEEP}
        self.lanes = [
            (task, lane_name(PREFIX, queue, task.type)) for task in self.tasks.values() for queue in task.lanes
        ]
        self.sweep_lane = next(lane for task, lane in self.lanes if task is SWEEP)
        self.is_helped = False
        """The model has let tasks start by itself, which only the sweep finds."""
        self._next_net = BEGINS + NET_SECONDS
        self._ids = 0

    @property
    def now(self) -> float:
        return self.clock.now

    def wrong(self, rule: str, *details: object) -> None:
        self.problems.append(f"{rule}: {', '.join(map(str, details))}")

    def chance(self, probability: float) -> bool:
        """Throw the dice. Nothing happens by chance after the end of the faults."""
        return self.faults.on and self.dice.random() < probability

    def new_id(self) -> str:
        self._ids += 1
        return f"t{self._ids:05}"

    def forward(self, seconds: float) -> None:
        """Let time pass, and send the ticks of the sweep's schedule."""
        self.clock.now += seconds
        self.clock.sync()
        self.counts["virtual minutes"] += round(seconds / 60)
        while self.now >= self._next_net:
            self.tick()
            self._next_net = max(self._next_net + NET_SECONDS, self.now + 1)

    def tick(self) -> None:
        """Send a tick of the sweep's schedule."""
        moment = datetime.fromtimestamp(self.now, UTC).replace(second=0, microsecond=0)
        self.queues.accept(tick_entry(PREFIX, SWEEP, SWEEP.schedules[0], moment))

    def crash(self) -> None:
        """Kill the server, and start it again."""
        self.server.kill()
        self.observer.drop()
        self.server.start()
        self.clock._synced = 0.0
        self.clock.sync()
        self.counts["crashes of the server"] += 1

    # --- Deliveries -------------------------------------------------------------------------------------------------

    def next_visible(self) -> float | None:
        """Return the time from which a lane has a visible message, maybe in the past."""
        times = [self.queues.next_visible_at(lane) for _, lane in self.lanes]
        return min((at for at in times if at is not None), default=None)

    def deliver(self, task: Task[Any, Any], lane: str) -> bool:
        """Deliver some messages of a lane to a worker. Return False if there are none."""
        name = f"a worker of {task.type}" if task is not SWEEP else "the sweep"
        if task.is_async and any(actor.name == name for actor in self.actors.all()):
            return False  # the process of the model has one event loop
        taken = self.queues.take_some(task, lane, may_be_hidden=True)
        if not taken:
            return False
        process = self.process(task.type)
        if not hasattr(process, "worker"):
            process.worker = worker_of(task, process.database, process.sqs, PREFIX, **self.bus_options(task))
        records = [message.record() for message in taken]
        self.counts["deliveries"] += len(taken)

        def handle() -> None:
            context = Context(self, task.numbers.function_timeout.total_seconds())
            answer = process.worker.handle({"Records": records}, context)
            kept = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
            self.queues.delete_answered(taken, kept)

        role = "the sweep" if task is SWEEP else "a run"
        self.actors.start(name, process, handle, role=role, messages=dict(map(self.queues.role, taken)))
        return True

    def bus_options(self, task: Task[Any, Any]) -> dict[str, Any]:
        return {"bus": Bus(self)} if task is not SWEEP else {}

    # --- What the library sees --------------------------------------------------------------------------------------

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Give the library this world: its time, queues and processes."""
        environment = {
            "JOBLANE_PREFIX": PREFIX,
            "POWERTOOLS_METRICS_DISABLED": "true",
            "DATABASE_URL": self.url,
            settings.SWEEP_MINUTES: str(NET_SECONDS // 60),
        }
        with (
            patch.dict(os.environ, environment),
            patch.object(Here, "world", self, create=True),
            patch.object(wake, "_waker", SimpleNamespace(cover=self._cover)),
            patch.object(worker_module, "send_turns", self._as_turns(turns.send_turns)),
            patch.object(sweep_handler, "Sqs", lambda: self._current.process.sqs),
            patch.object(sweep_handler, "discover", lambda: self.tasks),
            patch.object(sweep_handler, "bus_of_environment", lambda **_: Bus(self)),
            patch.object(sweep_handler, "unmarked_dead_letters", lambda *_, **__: {}),
            patch.object(sweep_handler, "sweep", self._counted(sweep.sweep)),
            virtual(lambda: self.now, lambda _: self._current.process.point()),
        ):
            yield

    @property
    def _current(self) -> Any:
        return self.actors.current

    def _cover(self, sqs: Any, prefix: str) -> bool:
        covered: bool = self._current.process.waker.cover(sqs, prefix)
        return covered

    def _as_turns(self, send_turns: Callable[..., None]) -> Callable[..., None]:
        def send(sqs: Any, prefix: str, started: Sequence[Any]) -> None:
            actor = self._current
            role, actor.role = actor.role, TURNS
            self.counts["tasks let start by the end of another task"] += len(started)
            send_turns(sqs, prefix, started)
            actor.role = role

        return send

    def _counted(self, sweeping: Callable[..., sweep.Swept]) -> Callable[..., sweep.Swept]:
        def counting(*arguments: Any, **options: Any) -> sweep.Swept:
            is_alone = len(self.actors.all()) == 1  # no worker stands still between its finish and its release
            swept = sweeping(*arguments, **options)
            self.counts["sweeps"] += 1
            self.counts["tasks let start by the sweep: parents"] += swept.released
            self.counts["tasks let start by the sweep: limits"] += swept.served
            self.counts["tasks whose message the sweep has sent"] += swept.sent
            if swept.released and is_alone and self.faults.is_calm and not self.is_helped:
                self.wrong("the sweep has released children although nothing has failed", swept.released)
            return swept

        return counting


class Bus:
    """The bus, which refuses events, and at times all of them."""

    name = "bus"

    def __init__(self, world: World) -> None:
        self._world = world

    def send_many(self, events: Sequence[Any]) -> dict[str, str]:
        is_down, refused = self._world.chance(0.15), dict[str, str]()
        for event in events:
            if is_down or self._world.chance(0.03):
                refused[event.id] = "Throttling: by the dice"
            else:
                self._world.seen.events[event.id] += 1
        return refused
