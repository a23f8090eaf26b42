"""The sweep: sends what was never sent, finds what was lost, finishes dead letters, removes what has expired; and tells
what it found that an alarm should ring for."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane import settings
from joblane.context import TaskContext
from joblane.declaration import Grants, Task
from joblane.decorator import task
from joblane.discovery import discover
from joblane.errors import text_of
from joblane.maintenance.missed_ticks import missed_ticks
from joblane.maintenance.sweep import Swept, stuck_leases, sweep
from joblane.maintenance.unmarked_dead_letters import unmarked_dead_letters
from joblane.payload import Payload
from joblane.queues import Queue, front_door_name, lane_name
from joblane.schedule import every
from joblane.sqs.client import Sqs
from joblane.telemetry import Tally

Tasks = Mapping[str, Task[Any, Any]]
LOOKING = timedelta(seconds=45)
"""Longer than a queue that does not answer is waited for, tries included."""


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
    sqs, tasks = Sqs(), discover()
    swept = sweep(
        ctx.connection(), sqs, settings.prefix(), may_continue=lambda: ctx.remaining() > timedelta(seconds=30)
    )
    ctx.logger.info("swept", extra={"swept": vars(swept)})
    missed = _missed_ticks(ctx, tasks)
    found = {
        "WaitingTooLong": _waiting_too_long(ctx, tasks, swept),
        "MissedTick": len(missed),
        "StuckLeases": stuck_leases(ctx.connection()),
        "DeadLettersMovedBySqs": _moved_by_sqs(ctx, tasks, sqs),
    }
    _measure(ctx, swept, found)
    return vars(swept) | {"missed_ticks": missed}


def _measure(ctx: TaskContext, swept: Swept, found: Mapping[str, int]) -> None:
    """Alarms hang on what was found. What was not is left out, as a metric costs by the hour; ``Overdue`` says that the
    sweep looked."""
    tally = Tally()
    tally.count("Overdue", swept.overdue)
    for name, number in found.items():
        if number:
            tally.count(name, number)
    tally.flush(task_type=ctx.type)


def _waiting_too_long(ctx: TaskContext, tasks: Tasks, swept: Swept) -> int:
    """How many types have a task that has not started within ``target_wait``; a line for each."""
    late = 0
    for name, waited in swept.waits.items():
        if name in tasks and waited > (target := tasks[name].target_wait.total_seconds()):
            late += 1
            ctx.logger.error(
                "tasks wait longer than their type's target_wait",
                extra={"of_type": name, "waits_seconds": waited, "target_seconds": target},
            )
    return late


def _missed_ticks(ctx: TaskContext, tasks: Tasks) -> list[str]:
    missed = missed_ticks(ctx.connection(), tasks.values(), datetime.now(UTC))
    for tick in missed:
        ctx.logger.error("a tick did not come: is its schedule there and on, or its lane behind?", extra={"tick": tick})
    return missed


def _moved_by_sqs(ctx: TaskContext, tasks: Tasks, sqs: Sqs) -> int:
    """Letters of lanes and front doors; a line for each queue that has some. What was swept needs no more time: where
    little is left, the next sweep looks."""
    from botocore.exceptions import BotoCoreError, ClientError

    if ctx.remaining() < LOOKING:
        return 0
    prefix = settings.prefix()
    doors = [front_door_name(prefix, queue) for queue in Queue]
    lanes = [lane_name(prefix, queue, name) for task in tasks.values() for queue in task.lanes for name in task.types]
    try:
        moved = unmarked_dead_letters(ctx.connection(), sqs, prefix, doors + lanes)
    except (BotoCoreError, ClientError) as error:  # what was swept stays so; the next one looks again
        ctx.logger.warning("the dead letters could not be looked at", extra={"error": text_of(error)})
        return 0
    for name, number in moved.items():
        ctx.logger.error("SQS moved messages to the dead letters", extra={"queue": name, "messages": number})
    return sum(moved.values())
