"""A storm of debounced enqueues: fifty producers ask for the tasks of twenty keys.

The clocks of the database and of the queues run :data:`SPEED` times faster, so that a minute takes six seconds. The
workers, the clients and the statements are the library's. Each ask is part of a transaction with a row of its own, and
some are rolled back. The rules are about times in rows and about payloads. A slow machine breaks none of them.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from joblane import Payload, RetryAfter, TaskContext, task
from joblane.client.client import JobClient, client_within
from joblane.errors import JobError
from joblane.names import Queue, lane_name
from joblane.record.driver.database import Database
from joblane.record.row.conditions import EARLY_SECONDS
from joblane.record.sql_functions import VERSION
from joblane.record.task_types import LIMITS, declared_limits
from joblane.sqs.client import Entry
from joblane.worker.worker import Worker
from tests.builders.events import LambdaContext, event
from tests.faults.clock import Clock
from tests.faults.dying_workers import Result
from tests.faults.limit_lanes import Lanes, is_of_sweep
from tests.patience import PATIENCE_SECONDS, PATIENT

PREFIX = "burst"
SPEED = 10
DEBOUNCE, LONGEST = timedelta(seconds=5), timedelta(seconds=20)
PRODUCERS, KEYS, THREADS = 50, 20, 4
PAUSE_SECONDS = 5.0
"""The mean pause of a producer, in virtual time."""
ROLLED_BACK, RETRIED = 0.1, 0.1
"""The shares of asks that are rolled back, and of first runs of a type that fail."""
LATE_SECONDS = 5.0
TABLES = """
create table public.asks (
  number bigserial, token int, key int, task_id text, at timestamptz default clock_timestamp()
);
create table public.effects (task_id text, token int);
create index on public.asks (task_id);
"""
ROWS = """
select t.id, t.type, (t.payload ->> 'key')::int, t.state, t.runs, t.asks,
       extract(epoch from t.due_at - t.created_at)::float8, extract(epoch from a.started_at - t.due_at)::float8,
       array(select e.token from public.effects e where e.task_id = t.id),
       array(select s.token from public.asks s where s.task_id = t.id order by s.number),
       array(select extract(epoch from s.at - t.created_at)::float8 from public.asks s
              where s.task_id = t.id order by s.number)
  from joblane.tasks t left join joblane.task_attempts a on a.task_id = t.id and a.run = 1
"""
ASKED_DURING_A_RUN = """
select count(*)::int from public.asks s
 where exists (select from joblane.tasks t join joblane.task_attempts a on a.task_id = t.id
                where (t.payload ->> 'key')::int = s.key and s.at between a.started_at and a.finished_at)
"""
SEEN_SO_FAR = f"""
select (select count(*) - count(distinct task_id) from public.asks)::int,
       (select count(*) from joblane.tasks where type = 'burst:free' and runs = 1 and finished_at is not null
           and due_at - created_at >= interval '{LONGEST.total_seconds()} s')::int,
       ({ASKED_DURING_A_RUN})
