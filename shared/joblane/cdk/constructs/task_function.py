"""The functions: one per task type, and what all functions share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from aws_cdk import Duration, SecretValue, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from joblane.cdk.constructs.code import RUNTIME, Shared
from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.database_access import Login
from joblane.cdk.nag import acknowledge, acknowledge_wildcards
from joblane.cdk.settings.section import SecretReference
from joblane.cdk.settings.stage import Value
from joblane.declaration import Task
from joblane.project import FUNCTIONS
from joblane.queues import function_name, log_group_name
from joblane.schedule_overrides import VARIABLE as SCHEDULES

GIVEN = ("DATABASE_URL", "JOBLANE_FUNCTIONS", "JOBLANE_PREFIX", SCHEDULES, "JOBLANE_STAGE", "JOBLANE_TASK")
"""Variables that every function, or every task's, gets."""
ENTRY = "joblane.worker.lambda_entry.handler"


class JobFunction(Construct):
    """A function with a log group that forgets, and a role that may write to it and nothing else.

    ``login``: to the database, for those that need it. ``reserved_concurrency``: its own share, and bound.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        shared: Shared,
        *,
        name: str,
        description: str,
        handler: str,
        timeout: timedelta,
        memory_mb: int,
        environment: Mapping[str, Value],
        login: Login | None = None,
        reserved_concurrency: int | None = None,
    ) -> None:
        super().__init__(scope, id_)
        self.name, stage = name, shared.stage
        logs = log_group(self, "Logs", stage=stage, name=log_group_name(name))
        place, package = shared.access.place if login else None, shared.project.functions
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            managed_policies=[place.interfaces] if place else None,
        )
        logs.grant_write(self.role)
        if login:
            for statement in login.statements:
                self.role.add_to_policy(statement)
            if login.secret:
                login.secret.grant_read(self.role)
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=name,
            description=description,
            runtime=RUNTIME,
            architecture=shared.architecture,
            code=shared.code,
            layers=[shared.layer],
            handler=handler,
            timeout=Duration.seconds(math.ceil(timeout.total_seconds())),
            memory_size=memory_mb,
            reserved_concurrent_executions=reserved_concurrency,
            log_group=logs,
            role=self.role,
            vpc=place.vpc if place else None,
            vpc_subnets=place.subnets if place else None,
            security_groups=[place.security_group] if place else None,
            environment={
                **{key: in_template(value) for key, value in environment.items()},
                **({"DATABASE_URL": login.url} if login else {}),
                **({} if package == FUNCTIONS else {"JOBLANE_FUNCTIONS": package}),
                "JOBLANE_PREFIX": stage.prefix,
                **({SCHEDULES: json.dumps(dict(stage.schedules), sort_keys=True)} if stage.schedules else {}),
                "JOBLANE_STAGE": "local" if stage.local else stage.name,
                "POWERTOOLS_SERVICE_NAME": stage.prefix,
                "POWERTOOLS_LOG_LEVEL": stage.log_level,
            },
        )
        acknowledge(self.function, "L1", "The lock, the layer and the tests are of one version of Python, this one.")

    def allow(self, actions: Sequence[str], resources: Sequence[str]) -> None:
        """Let the function take ``actions`` on ``resources``, which are ARNs."""
        self.function.add_to_role_policy(iam.PolicyStatement(actions=list(actions), resources=list(resources)))


class TaskFunction(JobFunction):
    """The one consumer of a task type's lanes: the generic entry, whose environment names the task it serves."""

    def __init__(self, scope: Construct, id_: str, shared: Shared, task: Task[Any, Any]) -> None:
        stage = shared.stage
        super().__init__(
            scope,
            id_,
            shared,
            name=function_name(stage.prefix, task.type),
            description=f"Runs {task.type}",
            handler=ENTRY,
            timeout=task.numbers.function_timeout,
            memory_mb=task.memory_mb,
            environment={
                **{name: stage.settings[name] for name in task.environment if name in stage.settings},
                "JOBLANE_TASK": task.type,
            },
            login=shared.access.functions,
        )
        if task.grants.mail and (sender := stage.ses_sender):
            self._grant_mail(sender)

    def _grant_mail(self, sender: str) -> None:
        """Send by Amazon SES from ``sender`` alone.

        Source: Amazon SES, *Identity and access management*, on ses:FromAddress. That recipients are asked for, too, is
        what its refusals show, for example in aws/aws-sdk-js, issue 3641.
        """
        identities = Stack.of(self).format_arn(service="ses", resource="identity", resource_name="*")
        self.function.add_to_role_policy(
            iam.PolicyStatement(
                actions=["ses:SendEmail"],
                resources=[identities],
                conditions={"StringEquals": {"ses:FromAddress": sender}},
            )
        )
        acknowledge_wildcards(
            self.role,
            [identities],
            "SES asks for the identity of the sender, which may be a domain above its address, and for those of "
            "recipients, who are anybody; the condition on ses:FromAddress leaves one sender.",
        )


def in_template(value: Value) -> str:
    """The text, or for a secret the reference that CloudFormation resolves while it deploys."""
    if isinstance(value, SecretReference):
        # "unsafe" where it lands readable: in the function's configuration, as every variable of a function does
        return SecretValue.secrets_manager(value.secret, json_field=value.field).unsafe_unwrap()
    return value
