"""A storm of debounced enqueues: fifty producers ask for the tasks of twenty keys.

The clocks of the database and of the queues run :data:`SPEED` times faster, so that a minute takes six seconds. The
workers, the clients and the statements are the library's. Each ask is part of a transaction with a row of its own, and
some are rolled back. The rules are about times in rows and about payloads. A slow machine breaks none of them.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

from sqlalchemy import text
from sqlalchemy.orm import Session

from joblane import Payload, TaskContext
from joblane.client.client import JobClient
from joblane.errors import JobError
from joblane.record.driver.database import Database
from joblane.record.row.conditions import EARLY_SECONDS
from joblane.record.sql_functions import VERSION
from joblane.sqs.client import Entry
from joblane.worker.worker import Worker
from tests.faults.clock import Clock
from tests.faults.declared import declared, follow
from tests.faults.limit_lanes import Lanes, is_of_sweep
from tests.faults.result import Result
from tests.faults.thread_storm import ThreadStorm
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
  from joblane.tasks t left join joblane.runs a on a.task_id = t.id and a.run = 1
"""
ASKED_DURING_A_RUN = """
select count(*)::int from public.asks s
 where exists (select from joblane.tasks t join joblane.runs a on a.task_id = t.id
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


def work(payload: Ask, ctx: TaskContext) -> None:
    count = text("select count(*) from public.asks where task_id = :id")
    SEEN.setdefault(ctx.task_id, ctx.session.scalar(count, {"id": ctx.task_id}))
    ctx.session.execute(
        text("insert into public.effects values (:id, :token)"), {"id": ctx.task_id, "token": payload.token}
    )
    time.sleep(random.random() * 2 / SPEED)
    if ctx.type != FREE and ctx.attempt == 1 and random.random() < RETRIED:
        follow("retry", timedelta(seconds=3))


FREE = "burst:free"
TASKS = declared(
    work,
    {FREE: {"batch_size": 2}, "burst:single": {"key": "key", "max_per_key": 1}},
    unique_for=timedelta(hours=1),
    unique_until="start",
    retry_delay=timedelta(0),
)


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


class DebounceStorm(ThreadStorm):
    """A storm. ``seconds``: for this virtual time the producers ask, and until there are ``pushes`` pushes, and
    ``others`` tasks that ran after their longest wait, and asks while a task of their key ran. ``real_seconds``: a
    storm that takes longer is stuck."""

    prefix, tables, held = PREFIX, TABLES, "Every rule held."

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
        super().__init__(url, seed, seconds=real_seconds, lanes=CountingLanes())
        self.tasks = TASKS
        self._producers, self._keys, self._virtual_seconds = producers, keys, seconds
        self._wanted = (pushes, others, others)
        self._tokens = itertools.count(1)
        self._asked = threading.Event()

    def go(self) -> Result:
        SEEN.clear()
        with Database(self._url) as database:
            FastClock(database.get().run).install()
        return super().go()

    def _blow(self, observer: Database) -> None:
        observer.get().run(f"alter function joblane.insert_{VERSION} set lock_timeout = '{PATIENCE_SECONDS}s'")
        ends = time.monotonic() + self._virtual_seconds / SPEED
        with self._running([self._work] * THREADS, self._over):
            with self._running([partial(self._produce, number) for number in range(self._producers)], self._asked):
                self._await(lambda: time.monotonic() > ends and self._has_seen(observer), observer)
            self._await(lambda: not self._live(observer), observer)

    def _has_seen(self, observer: Database) -> bool:
        """True if there is nothing that the storm still waits for."""
        [seen] = observer.get().run(SEEN_SO_FAR)
        return all(number >= wanted for number, wanted in zip(seen, self._wanted, strict=True))

    # --- Producers and workers ----------------------------------------------------------------------------------------

    def _produce(self, number: int) -> None:
        dice = random.Random(f"{self._seed}/{number}")
        with self._client() as (database, client):
            while not self.result.wrong and not self._asked.wait(dice.expovariate(1 / PAUSE_SECONDS) / SPEED):
                with Session(database.engine) as work:
                    self._ask(client, work, int(self._keys * dice.random() ** 2))
                    is_kept = dice.random() >= ROLLED_BACK
                    work.commit() if is_kept else work.rollback()
                    self.count("asks" if is_kept else "asks that were rolled back")

    def _ask(self, client: JobClient, session: Session, key: int) -> None:
        token = next(self._tokens)
        try:
            asked = client.enqueue(
                TASKS["burst:single" if key % 2 else FREE],
                Ask(key=key, token=token),
                session=session,
                unique_key=str(key),
                debounce=DEBOUNCE,
                longest=LONGEST,
                keep="first" if is_first_kept(key) else "last",
            )
        except JobError as error:
            self.wrong(f"an ask is refused: {error}")
            return
        session.execute(
            text("insert into public.asks (token, key, task_id) values (:token, :key, :id)"),
            {"token": token, "key": key, "id": asked.id},
        )

    def _work(self) -> None:
        with Database(self._url, limits=PATIENT) as database:
            workers = [Worker(each, database, self._lanes, PREFIX) for each in TASKS.values()]
            while not self._over.is_set():
                received = sum(self._deliver(worker, 600) for worker in workers)
                self.count("messages received", received)
                if not received:
                    time.sleep(0.005)

    # --- The rules ----------------------------------------------------------------------------------------------------

    def _check(self, observer: Database) -> None:
        rows = observer.get().run(ROWS)
        counts = self.result.counts
        counts["tasks"], counts["messages that the producers sent"] = len(rows), self._lanes.sent
        [[counts["asks while a task of their key ran"]]] = observer.get().run(ASKED_DURING_A_RUN)
        for row in rows:
            for problem in self._problems(*row):
                self.wrong(f"{problem}: {row[0]}")
        if self._lanes.sent != len(rows):
            self.wrong(f"{self._lanes.sent} messages were sent for {len(rows)} tasks")
        if sum(len(row[9]) for row in rows) != counts["asks"]:
            self.wrong(f"the asks of all tasks are not the {counts['asks']} that were committed")

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
        self.count("pushes", len(tokens) - 1)
        if type_ != FREE or runs > 1:  # its time was given by a turn, or by a retry
            return
        longest, debounce = LONGEST.total_seconds(), DEBOUNCE.total_seconds()
        self.count("tasks that ran after their longest wait", due >= longest)
        self.count(f"starts more than {LATE_SECONDS:g} s late", late > LATE_SECONDS)
        if due > longest:
            yield f"it was due {due:.3f} s after its first ask"
        if len(asked) > 1 and due < min(asked[-2] + debounce, longest):
            yield f"it was due {due:.3f} s after its first ask, although another came {asked[-2]:.3f} s after it"
        if late < -EARLY_SECONDS:
            yield f"it started {-late:.3f} s before it was due"
