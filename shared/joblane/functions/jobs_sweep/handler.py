"""The sweep: it sends unsent messages, finds lost runs, sends pending dead letters and removes expired rows.

It also writes the metrics of faults that only it can see, for the alarms.
"""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pg8000.exceptions import DatabaseError

from joblane import settings
from joblane.enqueue.event_bus import bus_of_environment
from joblane.enqueue.wake import WOKEN
from joblane.errors import sqlstate, text_of
from joblane.handler.context import TaskContext
from joblane.names import SWEEP, Queue, front_door_name
from joblane.record.deploys import finish_deploy
from joblane.record.driver.connection import INSUFFICIENT_PRIVILEGE
from joblane.record.driver.time_limits import SWEEP as SWEEP_LIMITS
from joblane.sqs.client import Sqs
from joblane.sweep.causes import note_causes
from joblane.sweep.duties import Duties, within_share
from joblane.sweep.held_counts import HeldCounts, held_counts
from joblane.sweep.lowered_limits import lowered
from joblane.sweep.next_sweep import NextSweep, plan
from joblane.sweep.old_snapshot import old_snapshot
from joblane.sweep.run_statistics import AddedUp, add_up
from joblane.sweep.sweep import Swept, sweep
from joblane.sweep.ticks import Ticks, make_ticks
from joblane.sweep.unmarked_dead_letters import unmarked_dead_letters
from joblane.tasks.decorator import task
from joblane.tasks.discovery import discover
from joblane.tasks.payload import Payload
from joblane.tasks.places import lanes_of
from joblane.tasks.schedule import every
from joblane.tasks.task import Grants, Task
from joblane.telemetry import Tally
from joblane.worker.sweep_worker import AT

Tasks = Mapping[str, Task[Any, Any]]
READING = timedelta(seconds=50)
"""Time for reading the dead-letter queues: more than the three tries of a request that SQS does not answer, 15 s each.
"""
STEP = timedelta(seconds=60)
"""Time for a step of the sweep, in which all sends wait for SQS at the same time, and for the end of the run."""


class JobsSweep(Payload):
    """A message for the sweep has no fields."""


@task(
    "jobs:sweep",
    queue=Queue.LOW,
    # A sweep fails if it cannot send the message of the next one. It tries again until the next scheduled sweep, and
    # less than five minutes after SQS accepts messages again it has found what waits.
    max_retry=100,
    retry_delay=[timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=4)],
    timeout=timedelta(minutes=4),
    retention=timedelta(hours=1),
    schedule=every(minutes=settings.DEFAULT_SWEEP_MINUTES, missed="skip"),
    overlap="allow",
    grants=Grants(enqueue=("*",)),
)
def jobs_sweep(payload: JobsSweep, ctx: TaskContext) -> dict[str, Any]:
    sqs, tasks = Sqs(), discover()
    connection, prefix, bus = ctx.connection(), settings.prefix(), bus_of_environment()
    connection.limit(SWEEP_LIMITS)
    following = NextSweep()
    duties = Duties(connection, following)

    def may_continue() -> bool:
        return ctx.remaining() > STEP

    ticks = _make_ticks(duties, tasks, may_continue)  # before the walk, which sends them
    swept = sweep(connection, sqs, prefix, bus=bus, may_continue=may_continue, following=following, duties=duties)
    # A scheduled sweep, or one that a person starts, does not trust that the lane has the message of the next one.
    planned = plan(connection, sqs, prefix, following, anew=not ctx.task_id.startswith((AT, WOKEN)))
    failed_before = len(duties.failed)
    held = duties.run("held counts", lambda: held_counts(connection, may_continue=may_continue), HeldCounts())
    ctx.logger.info("swept", extra={"swept": vars(swept), "ticks": vars(ticks), "held_by_limit": dict(held.by_limit)})
    waits = _by_present_name(swept.waits, tasks)
    late = _waiting_too_long(ctx, tasks, waits, held)
    found = {
        "WaitingTooLong": len(late),
        "CriticalWaitingTooLong": sum(tasks[name].queue is Queue.CRITICAL for name in late),
        "MissedTick": len(ticks.missed) + ticks.problems,
        "StuckLeases": swept.stuck,
        "DeadLettersMovedBySqs": duties.run("moved dead letters", lambda: _moved_by_sqs(ctx, tasks, sqs), 0),
        "OldestSnapshotSeconds": duties.run("old snapshots", lambda: _old_snapshot_seconds(ctx), 0),
        "LoweredLimits": duties.run("lowered limits", lambda: _lowered_limits(ctx, tasks), 0),
        "EventsWaiting": swept.events_waiting,
        "EventsOldestSeconds": swept.events_oldest_seconds,
        "EventsDropped": swept.events_dropped,
    }
    _measure(ctx, swept, found)
    _measure_due(waits)
    _measure_held(held)
    if version := os.environ.get(settings.DEPLOY):
        duties.run("deploy", lambda: finish_deploy(connection, version), None)
    # last: only charts and lists of errors depend on these
    duties.run("causes", lambda: note_causes(connection, may_continue=within_share(may_continue)), 0)
    added = duties.run("run statistics", lambda: add_up(connection, may_continue=may_continue), AddedUp())
    _measure_runs(added, failed=len(duties.failed))
    if len(duties.failed) > failed_before:
        planned = plan(connection, sqs, prefix, following)
    next_at = None if planned is None else datetime.fromtimestamp(planned, UTC).isoformat()
    counts = {
        "failed": list(duties.failed),
        "ticks": ticks.made,
        "missed_ticks": ticks.missed,
        "held": held.by_limit.total(),
    }
    return vars(swept) | counts | {"planned_sweep_at": next_at}


