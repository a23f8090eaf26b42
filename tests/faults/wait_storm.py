"""A storm of waits: threads run tasks that wait for signals, times and children, while workers die.

Workers, client and statements are of the library, see :mod:`tests.faults.dying_workers`. Messages come twice. Half of
the signals aim at the moment of a stop. Some signallers die after their commit, and some transactions roll back. Some
children fail, are cancelled or redriven. The storm counts who wakes each task: a signaller, the end of a child, or the
sweep. The library's sweep wakes tasks only while all workers stand still, and no more than processes have died before
their wake-up, or wake-ups have left a locked row.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

from sqlalchemy import text
from sqlalchemy.orm import Session

from joblane import Grants, Job, Payload, TaskContext
from joblane.enqueue import follow_up
from joblane.errors import ChildFailed
from joblane.inspector.actions.changes import change
from joblane.inspector.filter import BulkAction
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import Turn
from joblane.record.task import waits
from joblane.record.task.finish import SUSPEND
from joblane.record.task.waits import SIGNAL, WAKE, signal_document
from joblane.sqs.message import Message
from joblane.sweep.duties import Duties
from joblane.sweep.parents import Parents
from joblane.sweep.sends import Sends
from joblane.sweep.signals import Signals
from joblane.tasks.limit import Limit
from tests.faults.declared import declared, follow
from tests.faults.dying_workers import DyingWorkers
from tests.faults.graph_storm import GraphFate
from tests.faults.graph_storm import counted as counted_release
from tests.patience import PATIENCE_SECONDS

# --- Types -----------------------------------------------------------------------------------------------------------

REPEATABLE = 0.3
"""The share of runs in the isolation level repeatable read."""
AIMED: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
"""Tasks and signals of runs that are about to stop."""
HERE = threading.local()
"""The task and the signal for which the thread's handler waits."""
GOT = text("insert into public.got values (:id, :name, cast(:value as json)::text)")
FIRST_SECONDS = 3


class Asked(Payload):
    """``script``: what the runs do, one after the other, before the first wait. ``children``: the scripts of its
    children."""

    script: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


def begin(payload: Asked, ctx: TaskContext) -> None:
    HERE.waits = None
    if random.random() < REPEATABLE:
        ctx.session.execute(text("set transaction isolation level repeatable read"))
        ctx.session.execute(text("select from public.got limit 1"))
        time.sleep(random.random() * 0.02)
    follow(next(iter(payload.script[ctx.attempt - 1 :]), ""), timedelta(milliseconds=50))


def asked(payload: Asked, ctx: TaskContext) -> None:
    begin(payload, ctx)
    for name, timeout in (("a", timedelta(seconds=FIRST_SECONDS)), ("b", timedelta(hours=1))):
        HERE.waits = ctx.task_id, name
        value = ctx.wait(name, timeout=timeout, default="expired")
        ctx.step(f"after {name}", partial(keep, ctx, name, value))
        ctx.sleep(f"nap {name}", timedelta(milliseconds=20))
    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})


def keep(ctx: TaskContext, name: str, value: str, _: str) -> None:
    ctx.session.execute(GOT, {"id": ctx.task_id, "name": name, "value": f'"{value}"'})


def family(payload: Asked, ctx: TaskContext) -> None:
    """Wait for all children, and then for one more."""
    begin(payload, ctx)
    others = [*payload.children]
    for name, scripts in (("all", others), ("one", others[:1])):
        jobs = [Job(CHILD, Asked(script=(script,) * 9 if script != "retry" else (script,))) for script in scripts]
        try:
            found = ctx.gather(name, jobs) if name == "all" else [ctx.run(name, CHILD, jobs[0].payload)]
            value = f"{sum(each or 0 for each in found)}"
        except ChildFailed:
            value = "failed"
        ctx.session.execute(EARLY, {"id": ctx.task_id, "name": name})
        ctx.step(f"after {name}", partial(keep, ctx, name, value))
        ctx.sleep(f"nap {name}", timedelta(milliseconds=20))
    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})


def child(payload: Asked, ctx: TaskContext) -> int:
    begin(payload, ctx)
    time.sleep(random.random() * 0.02)
    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})
    return 1


EARLY = text("""
insert into public.early
select :id, c.id from joblane.task_waits w, joblane.tasks c
 where w.task_id = :id and w.name = :name and c.id = any (w.children) and c.finished_at is null and c.generation = 0
""")
OF_CHILDREN = "wait:child"
TASKS = declared(
    asked,
    {
        "wait:one": {},
        "wait:many": {"batch_size": 4},
        "wait:limited": {"max_total": 3},
        OF_CHILDREN: {"handler": child, "batch_size": 4, "limit": Limit("home", total=12)},
        "wait:family": {"handler": family, "grants": Grants(run=(OF_CHILDREN,))},
        "wait:families": {
            "handler": family,
            "batch_size": 4,
            "grants": Grants(run=(OF_CHILDREN,)),
            "limit": Limit("home", total=12),
        },
    },
    max_retry=4,
    retry_delay=timedelta(0),
    timeout=timedelta(seconds=30),
)
CHILD = TASKS[OF_CHILDREN]


