"""A run: several processes handle thousands of jobs with a real PostgreSQL during faults; then the rules are checked.

The run never waits: when no process has work, the clock is moved forward to the next time at which one has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pg8000.exceptions import Error as PostgresError

from joblane.local.postgres import Postgres
from joblane.names import Queue, front_door_name, lane_name
from joblane.quotas import FRONT_DOOR, MAX_BATCH
from joblane.record.driver.database import Database
from joblane.record.driver.stage import take_stage
from joblane.record.task_types import register
from tests.faults.checker import Evidence, check
from tests.faults.clock import Clock
from tests.faults.dice import Dice
from tests.faults.mix import KINDS, Mix, key_probe, make_mix, sweep_call
from tests.faults.processes import fork_server
from tests.faults.queues import Queues
from tests.faults.result import Result
from tests.faults.samples import TABLES
from tests.faults.server import Api, serve
from tests.faults.slots import Driver, Producer, Scene, Slot
from tests.faults.storm import Storm
from tests.faults.worker import ALL_TASKS, PREFIX, SWEEP_LANE
from tests.ways import never_short

SLOTS, PRODUCERS = 5, 2
RESUMED_SECONDS = 8.8
"""The length of a resumable task's invocation here: 0.8 s more than its reserve."""
REDRIVEN_SHARE = 0.3
MAX_JUMPS_WITH_FAULTS = 40
"""The number of jumps with faults after everything is enqueued. The rest of the run has no faults."""
LIVE = """
select id from joblane.tasks
 where state = 'active' or (type <> 'jobs:sweep' and (
         state in ('scheduled', 'pending', 'retry', 'held') or (state = 'archived' and dead_sent_at is null))) limit 1
"""
"""The tasks that have to end before the run does. A sweep always plans the next one; only one that runs has to end."""
HELD = "No task was lost, no work was done twice, no message was left."
STATES = "select type, state, count(*)::int from joblane.tasks group by 1, 2 order by 1, 2"
FIXED_SECONDS = 6 * 3600.0
"""The interval of the sweep's schedule. All other sweeps are woken, or have planned themselves."""
MOST_FIXED_SWEEPS = 20
"""A task that still lives after so many runs of the schedule in a row, five days, never ends."""
FIRST_RUN = "tasks ended without the sweep, in their first run"
LEAST_FIRST_RUNS = 0.3


class StuckError(Exception):
    """The run did not end in time."""


def run(
    folder: Path,
    server: Postgres,
    name: str,
    *,
    seed: int,
    jobs: int,
    minutes: float = 5,
    plant: str | None = None,
    kind: type[Run] | None = None,
) -> Result:
    """Run the suite once. ``server``: only for this run, because it is killed. ``name``: a migrated database on it.
    ``kind``: of the run; None: an ordinary one."""
    started = time.monotonic()
    this_run = (kind or Run)(folder, server, name, seed, jobs, minutes, plant)
    result = this_run.result
    try:
        this_run.go()
    except StuckError as error:
        result.wrong.insert(0, str(error))
    finally:
        this_run.close()
    result.counts += this_run.queues.counts
    result.seconds = time.monotonic() - started
    return result


class Run:
    """A run. A subclass does more in the middle of it: see :meth:`_during_storm` and :meth:`_after_storm`."""

    jumps_with_faults = MAX_JUMPS_WITH_FAULTS
    least_first_runs = LEAST_FIRST_RUNS
    kinds = KINDS

    def __init__(
        self,
        folder: Path,
        server: Postgres,
        name: str,
        seed: int,
        jobs: int,
        minutes: float,
        plant: str | None,
    ) -> None:
        self._folder, self._server, self._plant = folder, server, plant
        self._url = server.database_url(name)
        self._observer = Database(self._url)
        self.result = Result(seed, HELD)
        self._ends = time.monotonic() + minutes * 60
        self._fixed_sweeps = self._fixed_in_a_row = 0
        self.dice = Dice(seed)
        self.clock = Clock(self.sql)
        self._fixed_at = self.clock.now() + FIXED_SECONDS
        self.queues = Queues(self.clock, self.dice)
        self.mix: Mix = make_mix(seed, jobs, self.kinds)
        self.slots: list[Slot] = []
        self.producers: list[Producer] = []
        self.cancelled: dict[str, str] = {}

    def sql(self, sql: str, *parameters: Any) -> list[list[Any]]:
        """Run a statement of the suite, once more on a new connection if the server was restarted."""
        try:
            return self._observer.get().run(sql, *parameters)
        except (PostgresError, OSError):
            self._observer.drop()
            return self._observer.get().run(sql, *parameters)

    def go(self) -> None:
        for statement in TABLES:
            self.sql(statement)
        self.clock.install()
        take_stage(self._observer.get(), PREFIX, None)  # the time of the planned sweep is in its row
        register(self._observer.get(), ALL_TASKS)
        self._observer.drop()
        seconds = self._make_queues()
        with ExitStack() as stack:
            endpoint = stack.enter_context(serve(Api(self.queues, self.dice)))
            address = stack.enter_context(fork_server(self._folder, self._url, endpoint, self._plant))
            scene = Scene(address, self.queues, self.clock, self.dice, self.result.counts)
            self.slots = [Slot(scene, seconds) for _ in range(SLOTS)]
            self.producers = [Producer(scene) for _ in range(PRODUCERS)]
            for thread in self._threads():
                stack.callback(thread.join, 10)
                stack.callback(thread.stop)
                thread.start()
            self._storm(scene)
            self._after_storm(stack, endpoint)
            self._calm()
            self._probe()
            self.queues.is_open = False  # else the next planned sweep may begin while the evidence is read
            self._until(lambda: self.queues.in_flight == 0)
            self.result.wrong += [line for thread in self._threads() for line in thread.raised]
            self.result.wrong += self._violations()
            self._count_endings()
            self.result.wrong += never_short(self.result.counts)
            for type_, state, number in self.sql(STATES):
                self.result.counts[f"{type_} {state}"] = number

    def close(self) -> None:
        self._observer.drop()

    def _count_endings(self) -> None:
        """Count who did the work, because the sweep could hide that an enqueue, a finish or a delivery does not."""
        counts, ended = self.result.counts, 0
        for id_, runs in self.sql("select id, runs from joblane.tasks where type like 'mix:%'"):
            ended += 1
            by_sweep = self.queues.sent_by_sweep[id_]
            if by_sweep == self.queues.sent[id_] > 0:
                counts["tasks ended with messages of the sweep alone"] += 1
            elif by_sweep:
                counts["tasks ended with another message of the sweep"] += 1
            elif runs > 1:
                counts["tasks ended without the sweep, in a later run"] += 1
            else:
                counts[FIRST_RUN] += 1
        counts["sweeps of the schedule"] += self._fixed_sweeps
        [[lost]] = self.sql("select count(*)::int from joblane.runs where outcome = 'lost'")
        counts["runs lost"] += lost
        if counts[FIRST_RUN] < self.least_first_runs * ended:
            self.result.wrong.append(f"only {counts[FIRST_RUN]} of {ended} {FIRST_RUN}")

    def _threads(self) -> list[Driver]:
        return [*self.slots, *self.producers]

    def _make_queues(self) -> dict[str, float]:
        """Create the queues as a deploy does. Return queue → timeout of its function in seconds."""
        seconds = {}
        for task in ALL_TASKS.values():
            for queue in task.lanes:
                name = lane_name(PREFIX, queue, task.type)
                numbers = task.numbers
                self.queues.make(
                    name,
                    visibility=numbers.visibility.total_seconds(),
                    max_receives=numbers.max_receive_count,
                    batch=task.batch_size,
                )
                seconds[name] = RESUMED_SECONDS if task.resumable else numbers.function_timeout.total_seconds()
        for queue in Queue:
            name = front_door_name(PREFIX, queue)
            self.queues.make(name, visibility=FRONT_DOOR.visibility.total_seconds(), batch=MAX_BATCH)
            seconds[name] = FRONT_DOOR.function_timeout.total_seconds()
        return seconds

    # --- The parts of a run ----------------------------------------------------------------------------------------

    def _storm(self, scene: Scene) -> None:
        """Enqueue everything while faults happen."""
        acts = self.mix.acts
        for number, act in enumerate(acts):
            self.producers[number % PRODUCERS].do(act)
        storm = Storm(self.result.seed, scene, self.slots, self._server, self.sql, 2 + len(acts) // 300)
        self.cancelled = storm.cancelled
        while (left := sum(producer.pending for producer in self.producers)) > 0:
            storm.blow(1 - left / len(acts))
            self._during_storm(1 - left / len(acts))
            self._check_time()
            time.sleep(0.03)
        for number in range(self.jumps_with_faults):
            if number == self.jumps_with_faults // 2:
                self._redrive()
            while not self._idle():
                storm.blow(1)
                self._check_time()
                time.sleep(0.01)
            if not self._jump():
                break

    def _during_storm(self, progress: float) -> None:
        """Called again and again while tasks are enqueued. ``progress``: the share of the acts that are done."""

    def _after_storm(self, stack: ExitStack, endpoint: str) -> None:
        """Called before the faults end. ``endpoint``: of the queues."""

    def _violations(self) -> list[str]:
        return check(self.evidence())

    def _calm(self) -> None:
        """Let all remaining tasks end, without faults."""
        self.dice.on = False
        self._redrive()
        self._drain()

    def _probe(self) -> None:
        """Enqueue a task with every unique key."""
        for key in sorted(self.mix.keys):
            self.producers[0].do(key_probe(key))
        self._until(lambda: self.producers[0].pending == 0)
        self._drain()

    def _redrive(self) -> None:
        for task in ALL_TASKS.values():
            self.queues.redrive(lane_name(PREFIX, task.queue, task.type), REDRIVEN_SHARE)

    def _drain(self) -> None:
        while True:
            self._until(self._idle)
            if not self._jump():
                return

    def evidence(self) -> Evidence:
        created, replaced, cancelled = set[str](), set[str](), dict(self.cancelled)
        for producer in self.producers:
            created |= producer.created
            replaced |= producer.replaced
            cancelled |= producer.cancelled
        return Evidence(
            self.sql, self.mix, self.queues.dead_letters(), self.queues.left(SWEEP_LANE), created, replaced, cancelled
        )

    # --- Time ------------------------------------------------------------------------------------------------------

    def _idle(self) -> bool:
        return self.queues.in_flight == 0 and self.queues.visible() == 0

    def _jump(self) -> bool:
        """Move the clock to the next message, or to the next run of the sweep's schedule. Return False if all tasks
        have ended, or never end."""
        if not self.queues.left(SWEEP_LANE) and not self.sql(LIVE):
            return False
        now, message = self.clock.now(), self.queues.next_at()
        self._fixed_in_a_row = self._fixed_in_a_row + 1 if message is None else 0
        if self._fixed_in_a_row > MOST_FIXED_SWEEPS:
            return False
        self.clock.move_forward(max(2.0, min(message or self._fixed_at, self._fixed_at) - now + 1))
        self.result.counts["jumps over idle time"] += 1
        if self.clock.now() >= self._fixed_at:
            self._sweep()
        return True

    def _sweep(self) -> None:
        """Start a sweep as its schedule does."""
        self._fixed_at = self.clock.now() + FIXED_SECONDS
        self._fixed_sweeps += 1
        act = sweep_call(self._fixed_sweeps)
        self.queues.send(act["send"], act["body"])

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._check_time()
            time.sleep(0.005)

    def _check_time(self) -> None:
        if time.monotonic() > self._ends:
            left = self.sql(
                "select id, state, attempts, due_at, sweep_at from joblane.tasks"
                " where state in ('scheduled', 'pending', 'active', 'retry') limit 10"
            )
            raise StuckError(
                f"the run did not end in time; live: {left}; in the lanes: {self.queues.left(SWEEP_LANE)[:10]}"
            )
