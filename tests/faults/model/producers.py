"""Producers: enqueues alone, of many, in sessions with savepoints, at repeatable read, after parents, through SQL.

Debounced asks, batches, schedules, and messages of programs without the library.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from joblane.enqueue.result import Enqueued
from joblane.errors import JobError, UnknownScheduleError
from joblane.names import Queue
from joblane.sqs.client import Entry
from joblane.tasks.job import Job
from joblane.tasks.schedule import cron
from joblane.tasks.task import Task
from tests.faults.model.processes import Process
from tests.faults.model.samples import TASKS, Work
from tests.faults.model.starts import SeenBatch

if TYPE_CHECKING:
    from tests.faults.model.world import World

CALLERS_ERRORS = (JobError, OSError, PostgresError, SQLAlchemyError)
"""The errors after which a caller does not know whether its work was committed, or knows that it was not."""
OFTEN = ("m:plain",) * 4 + ("m:bulky",) * 3 + ("m:keyed",) * 6 + ("m:share",) * 3 + ("m:order",) * 4 + ("m:rated",) * 4
SELDOM = ("m:only",) * 3 + ("m:steps",) * 2 + ("m:each", "m:async", "m:async", "m:watch")
MEMBERS = ("m:plain", "m:keyed", "m:share")
POLICIES = ("hold", "cancel", "run")
ENQUEUE = """
select * from joblane.enqueue($1, $2::text::jsonb, task_id => $3, process_in => make_interval(secs => $4::float8),
                              after => $5::text[])
