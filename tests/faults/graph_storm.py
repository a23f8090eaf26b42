"""A storm of graphs: threads run random graphs of tasks, and batches, while workers die and messages come twice.

Workers, client and statements are the library's, see :mod:`tests.faults.dying_workers`. The storm counts who releases
each child. The library's sweep releases children only while all workers stand still, and no more than workers have died
before they could release one; without deaths it must find none.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from joblane.enqueue import follow_up
from joblane.enqueue.producer import Producer
from joblane.errors import JobError
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import Turn
from joblane.record.flow.release import RELEASE, Release
from joblane.record.task.claim import CLAIM
from joblane.record.task.finish import FINISH
from joblane.record.task_types import LIMITS, declared_limits
from joblane.sqs.message import Message
from joblane.sweep.duties import Duties
from joblane.sweep.parents import Parents
from joblane.sweep.sends import Sends
from joblane.tasks.job import Job
from joblane.worker.worker import Worker
from tests.faults.dying_workers import DyingWorkers, Fate, Result
from tests.faults.graph_samples import TASKS, Node, graph_one
from tests.patience import PATIENCE_SECONDS

PREFIX = "graph"
BATCHES = 0.4
"""The share of graphs that are a batch."""
LEFT = """
select t.id, t.state, t.reason from joblane.tasks t
 where t.finished_at is null
   and not (t.wait_kind = 'parents' and exists (
          select from joblane.task_parents e, joblane.tasks p where e.child = t.id and p.id = e.parent
                                                                and (p.state = 'archived' or p.wait_kind = 'parents')))
