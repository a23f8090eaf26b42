"""A storm of waits: threads run tasks that wait for signals, times, polls and children, while workers die.

Workers, client and statements are of the library, see :mod:`tests.faults.dying_workers`. Messages come twice. Half of
the signals aim at the moment of a stop. Some signallers die after their commit, and some transactions roll back. Some
children fail, are cancelled or redriven. Attempts fail between two waits. Types are paused while their tasks wait. An
operator runs, skips, archives and retries tasks, and replaces signals. The storm counts who wakes each task: a
signaller, the end of a child, or the sweep. The library's sweep wakes tasks only while all workers stand still, and no
more than processes have died before their wake-up, or wake-ups have left a locked row.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch

from sqlalchemy.orm import Session

from joblane.enqueue import follow_up
from joblane.enqueue.wake import wake_after_commit
from joblane.inspector.errors import ActionError, BusyError
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import Turn
from joblane.record.task import waits
from joblane.record.task.finish import SUSPEND
from joblane.record.task.waits import SIGNAL, WAKE, signal_document
from joblane.sqs.message import Message
from joblane.sweep.duties import Duties
from joblane.sweep.held import Held
from joblane.sweep.parents import Parents
from joblane.sweep.sends import Sends
from joblane.sweep.signals import Signals
from tests.faults import limit_storm, wait_types
from tests.faults.dying_workers import DyingWorkers
from tests.faults.graph_storm import GraphFate
from tests.faults.graph_storm import counted as counted_release
from tests.faults.limit_storm import FILLED, IDLE, over_limits, slots_of
from tests.faults.wait_types import AIMED, CHILD, FIRST_SECONDS, HERE, OF_CHILDREN, OFTEN, TASKS, Asked
from tests.patience import PATIENCE_SECONDS

# --- The storm -------------------------------------------------------------------------------------------------------

PREFIX = "waits"
TABLES = f"""{limit_storm.TABLES}{wait_types.TABLES}
create table public.replaced (id text, name text, value text);
create function public.note_replaced() returns trigger language plpgsql as
'begin insert into public.replaced values (old.task_id, old.name, old.value::text); return null; end';
create trigger replaced after delete on joblane.task_signals for each row execute function public.note_replaced();
"""
IN_TURN = limit_storm.OUT_OF_ORDER.replace(
    "and b.created_at > pg_xact_commit_timestamp(born.xid) + interval '1 s'", "and a.created_at < b.created_at"
)
"""Like there, but one client inserts all tasks, one after the other."""
RULES = {
    "order broken: {1} ran before {0} had ended": IN_TURN,
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
 where g.name in ('a', 'b') and g.value is distinct from s.value::text and g.value <> '"expired"'
   and not exists (select from public.replaced r where r.id = g.id and r.name = g.name and r.value = g.value)
 limit 5""",
    "{0}: its wait {1} has expired": """
select g.id, g.name from public.got g join joblane.tasks t on t.id = g.id
 where g.value = '"expired"' and (g.name = 'b' or (g.name = 'ready' and t.payload ->> 'looks' <> '0'))
   and not exists (select from joblane.audit where action = 'skip' and target = g.id) limit 5""",
    "{0}: its poll has a value after {1} looks, not after {2}": """
select g.id, l.number, t.payload ->> 'looks' from public.got g join joblane.tasks t on t.id = g.id,
       lateral (select count(*) as number from public.looks where id = g.id) as l
 where g.value = '"yes"' and l.number <> (t.payload ->> 'looks')::int limit 5""",
    "{0}: its wait {1} has got a later end": f"""
select w.task_id, w.name from joblane.task_waits w join joblane.tasks t on t.id = w.task_id
 where (w.name = 'a' or (w.name = 'ready' and t.payload ->> 'looks' = '0'))
   and w.until > w.created_at + interval '{FIRST_SECONDS}.1 s' limit 5""",
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
OPERATED = 0.1
"""The largest share of tasks of each other action than a run. More of them would hide what nobody else does."""
CHOSEN = {
    "run early": "select id from joblane.tasks where state = 'held' and wait_kind = 'parents'",
    "skipped": "select id from joblane.tasks where state = 'scheduled' and runs > 0",
    "archived by an operator": f"""
select id from joblane.tasks where state in ('scheduled', 'held') and runs > 0 and type <> '{OF_CHILDREN}'""",
    "retried by an operator": f"select id from joblane.tasks where state = 'archived' and type <> '{OF_CHILDREN}'",
    "signalled again": "select task_id from joblane.task_signals where name = 'a'",
}
"""Action of the operator → the tasks of which it changes one. Children end as their scripts say."""


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
        return (
            self._produce,
            self._aim,
            self._aim,
            self._signal_the_rest,
            self._operate,
            self._pause,
            self._cancel,
        )

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
        types = [task for task in TASKS.values() if task is not CHILD] + [TASKS[type_] for type_ in OFTEN]
        with self._client() as (_, client):
            for number in range(self._number):
                if self._over.is_set():
                    break
                job = dice.choice(types)
                script = ("retry",) if dice.random() < 0.1 else ()
                words = ("",) * 8 + ("retry", "skip", "revoke")
                payload = Asked(
                    script=script,
                    children=tuple(dice.choice(words) for _ in range(dice.choice([1, 2, 3]))),
                    fails_after=dice.choice(("", "", "", "a", "b", "ready", "all", "one")),
                    looks=dice.choice((0, 1, 2, 5)),
                    key=dice.randrange(4 + self._number // 25),
                )
                client.enqueue(job, payload, task_id=f"t{number:05}")
                if dice.random() < 0.2:
                    body = Message(job.type, f"t{number:05}", rec=True).encode()
                    self._put(job.type, body, None, dice.random() * 3)
                time.sleep(dice.random() * 0.01)
        self._produced.set()

    def _operate(self) -> None:
        """Run, skip, archive, retry and correct tasks, as an operator does."""
        dice = random.Random(self._dice.random())
        with self._client() as (database, _):
            operator = Inspector(Scope(database, self._lanes, self.prefix, TASKS, "op"))
            acts: dict[str, Callable[[str], object]] = {
                "run early": operator.run,
                "skipped": operator.skip,
                "archived by an operator": operator.archive,
                "retried by an operator": operator.retry,
                "signalled again": lambda id_: operator.signal(id_, "a", "corrected", replace=True),
            }
            for _ in self._every(0.05):
                what = dice.choice([*acts, *["run early"] * 3])
                if what != "run early" and self.result.counts[f"tasks {what}"] >= OPERATED * self._number:
                    continue
                for (id_,) in database.get().run(f"{CHOSEN[what]} order by random() limit 1"):
                    with self._gate.open(), suppress(ActionError, BusyError):
                        acts[what](id_)
                        self.count(f"tasks {what}")

    def _in_pause(self, database: Database) -> None:
        sends = Sends(database.get(), self._lanes)
        idle = [id_ for (id_,) in database.get().run(IDLE)]
        Held(self.prefix, sends, Duties(sends.connection, sends.following)).leave(idle)
        self.count("tasks that have left their limits in a pause", len(idle))

    def _has_ended(self, observer: Database) -> bool:
        for (id_,) in observer.get().run(STUCK):
            self.wrong(f"{id_} waits next to its signal")
        for (id_,) in observer.get().run(HOLDS):
            self.wrong(f"{id_} waits for children, and keeps a slot")
        for line in over_limits(slots_of(observer.get().run(FILLED)), TASKS):
            self.wrong(line)
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
                wake_after_commit(self._lanes, self.prefix)  # as the client does, before it writes
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