"""


WAIT = timedelta(seconds=30)
TIMES = ("*/5 * * * *", "*/20 * * * *", "0 * * * *")


class Producers:
    """The acts of producers."""

    def __init__(self, world: World) -> None:
        self._world, self._dice, self._seen = world, world.dice, world.seen
        self._asking: set[int] = set()
        self._last_ask = 0

    def act(self, name: str, act: Callable[[Process], None], kind: str = "a producer") -> None:
        """Start an act of a process. An error of the database is its caller's."""
        process = self._world.process(kind)

        def tolerant() -> None:
            try:
                act(process)
            except CALLERS_ERRORS as error:
                self._world.counts[f"a caller got {type(error).__name__}"] += 1

        self._world.actors.start(name, process, tolerant)

    def accept(self, *ids: str) -> None:
        for id_ in ids:
            self._seen.accept(id_, self._world.actors.number())

    def work(self) -> Work:
        return Work(n=self._dice.randint(0, 3), number=self._dice.randint(0, 2))

    def _options(self, task: Task[Any, Any]) -> dict[str, Any]:
        dice, options = self._dice, dict[str, Any]()
        options["task_id"] = self._world.new_id()
        if dice.random() < 0.35 and task.type != "m:rated":  # while it waits, no starts are counted
            options["process_in"] = timedelta(seconds=dice.choice((1, 30, 800, 950, 5000, 90_000)))
        if dice.random() < 0.06:
            seconds = dice.choice((100_000, 200_000))
            options["deadline"] = datetime.fromtimestamp(self._world.now + seconds, UTC)
        if dice.random() < 0.3 and task.type not in ("m:order", "m:async"):
            options["tenant"] = dice.choice("abc")
        if task.type == "m:plain" and dice.random() < 0.3:
            options["queue"] = Queue.CRITICAL
        if task.type == "m:only":
            options |= {
                "unique_key": f"k{dice.randint(1, 3)}",
                "on_conflict": dice.choice(("raise", "return", "replace")),
            }
        elif dice.random() < 0.15 and (parents := self.some_parents()):
            options |= {"after": parents, "on_parent_dead": dice.choice(POLICIES)}
            self._seen.parents[options["task_id"]] = parents, options["on_parent_dead"]
        return options

    def some_parents(self) -> list[str]:
        recent = self._seen.ids[-40:]
        return [self._dice.choice(recent) for _ in range(self._dice.randint(1, 4))] if recent else []

    # --- Alone and in sessions --------------------------------------------------------------------------------------

    def enqueue(self) -> None:
        task, how = TASKS[self._dice.choice(OFTEN + SELDOM)], self._dice.random()
        if how < 0.4:
            self.act("an enqueue", partial(self._alone, task))
        elif how < 0.5:
            self.act("an enqueue of many", partial(self._many, task))
        else:
            self.act("an enqueue in a session", partial(self._several, task))

    def _one(self, process: Process, task: Task[Any, Any], session: Session | None = None) -> tuple[str, Enqueued]:
        options = self._options(task)
        return options["task_id"], process.client.enqueue(task, self.work(), session=session, **options)

    def _alone(self, task: Task[Any, Any], process: Process) -> None:
        id_, result = self._one(process, task)
        if result.id == id_ and result.created:
            self.accept(id_)

    def _many(self, task: Task[Any, Any], process: Process) -> None:
        jobs = [Job(task, self.work(), **self._options(task)) for _ in range(self._dice.randint(1, 12))]
        for job, result in zip(jobs, process.client.enqueue_many(jobs), strict=True):
            if not isinstance(result, JobError) and result.id == job.task_id and result.created:
                self.accept(result.id)

    def _several(self, task: Task[Any, Any], process: Process) -> None:
        taken_back: list[str] = []

        def enqueue(session: Session) -> list[str]:
            got = [self._one(process, task, session) for _ in range(self._dice.choice((1, 1, 2, 5)))]
            if self._dice.random() < 0.2:
                savepoint = session.begin_nested()
                id_, result = self._one(process, task, session)
                taken_back.extend([id_] if result.id == id_ and result.created else [])
                savepoint.rollback()
            return [id_ for id_, result in got if result.id == id_ and result.created]

        ids, is_committed = self.in_session(process, enqueue)
        self._seen.rolled_back.update(taken_back)
        if is_committed:
            self.accept(*ids)
        else:
            self._seen.rolled_back.update(ids)

    def in_session(self, process: Process, work: Callable[[Session], list[str]]) -> tuple[list[str], bool]:
        """Work in a session of the caller, at times at repeatable read with an old snapshot. Some are rolled back."""
        database, engine = process.database.another(), None
        try:
            engine = database.engine
            if self._dice.random() < 0.25:
                engine = engine.execution_options(isolation_level="REPEATABLE READ")
            with Session(engine) as session:
                if self._dice.random() < 0.3:
                    session.execute(text("select count(*) from joblane.tasks"))
                    process.rest(6)
                ids = work(session)
                process.rest(3)
                if self._dice.random() < 0.15:
                    session.rollback()
                    return ids, False
                session.commit()
                return ids, True
        finally:
            with suppress(*CALLERS_ERRORS):
                database.drop()

    def sql(self) -> None:
        """Enqueue through the function of the database."""
        task, id_ = self._dice.choice((*MEMBERS, "m:order")), self._world.new_id()
        parents = self.some_parents() if self._dice.random() < 0.3 else None
        seconds, payload = self._dice.choice((0, 0, 5, 1200)), json.dumps({"number": self._dice.randint(0, 2)})
        if parents:
            self._seen.parents[id_] = parents, "hold"

        def enqueue(process: Process) -> None:
            connection = process.database.get()
            connection.execute_simple("begin")
            connection.run(ENQUEUE, task, payload, id_, seconds, parents)
            process.rest()
            if self._dice.random() < 0.2:
                connection.execute_simple("rollback")
                self._seen.rolled_back.add(id_)
            else:
                connection.execute_simple("commit")
                self.accept(id_)

        self.act("an enqueue through SQL", enqueue)

    # --- Asks, batches, schedules, and programs without the library --------------------------------------------------

    def ask(self) -> None:
        """Ask for the debounced task of a key. The asks of a key come one after the other."""
        key = self._dice.randint(0, 3)
        if key in self._asking:
            return
        self._asking.add(key)
        self._last_ask += 1
        work = Work(n=self._last_ask, number=key)
        options: dict[str, Any] = {"unique_key": f"d{key}", "debounce": WAIT, "longest": 5 * WAIT}

        def enqueue(process: Process, session: Session | None = None) -> list[str]:
            return [process.client.enqueue(TASKS["m:asked"], work, session=session, **options).id]

        def ask(process: Process) -> None:
            try:
                is_committed = True
                if self._dice.random() < 0.5:
                    ids = enqueue(process)
                else:
                    ids, is_committed = self.in_session(process, partial(enqueue, process))
                if is_committed:
                    self._seen.asks[key] = work.n
                    self._seen.ids += ids
                    self._world.counts["asks"] += 1
            finally:
                self._asking.discard(key)

        self.act("an ask", ask)

    def batch(self) -> None:
        id_, seen = f"b{self._world.new_id()}", SeenBatch()
        self._seen.batches[id_] = seen
        callbacks: dict[str, Any] = {
            kind: Job(TASKS["m:plain"], Work()) for kind in ("on_end", "on_success") if self._dice.random() < 0.75
        }
        seen.callbacks = {f"{id_}:{kind}" for kind in callbacks}

        def add(batch: Any) -> str:
            member = self._world.new_id()
            batch.enqueue(TASKS[self._dice.choice(MEMBERS)], self.work(), task_id=member)
            return member

        def in_session(process: Process, session: Session) -> list[str]:
            with process.client.batch(id_, session=session, **callbacks) as batch:
                return [add(batch) for _ in range(self._dice.randint(0, 5))]

        def fill(process: Process) -> None:
            if self._dice.random() < 0.5:
                members, is_committed = self.in_session(process, partial(in_session, process))
                if is_committed:
                    self.accept(*members)
                    seen.members.update(members)
                    seen.is_sealed = True
            else:
                batch = process.client.batch(id_, **callbacks)
                for _ in range(self._dice.randint(1, 4)):
                    member = add(batch)
                    self.accept(member)
                    seen.members.add(member)
                    process.rest(6)
                if self._dice.random() < 0.7:
                    batch.seal()
                    seen.is_sealed = True
            self._world.counts["batches"] += seen.is_sealed

        self.act("a batch", fill)

    def external(self) -> None:
        """Send a message as a program of another language does."""
        types = ("m:plain", "m:bulky", "m:keyed", "m:only", "m:rated")
        task, lane = self._dice.choice([each for each in self._world.lanes if each[0].type in types])
        id_ = self._dice.choice((None, f"f{self._dice.randint(100, 999)}", f"f{self._dice.randint(1, 60)}"))
        body: dict[str, Any] = {"type": task.type, "payload": {"n": self._dice.randint(0, 3)}}
        if id_:
            body["id"] = id_
        for _ in range(self._dice.choice((1, 1, 2))):
            self._world.queues.send(Entry(lane, json.dumps(body), 0, self._dice.choice((None, "a", "b"))))
        self._world.counts["external messages"] += 1

    def schedule(self) -> None:
        name, what, n = f"s{self._dice.randint(0, 3)}", self._dice.random(), self._dice.randint(0, 2)
        times, missed = self._dice.choice(TIMES), self._dice.choice(("latest", "skip"))

        def put(schedules: Any) -> None:
            schedules.put(name, TASKS["m:timed"], Work(n=n), cron(times), missed=missed)
            self._world.counts["schedules put"] += 1

        changes: tuple[tuple[float, Callable[[Any], object]], ...] = (
            (0.55, put),
            (0.7, lambda schedules: schedules.pause(name)),
            (0.85, lambda schedules: schedules.resume(name)),
            (0.93, lambda schedules: schedules.delete(name)),
            (1, lambda schedules: schedules.run_now(name)),
        )

        def change(process: Process) -> None:
            with suppress(UnknownScheduleError):
                next(act for most, act in changes if what < most)(process.client.schedules)

        self.act("a schedule", change)