def _make_ticks(duties: Duties, tasks: Tasks, may_continue: Callable[[], bool]) -> Ticks:
    """Make the tasks of schedules."""
    by_name = {name: task for task in tasks.values() for name in task.types}
    has_time = within_share(may_continue)
    ticks = duties.run(
        "ticks",
        lambda: make_ticks(duties.connection, by_name.get, settings.prefix(), may_continue=has_time),
        Ticks(problems=1),
    )
    duties.following.is_late |= not ticks.is_over
    return ticks


def _measure(ctx: TaskContext, swept: Swept, found: Mapping[str, int]) -> None:
    """Write the metrics for the alarms. A metric costs by the hour, so a metric of 0 is left out, except ``Overdue``,
    which shows that the sweep ran."""
    tally = Tally()
    tally.count("Overdue", swept.overdue)
    for name, number in found.items():
        if number:
            tally.count(name, number)
    tally.flush(task_type=ctx.type)


def _measure_due(waits: Mapping[str, int]) -> None:
    """Write the time since the oldest task of each type was due, and of the whole stage, for the dashboard."""
    for name, seconds in waits.items():
        tally = Tally()
        tally.count("OldestDueSeconds", seconds)
        tally.flush("OldestDueSeconds", task_type=name)


def _measure_runs(added: AddedUp, *, failed: int) -> None:
    """Write the runs of the stage and their cost, for the dashboard, and the ``failed`` duties, for the alarm."""
    found = {"Runs": added.runs, "FailedRuns": added.failed, "CostUsd": added.cost_usd, "FailedDuties": failed}
    tally = Tally()
    for name, number in found.items():
        if number:
            tally.count(name, number)
    tally.flush(task_type=SWEEP)


def _measure_held(held: HeldCounts) -> None:
    """Write the metrics of limits for which tasks wait. A key has no metric of its own: there may be any number."""
    for name, number in held.by_limit.items():
        tally = Tally()
        tally.count("Held", number)
        tally.count("HeldOldestSeconds", max(0, round(held.oldest[name])))
        tally.flush(limit=name)


