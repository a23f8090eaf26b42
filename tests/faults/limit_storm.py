"""A storm of limits: threads run thousands of tasks while workers die, messages come twice, and limits move.

The workers, the client and the statements are the library's. The queues are in memory, and their times are shorter. A
worker dies by an error that nothing catches, before or after one of its statements, with its connection cut. The
storm's sweep sends messages again, and serves limits only while all workers stand still: it must serve no more tasks
than workers have died before they could.

Without deaths the rule is strict: whenever all workers stand still, no task may wait for a limit that has room for it.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from joblane import client as client_module
from joblane.client import JobClient
from joblane.declaration import Task
from joblane.errors import JobError
from joblane.job import Job
from joblane.maintenance.held import LEAVE, UNSERVED, Held
from joblane.maintenance.sends import Sends
from joblane.queues import Queue, lane_name
from joblane.record.claim import CLAIM, Claim, Verdict
from joblane.record.database import Database
from joblane.record.finish import FINISH
from joblane.record.serve import SERVE, Turn, serve
from joblane.record.states import LIVE_SQL
from joblane.record.task_types import LIMITS, declared_limits
from joblane.sqs.message import DEAD_ATTRIBUTE, Message
from joblane.testing.faults import HookedDatabase
from joblane.worker import run as worker_run
from joblane.worker import worker as worker_module
from joblane.worker.worker import Worker
from tests.builders.events import LambdaContext, event
from tests.faults.limit_lanes import Lanes, attributes_of
from tests.faults.limit_samples import POOL, TASKS, Work

PREFIX = "flow"
LEASE_SECONDS = 0.5
THREADS = 12
CANCELLED = 0.1
"""The share of tasks that are cancelled. A cancel serves limits: many of them would hide what nobody else serves."""
SHORT = 100
"""The storm's sweep waits while there are more messages than this."""
SWEEP_SECONDS = 2.0
MOVES = (5, 1, 0, 3, 5)
"""The values of the shared limit, one after the other."""
STILL_SECONDS = 0.25
"""The time between two checks while all stand still. The shared limit moves at every second one."""
FILLED = f"""
select id, case when state = 'active' and passed = 0 and lease_until < clock_timestamp() then 'lost' else state end,
       ordered is true, passed, key_limit, total_limit, shared_limit from joblane.tasks
 where finished_at is null and (passed > 0 or state = 'active') and state in {LIVE_SQL}
"""
"""The tasks that may have slots. A sweep takes those of a lost run back if it is paused."""
SWEEP = """
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
OUT_OF_ORDER = """
select a.id, b.id from joblane.tasks a join joblane.tasks b
    on a.key_limit = b.key_limit and (a.first_due_at, a.seq) < (b.first_due_at, b.seq)
  join public.moments born on born.id = a.id and born.what = 'born'
  join public.moments ends on ends.id = a.id and ends.what = 'ends'
 where a.ordered and b.ordered and a.generation = 0 and b.generation = 0
   and b.created_at > pg_xact_commit_timestamp(born.xid) + $1::interval
   and exists (select from public.moments starts
                where starts.id = b.id and starts.what = 'starts'
                  and pg_xact_commit_timestamp(starts.xid) < pg_xact_commit_timestamp(ends.xid))
 limit 5
"""
"""Tasks whose start was committed before the end of an earlier task of their order.

That one was committed before the other was inserted: a task may take the slot of its key while an earlier one is not
committed yet, and start long after, because it waits for a wider limit. ``$1``: a commit is seen this long after its
time at the latest. The times in the rows are too early for this: a claim reads the clock, and then looks who is first.
"""
MOMENTS = """
create table public.moments (id text, what text, xid xid);
create index on public.moments (id);
create function public.note() returns trigger language plpgsql as $$
declare
  was text := case when tg_op = 'UPDATE' then old.state end;
begin
  insert into public.moments
  select new.id, what, pg_current_xact_id()::xid
    from (values ('born', tg_op = 'INSERT'), ('starts', new.state = 'active' and was is distinct from 'active'),
                 ('ends', new.finished_at is not null and was not in ('completed', 'archived', 'cancelled'))
         ) as moments(what, is_now)
   where is_now;
  return null;
end
$$;
create trigger noted after insert or update on joblane.tasks for each row when (new.ordered)
  execute function public.note();
