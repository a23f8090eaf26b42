"""A run of a rate: eight producers enqueue more tasks than may start, and the rate is halved midway.

It is 60 times faster than the case that it stands for: 5,000 tasks at 100 a minute. A minute is a second here, and so a
second, the unit of SQS's delays, is a 60th of a second. The workers, the clients and the statements are the library's.

A *time* is the moment at which the rate lets a task start. A task starts later if its machine is slow: the rule for
starts ignores late ones, the rule for times is strict.
"""

from __future__ import annotations

import math
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from joblane import Payload, Rate, RetryAfter, TaskContext, task
from joblane.record.driver.database import Database
from joblane.record.task import claim as claim_module
from joblane.record.task.claim import CLAIMS
from joblane.tasks.job import Job
from joblane.testing.faults import HookedDatabase
from joblane.worker import verdict as verdict_module
from joblane.worker import worker as worker_module
from joblane.worker.verdict import LOCKED_SECONDS
from joblane.worker.worker import Worker
from tests.faults.limit_lanes import Lanes
from tests.faults.thread_storm import ThreadStorm

PREFIX = "rate"
PER = timedelta(seconds=1)
SPEED = 60
STARTS, BURST = 100, 50
PRODUCERS, THREADS = 8, 6
AT_ONCE = 10
"""The tasks of one enqueue."""
SURPLUS = 2.5
"""The producers enqueue this many times more tasks in a second than may start."""
RETRIED = 0.02
"""The share of tasks whose first run fails. Its retry is a start, too."""
MOST_CLAIMS = 2.05
"""The most claims of a start: one that gives the time, and one at that time."""
LATE_SECONDS = 0.25
ROUNDED_SECONDS = 0.002
"""The times of starts are known to the millisecond."""
WAITING = """
select id, runs, extract(epoch from due_at)::float8 from joblane.tasks
 where passed = 'type_time' and state in ('pending', 'retry') and due_at > clock_timestamp() order by due_at
"""
ATTEMPTS = """
select task_id, run, extract(epoch from started_at)::float8, wait_ms / 1000.0::float8 from joblane.runs
"""


class Call(Payload):
    fails: bool = False


@task("rate:call", rate=Rate(STARTS, PER, BURST), retry_delay=timedelta(0), batch_size=10)
def rate_call(payload: Call, ctx: TaskContext) -> None:
    if payload.fails and ctx.attempt == 1:
        raise RetryAfter(timedelta(0), "again")


