"""A storm of limits: threads run thousands of tasks while workers die, messages come twice, and limits move.

See :mod:`tests.faults.dying_workers`. The storm's sweep sends messages again, and serves limits only while all workers
stand still: it must serve no more tasks than workers have died before they could.

Without deaths the rule is strict: whenever all workers stand still, no task may wait for a limit that has room for it.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from unittest.mock import patch

from sqlalchemy import text

from joblane import Payload, TaskContext
from joblane.enqueue import follow_up
from joblane.enqueue.producer import Producer
from joblane.enqueue.wake import wake
from joblane.errors import JobError
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.flow import free_slots
from joblane.record.flow.free_slots import SERVE, LimitNames, Turn, serve, serve_in_steps
from joblane.record.row.conditions import HAS_IDLE_SLOT, PAUSED
from joblane.record.row.states import LEVELS, LIVE_SQL, Passed
from joblane.record.task.claim import CLAIMS, Verdict
from joblane.record.task.finish import FINISHES
from joblane.record.task_types import declared_limits
from joblane.sqs.message import Message
from joblane.sweep.held import LEAVE, Held, unserved
from joblane.tasks.job import Job
from joblane.tasks.limit import Limit
from joblane.tasks.task import Task
from joblane.worker.worker import Batch
from tests.faults.declared import declared, follow
from tests.faults.dying_workers import DyingWorkers, Fate
from tests.patience import PATIENCE_SECONDS

# --- Types -----------------------------------------------------------------------------------------------------------

POOL = Limit("pool", total=5)
TOUCHED = 0.2
"""The share of runs that write to the row of a task that waits, and so lock it until their commit."""
REPEATABLE = 0.2
"""The share of runs in the isolation level repeatable read."""
SNOOZED = 0.5
"""The share of runs that follow the word ``snooze``."""
TOUCH = text(
    "update joblane.tasks set tags = tags where id = (select id from joblane.tasks"
    " where wait_kind is not null and id <> :id limit 1 offset :number for no key update skip locked)"
)


class Work(Payload):
    """``key``: of the limits. ``script``: what the runs do, one after the other; after them the task completes."""

    key: int | None = None
    script: tuple[str, ...] = ()


def work(payload: Work, ctx: TaskContext) -> None:
    if random.random() < REPEATABLE:
        ctx.session.execute(text("set transaction isolation level repeatable read"))
    time.sleep(random.random() * 0.02)
    if random.random() < TOUCHED:
        ctx.session.execute(TOUCH, {"id": ctx.task_id, "number": random.randrange(8)})
    word = next(iter(payload.script[ctx.attempt - 1 :]), "")
    if word != "snooze" or random.random() < SNOOZED:
        follow(word, timedelta(milliseconds=100 if word == "snooze" else 200))
    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})


TASKS = declared(
    work,
    {
        "flow:tree": {"key": "key", "max_per_key": 2, "max_total": 6, "limit": POOL, "batch_size": 4},
        "flow:shared": {"key": "key", "max_per_key": 1, "limit": POOL},
        "flow:total": {"max_total": 3, "batch_size": 4},
        "flow:key": {"key": "tenant,key", "max_per_key": 3},
        "flow:order": {"key": "key", "order": "first-due"},
        "flow:queue": {"key": "key", "max_total": 4, "limit": POOL, "order": "first-due"},
        "flow:free": {"batch_size": 4},
        "flow:alone": {},
    },
    max_retry=3,
    retry_delay=timedelta(0),
    timeout=timedelta(seconds=30),
)


# --- The storm -------------------------------------------------------------------------------------------------------

PREFIX = "flow"
CANCELLED = 0.1
"""The share of tasks that are cancelled. A cancel serves limits: many of them would hide what nobody else serves."""
MOVES = (5, 1, 0, 3, 5)
"""The values of the shared limit, one after the other."""
STILL_SECONDS = 0.25
"""The time between two checks while all stand still. The shared limit moves at every second one."""
FILLED = f"""
select id,
       case when state = 'active' and passed is null and lease_until < clock_timestamp() then 'lost' else state end,
       ordered is true, passed, key_limit, total_limit, shared_limit from joblane.tasks
 where finished_at is null and (passed is not null or state = 'active') and state in {LIVE_SQL}
"""
"""The tasks that may have slots. A sweep takes those of a lost run back if it is paused."""
OUT_OF_ORDER = """
select a.id, b.id from joblane.tasks a join joblane.tasks b
    on a.key_limit = b.key_limit and (a.first_due_at, a.seq) < (b.first_due_at, b.seq)
  join public.moments born on born.id = a.id and born.what = 'born'
  join public.moments ends on ends.id = a.id and ends.what = 'ends'
 where a.ordered and b.ordered and a.generation = 0 and b.generation = 0
   and b.created_at > pg_xact_commit_timestamp(born.xid) + interval '1 s'
   and exists (select from public.moments starts
                where starts.id = b.id and starts.what = 'starts'
                  and pg_xact_commit_timestamp(starts.xid) < pg_xact_commit_timestamp(ends.xid))
 limit 5
"""
"""Tasks whose start was committed before the end of an earlier task of their order.

That one was committed before the other was inserted: a task may take the slot of its key while an earlier one is not
committed yet, and start long after, because it waits for a wider limit. A commit is seen a second after its time at the
latest. The times in the rows are too early for this: a claim reads the clock, and then looks who is first.
"""
RULES = {"order broken: {1} ran before {0} had ended": OUT_OF_ORDER}
TABLES = """
create table public.effects (id text);
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
FREED = """
create table public.freed (backend integer, at float8, id text, how text, limits text[]);
create function public.note_freed() returns trigger language plpgsql as $$
begin
  insert into public.freed
  values (pg_backend_pid(), extract(epoch from clock_timestamp()), new.id, old.state || ' to ' || new.state,
          array[old.key_limit, old.total_limit, old.shared_limit]);
  return null;
end
$$;
create trigger freed after update on joblane.tasks for each row
  when (old.passed is not null and old.finished_at is null and (new.passed is null or new.finished_at is not null))
  execute function public.note_freed();
"""
"""The tasks that have lost their slots, and the process of the server whose transaction took them."""
TAKE_FREED = "delete from public.freed returning backend, at, id, how, limits"
STEPS = [None, *Passed]
IDLE = f"select id from joblane.tasks t where passed is not null and {HAS_IDLE_SLOT} and {PAUSED.format(row='t')}"
"""The paused tasks that have slots."""


class LimitFate(Fate):
    """``frees``: slots are free that the worker has not served yet."""

    def note(self, statement: str, result: Any) -> None:
        if statement in CLAIMS:
            answers = result.rows[0][0]
            self.frees = isinstance(answers[0], dict) and any(one["serve"] for one in answers)
        elif statement in (*FINISHES, SERVE):
            self.frees = statement in FINISHES


class Serve(NamedTuple):
    """A call of ``serve_limits.sql`` by a process of the server: its times, and the limits that it was given."""

    backend: int
    began: float
    ended: float
    limits: list[list[str | None]]

    def follows(self, backend: int, at: float, limits: list[str | None]) -> bool:
        """True if it was called after a process has freed slots, or has freed them itself: then it serves them, too."""
        is_own = self.began <= at <= self.ended
        return backend == self.backend and (is_own or (self.began >= at and limits in self.limits))


class Storm(DyingWorkers):
    """A storm. ``keys``: the number of keys of each type."""

    prefix, tasks, fate, duty = PREFIX, TASKS, LimitFate, Held
    before, work = "serve", "tasks served"
    tables, rules = TABLES + FREED, RULES
    cancellable, cancelled, cancel_seconds = f"state in {LIVE_SQL}", CANCELLED, 0.05

    def __init__(
        self, url: str, seed: int, tasks: int, *, keys: int = 20, seconds: float = PATIENCE_SECONDS, deaths: float = 0.3
    ) -> None:
        super().__init__(url, seed, tasks, seconds=seconds, deaths=deaths)
        self._keys = keys
        self._who = threading.local()
        self._serves: list[Serve] = []
        """The calls of ``serve_limits.sql`` since the last check."""
        self._dead: set[int] = set()
        """The processes of the server whose workers have died."""
        self._pool_values = [POOL.total or 0]
        """The values of the shared limit, one after the other."""

    def _duties(self) -> Sequence[Callable[[], None]]:
        return self._produce, self._watch, self._move, self._cancel, self._pause

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Count the tasks that each caller has served."""

        def noted(owner: type, name: str, who: Callable[..., str]) -> Any:
            function = getattr(owner, name)

            def call(*arguments: Any) -> None:
                self._who.name = who(*arguments)
                function(*arguments)

            return patch.object(owner, name, call)

        def noting(wanted: Sequence[LimitNames], connection: Connection) -> Any:
            began = time.time()
            try:
                return serving(wanted, connection)
            finally:
                self._serves.append(Serve(backend_of(connection), began, time.time(), [*map(list, wanted)]))

        def counted(*given: Any) -> Iterator[list[Turn]]:
            for turns in serve_in_steps(*given):
                if name := getattr(self._who, "name", None):  # the thread of the sweep has none
                    self.count(f"tasks served by {name}", len(turns))
                yield turns

        serving = free_slots._serve
        with (
            super()._patched(),
            patch.object(free_slots, "_serve", noting),
            noted(
                Batch,
                "_note_claim",
                lambda _, claim: "a newcomer" if claim.verdict is Verdict.HELD else "a claim",
            ),
            noted(Batch, "_free", lambda *_: "the end of a run"),
            noted(Producer, "follow", lambda *_: "a cancel"),
            patch.object(follow_up, "serve_in_steps", counted),
        ):
            yield

    def _died(self, fate: Fate) -> None:
        super()._died(fate)
        if fate.database._connection is not None:
            self._dead.add(backend_of(fate.database._connection))

    def _check_freed(self, database: Database) -> None:
        """Check, while all stand still, that each process has served the limits whose slots it has freed.

        If another one, or the sweep, serves them later, this would hide that it does not."""
        serves, self._serves = self._serves, []
        for backend, at, id_, how, limits in database.get().run(TAKE_FREED):
            if any(serve.follows(backend, at, limits) for serve in serves):
                self.count("tasks whose slots were freed and served by the same process")
            elif backend in self._dead:
                self.count("tasks whose slots were freed by a worker that died")
            else:
                self.wrong(f"its limits were not served by the process that has freed its slots: {id_}, {how}")

    def _served(self, by: str, turns: list[Turn]) -> list[Turn]:
        self.count(f"tasks served by {by}", len(turns))
        return turns

    def _sweep_alone(self, observer: Database) -> None:
        self._serve_paused(observer)
        self.count("tasks served by the sweep", super()._sweep_alone(observer).served)
        observer.get().run("delete from public.freed where backend = pg_backend_pid()")  # the sweep's own

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

    # --- What else happens --------------------------------------------------------------------------------------------

    def _move(self) -> None:
        """Move the shared limit. Then check that nothing waits for a limit that has room.

        It is lowered while all stand still, so that nobody still uses the earlier value, and raised so at times.
        """
        with self._client() as (database, _):
            for number, _ in enumerate(self._every(STILL_SECONDS)):
                if number % 2:
                    value = MOVES[number // 2 % len(MOVES)]
                    is_still = value < self._pool_values[-1] or number % 4 == 1
                    with self._gate.closed() if is_still else self._gate.open():
                        self._set_pool(database, value)
                with self._gate.closed():
                    self._check_freed(database)
                    names = [str(row[3]) for found in unserved(database.get()) for row in found]
                self.count("checks while all stood still")
                self.count("times that a limit had room and waiting tasks", len(names))
                if names and not self._deaths:
                    self.wrong(f"waits for a limit that has room: {', '.join(names)}")
            with self._gate.open():
                self._set_pool(database, POOL.total or 0)

    def _set_pool(self, database: Database, value: int) -> None:
        """The sweep stands still, which would serve the limit between the two statements."""
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
        wake(self._lanes, self.prefix)

    def _serve_paused(self, database: Database) -> None:
        """Give the slots of paused tasks to others, as the sweep does: nobody else does it."""
        idle = json.dumps([id_ for (id_,) in database.get().run(IDLE)])
        turns = self._served("the end of a paused task's turn", serve(database.get(), database.get().run(LEAVE, idle)))
        self._lanes.send_many([turn.entry(PREFIX) for turn in turns])

    # --- The check ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Count the slots of each limit from outside."""
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
                for line in over_limits(filled, TASKS):
                    self.wrong(line)
                if len(pool) > most_of_pool and pool - before:  # to lower the limit stops no task
                    self.wrong(f"over the limit: {len(pool)} of {most_of_pool}: {pool - before} came to {before}")
                before = pool
                for id_ in kept(rows):
                    self.wrong(f"keeps its slots while it waits for its next attempt: {id_}")

    def _check(self, observer: Database) -> None:
        super()._check(observer)
        [[number]] = observer.get().run("select count(*) from joblane.tasks")
        if number != self._number:
            self.wrong(f"{number} rows of {self._number} tasks")


def backend_of(connection: Connection) -> int:
    """Return the id of a connection's process of the server."""
    return int.from_bytes(connection._backend_key_data[:4], "big")


def slots_of(rows: Sequence[Sequence[Any]]) -> dict[str, set[str]]:
    """Return the tasks that have a slot of each limit. A task has one while it runs, whatever its row says."""
    filled: defaultdict[str, set[str]] = defaultdict(set)
    for id_, state, _, passed, *limits in rows:
        for level, name in zip(LEVELS.values(), limits, strict=True):
            has_slot = STEPS.index(passed) >= STEPS.index(level.slot)
            if name is not None and (has_slot or state == "active"):
                filled[name].add(id_)
    return filled


def over_limits(filled: Mapping[str, set[str]], tasks: Mapping[str, Task[Any, Any]]) -> Iterator[str]:
    """Yield a line for each limit that has more tasks than declared."""
    declared = {row["name"]: row["slots"] for row in declared_limits(tasks)}
    for name, ids in filled.items():
        most = declared[f"{name.split('/')[0]}/" if "/" in name else name]
        if most is not None and len(ids) > most:
            yield f"over the limit: {len(ids)} of {most} {name}: {', '.join(ids)}"


def kept(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the tasks that keep slots until their next attempt. In an order a task keeps the slot of its key."""
    return [row[0] for row in rows if row[1] == "retry" and STEPS.index(row[3]) > row[2]]


def is_pooled(task: Task[Any, Any]) -> bool:
    """True if a task of this type needs a slot of the shared limit, which a dead worker keeps for a while."""
    return task.flow is not None and task.flow.limit is POOL
