"""The sweep: sends what was never sent, finds what was lost, finishes dead letters, removes what has expired."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shared import settings
from shared.jobs import Grants, Payload, Queue, TaskContext, every, task
from shared.jobs.discovery import discover
from shared.jobs.missed import missed_ticks
from shared.jobs.sqs import Sqs
from shared.jobs.sweep import sweep
from shared.telemetry import Tally


class JobsSweep(Payload):
    """Nothing to say."""


@task(
    "jobs:sweep",
    queue=Queue.LOW,
    max_retry=0,
    timeout=timedelta(minutes=4),
    retention=timedelta(hours=1),
    schedule=every(minutes=5),
    overlap="allow",  # one that was killed is found by the next
    grants=Grants(enqueue=("*",)),
)
def jobs_sweep(payload: JobsSweep, ctx: TaskContext) -> dict[str, Any]:
    swept = sweep(ctx.connection(), Sqs(), settings.prefix(), goes_on=lambda: ctx.remaining() > timedelta(seconds=30))
    ctx.logger.info("swept", extra={"swept": vars(swept)})
    return vars(swept) | {"missed_ticks": _missed_ticks(ctx)}


def _missed_ticks(ctx: TaskContext) -> list[str]:
    """Each is a line and a count; an alarm hangs on the count."""
    missed = missed_ticks(ctx.connection(), discover().values(), datetime.now(UTC))
    tally = Tally()
    for tick in missed:
        ctx.logger.error("a tick did not come: is its schedule there and on, or its lane behind?", extra={"tick": tick})
        tally.count("MissedTick")
    tally.flush(task_type=ctx.type)
    return missed
