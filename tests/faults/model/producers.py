"""Producers: enqueues alone, of many, in sessions with savepoints, at repeatable read, after parents, through SQL."""

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
from joblane.errors import JobError
from joblane.names import Queue
from joblane.tasks.job import Job
from joblane.tasks.task import Task
from tests.faults.model.processes import Process
from tests.faults.model.runs import Work
from tests.faults.model.samples import TASKS

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


class Producers:
    """The acts of producers."""

    def __init__(self, world: World) -> None:
        self._world, self._dice, self._seen = world, world.dice, world.seen

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
