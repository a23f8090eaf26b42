"""Checks of a deployment in AWS: queues, functions and schedules exist, and are enabled.

Each part yields its findings and a good check, which is dropped if there are findings.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from joblane.inspector.bulk.dead_letters import cron_dead_letters
from joblane.inspector.durations import lasting
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.counts import first_of, plural
from joblane.inspector.sentences.pauses import UNKNOWN_OPERATOR
from joblane.inspector.stage.aws import client
from joblane.inspector.stage.doctor.mail import mail
from joblane.inspector.stage.doctor.throttles import throttles
from joblane.inspector.stage.schedules import paused_of_code
from joblane.inspector.views import Check, Grade, SchedulePause
from joblane.names import (
    SWEEP,
    TICKER,
    Queue,
    cron_group_name,
    dead_letter_name,
    event_bus_name,
    front_door_name,
    full_schedule_name,
    function_name,
    queue_of,
    schedule_name,
)
from joblane.quotas import MIN_CONCURRENCY, Numbers
from joblane.record.causes import MAX_SHOWN
from joblane.settings import EVENT_BUS
from joblane.sqs.depth import call_for_queues, queue_depth_if_exists
from joblane.tasks.places import lanes_of, numbers_of
from joblane.tasks.task import Task

K = TypeVar("K")
V = TypeVar("V")
DEPLOY = "deploy the stage"
SEND_BACK = "`joblane dead` lists their causes, and says how to send them back"
NO_BUS = "`aws events create-event-bus --name {}`: a deploy does not create it again; or correct the setting events.bus"

# --- Mappings ------------------------------------------------------------------------------------------------------


def mappings(scope: Scope) -> Iterator[Check]:
    """Each lane and front door has exactly one consumer, which is enabled, bounded, and reports failed messages."""
    with client("lambda", scope.region) as aws:
        pages = aws.get_paginator("list_event_source_mappings").paginate()
        found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for page in pages:
            for mapping in page["EventSourceMappings"]:
                found[mapping.get("EventSourceArn", "").rpartition(":")[2]].append(mapping)
    front_doors = (front_door_name(scope.prefix, queue) for queue in Queue)
    expected = {**dict.fromkeys(front_doors, None), **_lanes(scope)}
    missing = _missing(scope, [name for name in expected if not found.get(name)])
    for name, lane in expected.items():
        if name not in missing:  # a missing queue is a finding of `queues`
            yield from _mapping(name, lane, found.get(name, []))
    if not missing:
        yield Check(Grade.GOOD, "mappings", f"all {len(expected)} exist and are enabled")


Lane = tuple[Queue, Sequence["Task[Any, Any]"]]
"""A queue, and the types of the lane there."""


def _mapping(name: str, lane: Lane | None, existing: list[Mapping[str, Any]]) -> Iterator[Check]:
    what = f"queue {name}"
    if len(existing) != 1:
        found = "no consumer" if not existing else f"{len(existing)} consumers: each receives messages that others need"
        yield Check(Grade.BAD, what, found, DEPLOY)
        return
    (mapping,) = existing
    most, declared = (
        mapping.get("ScalingConfig", {}).get("MaximumConcurrency"),
        lane[1][0].max_concurrency if lane else None,
    )
    if mapping["State"] not in ("Enabled", "Enabling", "Creating", "Updating"):
        found = f"its mapping is {mapping['State']}: messages wait, and expire after ten days; no pause disables it"
        on = f"`aws lambda update-event-source-mapping --enabled --uuid {mapping['UUID']}`"
        yield Check(Grade.BAD, what, found, on)
    if most is None:
        found = "its mapping lacks MaximumConcurrency: throttled invocations use up the receives of messages"
        yield Check(Grade.BAD, what, found, DEPLOY)
    elif declared is not None and most > max(declared, MIN_CONCURRENCY):
        place = lane[1][0].place if lane else None
        of = f' of Lambda("{place.name}")' if place else ""
        found = f"its mapping allows a concurrency of {most}, and max_concurrency{of} is declared as {declared}"
        yield Check(Grade.WARNING, what, found, DEPLOY)
    if "ReportBatchItemFailures" not in (mapping.get("FunctionResponseTypes") or ()):
        found = "its mapping lacks ReportBatchItemFailures: after one failure the whole batch is received again"
        yield Check(Grade.BAD, what, found, DEPLOY)
    if str(mapping.get("LastProcessingResult", "")).startswith("PROBLEM"):
        do = "check the function's role and the queue's policy"
        yield Check(Grade.BAD, what, f"Lambda reports: {mapping['LastProcessingResult']}", do)


def _missing(scope: Scope, names: Collection[str]) -> set[str]:
    """The queues that do not exist; none if SQS does not answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = call_for_queues(scope.sqs, lambda name: queue_depth_if_exists(scope.sqs, name), list(names))
    except (BotoCoreError, ClientError):
        return set()
    return {name for name, depth in found.items() if depth is None}


