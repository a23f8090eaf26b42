"""A stage that a test fills in one expression: ``on.enqueue("it").pause("type", "sample:one").deliver("it")``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, Self

from joblane.inspector.durations import stamp
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.tasks.filter_sql import reading
from joblane.names import Queue
from joblane.record.row.states import State
from joblane.record.task.claim import arrival, claim
from joblane.sqs.message import decode
from joblane.tasks.job import Job
from joblane.tasks.task import Task
from tests.builders import rows
from tests.bulks import TASKS
from tests.integration.record.test_parents import run
from tests.samples import LIMITED, Sample, sample_one
from tests.world import World

AnyTask = Task[Any, Any]
JOB = Job(sample_one, Sample(do="nothing", number=0))
TIMES = """
select id, to_jsonb(t) || jsonb_build_object('latest', created_at + make_interval(secs => longest_seconds),
                                             'expired', dead_sent_at + interval '14 days')
  from joblane.tasks t
"""
READ = (
    "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_all_tables where schemaname='joblane'"
)


def of(id_: str, task: AnyTask = sample_one) -> Mapping[str, Any]:
    """The message of a task that has a row."""
    return {"type": task.type, "id": id_, "rec": True}


def is_like(text: str, wanted: str) -> bool:
    """Compare with a sentence that has "…" for any text."""
    return re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), text) is not None


class Scene:
    """Each method that changes something returns the scene."""

    def __init__(self, world: World, scope: Scope) -> None:
        self.world, self.scope = world, scope
        self.declare(*TASKS.values(), *LIMITED)

    def declare(self, *tasks: AnyTask) -> Self:
        """Let the code declare these tasks only."""
        self.scope = replace(self.scope, tasks={task.type: task for task in tasks})
        self.inspector = Inspector(self.scope)
        return self

    def in_region(self, region: str) -> Inspector:
        return Inspector(replace(self.scope, region=region))

    def sql(self, statement: str, *parameters: Any) -> Self:
        self.world.run(statement, *parameters)
        return self

    def change(self, id_: str, columns: str) -> Self:
        return self.sql(f"update joblane.tasks set {columns} where id = $1", id_)

    def put(self, id_: str, task: AnyTask = sample_one, **columns: Any) -> Self:
        """Write a row in any state."""
        rows.put(self.world, task, id_, **columns)
        return self

    def others(self, number: int) -> Self:
        """Many pending tasks, which a test does not look at."""
        return self.sql(
            "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, tags)"
            " select 'other-' || n, 'a:b', 'default', 'pending', '', 4, 60, array['batch:' || n]"
            f" from generate_series(1, {number}) n"
        )

    def enqueue(
        self, *ids: str, task: AnyTask = sample_one, do: str = "nothing", number: int = 0, **options: Any
    ) -> Self:
        self.world.lane(task)
        for id_ in ids:
            self.world.client.enqueue(task, Sample(do=do, number=number), task_id=id_, **options)
        return self

    def batch(self, id_: str, *members: str, seal: bool = True, **callbacks: Any) -> Self:
        self.world.lane(sample_one)
        batch = self.world.client.batch(id_, **callbacks)
        batch.enqueue_many([replace(JOB, task_id=member) for member in members])
        if seal:
            batch.seal()
        return self

    def deliver(self, *messages: str | Mapping[str, Any], task: AnyTask = sample_one, **how: Any) -> Self:
        """Deliver messages one after the other. A string is the id of a task that has a row, or a body in JSON."""
        for message in messages:
            is_id = isinstance(message, str) and not message.startswith("{")
            self.world.deliver(task, of(str(message), task) if is_id else message, **how)
        return self

    def send(self, *ids: str, task: AnyTask, **options: Any) -> Self:
        """Enqueue each task, and deliver its message at once."""
        for id_ in ids:
            self.enqueue(id_, task=task, **options).deliver(id_, task=task)
        return self

    def claim(self, *ids: str, task: AnyTask = sample_one, lease: float = 60, verdict: str = "run") -> Self:
        """Claim tasks like an invocation that has not ended; a negative lease has ended already."""
        incoming = [arrival(task, decode(json.dumps(of(id_, task))), id_, Queue.DEFAULT) for id_ in ids]
        claims = claim(self.world.database.get(), incoming, timedelta(seconds=lease), "request")
        assert {claimed.verdict for claimed in claims.values()} == {verdict}
        return self

    def end(self, id_: str, state: State = State.COMPLETED) -> Self:
        """Run a task, and let its run end in a state."""
        run(self.world, id_, state)
        return self

    def cancel(self, id_: str) -> Self:
        self.world.client.cancel(id_)
        return self

    def later(self, id_: str) -> Self:
        self.world.later(id_)
        return self

    def sweep(self) -> Self:
        self.world.sweep()
        return self

    def pause(self, kind: str, name: str, until: str | None = None) -> Self:
        """Pause for an interval, or until it is resumed. A second pause has its end."""
        return self.sql(
            "insert into joblane.pauses (scope, name, reason, until, paused_by)"
            " values ($1, $2, 'they asked', clock_timestamp() + $3::interval, 'ann')"
            " on conflict (scope, name) do update set until = excluded.until",
            kind,
            name,
            until,
        )

    def act(self, operation: str, *arguments: Any, **named: Any) -> Self:
        """Let the operator do something."""
        getattr(self.inspector, operation)(*arguments, **named)
        return self

    def limit(self, name: str, **values: Any) -> Self:
        return self.act("set_limit", name, **{"reason": "r", **values})

    def rows_read(self, sql: str, *parameters: Any) -> tuple[int, str]:
        """The number of rows that a statement reads, and its plan."""
        connection = self.world.database.get()
        with reading(connection):
            [[before]] = connection.run(READ)
            connection.run(sql, *parameters)
            [[after]] = connection.run(READ)
            plan = connection.run("explain analyze " + sql, *parameters)
        return after - before, "\n".join(row[0] for row in plan)

    def states(self, *ids: str) -> list[str]:
        return [self.world.row(id_)["state"] for id_ in ids]

    def times(self) -> dict[str, Any]:
        """The times of each task and pause, as sentences have them: ``{it.due_at}``, ``{pauses[default]}``."""
        found: dict[str, Any] = {id_: SimpleNamespace(**_stamps(row)) for id_, row in self.world.run(TIMES)}
        return found | {"pauses": _stamps(dict(self.world.run("select name, until::text from joblane.pauses")))}


def _stamps(columns: Mapping[str, Any]) -> dict[str, str]:
    return {name: _stamp(value) for name, value in columns.items() if isinstance(value, str)}


def _stamp(text: str) -> str:
    try:
        return stamp(datetime.fromisoformat(text))
    except ValueError:
        return text
