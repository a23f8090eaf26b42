"""Checks of a deployment in AWS: queues, functions and schedules are there, and on.

Each part yields what is wrong, and a good check, which counts where nothing is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from joblane.declaration import Task
from joblane.inspector.bulk.dead_letters import cron_dead_letters
from joblane.inspector.scope import Scope
from joblane.inspector.stage import pauses
from joblane.inspector.stage.aws import client, is_emulator
from joblane.inspector.views import Check, Grade
from joblane.limits import MIN_CONCURRENCY
from joblane.queues import (
    Queue,
    cron_group_name,
    dead_letter_name,
    front_door_name,
    function_name,
    lane_name,
    schedule_name,
)
from joblane.sqs.depth import call_for_queues, queue_depth_if_exists

DEPLOY = "deploy the stage"
NOBODY = "nobody that is known"

# --- Mappings ------------------------------------------------------------------------------------------------------


def mappings(scope: Scope) -> Iterator[Check]:
    """Each lane and front door has one consumer, which is on, bounded, and says which messages failed."""
    with client("lambda", scope.region) as asked:
        pages = asked.get_paginator("list_event_source_mappings").paginate()
        found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for page in pages:
            for mapping in page["EventSourceMappings"]:
                found[mapping.get("EventSourceArn", "").rpartition(":")[2]].append(mapping)
    lanes = _lanes(scope)
    expected = {**dict.fromkeys((front_door_name(scope.prefix, queue) for queue in Queue), None), **lanes}
    gone = _gone(scope, [name for name in expected if not found.get(name)])
    paused = _paused(scope)
    for name, lane in expected.items():
        if name not in gone:  # which is a finding of the queues
            yield from _mapping(name, lane, found.get(name, []), paused)
    if not gone:
        yield Check(Grade.GOOD, "mappings", f"all {len(expected)} are there and on")


Lane = tuple[Queue, "Task[Any, Any]"]


def _mapping(
    name: str, lane: Lane | None, there: list[Mapping[str, Any]], paused: Mapping[tuple[str, str], str]
) -> Iterator[Check]:
    what = f"queue {name}"
    if len(there) != 1:
        found = "nobody reads it" if not there else f"it has {len(there)} consumers, and each takes what is the other's"
        yield Check(Grade.BAD, what, found, DEPLOY)
        return
    (mapping,) = there
    most, declared = (
        mapping.get("ScalingConfig", {}).get("MaximumConcurrency"),
        lane[1].max_concurrency if lane else None,
    )
    if mapping["State"] not in ("Enabled", "Enabling", "Creating", "Updating"):
        who = None if lane is None else paused.get(("queue", lane[0])) or paused.get(("type", lane[1].type))
        on = f"aws lambda update-event-source-mapping --enabled --uuid {mapping['UUID']}"
        if who:
            yield Check(Grade.WARNING, what, f"its mapping is {mapping['State']}: paused by {who}", "`joblane resume`")
        else:
            yield Check(Grade.BAD, what, f"its mapping is {mapping['State']}, and nobody has paused it", on)
    if most is None:
        yield Check(Grade.BAD, what, "its mapping lacks MaximumConcurrency: throttles use up its receives", DEPLOY)
    elif declared is not None and most > max(declared, MIN_CONCURRENCY):
        found = f"its mapping goes up to {most}, and max_concurrency is declared as {declared}"
        yield Check(Grade.WARNING, what, found, DEPLOY)
    if "ReportBatchItemFailures" not in (mapping.get("FunctionResponseTypes") or ()):
        yield Check(Grade.BAD, what, "its mapping lacks ReportBatchItemFailures: one failure repeats all", DEPLOY)
    if str(mapping.get("LastProcessingResult", "")).startswith("PROBLEM"):
        do = "look at the function's role and the queue's policy"
        yield Check(Grade.BAD, what, f"Lambda says of it: {mapping['LastProcessingResult']}", do)


def _gone(scope: Scope, names: Collection[str]) -> set[str]:
    """Of queues those that are not there; none where SQS cannot be asked."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = call_for_queues(scope.sqs, lambda name: queue_depth_if_exists(scope.sqs, name), list(names))
    except (BotoCoreError, ClientError):
        return set()
    return {name for name, there in found.items() if there is None}


def _lanes(scope: Scope) -> dict[str, Lane]:
    return {
        lane_name(scope.prefix, queue, type_): (queue, task)
        for task in scope.tasks.values()
        for type_ in task.types
        for queue in task.lanes
    }


def _paused(scope: Scope) -> dict[tuple[str, str], str]:
    """Scope and name → who. Nothing where the record is away: that is told elsewhere."""
    from pg8000.exceptions import Error as PostgresError

    try:
        return {(pause.scope, pause.name): pause.by or NOBODY for pause in pauses.current(scope.connection)}
    except (PostgresError, OSError):
        scope.database.drop()
        return {}


# --- Queues --------------------------------------------------------------------------------------------------------


