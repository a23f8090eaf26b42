"""A state machine over the real workers, client and sweep: whatever happens in whatever order, the limits hold.

Each worker is a thread that moves only when the model lets it: until its handler runs, until it has committed and would
serve others next, or until it has answered. It may die before or after each of its statements. Every second completed
run is finished by the short way of an ordinary task. ``LIMIT_EXAMPLES`` sets the number of examples.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import cycle
from queue import SimpleQueue
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from joblane import RetryAfter, SkipRetry, Snooze, TaskContext
from joblane.client.client import client_within
from joblane.names import SWEEP, Queue, lane_name
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import SERVE, serve
from joblane.record.task_types import LIMITS, declared_limits
from joblane.sqs.client import Entry, Sqs
from joblane.sweep.held import unserved
from joblane.sweep.sweep import sweep
from joblane.tasks.task import Task
from joblane.testing.faults import HookedDatabase
from joblane.worker.worker import Worker
from tests.builders.events import invoke, record
from tests.faults.dying_workers import Death, Fate
from tests.faults.limit_lanes import attributes_of
from tests.faults.limit_storm import FILLED, LimitFate, kept, slots_of
from tests.patience import PATIENCE_SECONDS
from tests.samples import (
    Sample,
    behaviour,
    sample_keyed,
    sample_ordered,
    sample_sharing,
    sample_single,
    sample_tree,
)
from tests.ways import Ways
from tests.world import PREFIX

TASKS = {task.type: task for task in (sample_keyed, sample_single, sample_tree, sample_sharing, sample_ordered)}
DECLARED = {row["name"]: row["slots"] for row in declared_limits(TASKS)}
OUT_OF_ORDER = """
select a.id, b.id from joblane.tasks a join joblane.tasks b
    on a.key_limit = b.key_limit and (a.first_due_at, a.seq) < (b.first_due_at, b.seq)
 where a.ordered and b.ordered and a.generation = 0 and b.generation = 0 and b.created_at > a.created_at
   and exists (select from joblane.runs y where y.task_id = b.id and y.started_at < a.finished_at)
