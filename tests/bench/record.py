"""Whole lives of tasks in the database, without SQS: enqueued, delivered as events, claimed and finished.

The server's processor time is that of the one session that a function has. Sends are accepted at once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from typing import Any, Self
from unittest.mock import patch

from joblane import Payload, Task, TaskContext, task
from joblane.client.client import client_within
from joblane.local.postgres import Postgres
from joblane.names import SWEEP, Queue, dead_letter_name, lane_name, slug_of
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import NO_LIMITS
from joblane.record.task.claim import claim
from joblane.record.task.finish import finish
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.message import decode
from joblane.tasks.job import Job
from joblane.testing.databases import Databases
from joblane.worker import worker
from joblane.worker.invocation import lambda_handler
from tests.bench import backends
from tests.bench.quiet import silent
from tests.builders.events import LambdaContext, event, record

PREFIX = "jobs"


CREATED = "clock_timestamp() - n * interval '1 day' * 24 / $1::int"
COPIES = "from (select * from joblane.tasks where finished_at is not null limit 1) t, generate_series(1, $1::int) n"
"""Copies over 24 days."""


class Work(Payload):
    tenant_id: str
    number: int


@task("bench:record", timeout=timedelta(seconds=10), batch_size=10)
def bench_record(payload: Work, ctx: TaskContext) -> None:
    pass


@task("bench:keyed", timeout=timedelta(seconds=10), batch_size=10, key="tenant_id", max_per_key=3)
def bench_keyed(payload: Work, ctx: TaskContext) -> None:
    pass


@task("bench:total", timeout=timedelta(seconds=10), batch_size=10, max_total=1)
def bench_total(payload: Work, ctx: TaskContext) -> None:
    pass


OTHERS = (slug_of(SWEEP), dead_letter_name(""))
"""Ends of the names of queues that no measured worker reads."""


class Accepting(Sqs):
    """SQS that accepts each message at once, and keeps those of the measured tasks: no wake-up, and no dead letter."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[str] = []

    def send_many(self, entries: Sequence[Entry], *_: Any, **__: Any) -> dict[int, str]:
        self.bodies += [entry.body for entry in entries if not entry.queue.endswith(OTHERS)]
        return {}