def queues(scope: Scope) -> Iterator[Check]:
    """All are there, and no dead letter is in any. A queue that is not there is told without its dead-letter queue."""
    doors = [front_door_name(scope.prefix, queue) for queue in Queue]
    ticks = cron_dead_letters(scope.prefix)
    live = [*doors, *_lanes(scope)]
    dead = [*map(dead_letter_name, live), ticks]
    found = call_for_queues(scope.sqs, lambda name: queue_depth_if_exists(scope.sqs, name), [*live, *dead])
    missing = [name for name, there in found.items() if there is None]
    waiting = {name: there.waiting for name in dead if (there := found[name])}
    without = {dead_letter_name(name) for name in missing}
    for name in missing:
        if name in without:
            continue
        yield Check(Grade.BAD, f"queue {name}", "it is not there", DEPLOY)
    for name, count in waiting.items():
        if count:
            do = "`joblane dead` says what they are, `joblane redrive` sends them back"
            if name == ticks:
                do = "EventBridge Scheduler could not send these: look at its role and lane, then `joblane tick TYPE`"
            yield Check(Grade.WARNING, f"queue {name}", f"{count} dead letter{'s' * (count != 1)}", do)
    yield Check(Grade.GOOD, "queues", f"all {len(found)} are there, and none has dead letters")


# --- Functions -----------------------------------------------------------------------------------------------------


def functions(scope: Scope) -> Iterator[Check]:
    """Each is there, can run, and has the time that its task declares."""
    with client("lambda", scope.region) as asked:
        for task in scope.tasks.values():
            yield from _function(asked, function_name(scope.prefix, task.type), task)
    yield Check(Grade.GOOD, "functions", f"all {len(scope.tasks)} are there and as they are declared")


def _function(asked: Any, name: str, task: Task[Any, Any]) -> Iterator[Check]:
    what = f"function {name}"
    try:
        there = asked.get_function_configuration(FunctionName=name)
    except asked.exceptions.ResourceNotFoundException:
        yield Check(Grade.BAD, what, "it is not there", DEPLOY)
        return
    if there.get("State", "Active") in ("Failed", "Deactivated", "Inactive"):
        yield Check(Grade.BAD, what, f"it is {there['State']}: {there.get('StateReason', 'no reason is told')}", DEPLOY)
    if there.get("LastUpdateStatus") == "Failed":
        yield Check(Grade.BAD, what, f"its last update failed: {there.get('LastUpdateStatusReason', '')}", DEPLOY)
    seconds = int(task.numbers.function_timeout.total_seconds())
    if there["Timeout"] != seconds:
        found = f"it has {there['Timeout']} s, and this code declares {seconds} s"
        yield Check(Grade.WARNING, what, found, f"{DEPLOY}, or use the version that is deployed")


# --- Schedules -----------------------------------------------------------------------------------------------------


def schedules(scope: Scope) -> Iterator[Check]:
    """Each is there with its times, and on; on a local stack off, where a ticker of ours sends the ticks."""
    local, paused, count = is_emulator(), _paused(scope), 0
    with client("scheduler", scope.region) as asked:
        for task in scope.tasks.values():
            for schedule in task.schedules:
                who = paused.get(("schedule", f"{task.type}:{schedule.name}"))
                for number, expression in enumerate(schedule.expressions, start=1):
                    name, count = schedule_name(task.type, str(schedule.name), number), count + 1
                    there = _schedule(asked, scope.prefix, name)
                    yield from _wrong_schedule(name, there, (expression, schedule.timezone), local, who)
    off = ", and off: the local ticker sends the ticks" if local else " and on"
    yield Check(Grade.GOOD, "schedules", f"all {count} are there{off}")


def _schedule(asked: Any, prefix: str, name: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = asked.get_schedule(GroupName=cron_group_name(prefix), Name=name)
    except asked.exceptions.ResourceNotFoundException:
        return None
    return found


def _wrong_schedule(
    name: str, there: Mapping[str, Any] | None, times: tuple[str, str], local: bool, who: str | None
) -> Iterator[Check]:
    """``times``: expression and time zone, as declared. ``who``: has paused it."""
    what = f"schedule {name}"
    if there is None:
        yield Check(Grade.BAD, what, "it is not there: its ticks do not come", DEPLOY)
        return
    deployed = (there["ScheduleExpression"], there.get("ScheduleExpressionTimezone", "UTC"))
    if deployed != times:
        found = f"it is {' '.join(deployed)}, and this code declares {' '.join(times)}"
        yield Check(Grade.WARNING, what, found, f"{DEPLOY}, or use the version that is deployed")
    if there["State"] != "ENABLED" and not local:
        if who:
            yield Check(Grade.WARNING, what, f"it is off: paused by {who}", "`joblane resume schedule`")
        else:
            yield Check(Grade.BAD, what, "it is off, and nobody has paused it: its ticks do not come", DEPLOY)


PARTS: tuple[tuple[str, str, Callable[[Scope], Iterator[Check]]], ...] = (
    ("mappings", "lambda:ListEventSourceMappings", mappings),
    ("queues", "sqs:GetQueueUrl and sqs:GetQueueAttributes on the stage's queues", queues),
    ("functions", "lambda:GetFunctionConfiguration on the stage's functions", functions),
    ("schedules", "scheduler:GetSchedule on the stage's schedules", schedules),
)
"""What is asked, the permission that it takes, and who asks."""
