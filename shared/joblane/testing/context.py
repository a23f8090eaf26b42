"""The task context for a function that a test calls directly: it claims the row, and finishes it after the block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joblane.client import JobClient
from joblane.context import TaskContext
from joblane.declaration import Task
from joblane.limits import LEASE_MARGIN
from joblane.queues import Queue
from joblane.record.claim import Verdict, arrival, claim
from joblane.record.database import Database
from joblane.record.finish import finish
from joblane.record.run_session import RunSession
from joblane.sqs.client import Sqs
from joblane.sqs.message import Message
from joblane.testing.errors import KitError
from joblane.worker import outcome
from joblane.worker.run import completed, ms_since

REQUEST_ID = "a test's own call"


@contextmanager
def run_context(database: Database, task: Task[Any, Any], id_: str, sqs: Sqs, prefix: str) -> Iterator[TaskContext]:
    """Claim the task, and finish it as a worker does: completed, or failed if the block raises.

    Raises :class:`TaskCancelled` and :class:`LeaseLostError` at the end of the block, as a worker does.
    """
    started = time.perf_counter()
    queue = Queue(database.get().run("select queue from joblane.tasks where id = $1", id_)[0][0])
    arrived = arrival(task, Message(task.type, id_, rec=True), id_, queue)
    claimed = claim(database.get(), [arrived], task.timeout + LEASE_MARGIN, REQUEST_ID)[id_]
    if claimed.verdict is not Verdict.RUN:
        raise KitError(f"{task.type} {id_} cannot run: the verdict of its claim is {claimed.verdict}")
    work = RunSession(database, database.another(), id_, claimed.token)
    client = JobClient.within(database, sqs, prefix, task)
    context = TaskContext(task, claimed, queue, work, client, seconds=task.timeout.total_seconds())
    try:
        yield context
        work.flush()
        end = completed(claimed, None, ms_since(started))
        work.finish(end)
    except BaseException as error:
        work.undo()
        finish(database.get(), [outcome.failed(task, claimed, error, ms_since(started))])
        raise
    finally:
        context.close()
        work.close()