"""
"""Tasks that started before an earlier task of their order had ended. Here one thing happens after the other."""
EVERY_SECOND = (True, False, False)
"""The answers of the switch. A run that it refuses asks twice."""
EXAMPLES = int(os.environ.get("LIMIT_EXAMPLES", "12"))
WORKERS = 4
MOST_TASKS = 16
"""More of them would not meet more often."""
ROUNDS = 40
"""More than any task needs to end once nothing fails any more."""
numbers = st.integers(0, 11)


@dataclass(slots=True, eq=False)
class Sent:
    """A message in a lane. ``flying``: a worker has it."""

    lane: str
    body: str
    group: str | None
    attributes: Mapping[str, tuple[str, str]]
    flying: bool = False


class Messages:
    """The queues. The model decides when a message is delivered."""

    def __init__(self) -> None:
        self.all: list[Sent] = []
        self.dead: list[Entry] = []
        self.covered: dict[str, tuple[float, float]] = {}
        self.now = time.time

    def covers(self, prefix: str) -> bool:
        return Sqs.covers(self, prefix)  # type: ignore[arg-type]

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        for entry in entries:
            if SWEEP in entry.body:  # the model sweeps when it wants to
                continue
            if entry.queue.endswith("-dlq"):
                self.dead.append(entry)
            else:
                self.all.append(Sent(entry.queue, entry.body, entry.group, attributes_of(entry)))
        return {}

    def set_visibility(self, queue: str, receipts: Mapping[str, int]) -> None:
        pass

    def attributes(self, queue: str, names: Sequence[str]) -> dict[str, str]:
        return {name: str(sum(one.lane == queue for one in self.all) if n == 0 else 0) for n, name in enumerate(names)}


class Process:
    """A worker's process. ``task_id``: of the handler that waits for its end. ``stalled``: it would serve next."""

    def __init__(self, url: str, messages: Any) -> None:
        self.fate = LimitFate(self._died)
        self.stalls = self.stalled = self.died_with_slots = self._over = False
        self.task_id: str | None = None
        self.busy: list[Sent] = []
        self._url, self._messages = url, messages
        self._commands: SimpleQueue[Any] = SimpleQueue()
        self._reports: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # --- called by the model

    def deliver(self, task: Task[Any, Any], sent: list[Sent], statement: int = 0, *, after: bool = False) -> None:
        for one in sent:
            one.flying = True
        self.busy = sent
        self.fate.begin(statement, after=after)
        self._let((task, sent))

    def end(self, how: str, *, stalls: bool = False) -> None:
        """End the handler that runs. ``stalls``: stop before it serves."""
        self.stalls, self.task_id = stalls, None
        self._let(how)

    def go_on(self) -> None:
        self.stalled = False
        self._let("go on")

    def stop(self) -> None:
        for _ in range(2):  # the first one ends a handler that still runs
            self._commands.put(None)
        self._thread.join(PATIENCE_SECONDS)

    def _let(self, command: Any) -> None:
        self._commands.put(command)
        self._reports.get(timeout=PATIENCE_SECONDS)()

    # --- called in the thread

    def _run(self) -> None:
        here.process = self
        while not self._over:
            database = HookedDatabase(self._url, self._hook)
            workers = {task.type: Worker(task, database, self._messages, PREFIX) for task in TASKS.values()}
            try:
                while (command := self._commands.get()) is not None:
                    self._reports.put(self._answered(self._handle(workers, *command)))
                self._over = True
            except Death:
                self._reports.put(self._answered(self.busy))
            except Exception as error:
                self._reports.put(partial(_fail, error))
            database.drop()

    def _handle(self, workers: Mapping[str, Worker], task: Task[Any, Any], sent: list[Sent]) -> list[Sent]:
        """Return the messages that stay in the queue."""
        records = [record(one.body, one.lane, group=one.group, attributes=one.attributes) for one in sent]
        kept = invoke(workers[task.type].handle, *records)
        return [one for one, made in zip(sent, records, strict=True) if made["messageId"] in kept]

    def _answered(self, kept: list[Sent]) -> Callable[[], None]:
        def answered() -> None:
            for one in self.busy:
                one.flying = False
            gone = [one for one in self.busy if one not in kept]
            self._messages.all = [one for one in self._messages.all if one not in gone]
            self.busy = []

        return answered

    def _died(self, fate: Fate) -> None:
        self.died_with_slots = self.died_with_slots or fate.frees

    def handler(self, task_id: str) -> Any:
        def runs() -> None:
            self.task_id = task_id

        self._reports.put(runs)
        if (how := self._commands.get()) is None:
            raise Death
        return how

    def _hook(self, statement: str, send: Callable[[], Any]) -> Any:
        if statement == SERVE and self.stalls:
            self.stalls = False

            def stalls() -> None:
                self.stalled = True

            self._reports.put(stalls)
            if self._commands.get() is None:
                raise Death
        return self.fate.hook(statement, send)


def _fail(error: Exception) -> None:
    raise error


here = threading.local()


@behaviour
def wait_for_the_model(payload: Sample, ctx: TaskContext) -> None:
    how = here.process.handler(ctx.task_id)
    if how == "retry":
        raise RetryAfter(timedelta(seconds=90), "again")
    if how == "snooze":
        raise Snooze(timedelta(seconds=90))
    if how == "fail":
        raise SkipRetry("failed")
    from sqlalchemy import text

    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})


