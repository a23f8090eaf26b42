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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from joblane.enqueue import follow_up
from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.producer import Producer
from joblane.enqueue.wake import wake
from joblane.errors import JobError
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import SERVE, LimitNames, Turn, serve, serve_in_steps
from joblane.record.row.conditions import HAS_IDLE_SLOT, PAUSED
from joblane.record.row.states import LEVELS, LIVE_SQL, Passed
from joblane.record.task.claim import CLAIM, Claim, Verdict
from joblane.record.task.finish import FINISH
from joblane.record.task_types import LIMITS, declared_limits
from joblane.sqs.message import Message
from joblane.sweep.duties import Duties
from joblane.sweep.held import LEAVE, Held, unserved
from joblane.sweep.sends import Sends
from joblane.tasks.job import Job
from joblane.tasks.task import Task
from joblane.worker.run import Run
from joblane.worker.worker import Batch
from tests.faults.dying_workers import DyingWorkers, Fate, Result
from tests.faults.limit_samples import POOL, TASKS, Work
from tests.patience import PATIENCE_SECONDS

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
STEPS = [None, *Passed]
IDLE = f"select id from joblane.tasks t where passed is not null and {HAS_IDLE_SLOT} and {PAUSED.format(row='t')}"
"""The paused tasks that have slots."""


class LimitFate(Fate):
    """``frees``: slots are free that the worker has not served yet."""

    def note(self, statement: str, result: Any) -> None:
        if statement == CLAIM:
            self.frees = any(answer["serve"] for answer in result.rows[0][0])
        elif statement in (FINISH, SERVE):
            self.frees = statement == FINISH


class Storm(DyingWorkers):
    """A storm. ``keys``: the number of keys of each type."""

    prefix, tasks, fate, before = PREFIX, TASKS, LimitFate, "serve"

    def __init__(
        self, url: str, seed: int, tasks: int, *, keys: int = 20, seconds: float = PATIENCE_SECONDS, deaths: float = 0.3
    ) -> None:
        super().__init__(url, seed, tasks, seconds=seconds, deaths=deaths)
        self._keys = keys
        self._who = threading.local()
        self._pool_values = [POOL.total or 0]
        """The values of the shared limit, one after the other."""

    def go(self) -> Result:
        started = time.monotonic()
        with Database(self._url) as observer:
            observer.get().run("create table if not exists public.effects (id text)")
            observer.get().execute_simple(MOMENTS)
            observer.get().run(LIMITS, json.dumps(declared_limits(TASKS)))
            duties = (self._produce, self._watch, self._move, self._cancel, self._pause)
            with self._patched(), self._running(duties):
                self._await_end(observer)
            if not self.result.wrong:
                self._check(observer)
        self.result.seconds = time.monotonic() - started
        return self.result

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Count the tasks that each caller has served."""
        note_claim, free, follow = Batch._note_claim, Batch._free, Producer.follow

        def claimed(batch: Batch, claim: Claim) -> None:
            self._who.name = "a newcomer" if claim.verdict is Verdict.HELD else "a claim"
            note_claim(batch, claim)

        def freed(batch: Batch, run: Run, limits: LimitNames) -> None:
            self._who.name = "the end of a run"
            free(batch, run, limits)

        def cancelled(client: Producer, following: FollowUp) -> None:
            self._who.name = "a cancel"
            follow(client, following)

        def counted(*given: Any) -> Iterator[list[Turn]]:
            for turns in serve_in_steps(*given):
                if name := getattr(self._who, "name", None):  # the thread of the sweep has none
                    self.count(f"tasks served by {name}", len(turns))
                yield turns

        with (
            patch.object(Batch, "_note_claim", claimed),
            patch.object(Batch, "_free", freed),
            patch.object(Producer, "follow", cancelled),
            patch.object(follow_up, "serve_in_steps", counted),
        ):
            yield

    def _served(self, by: str, turns: list[Turn]) -> list[Turn]:
        self.count(f"tasks served by {by}", len(turns))
        return turns

    def _await_end(self, observer: Database) -> None:
        """Wait until no task is live. At times, while all stand still, serve what only the library's sweep serves."""
        while time.monotonic() < self._ends and not self.result.wrong:
            time.sleep(0.1)
            if self._produced.is_set() and not _live(observer)[0] and not self._lanes.depth:
                return
            if self._is_woken():
                with self._gate.closed():
                    self._serve_paused(observer)
                    sends = Sends(observer.get(), self._lanes)
                    step = Held(PREFIX, sends, Duties(sends.connection, sends.following))
                    list(step.steps())
                self.count("tasks served by the sweep", step.served)
        if not self.result.wrong:
            self.wrong(f"not over in time: live, held: {_live(observer)}, messages: {self._lanes.depth}")

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
                with self._gate.open():  # the sweep then finds all that is paused by `_serve_paused`
                    database.get().run("insert into joblane.pauses (scope, name) values ($1, $2)", scope, name)
                self.count("pauses")
                self._over.wait(dice.random() * 0.4)
                database.get().run("delete from joblane.pauses")
                wake(self._lanes, self.prefix)

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
        for level, name in zip(LEVELS.values(), limits, strict=True):
            has_slot = STEPS.index(passed) >= STEPS.index(level.slot)
            if name is not None and (has_slot or state == "active"):
                filled[name].add(id_)
    return filled


def kept(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the tasks that keep slots until their next attempt. In an order a task keeps the slot of its key."""
    return [row[0] for row in rows if row[1] == "retry" and STEPS.index(row[3]) > row[2]]


def is_pooled(task: Task[Any, Any]) -> bool:
    """True if a task of this type needs a slot of the shared limit, which a dead worker keeps for a while."""
    return task.flow is not None and task.flow.limit is POOL


def _live(observer: Database) -> tuple[int, int]:
    """Return the number of tasks that are live, and of those of them that wait for a limit."""
    [row] = observer.get().run(
        "select count(*), count(*) filter (where state = 'held') from joblane.tasks where finished_at is null"
    )
    return row[0], row[1]