class RateRun(ThreadStorm):
    """A run. ``starts``: the starts in a second, until they are halved. ``seconds``: a run that takes longer is stuck.

    The workers begin when each producer has enqueued tasks, so that tasks wait even if the producers are slow."""

    prefix, tables = PREFIX, ""

    def __init__(
        self, url: str, seed: int, tasks: int, *, starts: int = STARTS, burst: int = BURST, seconds: float = 600
    ) -> None:
        # no worker dies, and a slow one is no fault
        super().__init__(url, seed, seconds=seconds, lanes=Lanes(speed=1, visibility=seconds))
        self.tasks, self._number = {rate_call.type: rate_call}, tasks
        self._rate, self._halved = Rate(starts, PER, burst), Rate(starts // 2, PER, burst)
        self._claims: Counter[str] = Counter()
        """Task → its claims that had an answer, without those that found the limit locked."""
        self._timed: set[tuple[str, int]] = set()
        """The ids and numbers of runs to which the rate has given a later time."""
        self._enqueued = self._started = 0
        self._replanned: set[str] = set()
        self._changed_at = 0.0
        self._of_change: list[str] = []
        """The rules that the change of the rate has violated. The run continues."""

    def _blow(self, observer: Database) -> None:
        self._set_rate(self._rate)
        producers = [partial(self._produce, number) for number in range(PRODUCERS)]
        with self._running([*producers, *[self._work] * THREADS], self._over):
            self._await(lambda: self._started >= self._number // 2, observer)
            self._halve(observer)
            self._await(lambda: self._has_ended(observer), observer)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Let the delays of messages be multiples of a 60th of a second."""
        scaled = SimpleNamespace(ceil=lambda seconds: math.ceil(seconds * SPEED) / SPEED)
        with (
            patch.object(claim_module, "math", scaled),
            patch.object(worker_module, "growing_seconds", lambda *_: LOCKED_SECONDS / SPEED),
            patch.object(verdict_module, "growing_seconds", lambda *_: LOCKED_SECONDS / SPEED),
        ):
            yield

    def _has_ended(self, observer: Database) -> bool:
        [[ended]] = observer.get().run("select count(*) from joblane.tasks where finished_at is not null")
        return bool(ended == self._number)

    def _set_rate(self, rate: Rate) -> None:
        with self._client() as (_, client):
            client.limits.set(rate_call.type, rate=rate)

    # --- Producers and workers ----------------------------------------------------------------------------------------

    def _produce(self, number: int) -> None:
        dice = random.Random(f"{self._seed}/{number}")
        ids = [f"t{each:05}" for each in range(number, self._number, PRODUCERS)]
        with self._client() as (_, client):
            for first in range(0, len(ids), AT_ONCE):
                jobs = [
                    Job(rate_call, Call(fails=dice.random() < RETRIED), task_id=id_)
                    for id_ in ids[first : first + AT_ONCE]
                ]
                client.enqueue_many(jobs)
                with self._lock:
                    self._enqueued += len(jobs)
                self._over.wait(2 * dice.random() * PRODUCERS * AT_ONCE / (SURPLUS * self._rate.starts))

    def _work(self) -> None:
        with HookedDatabase(self._url, self._note) as database:
            worker = Worker(rate_call, database, self._lanes, PREFIX)
            while not self._over.is_set():
                begins = self._enqueued >= min(self._number, PRODUCERS * AT_ONCE)
                if not begins or not self._deliver(worker, 60):
                    time.sleep(0.002)

    def _note(self, statement: str, send: Callable[[], Any]) -> Any:
        """Count the claims in the answer of a statement."""
        result = send()
        if statement in CLAIMS:
            with self._lock:
                for answer in result.rows[0][0]:
                    verdict, id_ = answer["verdict"], answer["id"]
                    self.result.counts[f"claims: {verdict}"] += 1
                    self._claims[id_] += verdict != "locked"
                    self._started += verdict == "run"
                    if verdict == "wait":
                        self._timed.add((id_, answer["run"] + 1))
        return result

    # --- The checks ---------------------------------------------------------------------------------------------------

    def _halve(self, observer: Database) -> None:
        """Halve the rate, and check the times of the tasks that wait."""
        if self.result.wrong:
            return
        # a task that has run meanwhile, and failed, asks for another time
        before = {(id_, runs): due for id_, runs, due in observer.get().run(WAITING)}
        self._set_rate(self._halved)
        rows = observer.get().run(WAITING)
        [[now]] = observer.get().run("select extract(epoch from clock_timestamp())::float8")
        self._changed_at, step = now, self._halved.step.total_seconds()
        self._replanned = {id_ for id_, *_ in rows}
        counts = self.result.counts
        counts["tasks that waited while the rate was halved"] = len(rows)
        if not rows:
            self._of_change.append("no task waited while the rate was halved")
        gaps = [second[2] - first[2] for first, second in pairwise(rows)]
        close = sum(abs(gap - step) > ROUNDED_SECONDS for gap in gaps)
        if close:
            self._of_change.append(
                f"{close} of {len(gaps)} tasks were not planned anew: their times are not {step:g} s apart"
            )
        both = {(id_, runs): due for id_, runs, due in rows if (id_, runs) in before}
        if list(both) != sorted(both, key=before.__getitem__):
            self._of_change.append("the halved rate has changed the order of the tasks that wait")
        if early := [each for each, due in both.items() if due < before[each] - ROUNDED_SECONDS]:
            self._of_change.append(f"the halved rate gives {len(early)} tasks earlier times")

    def _check(self, observer: Database) -> None:
        counts, wrong = self.result.counts, self.result.wrong
        wrong += self._of_change
        starts, times, late = [], [], 0
        for id_, run, started, waited in observer.get().run(ATTEMPTS):
            is_timed = (id_, run) in self._timed
            times.append(started - waited if is_timed else started)
            if is_timed and waited > LATE_SECONDS:
                late += 1
            else:
                starts.append(started)
        counts["tasks"], counts["starts"] = self._number, len(times)
        counts[f"starts more than {LATE_SECONDS:g} s after their time"] = late
        after = self._changed_at + self._halved.step.total_seconds()
        for what, given, rate in (
            ("times", times, self._rate),
            ("starts", starts, self._rate),
            ("times after the change", [each for each in times if each > after], self._halved),
        ):
            most = most_in_a_second(given)
            counts[f"the most {what} in a second"] = most
            if most > rate.starts + rate.burst:
                wrong.append(f"{most} {what} in a second; {rate.starts} and a burst of {rate.burst} are allowed")
        runs = Counter(row[0] for row in observer.get().run(ATTEMPTS))
        for what, ids, extra in (
            ("tasks", runs.keys() - self._replanned, 0),
            ("tasks that waited at the change", self._replanned, 1),  # their message comes at the earlier time, too
        ):
            started, claims = sum(runs[id_] for id_ in ids), sum(self._claims[id_] for id_ in ids)
            counts[f"claims of 100 starts of {what}"] = round(100 * claims / max(started, 1))
            if claims > MOST_CLAIMS * started + extra * len(ids):
                wrong.append(f"{claims} claims of {started} starts of {what}")
        [[done]] = observer.get().run("select count(*) from joblane.tasks where state = 'completed'")
        if done != self._number:
            wrong.append(f"{done} of {self._number} tasks are completed")


def most_in_a_second(moments: Sequence[float]) -> int:
    """Return the most moments of any second."""
    moments = sorted(moments)
    ends = (bisect_left(moments, first + PER.total_seconds() - ROUNDED_SECONDS) for first in moments)
    return max((end - position for position, end in enumerate(ends)), default=0)