def _by_present_name(waits: Mapping[str, int], tasks: Tasks) -> dict[str, int]:
    """Return the longest wait by type. Tasks that have a former name of their type count as tasks of the type."""
    present = {name: task.type for task in tasks.values() for name in task.types}
    found: dict[str, int] = {}
    for name, seconds in waits.items():
        type_ = present.get(name, name)
        found[type_] = max(seconds, found.get(type_, 0))
    return found


def _waiting_too_long(ctx: TaskContext, tasks: Tasks, waits: Mapping[str, int], held: HeldCounts) -> list[str]:
    """Return the types with a task that has not started within ``target_wait``, and log a line for each.

    Tasks that wait for a limit are not late. The line has their number.
    """
    late: list[str] = []
    for name, waited in waits.items():
        if name in tasks and waited > (target := tasks[name].target_wait.total_seconds()):
            late.append(name)
            ctx.logger.error(
                "tasks wait longer than their type's target_wait",
                extra={
                    "of_type": name,
                    "waits_seconds": waited,
                    "target_seconds": target,
                    "held": sum(held.by_type[each] for each in tasks[name].types),
                },
            )
    return late


def _lowered_limits(ctx: TaskContext, tasks: Tasks) -> int:
    """Return the number of limits that an operator has lowered and that keep tasks waiting, and log a line for each.

    The line has the name without the key, which can be a value of a payload.
    """
    by_name, number = {name: task for task in tasks.values() for name in task.types}, 0
    for limit in lowered(ctx.connection()):
        if limit.change is None or not limit.keeps(limit.missed(by_name.get)):
            continue
        number += 1
        ctx.logger.error(
            "tasks wait for a limit that an operator has lowered: `joblane queues` names it, `joblane limits reset` "
            "returns to the declared values",
            extra={
                "limit": limit.name.partition("/")[0],
                "held": limit.number,
                "waits_seconds": round(limit.oldest or 0),
            },
        )
    return number


def _old_snapshot_seconds(ctx: TaskContext) -> int:
    """Return the age of the oldest snapshot that keeps dead rows, and log its holder. 0: it is not old, or unknown."""
    try:
        oldest = old_snapshot(ctx.connection())
    except DatabaseError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        ctx.logger.warning(
            "the sweep may not look for old snapshots; grant the functions' user what PostgreSQL grants to everyone by "
            "default: select on pg_stat_activity, pg_stat_progress_vacuum, pg_prepared_xacts and pg_replication_slots",
            extra={"error": text_of(error)},
        )
        return 0
    if oldest is None:
        return 0
    ctx.logger.error(
        "an old snapshot keeps dead rows, so that tasks with limits start more slowly: end it as old_snapshot.end says",
        extra={"old_snapshot": oldest.document()},
    )
    return oldest.seconds


def _moved_by_sqs(ctx: TaskContext, tasks: Tasks, sqs: Sqs) -> int:
    """Return the number of dead letters that SQS moved, and log a line for each queue that has some.

    With little time left it returns 0, and the next sweep reads the queues.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if ctx.remaining() < READING:
        return 0
    prefix = settings.prefix()
    front_doors = [front_door_name(prefix, queue) for queue in Queue]
    lanes = [lane for task in tasks.values() for lane in lanes_of(prefix, task)]
    try:  # the types of a place share a lane
        moved = unmarked_dead_letters(ctx.connection(), sqs, prefix, dict.fromkeys(front_doors + lanes))
    except (BotoCoreError, ClientError) as error:  # the sweep stays completed; the next one reads the queues again
        ctx.logger.warning(
            "the dead-letter queues could not be read, so messages that SQS moved there are not counted; check that "
            "they exist, and that the sweep's function has sqs:GetQueueAttributes and sqs:ReceiveMessage",
            extra={"error": text_of(error)},
        )
        return 0
    for name, number in moved.items():
        ctx.logger.error("SQS moved messages to a dead-letter queue", extra={"queue": name, "messages": number})
    return sum(moved.values())
