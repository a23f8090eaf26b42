"""Workers that die: threads run tasks in queues in memory, while workers die and messages come twice.

Workers, client and statements are the library's, and times are shorter. A worker dies by an error that nothing catches,
before or after one of its statements, with its connection cut.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from joblane import settings
from joblane.client.client import JobClient, client_within
from joblane.enqueue import wake
from joblane.names import SWEEP, Queue, lane_name
from joblane.quotas import MAX_BATCH
from joblane.record.driver.database import Database
from joblane.sqs.message import DEAD_ATTRIBUTE, Message
from joblane.tasks.task import Task
from joblane.testing.faults import HookedDatabase
from joblane.worker import run as worker_run
from joblane.worker import worker as worker_module
from joblane.worker.worker import Worker
from tests.builders.events import LambdaContext, event
from tests.faults.limit_lanes import Lanes, attributes_of
from tests.patience import PATIENT

LEASE_SECONDS = 0.5
GRID_SECONDS, LEAD_SECONDS = 2, 0.2
"""The wake-ups of the sweep are more frequent than in production, because a storm is short."""
THREADS = 12
SHORT = 100
"""The storm's sweep waits while there are more messages than this."""
SEND_AGAIN = """
update joblane.tasks t set sweep_at = clock_timestamp() + interval '61 s'
 where t.id in (select id from joblane.tasks where finished_at is null and case state
                   when 'held' then sweep_at <= clock_timestamp()
                   when 'active' then lease_until < clock_timestamp()
                                  and sweep_at <= clock_timestamp() + interval '58 s'
                   else due_at <= clock_timestamp() and sweep_at <= clock_timestamp() + interval '58 s' end
                 order by id for no key update skip locked)
returning t.id, t.type, t.queue, t.tenant
"""
"""The tasks whose message is missing for two seconds, and those that wait for a limit and are past their deadline."""


class Death(KeyboardInterrupt):
    """The end of a worker's process: the only error that a worker lets pass."""


@dataclass
class Result:
    """``wrong``: the violated rules, one line each. The storm ends with the first one. ``held``: the last line of the
    table if there are none."""

    seed: int
    held: str = "Every limit held."
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def table(self) -> str:
        lines = [f"seed {self.seed}: {self.seconds:.0f} s"]
        lines += [f"{name:<60} {number:>7}" for name, number in sorted(self.counts.items())]
        return "\n".join([*lines, *(["WRONG:", *self.wrong] if self.wrong else [self.held])])


