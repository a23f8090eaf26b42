"""The sweep: sends what was never sent, finds what was lost, finishes dead letters, removes what has expired."""

from datetime import timedelta
from typing import Any

from shared import settings
from shared.jobs import Grants, Payload, Queue, TaskContext, every, task
from shared.jobs.sqs import Sqs
from shared.jobs.sweep import sweep


class JobsSweep(Payload):
    """Nothing to say."""


@task(
    "jobs:sweep",
    queue=Queue.LOW,
    max_retry=0,
    timeout=timedelta(minutes=4),
    retention=timedelta(hours=1),
    schedule=every(minutes=5),
    grants=Grants(enqueue=("*",)),
)
def jobs_sweep(payload: JobsSweep, ctx: TaskContext) -> dict[str, Any]:
    swept = sweep(ctx.connection(), Sqs(), settings.prefix(), goes_on=lambda: ctx.remaining() > timedelta(seconds=30))
    ctx.logger.info("swept", extra={"swept": vars(swept)})
    return vars(swept)