class Record:
    """A database with its tables, one connection, and the client and worker on it.

    ``keys``: the number of values of ``tenant_id``.
    """

    def __init__(self, url: str, task_: Task[Work, None] = bench_record, *, keys: int = 1) -> None:
        self.task, self._keys = task_, keys
        self._lane = lane_name(PREFIX, Queue.DEFAULT, task_.type)
        self.database = Database(url)
        self.connection = self.database.get()
        self.pid = backends.pid_of(self.connection)
        self.sqs = Accepting()
        self._client = client_within(self.database, self.sqs, PREFIX)
        self.handler = lambda_handler(worker.Worker(task_, self.database, self.sqs, PREFIX).handle)
        self._numbers = itertools.count()

    def enqueue(self, count: int, batch: int) -> list[str]:
        """Enqueue tasks, ``batch`` with one call. Return the bodies of their messages."""
        self.sqs.bodies = []
        for _ in range(0, count, batch):
            jobs = [Job(self.task, self._work()) for _ in range(batch)]
            if batch == 1:
                self._client.enqueue(jobs[0].task, jobs[0].payload)
            else:
                self._client.enqueue_many(jobs)
        return self.sqs.bodies

    def signal(self, bodies: Sequence[str], name: str) -> list[str]:
        """Signal the tasks of messages. Return the bodies of the messages that let them continue."""
        self.sqs.bodies = []
        for body in bodies:
            assert self._client.signal(str(decode(body).id), name)
        return self.sqs.bodies

    def _work(self) -> Work:
        number = next(self._numbers)
        return Work(tenant_id=f"acme{number % self._keys}", number=number)

    def events(self, bodies: Sequence[str], batch: int) -> list[dict[str, Any]]:
        """Return the events of the messages, ``batch`` to an event."""
        return [
            event(*(record(body, self._lane) for body in bodies[start : start + batch]))
            for start in range(0, len(bodies), batch)
        ]

    def handle(self, events: Sequence[dict[str, Any]]) -> None:
        """Deliver the events to the worker, which claims, runs and finishes their tasks."""
        with silent():
            for event_ in events:
                assert self.handler(event_, LambdaContext()) == {"batchItemFailures": []}

    def deliver(self, bodies: Sequence[str], batch: int) -> None:
        self.handle(self.events(bodies, batch))

    def enqueued(self, count: int) -> float:
        """Enqueue tasks one by one. Return the server's processor time per task, in seconds."""
        return backends.of(self.pid, lambda: self.enqueue(count, 1)) / count

    def finished(self, count: int, batch: int) -> float:
        """Enqueue, claim and finish tasks. Return the server's processor time of the finish per task, in seconds."""
        bodies = self.enqueue(count, batch)
        with self.metered() as spent:
            self.deliver(bodies, batch)
        return spent["finish"] / count

    def fill(self, rows: int) -> None:
        """Add ended tasks with their attempts, copies of one that has run, and analyse the tables."""
        self.live(10, 10)
        self.connection.execute_simple(NO_LIMITS)
        columns, values = self._copied("tasks", id="gen_random_uuid()::text", created_at=CREATED, payload_digest="''")
        self.connection.run(f"insert into joblane.tasks ({columns}) select {values} {COPIES}", str(rows))
        columns, values = self._copied("task_attempts", task_id="c.id", started_at="c.created_at")
        self.connection.run(
            f"insert into joblane.task_attempts ({columns}) select {values} from joblane.tasks c, "
            "(select * from joblane.runs limit 1) t "
            "where not exists (select from joblane.runs a where a.task_id = c.id)"
        )
        for table in ("tasks", "task_attempts"):
            self.connection.run(f"vacuum analyze joblane.{table}")

    def _copied(self, table: str, **own: str) -> tuple[str, str]:
        """Return the columns of a table, and their values from row ``t`` except for ``own``."""
        statement = "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped"
        columns = [row[0] for row in self.connection.run(statement, f"joblane.{table}")]
        return ", ".join(columns), ", ".join(own.get(column, f"t.{column}") for column in columns)

    def activate(self, count: int) -> None:
        """Add active tasks, as other functions hold them: claimed, and not finished."""
        if count:
            bodies = self.enqueue(count, 10)
            with patch.object(worker, "finish", lambda _connection, ends, **_: {end.id for end in ends}):
                self.deliver(bodies, 10)

    def live(self, count: int, batch: int) -> float:
        """Enqueue, claim and finish tasks. Return the server's processor time per task, in seconds."""
        return backends.of(self.pid, lambda: self.deliver(self.enqueue(count, batch), batch)) / count

    @contextmanager
    def metered(self) -> Iterator[Counter[str]]:
        """Count the server's processor time in ``claim`` and in ``finish``, in seconds."""
        spent: Counter[str] = Counter()

        def meter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def metered(*arguments: Any, **options: Any) -> Any:
                before = backends.cpu(self.pid)
                try:
                    return function(*arguments, **options)
                finally:
                    spent[name] += backends.cpu(self.pid) - before  # type: ignore[assignment]

            return metered

        with (
            patch.object(worker, "claim", meter("claim", claim)),
            patch.object(worker, "finish", meter("finish", finish)),
        ):
            yield spent

    def close(self) -> None:
        self.database.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def clones(server: Postgres, number: int = 1) -> Iterator[list[str]]:
    """Yield the addresses of migrated, empty databases on a server."""
    databases = Databases(server.url)
    with closing(databases), ExitStack() as stack:
        yield [stack.enter_context(databases.clone()) for _ in range(number)]
