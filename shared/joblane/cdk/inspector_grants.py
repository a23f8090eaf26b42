"""What the inspector does on AWS, and nothing else: the rights of a function that holds one."""

from __future__ import annotations

from aws_cdk import ArnFormat, Stack

from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.nag import acknowledge_wildcards
from joblane.cdk.settings.stage import Stage
from joblane.queues import Queue, cron_group_name, dead_letter_name, front_door_name, log_group_name

WHY_BY_NAME = (
    "Operators look at and mend what earlier deploys have left as well: of types that are deployed no more there are "
    "rows, lanes and dead letters still. All of the stage begin with its prefix, which begins no other's."
)
WHY_LISTS = "AWS lists mappings and schedules of the whole account or none; it shows no message and changes nothing."


def grant_inspecting(to: JobFunction, stage: Stage) -> None:
    """Sending to lanes; receiving from dead-letter queues; looking at queues, functions, schedules and logs.

    Not deleting a message, not receiving from a lane, and not sending to a front door: `jobs:bulk` redrives.
    """
    stack, prefix = Stack.of(to), stage.prefix
    doors = [stack.format_arn(service="sqs", resource=front_door_name(prefix, queue)) for queue in Queue]
    ticks = stack.format_arn(service="sqs", resource=dead_letter_name(cron_group_name(prefix)))
    lanes = [stack.format_arn(service="sqs", resource=f"{prefix}-{queue}-*") for queue in Queue]
    dead = [stack.format_arn(service="sqs", resource=dead_letter_name(f"{prefix}-{queue}*")) for queue in Queue]
    functions = stack.format_arn(
        service="lambda", resource="function", resource_name=f"{prefix}-*", arn_format=ArnFormat.COLON_RESOURCE_NAME
    )
    schedules = stack.format_arn(service="scheduler", resource="schedule", resource_name=f"{cron_group_name(prefix)}/*")
    # a list is asked for of all groups, whichever it is to be of. Source: Service Authorization Reference, Scheduler
    all_schedules = stack.format_arn(service="scheduler", resource="schedule", resource_name="*/*")
    logs = stack.format_arn(
        service="logs",
        resource="log-group",
        resource_name=log_group_name(f"{prefix}-*"),
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )
    for actions, resources in (
        (["sqs:GetQueueUrl", "sqs:GetQueueAttributes"], [*doors, *lanes, ticks]),
        (["sqs:SendMessage"], lanes),
        (["sqs:ReceiveMessage", "sqs:ChangeMessageVisibility"], [*dead, ticks]),
        (["lambda:GetFunctionConfiguration"], [functions]),
        (["lambda:ListEventSourceMappings"], ["*"]),
        (["scheduler:GetSchedule"], [schedules]),
        (["scheduler:ListSchedules"], [all_schedules]),
        (["logs:FilterLogEvents"], [logs]),
    ):
        to.allow(actions, resources)
    acknowledge_wildcards(to.role, [*lanes, *dead, functions, schedules, logs], WHY_BY_NAME)
    acknowledge_wildcards(to.role, ["*", all_schedules], WHY_LISTS)
