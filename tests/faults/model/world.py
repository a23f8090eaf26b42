"""The world of a seed: the database, the queues, the time, and everything that the actors share."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import joblane.functions.jobs_sweep.handler as sweep_handler
from joblane.local.postgres import Postgres
from joblane.names import lane_name
from joblane.sqs.tick import tick_entry
from joblane.tasks.task import Task
from joblane.worker.invocation import Invocation
from joblane.worker.of_type import worker_of
from tests.faults.days.clock import Clock
from tests.faults.days.samples import PREFIX
from tests.faults.model.actors import Actors, Faults
from tests.faults.model.processes import pool
from tests.faults.model.queues import ModelQueues
from tests.faults.model.samples import TASKS
from tests.faults.model.starts import Seen, Starts
from tests.faults.model.surroundings import Bus, Observer

BEGINS = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
NET_SECONDS = 6 * 3600
KEPT_SECONDS = 20 * 86_400
"""Rows that have ended are removed after this time at the earliest."""
SWEEP = sweep_handler.jobs_sweep


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
        self.actors = Actors(self.dice, self.faults, self.counts, self.wrong, self.observer.is_locked)
        self.seen, self.queues = Seen(), ModelQueues(self)
        self.starts = Starts(self)
        self.process = pool(self)
        self.tasks: dict[str, Task[Any, Any]] = {**TASKS, SWEEP.type: SWEEP}
        self.lanes = [
            (task, lane_name(PREFIX, queue, task.type)) for task in self.tasks.values() for queue in task.lanes
        ]
        self.sweep_lane = next(lane for task, lane in self.lanes if task is SWEEP)
        self.is_helped = False
        """True if the model itself has let tasks start. Only the sweep finds them."""
        self._next_net = BEGINS + NET_SECONDS
        self._ids = 0

    @property
    def now(self) -> float:
        return self.clock.now

    @property
    def is_old(self) -> bool:
        """True if rows that have ended may be removed already."""
        return self.now > BEGINS + KEPT_SECONDS

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
        assert seconds >= 0
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
            bus: Any = Bus(self)
            process.worker = worker_of(task, process.database, process.sqs, PREFIX, bus=bus)
        deliveries = [message.received() for message in taken]
        self.counts["deliveries"] += len(taken)

        def handle() -> None:
            seconds = task.numbers.function_timeout.total_seconds()
            invocation = Invocation(f"00000000-0000-4000-8000-{self.actors.number():012}", seconds)
            self.queues.delete_answered(taken, process.worker.handle(deliveries, invocation).kept)

        role = "the sweep" if task is SWEEP else "a run"
        self.actors.start(name, process, handle, role=role, messages=dict(map(self.queues.role, taken)))
        return True