# --- The storm -------------------------------------------------------------------------------------------------------

PREFIX = "waits"
TABLES = """
create table public.effects (id text); create table public.got (id text, name text, value text);
create table public.early (id text, child text)
"""
RULES = {
    "{0} continued before its child {1} had ended": "select * from public.early limit 5",
    "{0}: its children of {1} say {2}": """
select g.id, g.name, g.value
  from public.got g join joblane.task_waits w on w.task_id = g.id and w.name = g.name and w.children is not null
 where g.value <> case when exists (select from joblane.tasks c
                                      where c.id = any (w.children) and c.state <> 'completed')
                       then '"failed"' else '"' || cardinality(w.children) || '"' end limit 5""",
    "{0}: its run was enqueued twice": """
select enqueued_by from joblane.tasks where enqueued_by is not null
 group by 1 having count(*) > 4 limit 5""",
    "{0}: its wait {1} has {2} outcomes": """
select id, name, count(*) from public.got group by 1, 2 having count(*) > 1 limit 5""",
    "{0}: its wait {1} got {2}, and its signal is {3}": """
select g.id, g.name, g.value, s.value from public.got g
  left join joblane.task_signals s on s.task_id = g.id and s.name = g.name
 where g.name in ('a', 'b') and g.value is distinct from s.value::text and g.value <> '"expired"' limit 5""",
    "{0}: the wait b has expired": """
select id from public.got where name = 'b' and value = '"expired"' limit 5""",
    "{0}: its wait a has got a later end": f"""
select task_id from joblane.task_waits
 where name = 'a' and until > created_at + interval '{FIRST_SECONDS}.1 s' limit 5""",
}
STUCK = """
select t.id from joblane.tasks t join joblane.task_waits w on w.task_id = t.id and w.run = t.runs
  join joblane.task_signals s on s.task_id = t.id and s.name = w.signal
 where t.state = 'scheduled' and s.heard and s.created_at < clock_timestamp() - interval '3 s'
   and t.due_at > clock_timestamp() limit 5
"""
"""The tasks that wait next to a signal of which nothing reminds the sweep."""


HOLDS = """
select id from joblane.tasks where wait_kind = 'parents' and passed is not null and ordered is not true limit 5
"""
"""The tasks that keep a slot while they wait for children."""


class WaitFate(GraphFate):
    """``frees``: children may have ended whose tasks the worker has not released yet. ``looks``: the run has stopped
    with an old snapshot, and the worker has not looked again yet."""

    looks = False

    def begin(self, statement: int, *, after: bool) -> None:
        super().begin(statement, after=after)
        self.looks = False

    def hook(self, statement: str, send: Callable[[], Any]) -> Any:
        if statement == SUSPEND and random.random() < 0.5:
            if getattr(HERE, "waits", None):
                AIMED.put(HERE.waits)
            time.sleep(random.random() * 0.01)
        return super().hook(statement, send)

    def note(self, statement: str, result: Any) -> None:
        if statement == SUSPEND:
            answer = result.rows[0][0]
            self.looks |= bool(answer and answer["look"])
        elif statement == WAKE:
            self.looks = False
        else:
            super().note(statement, result)

    def _die(self) -> None:
        self.frees |= self.looks
        super()._die()


class WaitStorm(DyingWorkers):
    """A storm of ``number`` tasks."""

    prefix, tasks, fate, duty = PREFIX, TASKS, WaitFate, Signals
    before, work = "wake", "tasks woken"
    held = "Each wait had one outcome."
    tables, rules = TABLES, RULES
    cancellable, cancel_seconds, cancelled = "state in ('scheduled', 'held')", 0.5, 0.05

    def __init__(
        self, url: str, seed: int, number: int, *, seconds: float = PATIENCE_SECONDS, deaths: float = 0.3
    ) -> None:
        super().__init__(url, seed, number, seconds=seconds, deaths=deaths)
        with suppress(queue.Empty):  # of an earlier storm of this process
            while True:
                AIMED.get_nowait()

    def _duties(self) -> Sequence[Callable[[], None]]:
        return self._produce, self._aim, self._aim, self._signal_the_rest, self._run_early, self._cancel

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Count the tasks that each caller has woken, and the wake-ups that left a locked row."""

        def counted(connection: Any, *, ids: Sequence[str]) -> list[Turn]:
            ((answer,),) = connection.run(WAKE, list(ids))
            self.count("tasks woken", len(answer["turns"]))
            self.count("wake-ups that left a locked row", len(answer["later"]))
            self.count(f"workers that died before they could {self.before}", len(answer["later"]))
            return [Turn(**turn) for turn in answer["turns"]]

        def count(what: str, number: int) -> None:
            self.count(what.replace("by a worker", "by the end of a child"), number)
            self.count("tasks woken", number)

        released = counted_release(count, "tasks woken")
        with super()._patched(), patch.object(waits, "wake", counted), patch.object(follow_up, "Release", released):
            yield

    def _sweep_alone(self, observer: Database) -> Any:
        step = super()._sweep_alone(observer)
        self.count(f"{self.work} by the sweep", step.woken)
        sends = Sends(observer.get(), self._lanes)
        list(Parents(self.prefix, sends, Duties(sends.connection, sends.following)).steps())
        return step

    def _produce(self) -> None:
        dice = random.Random(self._dice.random())
        types = [task for task in TASKS.values() if task is not CHILD]
        with self._client() as (_, client):
            for number in range(self._number):
                if self._over.is_set():
                    break
                job = dice.choice(types)
                script = ("retry",) if dice.random() < 0.1 else ()
                words = ("",) * 8 + ("retry", "skip", "revoke")
                children = tuple(dice.choice(words) for _ in range(dice.choice([1, 2, 3])))
                client.enqueue(job, Asked(script=script, children=children), task_id=f"t{number:05}")
                if dice.random() < 0.2:
                    body = Message(job.type, f"t{number:05}", rec=True).encode()
                    self._put(job.type, body, None, dice.random() * 3)
                time.sleep(dice.random() * 0.01)
        self._produced.set()

    def _run_early(self) -> None:
        """Run tasks that wait for their first signal, or for children, before their time, as an operator does."""
        find = """