def _lanes(scope: Scope) -> dict[str, Lane]:
    """The lanes that have a consumer, with their types. A type of a place can still have a lane of its own."""
    found: dict[str, list[Task[Any, Any]]] = {}
    for task in scope.tasks.values():
        for name in lanes_of(scope.prefix, task):
            found.setdefault(name, []).append(task)
    return {name: (queue_of(scope.prefix, name), tasks) for name, tasks in found.items()}


def _unless_down(scope: Scope, read: Callable[[Scope], dict[K, V]]) -> dict[K, V]:
    """Return what the database answers; empty if it is unavailable, which another check reports."""
    from pg8000.exceptions import Error as PostgresError

    try:
        return read(scope)
    except (PostgresError, OSError):
        scope.database.drop()
        return {}


# --- Queues --------------------------------------------------------------------------------------------------------


def queues(scope: Scope) -> Iterator[Check]:
    """All queues exist, and none has dead letters, which are added up by queue. A missing queue is reported without its
    dead-letter queue."""
    front_doors = [front_door_name(scope.prefix, queue) for queue in Queue]
    ticks = cron_dead_letters(scope.prefix)
    live = [*front_doors, *_lanes(scope)]
    dead = [*map(dead_letter_name, live), ticks]
    found = call_for_queues(scope.sqs, lambda name: queue_depth_if_exists(scope.sqs, name), [*live, *dead])
    missing = [name for name, depth in found.items() if depth is None]
    waiting = {name: depth.waiting for name in dead if (depth := found[name])}
    without = {dead_letter_name(name) for name in missing}
    for name in missing:
        if name not in without:
            yield Check(Grade.BAD, f"queue {name}", "it does not exist", DEPLOY)
    if count := waiting.pop(ticks, 0):
        do = f"EventBridge Scheduler could not send these: check its role and lane. {SEND_BACK}"
        yield Check(Grade.WARNING, f"queue {ticks}", plural(count, "dead letter"), do, "/errors/messages")
    places = {dead_letter_name(name): f"at the front door {name}" for name in front_doors}
    counts: Counter[str] = Counter()
    for name, count in waiting.items():
        counts[places.get(name) or f"in {_queue_of(scope, name)}"] += count
    if counts.total():
        by_place = ", ".join(f"{count:,} {place}" for place, count in counts.most_common() if count)
        text = f"{plural(counts.total(), 'dead letter')}: {by_place}"
        yield Check(Grade.WARNING, "dead letters", text, SEND_BACK, "/errors")
    yield Check(Grade.GOOD, "queues", f"all {len(found)} exist, and none has dead letters")


def _queue_of(scope: Scope, name: str) -> str:
    """The queue of a lane by the name of its dead-letter queue."""
    return next(queue for queue in Queue if name.startswith(f"{front_door_name(scope.prefix, queue)}-"))


# --- Functions -----------------------------------------------------------------------------------------------------


def functions(scope: Scope) -> Iterator[Check]:
    """Each function exists, can run, and has the timeout that its task or its place declares."""
    found = {function_name(scope.prefix, task.type): task for task in scope.tasks.values()}
    with client("lambda", scope.region) as aws:
        for name, task in found.items():
            numbers = numbers_of(task.place, scope.members(task)) if task.place else task.numbers
            yield from _function(aws, name, numbers)
    yield Check(Grade.GOOD, "functions", f"all {len(found)} exist, as they are declared")


