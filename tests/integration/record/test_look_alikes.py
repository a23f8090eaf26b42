"""No call in the library's SQL finds a function or an operator of another schema than ``pg_catalog`` or ``joblane``."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from joblane import RateLimited, SkipRetry, TaskContext
from joblane.local.postgres import Postgres
from joblane.record.sql_functions import NAMES, VERSION
from joblane.record.task_types import register
from joblane.sweep.ticks import make_ticks
from joblane.tasks.job import Job
from joblane.tasks.limit import Rate
from joblane.tasks.task import Task
from tests.look_alikes import ARRAYS, SETTINGS, Call, calls, captured, create
from tests.samples import (
    LIMITED,
    Sample,
    behaviour,
    behaviours,
    sample_latest,
    sample_one,
    sample_only,
    sample_single,
    sample_watched,
)  # fmt: skip
from tests.samples_events import Bus, sample_heard
from tests.world import PREFIX, World

TASKS = {each.type: each for each in (*LIMITED, sample_one, sample_only, sample_latest, sample_heard, sample_watched)}
WITHOUT_VERSION = ("enqueue", "check_task", "task_ended", "add_event", "event", "canonical", "payload_problem")
BY_HAND = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds, options,
                           events)
values ('by hand', 'sample:heard', 'default', 'pending', '{}', '', 1, 60, '{"timeout": 5}', '{completed}')
"""
CALLED = re.compile(r"joblane\.(\w+)\(|SQL function \"(\w+)\"")


@behaviour
def looks_alike(payload: Sample, ctx: TaskContext) -> None:
    """Fail, wait, or use what a context has."""
    if payload.number == 1:
        raise SkipRetry
    if payload.number == 2:
        raise RateLimited(timedelta(seconds=5))
    if payload.number == 3:
        ctx.sleep("pause", timedelta(0))
        ctx.wait("go", timeout=timedelta(hours=1))
        ctx.wait("late", timeout=timedelta(seconds=1), default=None)
    for item in ctx.each("ab"):
        ctx.step(item, lambda key: key)
        ctx.progress(1, 2, "note")
    ctx.enqueue(sample_single, Sample(), tags=["x"], headers={"a": "b"})
    ctx.check()


