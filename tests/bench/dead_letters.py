"""The grouped dead letters of a thousand tasks with three causes, measured against a limit of one second."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from joblane import settings
from joblane.inspector.bulk.dead_letters import queues_of
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.local.postgres import Postgres
from joblane.names import dead_letter_name, lane_name
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.dead_letter import archived_dead_letter
from joblane.sqs.message import Message
from joblane.tasks.discovery import discover
from tests.bench.record import clones
from tests.bench.report import Ratio, median, within

DEAD = 1_000
CAUSES = 3
REFUSED = 300
"""Dead letters without a row, so that they have to be read from the queue."""
ROUNDS = 5
MAX_MS = 1_000.0

ROWS = """
insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, attempts, runs,
  retention_seconds,
                   finished_at, expire_at, dead_sent_at, reason, error_type, error_message, fingerprint)
select 'dead-' || n, 'data:export', 'default', 'archived', '{}', '', 4, 4, 4, 86400, now(), now() + interval '90 days',
       now(), 'attempt 4 of 4', 'ValueError', 'row ' || n || ' is bad', 'cause-' || n % $2::int
  from generate_series(1, $1::int) n
"""


def run(server: Postgres) -> list[Ratio]:
    with stage(server, "dead"):
        return _measured()


@contextmanager
def stage(server: Postgres, prefix: str) -> Iterator[None]:
    """Use a stage of its own, with an empty database and empty queues, until the end.

    Otherwise the next measurement would find the dead letters and the rows of this one.
    """
    sqs = Sqs()
    with clones(server) as [url], patch.dict(os.environ, DATABASE_URL=url, JOBLANE_PREFIX=prefix):
        names = queues_of(prefix, discover())
        names += [name.removesuffix(dead_letter_name("")) for name in names]
        urls = [sqs.client.create_queue(QueueName=name)["QueueUrl"] for name in names]
        yield
        for queue_url in urls:
            sqs.client.delete_queue(QueueUrl=queue_url)


def _measured() -> list[Ratio]:
    database, sqs, tasks, prefix = Database(settings.database_url()), Sqs(), discover(), settings.prefix()
    database.get().run(ROWS, str(DEAD), str(CAUSES))
    task = tasks["data:export"]
    lane = lane_name(prefix, task.queue, task.type)
    dead_letters = [
        archived_dead_letter(lane, Message(task.type, f"dead-{n}", rec=True), "it failed", 0, None) for n in range(DEAD)
    ]
    assert not sqs.send_many(dead_letters)
    inspector = Inspector(Scope(database, sqs, prefix, tasks, "bench"))
    with_rows_ms = _ms(inspector, groups=CAUSES)
    refused = [Entry(f"{prefix}-low-dlq", f"no json {n}") for n in range(REFUSED)]
    assert not sqs.send_many(refused)
    with_refused_ms = _ms(inspector, groups=CAUSES + 1)
    database.drop()
    setting = f"{DEAD:,} tasks, {CAUSES} causes, {DEAD:,} dead letters"
    return [
        within("dead letters", setting, with_rows_ms, MAX_MS, "ms"),
        within("dead letters", f"{setting}, {REFUSED} more without a row", with_refused_ms, MAX_MS, "ms"),
    ]


def _ms(inspector: Inspector, *, groups: int) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = inspector.dead()
        times.append((time.perf_counter() - started) * 1000)
        assert len(found.groups) == groups
    return median(times)