def _function(aws: Any, name: str, numbers: Numbers) -> Iterator[Check]:
    what = f"function {name}"
    try:
        deployed = aws.get_function_configuration(FunctionName=name)
    except aws.exceptions.ResourceNotFoundException:
        yield Check(Grade.BAD, what, "it does not exist", DEPLOY)
        return
    state = deployed.get("State", "Active")
    if state == "Inactive":  # the invocation that wakes it fails. Source: Lambda, *Lambda function states*
        found = "it is Inactive, because it was not invoked for a long time"
        do = "nothing: the next invocation wakes it, and SQS delivers its messages again; if it stays Inactive, deploy"
        yield Check(Grade.WARNING, what, found, do)
    if state in ("Failed", "Deactivated"):
        found = f"it is {state}: {deployed.get('StateReason', 'AWS gives no reason')}"
        yield Check(Grade.BAD, what, found, DEPLOY)
    if deployed.get("LastUpdateStatus") == "Failed":
        yield Check(Grade.BAD, what, f"its last update failed: {deployed.get('LastUpdateStatusReason', '')}", DEPLOY)
    seconds = int(numbers.function_timeout.total_seconds())
    if deployed["Timeout"] != seconds:
        found = f"its timeout is {deployed['Timeout']} s, and this code declares {seconds} s"
        yield Check(Grade.WARNING, what, found, f"{DEPLOY}, or use the version that is deployed")


# --- Schedules -----------------------------------------------------------------------------------------------------


def schedules(scope: Scope) -> Iterator[Check]:
    """Each schedule exists with its times, and is enabled, unless it says that the local ticker sends its ticks."""
    paused, count, by_ticker = _unless_down(scope, paused_of_code), 0, 0
    with client("scheduler", scope.region) as aws:
        for task in scope.tasks.values():
            for schedule in task.schedules:
                full_name = full_schedule_name(task.type, str(schedule.name))
                pause = paused.get(full_name)
                for number, expression in enumerate(schedule.expressions, start=1):
                    name, count = schedule_name(task.type, str(schedule.name), number), count + 1
                    deployed = _schedule(aws, scope.prefix, name)
                    by_ticker += _is_of_ticker(deployed)
                    times, resume = (expression, schedule.timezone), f"`joblane schedules resume {full_name}`"
                    yield from _wrong_schedule(name, deployed, times, pause, resume)
    if by_ticker and not scope.ticker_runs():
        found = "the schedules are disabled because the local ticker sends the ticks, but the ticker does not run"
        yield Check(Grade.BAD, "schedules", found, "`joblane status` shows it, `joblane up` starts it")
    enabled = ", disabled because the local ticker sends the ticks" if by_ticker else " and are enabled"
    yield Check(Grade.GOOD, "schedules", f"all {count} exist{enabled}")