class Life:
    """Calls that together use each function in the database, and the statements of client, worker and sweep.

    ``errors``: of a call of a function in place of another.
    """

    def __init__(self, world: World) -> None:
        self._world, self._client = world, world.client
        self.errors: list[Exception] = []

    def go(self) -> None:
        for task in TASKS.values():
            self._of_task(task)
        for how in ("hold", "cancel", "run"):
            self._of_parents(how)
        self._of_waits()
        self._of_client()
        for _ in range(2):
            self._do(self._world.sweep, Bus())

    def _do(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except Exception as error:
            self.errors.append(error)
            self._world.database.drop()

    def _one(self, number: int = 0, task: Task[Any, Any] = sample_one, **options: Any) -> str:
        new = self._do(self._client.enqueue, task, Sample(do="looks_alike", number=number), **options)
        return new.id if new is not None else "none"

    def _deliver(self, task: Task[Any, Any], *ids: str, **how: Any) -> None:
        self._do(self._world.deliver, task, *({"type": task.type, "id": id_, "rec": True} for id_ in ids), **how)

    def _of_task(self, task: Task[Any, Any]) -> None:
        for number in range(3):
            self._deliver(task, self._one(number, task, tenant="acme"))
        self._one(task=task)
        self._do(self._world.deliver, task, {"type": task.type, "payload": {"number": 3}})
        self._do(self._world.run, "select joblane.enqueue($1, $2::jsonb, tags => '{a}')", task.type, '{"number": 4}')

    def _of_parents(self, how: str) -> None:
        parent, failed = self._one(), self._one(1)
        children = [self._one(after=[each], on_parent_dead=how) for each in (parent, failed)]
        for ids in (children, (parent, failed), children):
            self._deliver(sample_one, *ids)
        self._deliver(sample_one, failed, attributes={"joblane-dead": ("Number", "0")})
        self._do(self._world.run, "select joblane.enqueue('sample:one', after => array[$1])", parent)
        self._do(self._client.cancel, self._one(after=[self._one()]))

    def _of_waits(self) -> None:
        waiting = self._one(3)
        self._deliver(sample_one, waiting)
        self._do(self._client.signal, waiting, "go", {"yes": True})
        for _ in range(2):
            self._deliver(sample_one, waiting)
        self._do(self._world.run, "select joblane.signal($1, 'late')", waiting)

    def _of_client(self) -> None:
        client, limits, schedules = self._client, self._client.limits, self._client.schedules
        self._do(client.enqueue_many, [Job(sample_single, Sample(number=number)) for number in range(3)])
        self._do(self._batch)
        for _ in range(2):
            self._one(task=sample_latest, debounce=timedelta(seconds=50), unique_key="debounced")
            self._one(task=sample_only, on_conflict="replace", unique_key="replaced")
        self._do(limits.set, "sample:rated", rate=Rate(5, per=timedelta(seconds=9)), reason="r")
        self._do(limits.get, "sample:rated")
        self._do(limits.reset, "sample:rated")
        for expression in ("* * * * *", "*/2 * * * *"):
            self._do(schedules.put, "s", sample_one, Sample(), schedule=expression)
            self._do(make_ticks, self._world.database.get(), TASKS.get, PREFIX)
        self._do(schedules.pause, "s")
        self._do(schedules.resume, "s", task=sample_one)
        self._do(schedules.run_now, "s", task=sample_one)
        self._do(schedules.get, "s")
        self._do(schedules.list)
        self._do(self._world.run, BY_HAND)

    def _batch(self) -> None:
        end = Job(sample_one, Sample())
        with self._client.batch("b", on_end=end, on_success=end) as batch:
            member = batch.enqueue(sample_one, Sample())
        self._deliver(sample_one, member.id)


def lived(world: World, postgres: Postgres) -> tuple[list[Call], str, list[Exception]]:
    """Live once, with new sessions. Return the calls of all statements, the log, and the errors."""
    begins, life = postgres.log.stat().st_size, Life(world)
    world.run(
        "truncate joblane.tasks, joblane.batches, joblane.schedules, joblane.task_parents, joblane.task_steps, "
        "joblane.task_waits, joblane.task_signals"
    )
    for database in (world.database, world.client, world._observer):
        database.close()
    life.go()
    log = postgres.log.read_bytes()[begins:].decode()
    return list(dict.fromkeys(calls(log, dict(world.run(ARRAYS))))), log, life.errors


def test_no_function_of_another_schema_is_called(limited: World, postgres: Postgres) -> None:
    # given the calls of the library's statements
    register(limited._observer.get(), TASKS)
    limited.run("insert into joblane.stage (prefix) values ($1) on conflict do nothing", PREFIX)
    limited.deploy(TASKS.values())
    behaviours.setdefault("alert", behaviours["nothing"])
    for name, value in SETTINGS.items():
        limited.run(f"alter database {limited.url.rpartition('/')[2]} set {name} = {value}")
    made, log, errors = lived(limited, postgres)
    assert not errors
    found = {name.removesuffix(f"_{VERSION}") for names in CALLED.findall(log) for name in names}
    assert {*NAMES, *WITHOUT_VERSION} <= found
    # when there are functions for exactly the types of their arguments
    look_alikes = create(limited._observer.get(), made)
    assert {"to_json(json[])", "nextval(text)", "hashtextextended(text, integer)", "||(text[], text)"} <= {*look_alikes}
    # then none is called
    made, _, errors = lived(limited, postgres)
    assert captured(limited._observer.get(), made) == []
    assert not errors