"""
"""The transactions in which each task with an order was inserted, started and ended."""


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


class Storm:
    """A storm. ``keys``: the number of keys of each type. ``seconds``: a storm that takes longer is stuck. ``deaths``:
    the share of invocations in which the worker dies."""

    def __init__(
        self, url: str, seed: int, tasks: int, *, keys: int = 20, seconds: float = 100.0, deaths: float = 0.3
    ) -> None:
        self._url, self._dice, self._number, self._keys = url, random.Random(seed), tasks, keys
        self._ends, self._deaths = time.monotonic() + seconds, deaths
        self._lanes: Any = Lanes()
        self._gate = Gate()
        self._over, self._produced = threading.Event(), threading.Event()
        self._redriven: set[str] = set()
        self._lock = threading.Lock()
        self._who = threading.local()
        self._pool_values = [POOL.total or 0]
        """The values of the shared limit, one after the other."""
        self.result = Result(seed)

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.result.counts[what] += number

    def wrong(self, line: str) -> None:
        with self._lock:
            self.result.wrong.append(line)

    def go(self) -> Result:
        started = time.monotonic()
        with Database(self._url) as observer:
            observer.get().run("create table if not exists public.effects (id text)")
            observer.get().execute_simple(MOMENTS)
            observer.get().run(LIMITS, json.dumps(declared_limits(TASKS)))
            duties = (self._produce, self._watch, self._move, self._cancel, self._pause, self._sweep)
            threads = [
                threading.Thread(target=self._safely, args=(duty,), daemon=True)
                for duty in (*duties, *[self._work] * THREADS)
            ]
            with self._patched():
                for thread in threads:
                    thread.start()
                self._await_end(observer)
                self._over.set()
                for thread in threads:
                    thread.join()
            if not self.result.wrong:
                self._check(observer)
        self.result.seconds = time.monotonic() - started
        return self.result

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Leases end when the invocation does, and the tasks are counted that each caller has served."""
        serve_of_worker = Worker._serve

        def named(worker: Worker, claims: Sequence[Claim]) -> None:
            verdicts = {claim.verdict for claim in claims}
            self._who.name = "the end of a run" if Verdict.RUN in verdicts else "a claim"
            if Verdict.HELD in verdicts:
                self._who.name = "a newcomer"
            serve_of_worker(worker, claims)

        with (
            patch.object(logging.getLogger("sqlalchemy.pool"), "disabled", True),  # it reports each connection cut
            patch.object(worker_module, "LEASE_MARGIN", timedelta(0)),
            patch.object(worker_run, "KILL_MARGIN_SECONDS", 0.0),
            patch.object(Worker, "_serve", named),
            patch.object(worker_module, "serve", lambda *given: self._served(self._who.name, serve(*given))),
            patch.object(client_module, "serve", lambda *given: self._served("a cancel", serve(*given))),
        ):
            yield

    def _served(self, by: str, turns: list[Turn]) -> list[Turn]:
        self.count(f"tasks served by {by}", len(turns))
        return turns

    def _safely(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        except Exception as error:
            self.wrong(f"{duty.__name__}: {type(error).__name__}: {error}")

    def _await_end(self, observer: Database) -> None:
        """Wait until no task is live. At times, while all stand still, serve what only the library's sweep serves."""
        swept = time.monotonic()
        while time.monotonic() < self._ends and not self.result.wrong:
            time.sleep(0.1)
            if self._produced.is_set() and not _live(observer)[0] and not self._lanes.depth:
                return
            if time.monotonic() - swept > SWEEP_SECONDS:
                with self._gate.closed():
                    self._serve_paused(observer)
                    step = Held(PREFIX, Sends(observer.get(), self._lanes))
                    list(step.steps())
                self.count("tasks served by the sweep", step.served)
                swept = time.monotonic()
        if not self.result.wrong:
            self.wrong(f"not over in time: live, held: {_live(observer)}, messages: {self._lanes.depth}")

    @contextmanager
    def _client(self) -> Iterator[tuple[Database, JobClient]]:
        with Database(self._url) as database:
            yield database, JobClient.within(database, self._lanes, PREFIX)

    def _every(self, seconds: float) -> Iterator[None]:
        while not self._over.wait(seconds):
            yield

    # --- Producers and workers ----------------------------------------------------------------------------------------

    def _produce(self) -> None:
        number = 0
        with self._client() as (_, client):
            while number < self._number and not self._over.is_set():
                jobs = [self._job(number + n) for n in range(min(self._dice.randint(1, 12), self._number - number))]
                number += len(jobs)
                is_external = self._dice.random() < 0.3
                if not is_external:
                    for result in client.enqueue_many(jobs):
                        assert not isinstance(result, JobError), result
                for job in jobs:
                    repeats = self._dice.random() < 0.15
                    self.count("messages that came twice", repeats)
                    payload = job.payload.model_dump(mode="json") if is_external else None
                    body = Message(job.task.type, str(job.task_id), payload, rec=not is_external).encode()
                    for _ in range(is_external + repeats):
                        self._put(job.task.type, body, job.tenant, self._dice.random() * 3)
        self._produced.set()

    def _put(self, type_: str, body: str, tenant: str | None, delay: float = 0, **attributes: Any) -> None:
        self._lanes.put(lane_name(PREFIX, Queue.DEFAULT, type_), body, delay, tenant, attributes)

    def _job(self, number: int) -> Job:
        task = self._dice.choice([task for task in TASKS.values() for _ in range(1 if is_pooled(task) else 2)])
        script: list[str] = []
        dice = self._dice.random()
        if dice < 0.09:
            script = ["retry"]
        elif dice < 0.12:
            script = ["snooze"]
        elif dice < 0.14:
            script = ["fail"] * 9
        key = int(self._keys * self._dice.random() ** 2) if self._dice.random() < 0.95 else None
        seconds = 0.3 + 10 * self._dice.random() ** 2
        return Job(
            task,
            Work(key=key, script=tuple(script)),
            task_id=f"t{number:05}",
            tenant=self._dice.choice("abc"),
            deadline=datetime.now(UTC) + timedelta(seconds=seconds) if self._dice.random() < 0.15 else None,
        )

    def _work(self) -> None:
        """Deliver messages to a worker, and to the next one when it has died."""
        dice = random.Random(self._dice.random())
        while not self._over.is_set():
            fate = Fate(self._died)
            database = HookedDatabase(self._url, fate.hook)
            workers = [Worker(task, database, self._lanes, PREFIX) for task in TASKS.values()]
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
            task = worker._task
            if records := self._lanes.receive(lane_name(PREFIX, Queue.DEFAULT, task.type), task.batch_size):
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
        self.count("workers that died before they could serve", fate.frees)

    def _redrive(self) -> None:
        """Send a dead letter of a task's first life back, twice."""
        with suppress(IndexError):
            dead_letter = self._lanes.dead.pop()
            attributes, id_ = attributes_of(dead_letter), json.loads(dead_letter.body)["id"]
            with self._lock:
                if id_ in self._redriven or attributes[DEAD_ATTRIBUTE][1] != "0":
                    return
                self._redriven.add(id_)
            self.count("tasks redriven")
            for _ in range(2):
                self._lanes.put(
                    dead_letter.queue.removesuffix("-dlq"), dead_letter.body, 0, dead_letter.group, attributes
                )

    # --- What else happens --------------------------------------------------------------------------------------------

    def _cancel(self) -> None:
        dice = random.Random(self._dice.random())
        find = f"select id from joblane.tasks where finished_at is null and state in {LIVE_SQL} offset $1 limit 1"
        with self._client() as (database, client):
            for _ in self._every(0.05):
                if self.result.counts["tasks cancelled"] >= CANCELLED * self._number:
                    break
                for (id_,) in database.get().run(find, dice.randrange(60)):
                    with self._gate.open():
                        self.count("tasks cancelled", client.cancel(id_) is not None)

    def _pause(self) -> None:
        dice = random.Random(self._dice.random())
        with self._client() as (database, _):
            for _ in self._every(0.4):
                scope, name = dice.choice([("type", type_) for type_ in TASKS] + [("tenant", "a")])
                database.get().run("insert into joblane.pauses (scope, name) values ($1, $2)", scope, name)
                self.count("pauses")
                self._over.wait(dice.random() * 0.4)
                database.get().run("delete from joblane.pauses")

    def _move(self) -> None:
        """Move the shared limit. Then check that nothing waits for a limit that has room.

        It is lowered while all stand still, so that nobody still uses the earlier value, and raised so at times.
        """
        with self._client() as (database, _):
            for number, _ in enumerate(self._every(STILL_SECONDS)):
                if number % 2:
                    value = MOVES[number // 2 % len(MOVES)]
                    is_still = value < self._pool_values[-1] or number % 4 == 1
                    with self._gate.closed() if is_still else nullcontext():
                        self._set_pool(database, value)
                with self._gate.closed():
                    names = [row[3] for row in database.get().run(UNSERVED)]
                self.count("checks while all stood still")
                self.count("times that a limit had room and waiting tasks", len(names))
                if names and not self._deaths:
                    self.wrong(f"waits for a limit that has room: {', '.join(names)}")
            self._set_pool(database, POOL.total or 0)

    def _set_pool(self, database: Database, value: int) -> None:
        self._pool_values.append(value)
        database.get().run(
            "insert into joblane.limit_changes (name, slots) values ($1, $2)"
            " on conflict (name) do update set slots = excluded.slots",
            POOL.name,
            value,
        )
        self.serve_pool(database)

    def serve_pool(self, database: Database) -> None:
        turns = self._served("a raised limit", serve(database.get(), [[None, None, POOL.name]]))
        self._lanes.send_many([turn.entry(PREFIX) for turn in turns])

    def _serve_paused(self, database: Database) -> None:
        """Give the slots of paused tasks to others, as the sweep does: nobody else does it."""
        turns = self._served("the end of a paused task's turn", serve(database.get(), database.get().run(LEAVE)))
        self._lanes.send_many([turn.entry(PREFIX) for turn in turns])

    def _sweep(self) -> None:
        with self._client() as (database, _):
            for _ in self._every(0.3):
                # a long lane has the messages; to send them again would only make it longer
                for id_, type_, _, tenant in database.get().run(SWEEP) if self._lanes.depth < SHORT else ():
                    self.count("messages sent by the sweep")
                    self._put(type_, Message(type_, id_, rec=True).encode(), tenant)

    # --- The check ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Count the slots of each limit from outside."""
        declared = {row["name"]: row["slots"] for row in declared_limits(TASKS)}
        before: set[str] = set()
        first = 0
        with self._client() as (database, _):
            for _ in self._every(0.05):
                last = len(self._pool_values) - 1
                rows = database.get().run(FILLED)
                most_of_pool, first = max(self._pool_values[first:]), last
                self.count("snapshots")
                filled = slots_of(rows)
                pool = filled.pop(POOL.name, set())
                for name, ids in filled.items():
                    most = declared[f"{name.split('/')[0]}/" if "/" in name else name]
                    if most is not None and len(ids) > most:
                        self.wrong(f"over the limit: {len(ids)} of {most} {name}: {', '.join(ids)}")
                if len(pool) > most_of_pool and pool - before:  # to lower the limit stops no task
                    self.wrong(f"over the limit: {len(pool)} of {most_of_pool}: {pool - before} came to {before}")
                before = pool
                for id_ in kept(rows):
                    self.wrong(f"keeps its slots while it waits for its next attempt: {id_}")

    def _check(self, observer: Database) -> None:
        sql, counts = observer.get().run, self.result.counts
        for state, number in sql("select state, count(*) from joblane.tasks group by 1"):
            counts[f"tasks {state}"] = number
        for id_, state, effects in sql(
            "select t.id, t.state, e.number from joblane.tasks t,"
            " lateral (select count(*) as number from public.effects e where e.id = t.id) as e"
            " where e.number <> (t.state = 'completed')::int"
        ):
            self.wrong(f"{effects} effects: {id_} is {state}")
        [[number]] = sql("select count(*) from joblane.tasks")
        if number != self._number:
            self.wrong(f"{number} rows of {self._number} tasks")
        for first, second in sql(OUT_OF_ORDER, "1 s"):
            self.wrong(f"order broken: {second} ran before {first} had ended")
        [[deadlocks]] = sql("select deadlocks from pg_stat_database where datname = current_database()")
        if deadlocks:
            self.wrong(f"{deadlocks} deadlocks")
        swept, died = counts["tasks served by the sweep"], counts["workers that died before they could serve"]
        if swept > died:
            self.wrong(f"{swept} tasks were served by the sweep alone, with {died} deaths")


def slots_of(rows: Sequence[Sequence[Any]]) -> dict[str, set[str]]:
    """Return the tasks that have a slot of each limit. A task has one while it runs, whatever its row says."""
    filled: defaultdict[str, set[str]] = defaultdict(set)
    for id_, state, _, passed, *limits in rows:
        for level, name in enumerate(limits):
            if name is not None and (passed > 2 * level or state == "active"):
                filled[name].add(id_)
    return filled


def kept(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the tasks that keep slots until their next attempt. In an order a task keeps the slot of its key."""
    return [row[0] for row in rows if row[1] == "retry" and row[3] > row[2]]


def is_pooled(task: Task[Any, Any]) -> bool:
    """True if a task of this type needs a slot of the shared limit, which a dead worker keeps for a while."""
    return task.flow is not None and task.flow.limit is POOL


def _live(observer: Database) -> tuple[int, int]:
    """Return the number of tasks that are live, and of those of them that wait for a limit."""
    [row] = observer.get().run(
        "select count(*), count(*) filter (where state = 'held') from joblane.tasks where finished_at is null"
    )
    return row[0], row[1]


class Fate:
    """The death of a worker, at a statement of its invocation. ``frees``: slots are free that it has not served yet."""

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
        if statement == CLAIM:
            self.frees = any(answer["serve"] for answer in result.rows[0][0])
        elif statement in (FINISH, SERVE):
            self.frees = statement == FINISH
        if self._left == 0:
            self._die()
        return result

    def _die(self) -> None:
        self._died(self)
        raise Death