def _schedule(aws: Any, prefix: str, name: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = aws.get_schedule(GroupName=cron_group_name(prefix), Name=name)
    except aws.exceptions.ResourceNotFoundException:
        return None
    return found


def _is_of_ticker(deployed: Mapping[str, Any] | None) -> bool:
    return deployed is not None and deployed.get("Description") == TICKER


def _wrong_schedule(
    name: str, deployed: Mapping[str, Any] | None, times: tuple[str, str], pause: SchedulePause | None, resume: str
) -> Iterator[Check]:
    """``times``: the declared expression and time zone. ``resume``: the command that ends the pause."""
    what = f"schedule {name}"
    if deployed is None:
        yield Check(Grade.BAD, what, "it does not exist: its ticks are not sent", DEPLOY)
        return
    by_ticker = _is_of_ticker(deployed)
    there = (deployed["ScheduleExpression"], deployed.get("ScheduleExpressionTimezone", "UTC"))
    if there[: 1 if by_ticker else 2] != times[: 1 if by_ticker else 2]:  # not every emulator stores the time zone
        found = f"its times are {' '.join(there)}, and this code declares {' '.join(times)}"
        yield Check(Grade.WARNING, what, found, f"{DEPLOY}, or use the version that is deployed")
    if deployed["State"] != "ENABLED" and not by_ticker:
        if pause:
            found = f"it is disabled: paused by {pause.by or UNKNOWN_OPERATOR}"
            yield Check(Grade.WARNING, what, found, resume)
        else:
            yield Check(Grade.BAD, what, "it is disabled, and it is not paused: its ticks are not sent", DEPLOY)


# --- Events -----------------------------------------------------------------------------------------------------------


def bus(scope: Scope) -> Iterator[Check]:
    """The bus exists. EventBridge accepts events for a bus that does not exist, and drops them.

    Source: github.com/aws/aws-cli, issue 9186.
    """
    if (name := _bus_of(scope)) is None:
        return
    with client("events", scope.region) as aws:
        try:
            aws.describe_event_bus(Name=name)
        except aws.exceptions.ResourceNotFoundException:
            found = "it does not exist: EventBridge drops the events, and reports no error"
            yield Check(Grade.BAD, f"bus {name}", found, NO_BUS.format(name))
            return
    yield Check(Grade.GOOD, f"bus {name}", "it exists")


def _bus_of(scope: Scope) -> str | None:
    """Return the bus of the deployed functions that send events, from the configuration of one. None: none sends."""
    if not any(task.events for task in scope.tasks.values()):
        return None
    with client("lambda", scope.region) as aws:
        try:
            deployed = aws.get_function_configuration(FunctionName=function_name(scope.prefix, SWEEP))
        except aws.exceptions.ResourceNotFoundException:  # a finding of `functions`
            return None
    name: str | None = deployed.get("Environment", {}).get("Variables", {}).get(EVENT_BUS)
    return name


MOST_REFUSED = 10
"""Messages of one receive. Source: ReceiveMessage, SQS API reference."""


def refused_events(scope: Scope) -> Iterator[Check]:
    """No event waits that its target refused. No check if no task declares events, or the stage has no webhook.

    The messages stay visible, for the program that sends them again.
    """
    name = dead_letter_name(event_bus_name(scope.prefix))
    if not any(task.events for task in scope.tasks.values()):
        return
    if (depth := queue_depth_if_exists(scope.sqs, name)) is None:
        return
    if not depth.all:
        yield Check(Grade.GOOD, "refused events", f"{name} is empty")
        return
    url = scope.sqs.url(name)
    answer = scope.sqs.client.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=MOST_REFUSED,
        VisibilityTimeout=0,
        WaitTimeSeconds=1,  # without a wait SQS may miss messages
        MessageSystemAttributeNames=["SentTimestamp"],
        MessageAttributeNames=["ERROR_CODE", "ERROR_MESSAGE"],
    )
    messages = answer.get("Messages", [])
    found = f"{plural(depth.all, 'event')} in {name}, which a target refused"
    if messages:
        sent = min(int(each["Attributes"]["SentTimestamp"]) for each in messages)
        age = datetime.now(UTC) - datetime.fromtimestamp(sent / 1000, UTC)
        found += f"; of {len(messages)}, the oldest is {lasting(age)} old"
    reasons = Counter(reason for each in messages if (reason := _reason(each.get("MessageAttributes", {}))))
    if reasons:
        found += f": {first_of([reason for reason, _ in reasons.most_common()])}"
    again = f"`python send_again.py {scope.prefix} {_bus_of(scope) or 'BUS'}` sends them again"
    count = f"`aws sqs get-queue-attributes --queue-url {url} --attribute-names All` counts them"
    delete = f"`aws sqs purge-queue --queue-url {url}` deletes them"
    do = f"repair the target; then {again}. If no target needs them: {count}, {delete}"
    yield Check(Grade.WARNING, "refused events", found, do)


def _reason(attributes: Mapping[str, Any]) -> str:
    """EventBridge's reason, on one line. Source: EventBridge, *Using dead-letter queues*."""
    parts = (attributes.get(name, {}).get("StringValue", "") for name in ("ERROR_CODE", "ERROR_MESSAGE"))
    return " ".join(" ".join(part for part in parts if part).split())[:MAX_SHOWN]


PARTS: tuple[tuple[str, str, Callable[[Scope], Iterator[Check]]], ...] = (
    ("mappings", "lambda:ListEventSourceMappings", mappings),
    ("queues", "sqs:GetQueueUrl and sqs:GetQueueAttributes on the stage's queues", queues),
    ("functions", "lambda:GetFunctionConfiguration on the stage's functions", functions),
    ("schedules", "scheduler:GetSchedule on the stage's schedules", schedules),
    ("mail", "ses:GetAccount, and ses:GetEmailIdentity on the sender's identities", mail),
    (
        "throttles",
        "cloudwatch:GetMetricData, lambda:GetAccountSettings and lambda:GetFunctionConcurrency on the functions",
        throttles,
    ),
    (
        "refused events",
        "sqs:GetQueueUrl, sqs:GetQueueAttributes and sqs:ReceiveMessage on the queue of refused events",
        refused_events,
    ),
    ("bus", "events:DescribeEventBus on the bus, and lambda:GetFunctionConfiguration on the sweep's function", bus),
)
"""The name of each part, the permissions that it needs, and its function."""