"""


class Ask(Payload):
    key: int
    token: int


SEEN: dict[str, int] = {}
"""Task → the number of committed asks for it when its first run began."""


def work(payload: Ask, ctx: TaskContext, retried: float = 0.0) -> None:
    count = text("select count(*) from public.asks where task_id = :id")
    SEEN.setdefault(ctx.task_id, ctx.session.scalar(count, {"id": ctx.task_id}))
    ctx.session.execute(
        text("insert into public.effects values (:id, :token)"), {"id": ctx.task_id, "token": payload.token}
    )
    time.sleep(random.random() * 2 / SPEED)
    if ctx.attempt == 1 and random.random() < retried:
        raise RetryAfter(timedelta(seconds=3), "again")


OPTIONS: dict[str, Any] = {"unique_for": timedelta(hours=1), "unique_until": "start", "retry_delay": timedelta(0)}


@task("burst:free", batch_size=2, **OPTIONS)
def burst_free(payload: Ask, ctx: TaskContext) -> None:
    work(payload, ctx)


@task("burst:single", key="key", max_per_key=1, **OPTIONS)
def burst_single(payload: Ask, ctx: TaskContext) -> None:
    work(payload, ctx, RETRIED)


TASKS = {each.type: each for each in (burst_free, burst_single)}


class FastClock(Clock):
    """A clock that runs :data:`SPEED` times faster."""

    def _define(self, ahead: float) -> None:
        [[start]] = self._run("select pg_catalog.real_clock_timestamp()::text")
        functions = "; ".join(
            f"create or replace function pg_catalog.{name}() returns timestamptz language sql {volatility} as"
            f" 'select timestamptz ''{start}'' + {SPEED} * (pg_catalog.real_{name}() - timestamptz ''{start}'')'"
            for name, volatility in (("now", "stable"), ("clock_timestamp", "volatile"))
        )
        self._run(f"do $do$ begin {functions}; end $do$")


class CountingLanes(Lanes):
    """``sent``: the number of messages that the producers have sent, without wake-ups."""

    def __init__(self) -> None:
        super().__init__(SPEED)
        self.sent = 0

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        with self._lock:
            self.sent += brief * sum(not is_of_sweep(entry.queue) for entry in entries)
        return super().send_many(entries, brief=brief)


def is_first_kept(key: int) -> bool:
    return key % 4 >= 2


class DebounceStorm:
    """A storm. ``seconds``: for this virtual time the producers ask, and until there are ``pushes`` pushes, and
    ``others`` tasks that ran after their longest wait, and asks while a task of their key ran. ``real_seconds``: a
    storm that takes longer is stuck."""

    def __init__(
        self,
        url: str,
        seed: int,
        *,
        producers: int = PRODUCERS,
        keys: int = KEYS,
        seconds: float = 60,
        pushes: int = 0,
        others: int = 0,
        real_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._url, self._seed, self._producers, self._keys = url, seed, producers, keys
        self._seconds, self._wanted, self._real_seconds = seconds, (pushes, others, others), real_seconds
        self._lanes: Any = CountingLanes()
        self._tokens = itertools.count(1)
        self._asked, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self.result = Result(seed, held="Every rule held.")

    def go(self) -> Result:
        began = time.monotonic()
        SEEN.clear()
        with Database(self._url) as database:
            FastClock(database.get().run).install()
        with Database(self._url) as observer:
            observer.get().execute_simple(TABLES)
            observer.get().run(LIMITS, json.dumps(declared_limits(TASKS)))
            observer.get().run(f"alter function joblane.insert_{VERSION} set lock_timeout = '{PATIENCE_SECONDS}s'")
            started = time.monotonic()
            producing = self._threads([partial(self._produce, number) for number in range(self._producers)])
            working = self._threads([self._work] * THREADS)
            self._await(lambda: time.monotonic() - started > self._seconds / SPEED and self._has_seen(observer), began)
            self._asked.set()
            for thread in producing:
                thread.join()
            self._await(lambda: not self._live(observer), began)
            self._over.set()
            for thread in working:
                thread.join()
            if not self.result.wrong:
                self._check(observer)
        self.result.seconds = time.monotonic() - began
        return self.result

    def _threads(self, duties: Sequence[Callable[[], None]]) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._safely, args=(duty,), daemon=True) for duty in duties]
        for thread in threads:
            thread.start()
        return threads

    def _safely(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        except Exception as error:
            self._wrong(f"{type(error).__name__}: {error}")

    def _wrong(self, line: str) -> None:
        with self._lock:
            self.result.wrong.append(line)

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.result.counts[what] += number

    def _await(self, condition: Callable[[], bool], began: float) -> None:
        while not self.result.wrong and not condition():
            if time.monotonic() - began > self._real_seconds:
                self._wrong("the storm is not over in time")
            time.sleep(0.05)

    def _has_seen(self, observer: Database) -> bool:
        """True if there is nothing that the storm still waits for."""
        [seen] = observer.get().run(SEEN_SO_FAR)
        return all(number >= wanted for number, wanted in zip(seen, self._wanted, strict=True))

    def _live(self, observer: Database) -> int:
        [[live]] = observer.get().run("select count(*) from joblane.tasks where finished_at is null")
        return int(live)

    # --- Producers and workers ----------------------------------------------------------------------------------------

    @contextmanager
    def _sessions(self) -> Iterator[tuple[JobClient, Callable[[], Session]]]:
        with Database(self._url, limits=PATIENT) as database:
            engine = create_engine("postgresql+pg8000://", creator=database.get, poolclass=StaticPool)
            yield client_within(database, self._lanes, PREFIX), lambda: Session(engine)
            engine.dispose()

    def _produce(self, number: int) -> None:
        dice = random.Random(f"{self._seed}/{number}")
        with self._sessions() as (client, session):
            while not self.result.wrong and not self._asked.wait(dice.expovariate(1 / PAUSE_SECONDS) / SPEED):
                with session() as work:
                    self._ask(client, work, int(self._keys * dice.random() ** 2))
                    is_kept = dice.random() >= ROLLED_BACK
                    work.commit() if is_kept else work.rollback()
                    self._count("asks" if is_kept else "asks that were rolled back")

    def _ask(self, client: JobClient, session: Session, key: int) -> None:
        token = next(self._tokens)
        try:
            asked = client.enqueue(
                burst_single if key % 2 else burst_free,
                Ask(key=key, token=token),
                session=session,
                unique_key=str(key),
                debounce=DEBOUNCE,
                longest=LONGEST,
                keep="first" if is_first_kept(key) else "last",
            )
        except JobError as error:
            self._wrong(f"an ask is refused: {error}")
            return
        session.execute(
            text("insert into public.asks (token, key, task_id) values (:token, :key, :id)"),
            {"token": token, "key": key, "id": asked.id},
        )

    def _work(self) -> None:
        with Database(self._url, limits=PATIENT) as database:
            workers = [
                (lane_name(PREFIX, Queue.DEFAULT, each.type), each, Worker(each, database, self._lanes, PREFIX))
                for each in TASKS.values()
            ]
            while not self._over.is_set():
                found = False
                for lane, each, worker in workers:
                    if records := self._lanes.receive(lane, each.batch_size):
                        found = True
                        self._count("messages received", len(records))
                        answer = worker.handle(event(*records), LambdaContext(seconds=600))
                        self._lanes.answer(records, {item["itemIdentifier"] for item in answer["batchItemFailures"]})
                if not found:
                    time.sleep(0.005)

    # --- The rules ----------------------------------------------------------------------------------------------------

    def _check(self, observer: Database) -> None:
        rows = observer.get().run(ROWS)
        counts = self.result.counts
        counts["tasks"], counts["messages that the producers sent"] = len(rows), self._lanes.sent
        [[counts["asks while a task of their key ran"]]] = observer.get().run(ASKED_DURING_A_RUN)
        for row in rows:
            for problem in self._problems(*row):
                self._wrong(f"{problem}: {row[0]}")
        if self._lanes.sent != len(rows):
            self._wrong(f"{self._lanes.sent} messages were sent for {len(rows)} tasks")
        if sum(len(row[9]) for row in rows) != counts["asks"]:
            self._wrong(f"the asks of all tasks are not the {counts['asks']} that were committed")

    def _problems(
        self,
        id_: str,
        type_: str,
        key: int,
        state: str,
        runs: int,
        asks: int,
        due: float,
        late: float,
        effects: list[int],
        tokens: list[int],
        asked: list[float],
    ) -> Iterator[str]:
        """Yield the violated rules of one task. ``due`` and ``asked``: seconds since its insert. ``late``: seconds from
        the time it was due to its first start."""
        if state != "completed" or len(effects) != 1:
            yield f"{len(effects)} effects of a task that is {state}"
            return
        wanted = tokens[0] if is_first_kept(key) else tokens[-1]
        if effects != [wanted]:
            yield f"it ran with the payload of ask {effects[0]}, not of {wanted}"
        if asks != len(tokens):
            yield f"it has counted {asks} of {len(tokens)} asks"
        if SEEN[id_] != len(tokens):
            yield f"{len(tokens) - SEEN[id_]} asks came after its start, and made no other task"
        self._count("pushes", len(tokens) - 1)
        if type_ != burst_free.type or runs > 1:  # its time was given by a turn, or by a retry
            return
        longest, debounce = LONGEST.total_seconds(), DEBOUNCE.total_seconds()
        self._count("tasks that ran after their longest wait", due >= longest)
        self._count(f"starts more than {LATE_SECONDS:g} s late", late > LATE_SECONDS)
        if due > longest:
            yield f"it was due {due:.3f} s after its first ask"
        if len(asked) > 1 and due < min(asked[-2] + debounce, longest):
            yield f"it was due {due:.3f} s after its first ask, although another came {asked[-2]:.3f} s after it"
        if late < -EARLY_SECONDS:
            yield f"it started {-late:.3f} s before it was due"