"""
"""The live tasks, without those that wait for a dead parent, or for a task that does."""


class GraphFate(Fate):
    """``frees``: children may wait that the worker has not released yet."""

    def note(self, statement: str, result: Any) -> None:
        if statement not in (CLAIM, FINISH, RELEASE):
            return
        answer = result.rows[0][0]
        if statement == CLAIM:
            self.frees |= any(one["release"] for one in answer)
        elif statement == FINISH:
            self.frees |= bool(answer["released"] or answer["look"])
        else:
            self.frees = any(answer[name] for name in ("ended", "children", "later", "remaining"))


class GraphStorm(DyingWorkers):
    """A storm of ``graphs``."""

    prefix, tasks, fate, before = PREFIX, TASKS, GraphFate, "release"

    def __init__(
        self, url: str, seed: int, graphs: int, *, seconds: float = PATIENCE_SECONDS, deaths: float = 0.3
    ) -> None:
        super().__init__(url, seed, graphs, seconds=seconds, deaths=deaths)

    def go(self) -> Result:
        started = time.monotonic()
        with Database(self._url) as observer:
            observer.get().execute_simple(
                "create table public.effects (id text); create table public.early (id text, p text)"
            )
            observer.get().run(LIMITS, json.dumps(declared_limits(TASKS)))
            with self._patched(), self._running((self._produce, self._produce_batches, self._cancel)):
                self._await_end(observer)
            if not self.result.wrong:
                self._check(observer)
        self.result.seconds = time.monotonic() - started
        return self.result

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Count the children that each caller has released."""

        count = self.count

        class Counted(Release):
            def steps(self, call: Any, **options: Any) -> Iterator[list[Turn]]:
                caller = getattr(call, "__self__", None)
                who = {Worker: "a worker", Producer: "a cancel"}.get(type(caller), "the sweep")
                for turns in super().steps(call, **options):
                    count(f"children released by {who}", len(turns))
                    yield turns

        with patch.object(follow_up, "Release", Counted):
            yield

    def _await_end(self, observer: Database) -> None:
        while time.monotonic() < self._ends and not self.result.wrong:
            time.sleep(0.1)
            is_quiet = self._produced.is_set() and not self._lanes.depth
            if is_quiet and not observer.get().run(LEFT):
                return
            if self._is_woken():
                with self._gate.closed():
                    sends = Sends(observer.get(), self._lanes)
                    list(Parents(PREFIX, sends, Duties(sends.connection, sends.following)).steps())
        if not self.result.wrong:
            self.wrong(f"not over in time: {observer.get().run(LEFT)[:9]}, messages: {self._lanes.depth}")

    # --- Producers ----------------------------------------------------------------------------------------------------

    def _produce(self) -> None:
        """Make graphs of two to nine tasks, each with up to three parents: in one transaction, or while they run."""
        from sqlalchemy.orm import Session

        dice = random.Random(self._dice.random())
        with self._client() as (database, client):
            for number in range(self._number - int(self._number * BATCHES)):
                if self._over.is_set():
                    break
                together = dice.random() < 0.5
                jobs = self._graph(f"g{number:04}", dice)
                with Session(database.engine) as session:
                    for job in jobs:
                        client.enqueue(**_arguments(job), session=session if together else None)
                        if not together:
                            time.sleep(dice.random() * 0.01)
                    session.commit()
                self._repeat(jobs, dice)
                self.count("tasks of graphs", len(jobs))
        self._produced.set()

    def _graph(self, name: str, dice: random.Random) -> list[Job]:
        jobs: list[Job] = []
        for n in range(dice.randint(2, 9)):
            parents = dice.sample([str(job.task_id) for job in jobs], min(len(jobs), dice.randint(0, 3)))
            on_parent_dead = dice.choice(["hold", "hold", "cancel", "run"])
            node = Node(
                needs=() if on_parent_dead == "run" else tuple(parents),
                follows=tuple(parents) if on_parent_dead == "run" else (),
                script=self._script(dice),
            )
            more: dict[str, Any] = {"after": parents, "on_parent_dead": on_parent_dead} if parents else {}
            jobs.append(Job(dice.choice(list(TASKS.values())), node, task_id=f"{name}-{n}", **more))
        return jobs

    def _script(self, dice: random.Random) -> tuple[str, ...]:
        number = dice.random()
        return ("retry",) if number < 0.08 else ("fail",) * 3 if number < 0.14 else ()

    def _repeat(self, jobs: Sequence[Job], dice: random.Random) -> None:
        """Deliver some of the messages once more, at any time."""
        for job in jobs:
            for _ in range(dice.random() < 0.3):
                self.count("messages that came twice")
                body = Message(job.task.type, str(job.task_id), rec=True).encode()
                self._put(job.task.type, body, None, dice.random() * 3)

    def _produce_batches(self) -> None:
        """Make batches of none to twelve members: in one block, or sealed while the members run."""
        dice = random.Random(self._dice.random())
        with self._client() as (_, client):
            for number in range(int(self._number * BATCHES)):
                if self._over.is_set():
                    break
                name = f"b{number:04}"
                ids = [f"{name}-{n}" for n in range(dice.choice([0, 1, 2, 3, 12]))]
                jobs = [
                    Job(
                        dice.choice(list(TASKS.values())),
                        Node(script=self._script(dice), adds=f"{id_}-late" if dice.random() < 0.2 else None),
                        task_id=id_,
                    )
                    for id_ in ids
                ]
                ends = Job(graph_one, Node(follows=tuple(ids)))
                succeeds = Job(graph_one, Node(needs=tuple(ids)))
                batch = client.batch(name, on_end=ends, on_success=succeeds)
                if dice.random() < 0.5:
                    with batch:
                        batch.enqueue_many(jobs)
                else:
                    for job in jobs:
                        assert not isinstance(batch.enqueue_many([job])[0], JobError)
                    time.sleep(dice.random() * 0.05)
                    batch.seal()
                self._repeat(jobs, dice)
                self.count("tasks of batches", len(jobs) + 2)

    def _before_redrive(self, id_: str) -> None:
        """Its runs fail no more."""
        with self._client() as (database, _):
            database.get().run("update joblane.tasks set payload = payload - 'script' where id = $1", id_)

    def _cancel(self) -> None:
        dice = random.Random(self._dice.random())
        find = "select id from joblane.tasks where finished_at is null and state <> 'active' offset $1 limit 1"
        with self._client() as (database, client):
            for _ in self._every(0.15):
                for (id_,) in database.get().run(find, dice.randrange(60)):
                    with self._gate.open():
                        self.count("tasks cancelled by a client", client.cancel(id_) is not None)

    # --- The check ----------------------------------------------------------------------------------------------------

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
        for id_, parent in sql("select * from public.early limit 5"):
            self.wrong(f"{id_} ran before {parent} had ended")
        for (id_,) in sql("select id from joblane.tasks where state = 'cancelled' and reason is null limit 5"):
            self.wrong(f"cancelled without a reason: {id_}")
        [[deadlocks]] = sql("select deadlocks from pg_stat_database where datname = current_database()")
        if deadlocks:
            self.wrong(f"{deadlocks} deadlocks")
        swept, died = counts["children released by the sweep"], counts["workers that died before they could release"]
        if swept > died:
            self.wrong(f"{swept} children were released by the sweep alone, with {died} deaths")


def _arguments(job: Job) -> dict[str, Any]:
    more = {"after": job.after, "on_parent_dead": job.on_parent_dead} if job.after else {}
    return {"task": job.task, "payload": job.payload, "task_id": job.task_id, **more}