class Limits(RuleBasedStateMachine):
    """The state machine. ``url``: of a migrated database."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.messages = Messages()
        self.processes = [Process(url, self.messages) for _ in range(WORKERS)]
        self.database = Database(url)
        self.sql = self.database.get().run
        self.client = client_within(self.database, cast(Any, self.messages), PREFIX)
        self.tasks: list[Task[Any, Any]] = []
        self.number = 0
        self.filled: dict[str, set[str]] = {}
        self.slots = dict(DECLARED)
        self.ways = ExitStack()
        self.ways.enter_context(Ways(partial(next, cycle(EVERY_SECOND))).switched())
        for table in ("joblane.tasks", "joblane.task_attempts", "joblane.pauses", "joblane.limit_changes", "effects"):
            self.sql(f"delete from {table}")

    @property
    def waiting(self) -> list[Sent]:
        return [one for one in self.messages.all if not one.flying]

    @property
    def idle(self) -> list[Process]:
        return [process for process in self.processes if not process.busy]

    @property
    def running(self) -> list[Process]:
        return [process for process in self.processes if process.task_id]

    @property
    def stalled(self) -> list[Process]:
        return [process for process in self.processes if process.stalled]

    # --- Tasks and messages

    @initialize(types=st.lists(st.sampled_from(list(TASKS)), min_size=1, max_size=2, unique=True))
    def begin(self, types: list[str]) -> None:
        """Choose the types of the example: tasks of few types meet each other more often."""
        self.tasks = [TASKS[type_] for type_ in types]
        self.enqueue(0, 0, "aabb")

    @precondition(lambda self: self.number < MOST_TASKS)
    @rule(which=st.integers(0, 1), key=st.sampled_from([0, 0, 0, 1]), tenants=st.sampled_from(["a", "abb", "aaaa"]))
    def enqueue(self, which: int, key: int, tenants: str) -> None:
        for tenant in tenants:
            self.number += 1
            payload = Sample(do="wait_for_the_model", number=key)
            task = self.tasks[which % len(self.tasks)]
            self.client.enqueue(task, payload, task_id=f"t{self.number:02}", tenant=tenant)

    @precondition(lambda self: self.messages.all)
    @rule(number=numbers)
    def duplicate(self, number: int) -> None:
        one = self.messages.all[number % len(self.messages.all)]
        self.messages.all.append(Sent(one.lane, one.body, one.group, one.attributes))

    @precondition(lambda self: self.idle and self.waiting)
    @rule(number=numbers)
    def deliver(self, number: int) -> None:
        self._deliver(number)

    @precondition(lambda self: self.idle and self.waiting)
    @rule()
    def deliver_all(self) -> None:
        """Deliver each message, as long as a worker is idle."""
        for one in self.waiting:
            if self.idle and one in self.waiting:
                self._deliver(self.waiting.index(one))

    @precondition(lambda self: self.idle and self.waiting)
    @rule(number=numbers, statement=st.integers(1, 4), after=st.booleans())
    def deliver_and_die(self, number: int, statement: int, after: bool) -> None:
        self._deliver(number, statement, after=after)

    def _live(self, number: int) -> list[str]:
        """Return the id of a live task, if there is one: first those that have slots without a run, or wait for one."""
        ids = self.sql("select id from joblane.tasks where finished_at is null"
                       " order by passed = 'all' and state = 'pending' desc, state = 'held' desc, id")  # fmt: skip
        return [ids[number % len(ids)][0]] if ids else []

    def _deliver(self, number: int, statement: int = 0, *, after: bool = False) -> None:
        first = self.waiting[number % len(self.waiting)]
        task = next(task for task in TASKS.values() if lane_name(PREFIX, Queue.DEFAULT, task.type) == first.lane)
        others = [one for one in self.waiting if one.lane == first.lane and one is not first]
        self.idle[0].deliver(task, [first, *others[: task.batch_size - 1]], statement, after=after)

    # --- Workers

    @precondition(lambda self: self.running)
    @rule(
        number=numbers, how=st.sampled_from(["complete", "complete", "retry", "snooze", "fail"]), stalls=st.booleans()
    )
    def end(self, number: int, how: str, stalls: bool) -> None:
        self.running[number % len(self.running)].end(how, stalls=stalls)

    @precondition(lambda self: self.running)
    @rule(number=numbers, statement=st.integers(1, 7), after=st.booleans())
    def end_and_die(self, number: int, statement: int, after: bool) -> None:
        process = self.running[number % len(self.running)]
        process.fate.begin(statement, after=after)
        process.end("complete")

    @precondition(lambda self: self.stalled)
    @rule(number=numbers)
    def go_on(self, number: int) -> None:
        self.stalled[number % len(self.stalled)].go_on()

    @precondition(lambda self: self.running)
    @rule(number=numbers)
    def lease_ends(self, number: int) -> None:
        """The lease of a run is over, although its process still runs."""
        task_id = self.running[number % len(self.running)].task_id
        self.sql("update joblane.tasks set lease_until = now() - interval '1 s', sweep_at = now()"
                 " where id = $1 and state = 'active'", task_id)  # fmt: skip

    @precondition(lambda self: self.number)
    @rule(number=numbers)
    def deadline_passes(self, number: int) -> None:
        for id_ in self._live(number):
            self.sql("update joblane.tasks set deadline = now() where id = $1", id_)

    # --- Operators and the sweep

    @precondition(lambda self: self.number)
    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        for id_ in self._live(number):
            self.client.cancel(id_)

    @rule(is_tenant=st.booleans())
    def pause(self, is_tenant: bool) -> None:
        scope = ("tenant", "a") if is_tenant else ("type", self.tasks[0].type)
        self.sql("insert into joblane.pauses (scope, name) values ($1, $2) on conflict do nothing", *scope)

    @rule()
    def resume(self) -> None:
        self.sql("delete from joblane.pauses")

    @rule(number=numbers, slots=st.integers(0, 3))
    def set_limit(self, number: int, slots: int) -> None:
        names = [name for task in self.tasks if task.flow for name, _, _ in task.flow.declared(task.type)]
        self._set_limit(names[number % len(names)], slots)

    def _set_limit(self, name: str, slots: int) -> None:
        self.slots[name] = slots
        self.sql("insert into joblane.limit_changes (name, slots) values ($1, $2)"
                 " on conflict (name) do update set slots = excluded.slots", name, slots)  # fmt: skip
        freed = self.sql("select distinct key_limit, total_limit, shared_limit from joblane.tasks"
                         " where waits_for = $1 or waits_for like $1 || '%'", name)  # fmt: skip
        self.messages.send_many([turn.entry(PREFIX) for turn in serve(self.database.get(), freed)])

    @precondition(lambda self: self.messages.dead)
    @rule()
    def redrive(self) -> None:
        one = self.messages.dead.pop()
        self.messages.all.append(Sent(one.queue.removesuffix("-dlq"), one.body, one.group, attributes_of(one)))

    @rule()
    def time_passes(self) -> None:
        """All that waits for a time is due, and each message that should have been claimed is late."""
        self.sql("update joblane.tasks set due_at = least(due_at, now()), sweep_at = now()"
                 " where state in ('scheduled', 'pending', 'retry')")  # fmt: skip

    @rule()
    def sweep(self) -> None:
        sweep(self.database.get(), cast(Any, self.messages), PREFIX)
        for process in self.processes:
            process.died_with_slots = False

    # --- What must be true

    @invariant()
    def limits_hold(self) -> None:
        rows = self.sql(FILLED)
        filled = slots_of(rows)
        for name, ids in filled.items():
            slots = self.slots[f"{name.split('/')[0]}/" if "/" in name else name]
            new = ids - self.filled.get(name, set())
            assert not new or len(ids) <= slots, f"{len(ids)} of {slots} {name}: {new} came"
        self.filled = filled
        assert not kept(rows)
        assert not self.sql(OUT_OF_ORDER)

    @invariant()
    def nothing_waits_for_a_limit_with_room(self) -> None:
        if not self.stalled and not any(process.died_with_slots for process in self.processes):
            assert not any(unserved(self.database.get()))

    def teardown(self) -> None:
        try:
            self._come_to_an_end()
        finally:
            for process in self.processes:
                process.stop()
            self.database.drop()
            self.ways.close()

    def _come_to_an_end(self) -> None:
        """From now on nothing fails: every task ends, and each completed one has had its effect once."""
        self.resume()
        for name, slots in DECLARED.items():
            self._set_limit(name, slots)
        for _ in range(ROUNDS):
            self._let_all_end()
            self.nothing_waits_for_a_limit_with_room()
            if not self.sql("select from joblane.tasks where finished_at is null limit 1"):
                break
            self.sql("update joblane.tasks set lease_until = now(), sweep_at = now() where state = 'active'")
            self.time_passes()
            self.sweep()
        live = self.sql("select id, state, wait_kind, waits_for, passed from joblane.tasks where finished_at is null")
        assert not live
        [[tasks, completed]] = self.sql(
            "select count(*), count(*) filter (where state = 'completed') from joblane.tasks"
        )
        effects = self.sql("select e.id from effects e join joblane.tasks t on t.id = e.id and t.state = 'completed'")
        assert (tasks, completed) == (self.number, len(effects))

    def _let_all_end(self) -> None:
        tried: set[int] = set()
        while True:
            if self.stalled:
                self.stalled[0].go_on()
            elif self.running:
                self.running[0].end("complete")
            elif new := [n for n, one in enumerate(self.waiting) if id(one) not in tried]:
                tried.add(id(self.waiting[new[0]]))
                self._deliver(new[0])
            else:
                return
            self.limits_hold()


@pytest.mark.timeout(600 + 100 * EXAMPLES)
def test_limits_hold_whatever_happens_in_whatever_order(database_url: str) -> None:
    with Database(database_url) as database:
        database.get().run("create table effects (id text)")
        database.get().run(LIMITS, json.dumps(declared_limits(TASKS)))
    run_state_machine_as_test(
        cast(Any, lambda: Limits(database_url)),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            derandomize="LIMIT_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )
