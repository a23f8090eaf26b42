"""A task type and a program for a project: work in chains that are longer than Lambda allows one function.

Put :data:`HANDLER` into ``functions/chain_link/handler.py``, start the queues, and run :data:`PROGRAM` in the project
with their variables. Its argument is the lane. It fails if a task is not completed within 100 seconds. Then wait for
:data:`REFUSAL` in the log, and call :func:`assert_stopped`.
"""

from __future__ import annotations

from joblane.local.chains import MOST_INVOCATIONS
from joblane.record.driver.database import Database

HANDLER = '''
"""A link of a chain."""

import json
from datetime import timedelta
from pathlib import Path

from joblane import Payload, RateLimited, TaskContext, task


class ChainLink(Payload):
    key: str
    refusals: str | None = None  # a file with a byte for each refusal; None: it is not refused
    lane: str | None = None  # it sends itself to this queue; None: it does not
    number: int = 0


@task("chain:link", max_retry=0, timeout=timedelta(seconds=5), key="key", max_per_key=1)
def chain_link(payload: ChainLink, ctx: TaskContext) -> None:
    if payload.refusals:
        with Path(payload.refusals).open("ab") as file:
            file.write(b".")
            if file.tell() <= 40:
                raise RateLimited(timedelta(0), "the service answered 429")
    if payload.lane:
        import boto3

        following = payload.model_copy(update={"number": payload.number + 1, "key": f"loop {payload.number + 1}"})
        body = {"type": "chain:link", "id": f"loop-{following.number}", "payload": following.model_dump()}
        boto3.client("sqs").send_message(QueueUrl=payload.lane, MessageBody=json.dumps(body))
'''
PROGRAM = """
import os, sys, time
from pathlib import Path

from sqlalchemy import create_engine, text

from functions.chain_link.handler import ChainLink, chain_link
from joblane import Job, JobClient

jobs, ends = JobClient(), time.monotonic() + 600
engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+pg8000:"))


def count(condition):
    with engine.connect() as connection:
        return connection.scalar(text(f"select count(*) from joblane.tasks where type = 'chain:link' and {condition}"))


def wait(number, condition):
    while count(condition) < number:
        if time.monotonic() > ends:
            sys.exit(f"{count(condition)} of {number} tasks with {condition}")
        time.sleep(0.05)


# A hundred tasks of one key that wait for its slot
jobs.limits.set("chain:link", key="same", max_per_key=0)
jobs.enqueue_many([Job(chain_link, ChainLink(key="same"), task_id=f"turn-{n}") for n in range(100)])
wait(100, "id like 'turn-%' and state = 'held'")
jobs.limits.reset("chain:link", key="same")
# A task that is refused forty times
jobs.enqueue(chain_link, ChainLink(key="refused", refusals=str(Path("refusals").absolute())), task_id="refused")
# Forty tasks, each the child of the one before
parent = jobs.enqueue(chain_link, ChainLink(key="children 0"), task_id="child-0").id
for n in range(1, 41):
    parent = jobs.enqueue(chain_link, ChainLink(key=f"children {n}"), task_id=f"child-{n}", after=[parent]).id
wait(142, "state = 'completed'")
# A task that sends itself without end, past max_depth
lane = jobs._producer.sqs.url(sys.argv[1])
jobs.enqueue(chain_link, ChainLink(key="loop 0", lane=lane), task_id="loop-0")
wait(16, "id like 'loop-%' and state = 'completed'")
"""
REFUSAL = "Lambda would not invoke"
"""The start of the log line about the seventeenth invocation of ``chain:link`` in the last chain."""


def assert_stopped(url: str) -> None:
    """Assert that no task ran after the refusal. ``url``: of the database."""
    with Database(url) as database:
        rows = database.get().run("select state, count(*)::int from joblane.tasks where type = 'chain:link' group by 1")
    assert rows == [["completed", 142 + MOST_INVOCATIONS]]
