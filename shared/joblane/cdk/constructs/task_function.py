"""The Lambda functions: one for each task type or place, and the base of all functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from joblane.cdk.constructs.code import RUNTIME, Shared
from joblane.cdk.constructs.image import PULLING, image_code
from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.constructs.queue_pair import seconds
from joblane.cdk.constructs.stage_key import with_keys
from joblane.cdk.database_access import Login
from joblane.cdk.nag import acknowledge, acknowledge_wildcards
from joblane.cdk.settings.section import SecretReference
from joblane.cdk.settings.stage import Value
from joblane.inspector.person import PAGE_ROLE
from joblane.installation import version
from joblane.names import PLACE, PLACES, SWEEP, function_name, log_group_name
from joblane.project import FUNCTIONS
from joblane.quotas import Numbers, rounded_up
from joblane.settings import DEPLOY, EVENT_BUS, MAIL_FROM, NO_IPV4, SCHEDULES, SECRETS, SWEEP_MINUTES, VERSION
from joblane.tasks.task import Task

OWN_VARIABLES = (
    *("DATABASE_URL", "JOBLANE_FUNCTIONS", MAIL_FROM, "JOBLANE_PREFIX", SCHEDULES, SECRETS, "JOBLANE_STAGE"),
    *(DEPLOY, EVENT_BUS, PAGE_ROLE, SWEEP_MINUTES, VERSION),
    *("JOBLANE_TASK", PLACE, PLACES),
)
"""Environment variables that Joblane sets in functions."""
ENTRY = "joblane.worker.lambda_entry.handler"


class JobFunction(Construct):
    """A function with its log group, and a role that may write only to that group.

    ``login``: to the database; None: the function needs none. ``reserved_concurrency``: both reserved and the limit.
    ``recursive``: Lambda's own guard does not stop it in a long chain of messages. ``image``: name of the stage's
    container image that it runs; None, or a local stage: code and layer of all functions.
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
        recursive: bool = False,
        image: str | None = None,
    ) -> None:
        super().__init__(scope, id_)
        self.name, self.stage = name, shared.stage
        stage = self.stage
        logs = log_group(self, "Logs", stage=stage, name=log_group_name(name))
        place, package = shared.access.place if login else None, shared.project.functions
        self._permissions = iam.PolicyDocument()
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            managed_policies=[place.interfaces] if place else None,
            inline_policies={"Permissions": self._permissions},  # a policy of its own would be one more resource
        )
        self.allow(["logs:CreateLogStream", "logs:PutLogEvents"], [logs.log_group_arn])
        if login:
            self.permit(*login.statements)
            if login.secret:
                login.secret.grant_read(self.role)
        secrets = {key: value for key, value in environment.items() if isinstance(value, SecretReference)}
        image = None if stage.local else image
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=name,
            description=description,
            runtime=lambda_.Runtime.FROM_IMAGE if image else RUNTIME,
            architecture=shared.architecture,
            code=image_code(self, stage, shared.project, image, handler) if image else shared.code_for(self),
            layers=None if image else [shared.layer],
            handler=lambda_.Handler.FROM_IMAGE if image else handler,
            timeout=seconds(rounded_up(timeout)),
            memory_size=memory_mb,
            reserved_concurrent_executions=reserved_concurrency,
            recursive_loop=lambda_.RecursiveLoop.ALLOW if recursive else None,
            log_group=logs,
            role=self.role,
            vpc=place.vpc if place else None,
            vpc_subnets=place.subnets if place else None,
            security_groups=[place.security_group] if place else None,
            ipv6_allowed_for_dual_stack=place.ipv6 if place else None,
            environment={
                **{key: value for key, value in environment.items() if isinstance(value, str)},
                **({"DATABASE_URL": login.url} if login else {}),
                **({"AWS_USE_DUALSTACK_ENDPOINT": "true"} if place and place.ipv6 else {}),
                **({NO_IPV4: "true"} if place and place.ipv6 and not place.ipv4 else {}),
                **({SECRETS: _references(secrets)} if secrets else {}),
                **({} if package == FUNCTIONS else {"JOBLANE_FUNCTIONS": package}),
                **({PLACES: shared.places} if shared.places else {}),
                "JOBLANE_PREFIX": stage.prefix,
                **({SCHEDULES: json.dumps(dict(stage.schedules), sort_keys=True)} if stage.schedules else {}),
                "JOBLANE_STAGE": "local" if stage.local else stage.name,
                SWEEP_MINUTES: str(stage.sweep_minutes),
                **({VERSION: version()} if image else {}),
                "POWERTOOLS_SERVICE_NAME": stage.prefix,
                "POWERTOOLS_LOG_LEVEL": stage.log_level,
            },
        )
        if image is None:
            acknowledge(self.function, "L1", "Lock, layer and tests all use this version of Python.")
        elif address := stage.ecr_images.get(image):
            self.allow(PULLING, [address.repository_arn])
        if secrets:
            self.allow(["secretsmanager:GetSecretValue"], sorted({self._arn(value) for value in secrets.values()}))

    def allow(self, actions: Sequence[str], resources: Sequence[str]) -> None:
        """Allow the function ``actions`` on ``resources``, which are ARNs."""
        self.permit(iam.PolicyStatement(actions=list(actions), resources=list(resources)))

    def permit(self, *statements: iam.PolicyStatement) -> None:
        """Add ``statements`` to the permissions of the function, with the use of the stage's keys that they need."""
        for statement in statements:
            self._permissions.add_statements(*with_keys(self.stage, statement))

    def _arn(self, reference: SecretReference) -> str:
        """Return the secret's ARN. Secrets Manager adds six characters to a name, which are not known here.

        Source: Secrets Manager, *Limiting access to specific secrets*.
        """
        if reference.secret.startswith("arn:"):
            return reference.secret
        return Stack.of(self).format_arn(
            service="secretsmanager",
            resource="secret",
            resource_name=f"{reference.secret}-??????",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )


class TaskFunction(JobFunction):
    """The only consumer of the lanes of a task type, or of a place. Its handler is generic; its environment names it.

    ``tasks``: the task, or all tasks of the place. ``numbers``: of the task or the place.
    """

    def __init__(
        self, scope: Construct, id_: str, shared: Shared, tasks: Sequence[Task[Any, Any]], numbers: Numbers
    ) -> None:
        stage, first = shared.stage, tasks[0]
        self.numbers = numbers
        sender = stage.ses_sender if any(task.grants.mail for task in tasks) else None
        settings = dict.fromkeys(name for task in tasks for name in task.environment)
        sweeps = any(task.type == SWEEP for task in tasks)
        super().__init__(
            scope,
            id_,
            shared,
            name=function_name(stage.prefix, first.type),
            description=f"Runs {first.type}" if first.place is None else f"Runs {len(tasks)} task types",
            handler=ENTRY,
            timeout=numbers.function_timeout,
            memory_mb=first.memory_mb,
            environment={
                **{name: stage.settings[name] for name in settings if name in stage.settings},
                **({"JOBLANE_TASK": first.type} if first.place is None else {PLACE: first.place.name}),
                **({MAIL_FROM: sender} if sender else {}),
                **({DEPLOY: shared.version} if sweeps and shared.version else {}),
            },
            login=shared.access.functions,
            image=first.place.image if first.place else None,
            # all other duties of a stage depend on the sweep
            recursive=sweeps or any(task.allows_loops for task in tasks),
        )
        if sender:
            self._grant_mail(sender)

    def _grant_mail(self, sender: str) -> None:
        """Allow sending by Amazon SES from ``sender`` only.

        Source: Amazon SES, *Identity and access management*, on ses:FromAddress. SES also checks the identities of
        recipients: see its access errors, for example in aws/aws-sdk-js, issue 3641. It checks the configuration set
        that an identity has as its default: Service Authorization Reference, Amazon SES v2, SendEmail.
        """
        stack = Stack.of(self)
        resources = [
            stack.format_arn(service="ses", resource=kind, resource_name="*")
            for kind in ("identity", "configuration-set")
        ]
        self.permit(
            iam.PolicyStatement(
                actions=["ses:SendEmail"],
                resources=resources,
                conditions={"StringEquals": {"ses:FromAddress": sender}},
            )
        )
        acknowledge_wildcards(
            self.role,
            resources,
            "SES checks the identity of the sender, which may be a parent domain of the address, its default "
            "configuration set, and the identities of the recipients, who can be anybody; the condition on "
            "ses:FromAddress allows one sender.",
        )


def _references(secrets: Mapping[str, SecretReference]) -> str:
    """Return the JSON that :mod:`joblane.settings` reads. It has no value: a function's configuration shows it."""
    return json.dumps({name: value.model_dump(exclude_none=True) for name, value in sorted(secrets.items())})
