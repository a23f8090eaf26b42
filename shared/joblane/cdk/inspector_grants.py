"""The permissions that the Inspector needs on AWS, for the function that runs it."""

from __future__ import annotations

from aws_cdk import ArnFormat, Stack

from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.settings.stage import Stage
from joblane.inspector.stage.doctor.mail import identities
from joblane.names import Queue, cron_group_name, dead_letter_name, event_bus_name, front_door_name, log_group_name

REASON_FOR_NAMES = (
    "Operators also inspect and repair resources of earlier deploys: rows, lanes and dead letters of types that are no "
    "longer deployed. The names of all of them begin with the stage's prefix, which is no prefix of another stage."
)
REASON_FOR_LISTS = (
    "AWS lists the mappings and schedules of the whole account or none; SES, the concurrency of Lambda and metrics "
    "belong to the account; they show no message, and reading them changes nothing."
)


def grant_inspecting(to: JobFunction, stage: Stage, sender: str | None, bus: str | None) -> None:
    """Allow sending to lanes, receiving from dead-letter queues, and reading queues, functions, schedules and logs.

    It does not allow deleting a message, receiving from a lane, or sending to a front door: `jobs:bulk` redrives. It
    allows receiving the events that a target refused, which have the reason.
    ``sender``: the stage sends mail from it by Amazon SES, whose state may be read; None: it does not. ``bus``: name of
    the bus of its tasks' events; None: they have none.
    """
    stack, prefix = Stack.of(to), stage.prefix
    front_doors = [stack.format_arn(service="sqs", resource=front_door_name(prefix, queue)) for queue in Queue]
    ticks = stack.format_arn(service="sqs", resource=dead_letter_name(cron_group_name(prefix)))
    lanes = [stack.format_arn(service="sqs", resource=f"{prefix}-{queue}-*") for queue in Queue]
    dead_letters = [stack.format_arn(service="sqs", resource=dead_letter_name(f"{prefix}-{queue}*")) for queue in Queue]
    functions = stack.format_arn(
        service="lambda", resource="function", resource_name=f"{prefix}-*", arn_format=ArnFormat.COLON_RESOURCE_NAME
    )
    schedules = stack.format_arn(service="scheduler", resource="schedule", resource_name=f"{cron_group_name(prefix)}/*")
    # ListSchedules needs permission for all groups, also to list one group.
    # Source: Service Authorization Reference, Scheduler
    all_schedules = stack.format_arn(service="scheduler", resource="schedule", resource_name="*/*")
    logs = stack.format_arn(
        service="logs",
        resource="log-group",
        resource_name=log_group_name(f"{prefix}-*"),
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )
    for actions, resources in (
        (["sqs:GetQueueUrl", "sqs:GetQueueAttributes"], [*front_doors, *lanes, ticks]),
        (["sqs:SendMessage"], lanes),
        (["sqs:ReceiveMessage", "sqs:ChangeMessageVisibility"], [*dead_letters, ticks]),
        (["lambda:GetFunctionConfiguration", "lambda:GetFunctionConcurrency"], [functions]),
        # none of them has a resource type. Source: Service Authorization Reference, Lambda and CloudWatch
        (["lambda:ListEventSourceMappings", "lambda:GetAccountSettings", "cloudwatch:GetMetricData"], ["*"]),
        (["scheduler:GetSchedule"], [schedules]),
        (["scheduler:ListSchedules"], [all_schedules]),
        (["logs:FilterLogEvents"], [logs]),
    ):
        to.allow(actions, resources)
    if bus:
        refused = stack.format_arn(service="sqs", resource=dead_letter_name(event_bus_name(prefix)))
        to.allow(["sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"], [refused])
        to.allow(
            ["events:DescribeEventBus"], [stack.format_arn(service="events", resource="event-bus", resource_name=bus)]
        )
    if sender:
        names = identities(sender)
        own = [stack.format_arn(service="ses", resource="identity", resource_name=name) for name in names]
        to.allow(["ses:GetEmailIdentity"], own)
        to.allow(["ses:GetAccount"], ["*"])  # it has no resource type. Source: Service Authorization Reference, SES v2
    acknowledge_wildcards(to.role, [*lanes, *dead_letters, functions, schedules, logs], REASON_FOR_NAMES)
    acknowledge_wildcards(to.role, ["*", all_schedules], REASON_FOR_LISTS)
