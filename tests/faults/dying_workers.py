"""Workers that die: threads run tasks in queues in memory, while workers die and messages come twice.

Times are shorter than the library's. A worker dies by an error that nothing catches, before or after one of its
statements, with its connection cut.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from joblane import settings
from joblane.enqueue import wake
from joblane.names import SWEEP, Queue, lane_name
from joblane.quotas import MAX_BATCH
from joblane.record.driver.database import Database
from joblane.sqs.message import DEAD_ATTRIBUTE, Message
from joblane.sweep.duties import Duties
from joblane.sweep.sends import Sends
from joblane.testing.faults import HookedDatabase
from joblane.worker import run as worker_run
from joblane.worker import worker as worker_module
from joblane.worker.worker import Worker
from tests.faults.limit_lanes import attributes_of
from tests.faults.thread_storm import ThreadStorm

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
RULES = {
    "{2} effects: {0} is {1}": """
select t.id, t.state, e.number
  from joblane.tasks t, lateral (select count(*) as number from public.effects e where e.id = t.id) as e
 where e.number <> (t.state = 'completed')::int""",
    "{0} deadlocks": """
select deadlocks from pg_stat_database where datname = current_database() and deadlocks > 0""",
}
"""The line of a violated rule → the statement that finds its rows."""


class Death(KeyboardInterrupt):
    """The end of a worker's process: the only error that a worker lets pass."""


class Fate:
    """The death of a worker, at a statement of its invocation.

    ``frees``: other tasks may start that it has not started yet. ``database``: the worker's.
    """

    database: Database

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


class DyingWorkers(ThreadStorm):
    """A storm. ``deaths``: the share of invocations in which the worker dies."""

    fate: type[Fate] = Fate
    before: str
    """The work that a worker may leave undone when it dies: a verb."""
    work: str
    """This work, for the counts. The library's sweep does it only while all workers stand still, and at most once for
    each worker that has died before it could."""
    duty: Any
    """The part of the library's sweep that does this work."""
    rules: Mapping[str, str]
    """Like :data:`RULES`."""
    cancellable: str
    """The condition of tasks that a client cancels. One is cancelled each ``cancel_seconds``."""
    cancel_seconds: float
    cancelled = math.inf
    """The largest share of tasks that a client cancels."""

    def __init__(self, url: str, seed: int, number: int, *, seconds: float, deaths: float) -> None:
        super().__init__(url, seed, seconds=seconds)
        self._dice, self._number, self._deaths = random.Random(seed), number, deaths
        self._produced = threading.Event()
        self._redriven: set[str] = set()

    def _duties(self) -> Sequence[Callable[[], None]]:
        """Return what threads do in addition to the workers and to :meth:`_sweep`."""
        raise NotImplementedError

    def _blow(self, observer: Database) -> None:
        with self._running([*self._duties(), self._sweep, *[self._work] * THREADS], self._over):
            self._await(lambda: self._has_ended(observer), observer, 0.1)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Let leases end when the invocation does, and wake the sweep more often."""
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
            yield

    def _has_ended(self, observer: Database) -> bool:
        """True if no task is live. At times, while all stand still, do what only the library's sweep does."""
        if self._produced.is_set() and not self._lanes.depth and not self._live(observer):
            return True
        if self._is_woken():
            with self._gate.closed():
                self._sweep_alone(observer)
        return False

    def _sweep_alone(self, observer: Database) -> Any:
        sends = Sends(observer.get(), self._lanes)
        step = self.duty(self.prefix, sends, Duties(sends.connection, sends.following))
        list(step.steps())
        return step

    def _check(self, observer: Database) -> None:
        sql, counts = observer.get().run, self.result.counts
        for state, number in sql("select state, count(*) from joblane.tasks group by 1"):
            counts[f"tasks {state}"] = number
        for line, statement in (RULES | dict(self.rules)).items():
            for row in sql(statement):
                self.wrong(line.format(*row))
        swept, died = counts[f"{self.work} by the sweep"], counts[f"workers that died before they could {self.before}"]
        if swept > died:
            self.wrong(f"{swept} {self.work} by the sweep alone, with {died} deaths")

    def _put(self, type_: str, body: str, tenant: str | None, delay: float = 0, **attributes: Any) -> None:
        self._lanes.put(self._lane(type_), body, delay, tenant, attributes)

    def _work(self) -> None:
        """Deliver messages to a worker, and to the next one when it has died."""
        dice = random.Random(self._dice.random())
        while not self._over.is_set():
            fate = self.fate(self._died)
            fate.database = database = HookedDatabase(self._url, fate.hook)
            workers = [Worker(task, database, self._lanes, self.prefix) for task in self.tasks.values()]
            with suppress(Death):
                while not self._over.is_set():
                    dies = dice.random() < self._deaths
                    fate.begin(dice.randrange(1, 10) if dies else 0, after=dice.random() < 0.5)
                    dice.shuffle(workers)
                    if not any(self._deliver(worker, LEASE_SECONDS) for worker in workers):
                        time.sleep(0.01)
                    elif self._lanes.dead and dice.random() < 0.5:
                        self._redrive()
            database.drop()

    def _deliver(self, worker: Worker, seconds: float) -> int:
        number = super()._deliver(worker, seconds)
        self.count("invocations", number > 0)
        return number

    def _died(self, fate: Fate) -> None:
        self.count("invocations")
        self.count("workers that died")
        self.count(f"workers that died before they could {self.before}", fate.frees)

    def _cancel(self) -> None:
        dice = random.Random(self._dice.random())
        find = f"select id from joblane.tasks where finished_at is null and {self.cancellable} offset $1 limit 1"
        with self._client() as (database, client):
            for _ in self._every(self.cancel_seconds):
                if self.result.counts["tasks cancelled by a client"] >= self.cancelled * self._number:
                    break
                for (id_,) in database.get().run(find, dice.randrange(60)):
                    with self._gate.open():
                        self.count("tasks cancelled by a client", client.cancel(id_) is not None)

    def _pause(self) -> None:
        """Pause a type, or a tenant, for a moment."""
        dice = random.Random(self._dice.random())
        with self._client() as (database, _):
            for _ in self._every(0.4):
                scope, name = dice.choice([("type", type_) for type_ in self.tasks] + [("tenant", "a")])
                with self._gate.open():  # the storm's sweep then finds all that is paused
                    database.get().run("insert into joblane.pauses (scope, name) values ($1, $2)", scope, name)
                self.count("pauses")
                self._over.wait(dice.random() * 0.4)
                self._in_pause(database)
                database.get().run("delete from joblane.pauses")
                wake.wake(self._lanes, self.prefix)

    def _in_pause(self, database: Database) -> None:
        """Do what only the library's sweep does during a pause."""

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
        self._lanes.answer(records)
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
