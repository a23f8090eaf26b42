"""A day: servers enqueue, functions handle the messages, and everything that can fail does.

The rule: nothing that a sweep would send waits for longer than five minutes for a sweep. There are two exceptions:

- While SQS refuses messages for the sweep, the five minutes have not begun. They begin 15 seconds after that, when the
  processes whose wake-up was refused try again.
- A process whose wake-up was refused has died, or Lambda has frozen it, before it could try again. Then its work waits
  for the next use of the database, or for the fixed schedule.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import joblane.functions.jobs_sweep.handler as sweep_handler
from joblane import settings
from joblane.enqueue import wake
from joblane.enqueue.wake import COMMIT_SECONDS, RETRY_SECONDS
from joblane.local.memory_queues import QueuedMessage
from joblane.names import lane_name
from joblane.record import task_types
from joblane.record.driver.database import Database
from joblane.record.task.claim import CLAIMS
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import Received, decode
from joblane.sqs.tick import tick_entry
from joblane.sweep.walk import PLANNING, RESET_PLANNING
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task
from joblane.worker.invocation import Invocation
from joblane.worker.of_type import worker_of
from joblane.worker.sweep_worker import SweepWorker
from joblane.worker.worker import Worker
from tests.faults.days import clock
from tests.faults.days.process import Loop, Process, Thread
from tests.faults.days.queues import DayQueues, ProcessSqs
from tests.faults.days.samples import PREFIX, SCHEDULED, TASKS, Surroundings
from tests.faults.days.shadow import Shadow
from tests.faults.result import Result
from tests.ways import Ways

MINUTE, HOUR = 60.0, 3600.0
INTERVAL = 5 * MINUTE
"""The longest time without a sweep while there is something to send."""
CHECK_SECONDS = 60.0
SLACK_SECONDS = 5.0
"""SQS takes a moment to deliver, and delays are whole seconds."""
IDLE_SECONDS = 5 * MINUTE
"""A database that was unused for this long has to be woken."""
FIXED_HOURS = 6
HELD = "Nothing was late."
SWEEP = sweep_handler.jobs_sweep
ALL_TASKS: Mapping[str, Task[Any, Any]] = {**TASKS, **SCHEDULED, SWEEP.type: SWEEP}
SWEEP_NAME = f"λ {SWEEP.type}"
NOTED = dict.fromkeys(CLAIMS, "a sweep is claimed") | {PLANNING: "a sweep begins", RESET_PLANNING: "a sweep ends"}
SWEEP_LANE = lane_name(PREFIX, SWEEP.queue, SWEEP.type)


@dataclass(eq=False)
class Environment:
    """An execution environment of a function."""

    process: Process
    worker: Worker | SweepWorker
    used_at: float
    is_busy: bool = False


class Day(ABC):
    """A day over a migrated database in which the clock is installed. ``faults``: the share of things that fail."""

    def __init__(
        self, url: str, seed: int, *, faults: float = 1.0, tasks: Mapping[str, Task[Any, Any]] = ALL_TASKS
    ) -> None:
        self.url, self.seed, self.faults, self.tasks = url, seed, faults, tasks
        self._lanes = {lane_name(PREFIX, queue, task.type): task for task in tasks.values() for queue in task.lanes}
        self.dice = random.Random(f"day {seed}")
        self.result = Result(seed, HELD)
        self.begins = datetime(2026, 3, 1, tzinfo=UTC).timestamp() + self.dice.randrange(86_400)
        self._numbers = itertools.count(1)
        self._environments: defaultdict[str, list[Environment]] = defaultdict(list)
        self._starts: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._used_at = self._delivered_at = 0.0
        self.swept_at = 0.0
        """The start of the last sweep, also of one that has died. A sweep every five minutes would die as well."""

    # --- The surroundings -------------------------------------------------------------------------------------------

    def go(self) -> Result:
        """Run the day in a thread, where workers set no alarm."""
        started = time.monotonic()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._go).result()
        self.result.seconds = time.monotonic() - started
        return self.result

    def _go(self) -> None:
        with ExitStack() as stack:
            self._observer = stack.enter_context(Database(self.url, limits=None)).get()
            self.loop = Loop(clock.Clock(self._observer, self.begins))
            self.queues = DayQueues(lambda: self.loop.now, self._visible)
            shadow = stack.enter_context(Database(self.url, limits=None))
            self._shadow = Shadow(shadow, self.queues, self.loop.clock.sync)
            stack.enter_context(self._patched())
            ways = Ways.mixed(self.result.seed)
            stack.enter_context(ways.switched())
            self.loop.clock.sync()
            task_types.register(self._observer, self.tasks)
            self.plan()
            self._run()
            for process in self._processes:
                process.kill()
            self.result.counts += ways.counts

    @abstractmethod
    def plan(self) -> None:
        """Plan everything that happens by itself."""

    @contextmanager
    def _patched(self) -> Iterator[None]:
        self._processes: list[Process] = []
        environment = {
            "JOBLANE_PREFIX": PREFIX,
            "POWERTOOLS_METRICS_DISABLED": "true",
            "DATABASE_URL": self.url,
            settings.SWEEP_MINUTES: str(FIXED_HOURS * 60),
        }
        with (
            patch.dict(os.environ, environment),
            patch.object(Surroundings, "sleep", staticmethod(self.loop.sleep), create=True),
            patch.object(Surroundings, "started", staticmethod(self._started), create=True),
            patch.object(Thread, "loop", self.loop, create=True),
            patch.object(wake, "threading", SimpleNamespace(Thread=Thread, Lock=threading.Lock)),
            patch.object(wake, "_waker", SimpleNamespace(cover=self._cover)),
            patch.object(sweep_handler, "Sqs", lambda: self.sqs(self._current)),
            patch.object(sweep_handler, "discover", lambda: self.tasks),
            patch.object(sweep_handler, "unmarked_dead_letters", lambda *_: {}),
            clock.virtual(self.loop.seconds, self.loop.sleep),
        ):
            yield

    def _cover(self, sqs: Sqs, prefix: str) -> bool:
        """Wake the sweep by what this process knows."""
        return self._current.waker.cover(sqs, prefix)

    @property
    def _current(self) -> Process:
        assert self.loop.process is not None
        return self.loop.process

    def process(self, name: str) -> Process:
        """Start a process."""
        made = Process(self.loop, name, self.url, self._observer, self)
        most = 10.0 if name.startswith("λ") else 90.0  # AWS keeps the clocks of functions
        made.skew = self.dice.choice((0.0, 0.0, self.dice.uniform(-1, 1), self.dice.uniform(-most, most)))
        self._processes.append(made)
        return made

    def sqs(self, process: Process) -> ProcessSqs:
        return ProcessSqs(self.queues, process, self._answer_lost, self.note)

    def _answer_lost(self, entry: Entry) -> bool:
        return self.dice.random() < 0.005 * self.faults

    def used(self, process: Process, sql: str) -> None:
        now = self.loop.now
        self.result.counts["wakes of the database"] += now - self._used_at > IDLE_SECONDS
        self._used_at = now
        if process.name == SWEEP_NAME and sql in NOTED:
            self.result.counts["sweeps"] += sql == PLANNING
            self.swept_at = max(self.swept_at, now if sql in CLAIMS else 0.0)
            self.note(NOTED[sql])

    def died(self, process: Process) -> None:
        if process.name == SWEEP_NAME:
            self.swept_at = max(self.swept_at, self._delivered_at)
        self.note(f"{process.name} dies at step {process.steps}")

    def _started(self, task_id: str) -> int:
        self._starts[task_id] += 1
        self.result.counts["runs"] += 1
        return self._starts[task_id] - 1

    # --- Functions --------------------------------------------------------------------------------------------------

    def _visible(self, queue: str, at: float) -> None:
        self.loop.at(at + self.dice.random(), lambda: self._deliver(queue))

    def _deliver(self, queue: str) -> None:
        task = self._lanes[queue]
        numbers = task.numbers
        batch = self.queues.receive(
            queue, task.batch_size, numbers.visibility.total_seconds(), numbers.max_receive_count
        )
        if not batch:
            return
        deliveries = [message.received() for message in batch]
        if task is SWEEP:
            self._delivered_at = self.loop.now
            self.note(f"delivered: {decode(batch[0].entry.body).id}, receive {batch[0].receives}")
        self.deliver(task, batch)
        self._invoke(task, batch, deliveries)
        if self.dice.random() < 0.02 * self.faults:
            copies = [replace(message.received(), receipt="a copy's") for message in batch]
            self.loop.at(self.loop.now + self.dice.choice((0, 5, 400)), lambda: self._invoke(task, (), copies))
            self.result.counts["duplicate deliveries"] += 1

    def deliver(self, task: Task[Any, Any], batch: Sequence[QueuedMessage]) -> None:
        """Note a delivery."""
        self.result.counts["deliveries"] += len(batch)

    def _invoke(self, task: Task[Any, Any], batch: Sequence[QueuedMessage], deliveries: Sequence[Received]) -> None:
        self.result.counts["invocations"] += 1
        environment = self._environment(task)
        environment.is_busy = True
        environment.process.thaw()
        steps = 60 if task is SWEEP else 16
        self.draw_fate(environment.process, 0.1, steps, self.dice.uniform(1, 100 if task is SWEEP else 25))
        seconds = task.numbers.function_timeout.total_seconds()
        invocation = Invocation(f"00000000-0000-4000-8000-{next(self._numbers):012}", seconds)

        def handle() -> None:
            kept = environment.worker.handle(deliveries, invocation).kept
            environment.process.step()
            for message in batch:
                if message.message_id not in kept:
                    self.queues.delete(message)
            environment.is_busy, environment.used_at = False, self.loop.now
            environment.process.freeze()

        self.loop.spawn(environment.process, handle)

    def _environment(self, task: Task[Any, Any]) -> Environment:
        """Return a free environment of a function, or a new one."""
        warm, now = self._environments[task.type], self.loop.now
        for environment in list(warm):
            if environment.process.dead or (not environment.is_busy and now - environment.used_at > 20 * MINUTE):
                warm.remove(environment)
                if not environment.process.dead:
                    environment.process.kill()
        for environment in warm:
            if not environment.is_busy:
                return environment
        process = self.process(f"λ {task.type}")
        environment = Environment(process, worker_of(task, process.database, self.sqs(process), PREFIX), now)
        warm.append(environment)
        return environment

    def draw_fate(self, process: Process, share: float, steps: int, stall_seconds: float) -> None:
        """Draw whether a process dies, or stands still, at one of its next steps."""
        dice, only_sends = self.dice.random(), self.dice.random() < 0.5
        fate = self.dice.randint(1, 4 if only_sends else steps)
        share *= self.faults
        process.fate(
            dies_at=fate if dice < share else 0,
            only_sends=only_sends,
            stalls_at=fate if share <= dice < 2 * share else 0,
            stall_seconds=stall_seconds,
        )

    def tick(self, task: Task[Any, Any], schedule: Schedule, moment: datetime) -> None:
        """Send a tick, as EventBridge Scheduler does."""
        entry = tick_entry(PREFIX, task, schedule, moment)
        self.loop.at(moment.timestamp(), lambda: self._send(entry))

    def _send(self, entry: Entry) -> None:
        self.queues.send(entry)

    # --- The rule ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _run(self) -> None:
        """Set up the day, and let its time pass."""

    def check(self) -> None:
        """Compare the day so far with a sweep every five minutes."""
        now = self.loop.now
        work = self._shadow.work()
        self._since = {item: self._since.get(item, now) for item in work}
        accepts = self.queues.accepts_since(SWEEP_LANE)
        for item, since in self._since.items():
            late = now - max(since, self.swept_at, accepts + RETRY_SECONDS)
            if late > INTERVAL + SLACK_SECONDS and not self._is_unwoken():
                self.result.wrong.append(
                    f"{item} waits since {self.at(since)}, the last sweep was at {self.at(self.swept_at)}, and it is "
                    f"{self.at(now)}"
                )

    def _is_unwoken(self) -> bool:
        """True if SQS has refused the wake-up of a process that could not try again, and no sweep was since."""
        return any(
            process.unwoken_since is not None
            and process.unwoken_since > self.swept_at - COMMIT_SECONDS
            and (process.dead or process.is_frozen)
            for process in self._processes
        )

    def note(self, what: str) -> None:
        self.result.trail.append(f"{self.at(self.loop.now)} {what}")

    def at(self, moment: float) -> str:
        """Return a time of the day as text."""
        return f"{datetime.fromtimestamp(moment, UTC):%d %H:%M:%S}"


def each(seconds: float, loop: Loop, call: Callable[[], None]) -> None:
    """Call a function at a regular interval."""

    def again() -> None:
        call()
        loop.at(loop.now + seconds, again)

    loop.at(loop.now + seconds, again)
