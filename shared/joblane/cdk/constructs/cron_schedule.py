"""Periodic tasks: EventBridge Scheduler sends each tick straight to the task's lane."""

from __future__ import annotations

from typing import Any

from aws_cdk import Aws, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_scheduler as scheduler
from constructs import Construct

from joblane.cdk.constructs.queue_pair import dead_letter_queue, queue_arn
from joblane.cdk.constructs.stage_key import with_keys
from joblane.cdk.errors import SynthError
from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.stage import Stage
from joblane.names import TICKER, cron_group_name, dead_letter_name, schedule_name
from joblane.sqs.message import Message, Tick
from joblane.sqs.tick import MAX_AGE
from joblane.tasks.schedule import Schedule
from joblane.tasks.task import Task

SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"
"""Scheduler replaces this text by the tick's time. Source: EventBridge Scheduler, *Adding context attributes*."""
MAX_NAME = 64
"""Source: CreateSchedule, Scheduler API reference."""
MAX_RETRIES = 10
"""A tick that cannot be sent with these retries, or within :data:`~joblane.sqs.tick.MAX_AGE`, goes to the DLQ."""


class CronGroup(Construct):
    """The schedule group of a stage, with ``dead_letters``, the queue for ticks that could not be sent."""

    def __init__(self, scope: Construct, id_: str, *, stage: Stage) -> None:
        super().__init__(scope, id_)
        self.stage, self.name = stage, cron_group_name(stage.prefix)
        self.group = scheduler.CfnScheduleGroup(self, "Group", name=self.name)
        self.dead_letters = dead_letter_name(self.name)
        queue = dead_letter_queue(self, "DeadLetters", stage=stage, name=self.dead_letters)
        acknowledge(queue, "SQS3", "It is itself the dead-letter queue of schedules, which the rule does not read.")

    def role_of(self, scope: Construct, lane: str) -> iam.Role:
        """Create a role that only this group's schedules can assume, and that can only send to ``lane`` and the DLQ.

        Its condition has the ARN of the group, not of a schedule.
        Source: EventBridge Scheduler, *Confused deputy prevention*.
        """
        group_arn = Stack.of(self).format_arn(service="scheduler", resource="schedule-group", resource_name=self.name)
        queues = [queue_arn(lane), queue_arn(self.dead_letters)]
        sends = iam.PolicyStatement(actions=["sqs:SendMessage"], resources=queues)
        return iam.Role(
            scope,
            "Role",
            assumed_by=iam.ServicePrincipal(
                "scheduler.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID, "aws:SourceArn": group_arn}},
            ),
            inline_policies={"Send": iam.PolicyDocument(statements=[*with_keys(self.stage, sends)])},
        )


def add_schedules(scope: Construct, *, group: CronGroup, task: Task[Any, Any], lane: str, name: str) -> None:
    """Add the declared schedules of ``task``, which send to the lane ``name`` with the ARN ``lane``, and their role.

    A declared schedule is one EventBridge schedule, or two if its cron text needs two expressions. The ticks of both
    carry the same schedule name, so a time that matches both expressions becomes one task. On a local stage the
    schedules are disabled, and the local stack's ticker sends the ticks.
    """
    cron = Construct(scope, "Cron")
    role = group.role_of(cron, name)
    for schedule in task.schedules:
        for number, expression in enumerate(schedule.expressions, start=1):
            resource = scheduler.CfnSchedule(
                cron,
                f"{schedule.name}.{number}",
                name=_checked_name(task, schedule, number),
                group_name=group.name,
                state="DISABLED" if group.stage.local else "ENABLED",
                description=TICKER if group.stage.local else None,
                schedule_expression=expression,
                schedule_expression_timezone=schedule.timezone,
                flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
                target=scheduler.CfnSchedule.TargetProperty(
                    arn=lane,
                    role_arn=role.role_arn,
                    input=tick_message(task, schedule),
                    retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=int(MAX_AGE.total_seconds()), maximum_retry_attempts=MAX_RETRIES
                    ),
                    dead_letter_config=scheduler.CfnSchedule.DeadLetterConfigProperty(
                        arn=queue_arn(group.dead_letters)
                    ),
                ),
            )
            resource.add_resource_dependency(group.group)


def _checked_name(task: Task[Any, Any], schedule: Schedule, number: int) -> str:
    name = schedule_name(task.type, str(schedule.name), number)
    if len(name) > MAX_NAME:
        where = f"task {task.type!r}: schedule {schedule.name!r}"
        raise SynthError(f"{where}: its name on AWS, {name!r}, has {len(name)} characters; {MAX_NAME} at most")
    return name


def tick_message(task: Task[Any, Any], schedule: Schedule) -> str:
    """Return the body of each tick. The receiver derives the task id from type, schedule and time."""
    tick = Tick(schedule=str(schedule.name), at=SCHEDULED_TIME)
    return Message(task.type, payload=schedule.payload or None, tick=tick).encode()