class Gate:
    """Any number of threads are inside, or one that keeps the others out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def open(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class Fate:
    """The death of a worker, at a statement of its invocation.

    ``frees``: other tasks may start that it has not started yet.
    """

    def __init__(self, died: Callable[[Fate], None]) -> None:
        self.frees = False
        self._died = died
        self._left = -1
        self._after = False

    def begin(self, statement: int, *, after: bool) -> None:
        """Begin an invocation. ``statement``: the number of the statement, from 1, before or after which the worker
        dies; 0: it survives."""
        self._left, self._after, self.frees = statement or -1, after, False

    def hook(self, statement: str, send: Callable[[], Any]) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            self._die()
        result = send()
        self.note(statement, result)
        if self._left == 0:
            self._die()
        return result

    def note(self, statement: str, result: Any) -> None:
        """Note what follows from a statement."""

    def _die(self) -> None:
        self._died(self)
        raise Death


class DyingWorkers:
    """A storm. ``seconds``: one that takes longer is stuck. ``deaths``: the share of invocations in which the worker
    dies."""

    prefix: str
    tasks: Mapping[str, Task[Any, Any]]
    fate: type[Fate] = Fate
    before: str
    """The work that a worker may leave undone when it dies: a verb."""

    def __init__(self, url: str, seed: int, number: int, *, seconds: float, deaths: float) -> None:
        self._url, self._dice, self._number = url, random.Random(seed), number
        self._ends, self._deaths = time.monotonic() + seconds, deaths
        self._lanes: Any = Lanes()
        self._gate = Gate()
        self._over, self._produced = threading.Event(), threading.Event()
        self._redriven: set[str] = set()
        self._lock = threading.Lock()
        self.result = Result(seed)

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.result.counts[what] += number

    def wrong(self, line: str) -> None:
        with self._lock:
            self.result.wrong.append(line)

    @contextmanager
    def _running(self, duties: Sequence[Callable[[], None]]) -> Iterator[None]:
        """Run duties and workers in threads until the end of the block. Leases end when the invocation does."""
        threads = [
            threading.Thread(target=self._safely, args=(duty,), daemon=True)
            for duty in (*duties, self._sweep, *[self._work] * THREADS)
        ]
        with ExitStack() as patches:
            for each in (
                patch.object(logging.getLogger("sqlalchemy.pool"), "disabled", True),  # it reports each connection cut
                patch.dict(os.environ, {settings.SWEEP_MINUTES: "360"}),
                patch.object(wake, "GRID_SECONDS", GRID_SECONDS),
                patch.object(wake, "LEAD_SECONDS", LEAD_SECONDS),
                patch.object(worker_module, "LEASE_MARGIN", timedelta(0)),
                patch.object(worker_run, "KILL_MARGIN_SECONDS", 0.0),
            ):
                patches.enter_context(each)
            for thread in threads:
                thread.start()
            yield
            self._over.set()
            for thread in threads:
                thread.join()

    def _safely(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        except Exception as error:
            self.wrong(f"{duty.__name__}: {type(error).__name__}: {error}")

    @contextmanager
    def _client(self) -> Iterator[tuple[Database, JobClient]]:
        with Database(self._url, limits=PATIENT) as database:
            yield database, client_within(database, self._lanes, self.prefix)

    def _every(self, seconds: float) -> Iterator[None]:
        while not self._over.wait(seconds):
            yield

    def _put(self, type_: str, body: str, tenant: str | None, delay: float = 0, **attributes: Any) -> None:
        self._lanes.put(lane_name(self.prefix, Queue.DEFAULT, type_), body, delay, tenant, attributes)

    def _work(self) -> None:
        """Deliver messages to a worker, and to the next one when it has died."""
        dice = random.Random(self._dice.random())
        while not self._over.is_set():
            fate = self.fate(self._died)
            database = HookedDatabase(self._url, fate.hook)
            workers = [Worker(task, database, self._lanes, self.prefix) for task in self.tasks.values()]
            with suppress(Death):
                while not self._over.is_set():
                    dies = dice.random() < self._deaths
                    fate.begin(dice.randrange(1, 10) if dies else 0, after=dice.random() < 0.5)
                    if not self._deliver(workers, dice):
                        time.sleep(0.01)
            database.drop()

    def _deliver(self, workers: list[Worker], dice: random.Random) -> bool:
        """Deliver the next messages of a lane. Return False if all are empty."""
        dice.shuffle(workers)
        for worker in workers:
            task = worker.task
            if records := self._lanes.receive(lane_name(self.prefix, Queue.DEFAULT, task.type), task.batch_size):
                break
        else:
            return False
        self.count("invocations")
        context = LambdaContext(seconds=LEASE_SECONDS, aws_request_id=f"{dice.random()}")
        with self._gate.open():
            answer = worker.handle(event(*records), context)
        self._lanes.answer(records, {item["itemIdentifier"] for item in answer["batchItemFailures"]})
        if self._lanes.dead and dice.random() < 0.5:
            self._redrive()
        return True

    def _died(self, fate: Fate) -> None:
        self.count("workers that died")
        self.count(f"workers that died before they could {self.before}", fate.frees)

    def _redrive(self) -> None:
        """Send a dead letter of a task's first life back, twice."""
        with suppress(IndexError):
            dead_letter = self._lanes.dead.pop()
            attributes, id_ = attributes_of(dead_letter), json.loads(dead_letter.body)["id"]
            with self._lock:
                if id_ in self._redriven or attributes[DEAD_ATTRIBUTE][1] != "0":
                    return
                self._redriven.add(id_)
            self._before_redrive(id_)
            self.count("tasks redriven")
            for _ in range(2):
                self._lanes.put(
                    dead_letter.queue.removesuffix("-dlq"), dead_letter.body, 0, dead_letter.group, attributes
                )

    def _is_woken(self) -> bool:
        """Take the wake-ups of the sweep. Return False if there is none."""
        records = self._lanes.receive(lane_name(self.prefix, Queue.LOW, SWEEP), MAX_BATCH)
        self._lanes.answer(records, set())
        self.count("wake-ups of the sweep", len(records))
        return bool(records)

    def _before_redrive(self, id_: str) -> None:
        """Prepare an archived task for its second life."""

    def _sweep(self) -> None:
        with self._client() as (database, _):
            for _ in self._every(0.3):
                # a long lane has the messages; to send them again would only make it longer
                for id_, type_, _, tenant in database.get().run(SEND_AGAIN) if self._lanes.depth < SHORT else ():
                    self.count("messages sent by the sweep")
                    self._put(type_, Message(type_, id_, rec=True).encode(), tenant)