(select t.id, t.type from joblane.tasks t join joblane.task_waits w on w.task_id = t.id and w.run = t.runs
  where t.state = 'scheduled' and w.name = 'a' and w.created_at < clock_timestamp() - interval '0.3 s' limit 1)
union all
(select t.id, t.type from joblane.tasks t where t.state = 'held' and t.wait_kind = 'parents' limit 1)"""
        with self._client() as (database, _):
            for _ in self._every(0.2):
                for id_, type_ in database.get().run(find):
                    if change(database.get(), BulkAction.RUN, [id_], who="op"):
                        self.count("tasks run early")
                        self._put(type_, Message(type_, id_, rec=True).encode(), None)

    def _has_ended(self, observer: Database) -> bool:
        for (id_,) in observer.get().run(STUCK):
            self.wrong(f"{id_} waits next to its signal")
        for (id_,) in observer.get().run(HOLDS):
            self.wrong(f"{id_} waits for children, and keeps a slot")
        return super()._has_ended(observer)

    # --- Signallers ---------------------------------------------------------------------------------------------------

    def _aim(self) -> None:
        """Signal tasks at the moment of their stop."""
        dice = random.Random(self._dice.random())
        with self._client() as (database, client):
            while not self._over.is_set():
                with suppress(queue.Empty):
                    id_, name = AIMED.get(timeout=0.05)
                    self._signal(database, client, id_, name, dice)

    def _signal_the_rest(self) -> None:
        """Signal tasks that nobody has signalled for a while."""
        dice = random.Random(self._dice.random())
        find = """
select t.id, w.signal from joblane.tasks t join joblane.task_waits w on w.task_id = t.id and w.run = t.runs
 where t.finished_at is null and w.signal = 'b' and w.created_at < clock_timestamp() - interval '0.3 s'
   and not exists (select from joblane.task_signals s where s.task_id = t.id and s.name = 'b') limit 20"""
        with self._client() as (database, client):
            for _ in self._every(0.1):
                for id_, name in database.get().run(find):
                    self._signal(database, client, id_, name, dice)

    def _signal(self, database: Database, client: Any, id_: str, name: str, dice: random.Random) -> None:
        """Send a signal in one of several ways: alone, in a session, twice, rolled back, or by a process that dies."""
        way, value = dice.random(), f"v{dice.randrange(10**6)}"
        with self._gate.open():
            if way < 0.2:
                with Session(database.engine) as session:
                    client.signal(id_, name, f"{value} rolled back", session=session)
                    time.sleep(dice.random() * 0.01)
                    session.rollback()
            if way < 0.4:
                with Session(database.engine) as session:
                    self.count("signals", client.signal(id_, name, value, session=session))
                    time.sleep(dice.random() * 0.02)
                    session.commit()
            elif way < 0.4 + self._deaths * 0.5:
                [[is_first]] = database.get().run(SIGNAL, signal_document(id_, name, f'"{value}"'))
                self.count("signals", bool(is_first))
                self.count(f"workers that died before they could {self.before}", bool(is_first))
                self.count("signallers that died", bool(is_first))
            else:
                self.count("signals", client.signal(id_, name, value))
            if dice.random() < 0.2:
                self.count("later signals", not client.signal(id_, name, f"{value} again"))

    def _check(self, observer: Database) -> None:
        counts = self.result.counts
        super()._check(observer)
        others = ("the sweep", "the end of a child", "a cancel")
        woken = sum(counts[f"tasks woken by {who}"] for who in others)
        counts["tasks woken by a signaller or a worker"] = counts["tasks woken"] - woken
        for outcome, number in observer.get().run("select outcome, count(*) from joblane.runs group by 1"):
            counts[f"runs {outcome}"] = number
