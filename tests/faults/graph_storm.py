"""A storm of graphs: threads run random graphs of tasks, and batches, while workers die and messages come twice.

Workers, client and statements are the library's, see :mod:`tests.faults.dying_workers`. The storm counts who releases
each child. The library's sweep releases children only while all workers stand still, and no more than workers have died
before they could release one; without deaths it must find none.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from sqlalchemy import text
from sqlalchemy.orm import Session

from joblane import Grants, Job, Payload, TaskContext
from joblane.enqueue import follow_up
from joblane.errors import JobError
from joblane.record.flow.free_slots import Turn
from joblane.record.flow.release import RELEASE, Release
from joblane.record.task.claim import CLAIMS
from joblane.record.task.finish import FINISHES
from joblane.sqs.message import Message
from joblane.sweep.parents import Parents
from joblane.worker.worker import Worker
from tests.faults.declared import declared, follow
from tests.faults.dying_workers import DyingWorkers, Fate
from tests.patience import PATIENCE_SECONDS

# --- Types -----------------------------------------------------------------------------------------------------------

REPEATABLE = 0.3
"""The share of runs in the isolation level repeatable read."""
EARLY = text("""
insert into public.early
select :id, p.id from joblane.tasks p
 where (p.id = any(:needs) and p.state <> 'completed')
    or (p.id = any(:follows) and p.finished_at is null and p.generation = 0)
""")


class Node(Payload):
    """A task of a graph.

    ``needs``: tasks that have to be completed before it, ``follows``: those that have to have ended. ``script``: what
    the runs do, one after the other; then the task completes. ``adds``: a member that it adds to its batch.
    """

    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    script: tuple[str, ...] = ()
    adds: str | None = None


def node(payload: Node, ctx: TaskContext) -> None:
    if random.random() < REPEATABLE:
        ctx.session.execute(text("set transaction isolation level repeatable read"))
    parents = {"needs": list(payload.needs), "follows": list(payload.follows)}
    ctx.session.execute(EARLY, {"id": ctx.task_id, **parents})
    time.sleep(random.random() * 0.02)
    follow(next(iter(payload.script[ctx.attempt - 1 :]), ""), timedelta(milliseconds=100))
    if payload.adds is not None and ctx.batch_id is not None:
        ctx.batch.enqueue_many([Job(GRAPH_ONE, Node(), task_id=payload.adds)])
    ctx.session.execute(text("insert into public.effects values (:id)"), {"id": ctx.task_id})


TASKS = declared(
    node,
    {"graph:one": {}, "graph:many": {"batch_size": 4}, "graph:limited": {"max_total": 3}},
    max_retry=2,
    retry_delay=timedelta(0),
    timeout=timedelta(seconds=30),
    grants=Grants(enqueue=("graph:one",)),
)
GRAPH_ONE = TASKS["graph:one"]


# --- The storm -------------------------------------------------------------------------------------------------------

PREFIX = "graph"
TABLES = "create table public.effects (id text); create table public.early (id text, p text)"
RULES = {
    "{0} ran before {1} had ended": "select * from public.early limit 5",
    "cancelled without a reason: {0}": """
select id from joblane.tasks where state = 'cancelled' and reason is null limit 5""",
}
BATCHES = 0.4
"""The share of graphs that are a batch."""
LATER = 0.2
"""The share of children that are due up to a second later. Until then they wait for their parents with a message."""
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
        if statement not in (*CLAIMS, *FINISHES, RELEASE):
            return
        answer = result.rows[0][0]
        if statement in CLAIMS:
            self.frees |= isinstance(answer[0], dict) and any(one["release"] for one in answer)
        elif statement in FINISHES:
            self.frees |= "look" in (answer or {}) and bool(answer["released"] or answer["look"])
        else:
            self.frees = any(answer[name] for name in ("ended", "children", "later", "remaining"))


def counted(count: Callable[[str, int], None], what: str) -> type[Release]:
    """Return a release that counts the tasks of each caller."""

    class Counted(Release):
        def steps(self, call: Any, *, to_end: bool = False) -> Iterator[list[Turn]]:
            is_of_worker = isinstance(getattr(call, "__self__", None), Worker)
            who = "the sweep" if to_end else "a worker" if is_of_worker else "a cancel"
            for turns in super().steps(call, to_end=to_end):
                count(f"{what} by {who}", len(turns))
                yield turns

    return Counted


class GraphStorm(DyingWorkers):
    """A storm of ``graphs``."""

    prefix, tasks, fate, duty = PREFIX, TASKS, GraphFate, Parents
    before, work = "release", "children released"
    tables, left, rules = TABLES, LEFT, RULES
    cancellable, cancel_seconds = "state <> 'active'", 0.15

    def __init__(
        self, url: str, seed: int, graphs: int, *, seconds: float = PATIENCE_SECONDS, deaths: float = 0.3
    ) -> None:
        super().__init__(url, seed, graphs, seconds=seconds, deaths=deaths)

    def _duties(self) -> Sequence[Callable[[], None]]:
        return self._produce, self._produce_batches, self._cancel

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Count the children that each caller has released."""
        with super()._patched(), patch.object(follow_up, "Release", counted(self.count, "children released")):
            yield

    # --- Producers ----------------------------------------------------------------------------------------------------

    def _produce(self) -> None:
        """Make graphs of two to nine tasks, each with up to three parents: in one transaction, or while they run."""
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
            if parents and dice.random() < LATER:
                more["process_in"] = timedelta(seconds=dice.random())
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
                ends = Job(GRAPH_ONE, Node(follows=tuple(ids)))
                succeeds = Job(GRAPH_ONE, Node(needs=tuple(ids)))
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


def _arguments(job: Job) -> dict[str, Any]:
    more: dict[str, Any] = {"after": job.after, "on_parent_dead": job.on_parent_dead} if job.after else {}
    if job.process_in is not None:
        more["process_in"] = job.process_in
    return {"task": job.task, "payload": job.payload, "task_id": job.task_id, **more}
