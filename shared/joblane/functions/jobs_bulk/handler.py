"""An operator's action on many tasks: it retries, redrives, cancels, archives or deletes them, chunk by chunk."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from joblane import settings
from joblane.context import TaskContext
from joblane.declaration import Grants
from joblane.decorator import task
from joblane.discovery import discover
from joblane.payload import Payload
from joblane.queues import Queue
from joblane.sqs.client import Sqs


class JobsBulk(Payload):
    """Empty: the table ``bulks`` has the action, under the task's id."""


@task(
    "jobs:bulk",
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
