"""An operator's action on many tasks: it retries, redrives, cancels, archives or deletes them, chunk by chunk."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from joblane import settings
from joblane.handler.context import TaskContext
from joblane.names import BULK, Queue
from joblane.sqs.client import Sqs
from joblane.tasks.decorator import task
from joblane.tasks.discovery import discover
from joblane.tasks.payload import Payload
from joblane.tasks.task import Grants


class JobsBulk(Payload):
    """Empty: the table ``bulks`` has the action, under the task's id."""


@task(
    BULK,
    queue=Queue.LOW,
    max_retry=2,
    retry_delay=timedelta(seconds=30),
    timeout=timedelta(hours=6),
    retention=timedelta(days=90),
    resumable=True,
    grants=Grants(enqueue=("*",), dead_letters=True),
)
def jobs_bulk(payload: JobsBulk, ctx: TaskContext) -> Mapping[str, Any]:
    from joblane.inspector.bulk.run import BulkRun

    return BulkRun(ctx, Sqs(), settings.prefix(), discover()).run()
